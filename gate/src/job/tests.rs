#![allow(clippy::unwrap_used, clippy::panic)]
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::*;
use crate::definition::{ResolvedPrepare, ResolvedResources, ResolvedStep, Source};

pub(crate) fn gate() -> ResolvedGate {
    ResolvedGate {
        image: "docker.io/library/rust:1-bookworm".into(),
        prepare: Some(ResolvedPrepare {
            command: "cargo fetch --locked".into(),
            allow_hosts: vec!["index.crates.io".into(), "static.crates.io".into()],
            timeout_seconds: 600,
            cache_key: vec!["Cargo.lock".into()],
        }),
        steps: vec![ResolvedStep {
            name: "test".into(),
            command: "cargo test".into(),
            timeout_seconds: 600,
            advisory: false,
        }],
        protected: vec![".foreman/**".into()],
        pinned: Vec::new(),
        resources: ResolvedResources::default(),
        deadline_seconds: 1800,
        source: Source::File,
    }
}

fn request() -> GateRequest {
    GateRequest {
        task_name: "fix-login-verify".into(),
        task_uid: "0b0c9f0e-3a52-4b7d-9d2e-0c6d3c2b1a00".into(),
        epoch: 2,
        attempt: 1,
        namespace: "foreman-jobs".into(),
        labels: BTreeMap::from([(labels::QUEUE.to_owned(), "tasks".to_owned())]),
        repository: "https://git.example/org/repo".into(),
        branch: "foreman/fix-login".into(),
        head_sha: "a".repeat(40),
        base_sha: "b".repeat(40),
        file_roots: vec!["/srv/git".into()],
        credentials: Some(("clone".into(), "token".into())),
        ca_bundle: Some("-----BEGIN CERTIFICATE-----\n".into()),
        cache: Some(CacheMount {
            claim: "foreman-gate-cache".into(),
            key: CacheKey {
                repository: "0".repeat(16),
                key: "1".repeat(32),
            },
        }),
        service_account: Some("foreman-gate".into()),
        runtime_class: None,
        program_image: None,
        ttl_seconds: 3600,
        user: 65532,
    }
}

fn pod(job: &Job) -> &PodSpec {
    job.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
}

fn all_containers(job: &Job) -> Vec<&Container> {
    let pod = pod(job);
    pod.init_containers.iter().flatten().chain(&pod.containers).collect()
}

fn both(objects: &GateObjects) -> [&Job; 2] {
    [&objects.job, objects.prepare_job.as_ref().unwrap()]
}

#[test]
fn certificates_travel_beside_the_plan_and_only_the_container_that_fetches_sees_them() {
    let objects = build_job(&gate(), &request()).unwrap();
    let data = objects.config_map.data.as_ref().unwrap();
    assert_eq!(data[CA_KEY], "-----BEGIN CERTIFICATE-----\n");
    for job in both(&objects) {
        let volumes = pod(job).volumes.as_ref().unwrap();
        for volume in volumes.iter().filter_map(|volume| volume.config_map.as_ref()) {
            assert_eq!(volume.name, objects.config_map.metadata.name.clone().unwrap());
            assert_eq!(volume.items.as_ref().unwrap().len(), 1, "no more than what it is for");
        }
    }
    let large = GateRequest {
        ca_bundle: Some("x".repeat(CA_MAX + 1)),
        ..request()
    };
    assert!(
        build_job(&gate(), &large)
            .unwrap_err()
            .to_string()
            .contains("ca_bundle")
    );
}

#[test]
fn every_container_meets_the_restricted_standard() {
    let objects = build_job(&gate(), &request()).unwrap();
    for job in both(&objects) {
        let pod = pod(job);
        assert_eq!(pod.automount_service_account_token, Some(false));
        let context = pod.security_context.as_ref().unwrap();
        assert_eq!(context.run_as_non_root, Some(true));
        assert_ne!(context.run_as_user, Some(0));
        assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.share_process_namespace.is_none());
        for container in all_containers(job) {
            let context = container.security_context.as_ref().unwrap();
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(
                context.capabilities.as_ref().unwrap().drop,
                Some(vec!["ALL".to_owned()])
            );
            assert!(context.capabilities.as_ref().unwrap().add.is_none());
            assert_eq!(context.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
            assert_eq!(context.read_only_root_filesystem, Some(true));
            assert_eq!(
                container.termination_message_policy.as_deref(),
                Some("File"),
                "a log's end must never become the message"
            );
            assert!(container.resources.as_ref().unwrap().limits.is_some());
        }
        assert!(pod.volumes.iter().flatten().all(|volume| volume.host_path.is_none()));
    }
}

#[test]
fn jobs_are_bounded_and_found_by_label() {
    let objects = build_job(&gate(), &request()).unwrap();
    for job in both(&objects) {
        let spec = job.spec.as_ref().unwrap();
        assert_eq!(spec.backoff_limit, Some(0));
        assert_eq!(spec.ttl_seconds_after_finished, Some(3600));
        assert!(spec.active_deadline_seconds.unwrap() > 0);
        assert_eq!(pod(job).restart_policy.as_deref(), Some("Never"));
        for labels_of in [&job.metadata.labels, &spec.template.metadata.as_ref().unwrap().labels] {
            let all = labels_of.as_ref().unwrap();
            assert_eq!(all[labels::TASK_UID], request().task_uid);
            assert_eq!(all[labels::EPOCH], "2");
            assert_eq!(all[labels::QUEUE], "tasks");
        }
        assert!(job.metadata.name.as_ref().unwrap().len() <= 63);
        assert!(job.metadata.owner_references.is_none());
    }
    assert_eq!(objects.job.spec.as_ref().unwrap().active_deadline_seconds, Some(1800));
    let waits = both(&objects).map(|job| job.spec.as_ref().unwrap().suspend == Some(true));
    assert_eq!(waits, [true, false], "the gate waits for its plan, and for prepare");
    let limits = all_containers(&objects.job)[1]
        .resources
        .as_ref()
        .unwrap()
        .limits
        .clone()
        .unwrap();
    assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("4", "8Gi"));
}

#[test]
fn a_key_that_is_named_is_shown_as_the_token_and_no_other_key_is() {
    let mut request = request();
    request.credentials = Some(("clone".into(), "GITHUB_TOKEN".into()));
    let objects = build_job(&gate(), &request).unwrap();
    for job in both(&objects) {
        let volumes = pod(job).volumes.as_ref().unwrap();
        let secret = volumes.iter().find_map(|volume| volume.secret.as_ref()).unwrap();
        let items = secret.items.as_ref().unwrap();
        assert_eq!(
            items.iter().map(|item| (&*item.key, &*item.path)).collect::<Vec<_>>(),
            [("GITHUB_TOKEN", "token")]
        );
    }
}

#[test]
fn only_the_init_container_sees_credentials_and_network() {
    let objects = build_job(&gate(), &request()).unwrap();
    for job in both(&objects) {
        let [init, main] = all_containers(job)[..] else {
            panic!("expected two containers");
        };
        let mounted = |container: &Container| -> Vec<String> {
            container
                .volume_mounts
                .iter()
                .flatten()
                .map(|mount| mount.name.clone())
                .collect()
        };
        assert!(mounted(init).contains(&"credentials".to_owned()));
        assert!(
            !mounted(main)
                .iter()
                .any(|name| matches!(name.as_str(), "credentials" | "ca" | "source"))
        );
        let annotations = job
            .spec
            .as_ref()
            .unwrap()
            .template
            .metadata
            .as_ref()
            .unwrap()
            .annotations
            .as_ref();
        assert_eq!(Network::of(annotations, INIT_CONTAINER), Network::Fetch);
        let tools = main
            .volume_mounts
            .iter()
            .flatten()
            .find(|mount| mount.name == "tools")
            .unwrap();
        assert_eq!(tools.read_only, Some(true));
        let of_job = job.metadata.annotations.as_ref().unwrap();
        assert_eq!(of_job["argocd.argoproj.io/sync-options"], "Prune=false");
    }
    let network = |job: &Job| {
        let metadata = job.spec.as_ref().unwrap().template.metadata.clone().unwrap();
        Network::of(metadata.annotations.as_ref(), MAIN_CONTAINER)
    };
    assert_eq!(network(&objects.job), Network::None);
    assert!(matches!(network(objects.prepare_job.as_ref().unwrap()), Network::AllowList(hosts) if hosts.len() == 2));
}

#[test]
fn gates_cannot_write_caches_and_preparers_see_only_their_repository() {
    let objects = build_job(&gate(), &request()).unwrap();
    let cache = |job: &Job| {
        let container = all_containers(job)[1].clone();
        container
            .volume_mounts
            .unwrap()
            .into_iter()
            .find(|mount| mount.name == "cache")
            .unwrap()
    };
    let of_gate = cache(&objects.job);
    assert_eq!(of_gate.read_only, Some(true));
    assert_eq!(of_gate.sub_path, Some(format!("{}/{}", "0".repeat(16), "1".repeat(32))));
    assert_eq!(
        cache(objects.prepare_job.as_ref().unwrap()).sub_path,
        Some("0".repeat(16))
    );

    let mut without = request();
    without.cache = None;
    assert!(build_job(&gate(), &without).unwrap().prepare_job.is_none());
}

#[test]
fn every_volume_path_is_an_argument() {
    let mut one = request();
    one.repository = "file:///srv/git/repo.git".into();
    let objects = build_job(&gate(), &one).unwrap();
    for job in both(&objects) {
        for container in all_containers(job) {
            let args = container.args.as_ref().unwrap();
            let env: Vec<_> = container
                .env
                .iter()
                .flatten()
                .filter_map(|env| env.value.clone())
                .collect();
            for mount in container.volume_mounts.iter().flatten() {
                let path = &mount.mount_path;
                assert!(
                    args.iter().chain(&env).any(|arg| arg.starts_with(path)),
                    "{path} is nowhere named"
                );
            }
        }
    }
}

#[test]
fn a_local_repository_is_shown_read_only_below_an_allowed_root() {
    let mut one = request();
    one.repository = "file:///srv/git/repo.git".into();
    let objects = build_job(&gate(), &one).unwrap();
    let volume = pod(&objects.job)
        .volumes
        .as_ref()
        .unwrap()
        .iter()
        .find(|volume| volume.name == "source")
        .unwrap();
    assert_eq!(volume.host_path.as_ref().unwrap().path, "/srv/git/repo.git");
    for outside in [
        "file:///srv/gitx/repo",
        "file:///etc",
        "file:///srv/git/../x",
        "file://host/srv/git/x",
    ] {
        one.repository = outside.into();
        assert!(build_job(&gate(), &one).is_err(), "{outside} was taken");
    }
}

#[test]
fn requests_that_cannot_be_bound_are_refused() {
    let changes: [&dyn Fn(&mut GateRequest); 8] = [
        &|one| one.task_name = "a b".into(),
        &|one| one.task_name = "x".repeat(254),
        &|one| one.head_sha = "main".into(),
        &|one| one.base_sha = "A".repeat(40),
        &|one| one.task_uid = "a b".into(),
        &|one| one.user = 0,
        &|one| one.repository = "https://user:secret@git.example/a".into(),
        &|one| one.attempt = 0,
    ];
    for change in changes {
        let mut one = request();
        change(&mut one);
        let error = build_job(&gate(), &one).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn the_plan_stands_in_the_config_map_and_names_no_secret() {
    let objects = build_job(&gate(), &request()).unwrap();
    let text = &objects.config_map.data.as_ref().unwrap()[PLAN_KEY];
    assert_eq!(Plan::parse(text.as_bytes()).unwrap(), objects.plan);
    assert!(!text.contains("/foreman/"), "paths belong into arguments");
    assert_eq!(objects.plan.binding().memory_limit.as_deref(), Some("8Gi"));
    let tampered = text.replace("cargo test", "true #test");
    assert!(
        Plan::parse(tampered.as_bytes()).is_err(),
        "the digest covers the commands"
    );
}

#[test]
fn names_differ_by_task_epoch_try_and_kind() {
    let mut seen = Vec::new();
    let mut long = request();
    let longest = "x".repeat(253);
    let names = ["x".repeat(63), format!("{}.b", "x".repeat(100)), longest];
    for (name, uid) in names.into_iter().zip(["u1", "u2", "u3"]) {
        (long.task_name, long.task_uid) = (name, uid.into());
        for (epoch, attempt) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            (long.epoch, long.attempt) = (epoch, attempt);
            let objects = build_job(&gate(), &long).unwrap();
            for job in both(&objects) {
                let name = job.metadata.name.clone().unwrap();
                assert!(schemas::names::is_object_name(&name) && name.len() <= 63, "{name}");
                assert!(!seen.contains(&name), "{name}");
                seen.push(name);
                let told = &job.metadata.labels.as_ref().unwrap()[labels::TASK];
                assert_eq!(*told, schemas::names::label_value(&long.task_name));
            }
        }
    }
}

#[test]
fn a_local_repository_may_lie_below_a_folder_with_spaces() {
    let mut request = request();
    request.repository = "file:///srv/git/mein Projekt".into();
    let objects = build_job(&gate(), &request).unwrap();
    let shown = serde_json::to_value(&objects.job).unwrap().to_string();
    assert!(shown.contains("\"/srv/git/mein Projekt\""), "{shown}");
    request.repository = "https://git.example/mein Projekt".into();
    assert!(build_job(&gate(), &request).is_err());
}
