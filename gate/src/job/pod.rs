//! The Pod of a gate's Job.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource, KeyToPath,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{
    CA_PATH, CACHE_PATH, CREDENTIALS_PATH, EVIDENCE_PATH, GateRequest, HOME_PATH, INIT_CONTAINER, JobKind,
    MAIN_CONTAINER, PLAN_PATH, PROGRAM, SOURCE_PATH, TERMINATION_PATH, TOOLS_PATH, WORK_PATH,
};
use crate::definition::ResolvedResources;
use crate::plan::{PLAN_KEY, Plan};

const TMP_PATH: &str = "/tmp";

pub(super) fn build_pod(
    kind: JobKind,
    plan: &Plan,
    request: &GateRequest,
    source: Option<&str>,
    config_map: &str,
) -> PodSpec {
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: request.service_account.clone(),
        runtime_class_name: request.runtime_class.clone(),
        termination_grace_period_seconds: Some(5),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(request.user),
            run_as_group: Some(request.user),
            fs_group: Some(request.user),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(runtime_default()),
            ..PodSecurityContext::default()
        }),
        init_containers: Some(vec![init_container(kind, plan, request, source)]),
        containers: vec![main_container(kind, plan, request)],
        volumes: Some(volumes(request, source, config_map)),
        ..PodSpec::default()
    }
}

fn init_container(kind: JobKind, plan: &Plan, request: &GateRequest, source: Option<&str>) -> Container {
    let mut args = strings(&["fetch", "--plan"]);
    args.push(format!("{PLAN_PATH}/{PLAN_KEY}"));
    args.extend(strings(&[
        "--work", WORK_PATH, "--tools", TOOLS_PATH, "--home", HOME_PATH,
    ]));
    args.extend(strings(&["--termination-log", TERMINATION_PATH]));
    if kind == JobKind::Prepare {
        // The base decides what is prepared, never the branch under test.
        args.push("--base".to_owned());
    }
    let mut mounts = vec![
        mount("plan", PLAN_PATH, true),
        mount("work", WORK_PATH, false),
        mount("tools", TOOLS_PATH, false),
        mount("home", HOME_PATH, false),
        mount("tmp", TMP_PATH, false),
    ];
    if source.is_some() {
        args.extend(strings(&["--source", SOURCE_PATH]));
        mounts.push(mount("source", SOURCE_PATH, true));
    }
    if request.credentials_secret.is_some() {
        args.extend(strings(&["--credentials", CREDENTIALS_PATH]));
        mounts.push(mount("credentials", CREDENTIALS_PATH, true));
    }
    if request.ca_bundle.is_some() {
        args.push("--ca-bundle".to_owned());
        args.push(format!("{CA_PATH}/{}", super::CA_KEY));
        mounts.push(mount("ca", CA_PATH, true));
    }
    Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some(request.program_image.clone().unwrap_or_else(|| crate::IMAGE.to_owned())),
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(args),
        volume_mounts: Some(mounts),
        resources: Some(resources(&plan.gate.resources)),
        ..locked_down(HOME_PATH)
    }
}

fn main_container(kind: JobKind, plan: &Plan, request: &GateRequest) -> Container {
    let mut args = strings(&[
        match kind {
            JobKind::Gate => "run",
            JobKind::Prepare => "prepare",
        },
        "--plan",
    ]);
    args.push(format!("{PLAN_PATH}/{PLAN_KEY}"));
    args.extend(strings(&[
        "--work", WORK_PATH, "--tools", TOOLS_PATH, "--home", HOME_PATH,
    ]));
    args.extend(strings(&["--tmp", TMP_PATH, "--evidence", EVIDENCE_PATH]));
    args.extend(strings(&["--termination-log", TERMINATION_PATH]));
    let mut mounts = vec![
        mount("plan", PLAN_PATH, true),
        mount("work", WORK_PATH, false),
        mount("tools", TOOLS_PATH, true),
        mount("home", HOME_PATH, false),
        mount("tmp", TMP_PATH, false),
        mount("evidence", EVIDENCE_PATH, false),
    ];
    if let (Some(cache), Some(_)) = (&request.cache, &plan.gate.prepare) {
        args.extend(strings(&["--cache", CACHE_PATH]));
        // Preparers see the repository's folder, for they move a finished cache into its place; gates
        // see their own cache and cannot write it.
        let (folder, read_only) = match kind {
            JobKind::Gate => (cache.key.folder(), true),
            JobKind::Prepare => {
                args.extend(["--cache-key".to_owned(), cache.key.key.clone()]);
                (cache.key.repository.clone(), false)
            }
        };
        mounts.push(VolumeMount {
            sub_path: Some(folder),
            ..mount("cache", CACHE_PATH, read_only)
        });
    }
    Container {
        name: MAIN_CONTAINER.to_owned(),
        image: Some(plan.gate.image.clone()),
        command: Some(vec![format!("{TOOLS_PATH}/bin/{PROGRAM}")]),
        args: Some(args),
        working_dir: Some(WORK_PATH.to_owned()),
        volume_mounts: Some(mounts),
        resources: Some(resources(&plan.gate.resources)),
        ..locked_down(HOME_PATH)
    }
}

/// What every container has: no privileges, a root that cannot be written, its message from the file
/// alone and never from the end of its log.
fn locked_down(home: &str) -> Container {
    Container {
        env: Some(
            // Git must not ask for the settings of whatever machine or image this is.
            [("HOME", home), ("TMPDIR", TMP_PATH), ("GIT_CONFIG_NOSYSTEM", "1")]
                .map(|(name, value)| EnvVar {
                    name: name.to_owned(),
                    value: Some(value.to_owned()),
                    ..EnvVar::default()
                })
                .into(),
        ),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        termination_message_path: Some(TERMINATION_PATH.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(strings(&["ALL"])),
                add: None,
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn volumes(request: &GateRequest, source: Option<&str>, config_map: &str) -> Vec<Volume> {
    let mut volumes = vec![Volume {
        name: "plan".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            items: Some(vec![KeyToPath {
                key: PLAN_KEY.to_owned(),
                path: PLAN_KEY.to_owned(),
                mode: None,
            }]),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }];
    for name in ["work", "tools", "home", "tmp", "evidence"] {
        volumes.push(Volume {
            name: name.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    if let Some(path) = source {
        volumes.push(Volume {
            name: "source".to_owned(),
            host_path: Some(HostPathVolumeSource {
                path: path.to_owned(),
                type_: Some("Directory".to_owned()),
            }),
            ..Volume::default()
        });
    }
    if let Some(secret) = &request.credentials_secret {
        volumes.push(Volume {
            name: "credentials".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.clone()),
                items: request.credentials_key.as_ref().map(|key| {
                    vec![KeyToPath {
                        key: key.clone(),
                        path: "token".to_owned(),
                        mode: None,
                    }]
                }),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if request.ca_bundle.is_some() {
        volumes.push(Volume {
            name: "ca".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map.to_owned(),
                items: Some(vec![KeyToPath {
                    key: super::CA_KEY.to_owned(),
                    path: super::CA_KEY.to_owned(),
                    mode: None,
                }]),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if let Some(cache) = &request.cache {
        volumes.push(Volume {
            name: "cache".to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: cache.claim.clone(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn resources(resources: &ResolvedResources) -> ResourceRequirements {
    let quantities = |cpu: &str, memory: &str| {
        Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ]))
    };
    ResourceRequirements {
        requests: quantities(&resources.cpu_request, &resources.memory_request),
        limits: quantities(&resources.cpu_limit, &resources.memory_limit),
        ..ResourceRequirements::default()
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}
