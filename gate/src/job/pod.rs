//! The Pod of a gate's Job.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, KeyToPath, PersistentVolumeClaimVolumeSource, PodSpec, ResourceRequirements,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::parts::{TMP_PATH, credentials, folder_of_host, locked_down, mount, not_root, scratch};
use super::{
    CA_PATH, CACHE_PATH, CREDENTIALS_PATH, EVIDENCE_PATH, GateRequest, HOME_PATH, INIT_CONTAINER, JobKind,
    MAIN_CONTAINER, PLAN_PATH, PROGRAM, SOURCE_PATH, TERMINATION_PATH, TOOLS_PATH, WORK_PATH,
};
use crate::definition::ResolvedResources;
use crate::plan::{PLAN_KEY, Plan};

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
        security_context: Some(not_root(request.user)),
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
    if request.credentials.is_some() {
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
    volumes.extend(["work", "tools", "home", "tmp", "evidence"].map(scratch));
    volumes.extend(source.map(folder_of_host));
    if let Some(credential) = &request.credentials {
        volumes.push(credentials(credential));
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

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}
