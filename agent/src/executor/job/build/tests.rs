#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use serde_json::json;

fn request() -> CoderRequest {
    CoderRequest {
        task_name: "fix-login.code".into(),
        task_uid: "0b0c9f0e-3a52-4b7d-9d2e-0c6d3c2b1a00".into(),
        epoch: 2,
        secret: ClaimSecret::new([7; 32]),
        namespace: "foreman-system-jobs".into(),
        labels: BTreeMap::from([(labels::NODE.to_owned(), "a".to_owned())]),
        repository: "https://git.example/org/repo".into(),
        base: "b".repeat(40),
        file_roots: vec!["/srv/git".into()],
        execution: Execution::default(),
        default_image: Some("example/agent:1".into()),
        default_account: Some("foreman-coder".into()),
        credentials: Some(("push".into(), "token".into())),
        limits: Limits::of(&Execution::default(), Duration::from_secs(300)),
        ttl_seconds: 600,
    }
}

/// What an Agent says of its execution, as in its manifest.
fn said(execution: serde_json::Value) -> Execution {
    serde_json::from_value(execution).unwrap()
}

fn built(change: impl FnOnce(&mut CoderRequest)) -> Result<CoderObjects, BuildError> {
    let mut asked = request();
    change(&mut asked);
    build(&asked, &Payload::default())
}

fn pod_of(objects: &CoderObjects) -> PodSpec {
    objects.job.spec.clone().unwrap().template.spec.unwrap()
}

#[test]
fn the_container_meets_the_restricted_standard_and_holds_no_token() {
    let pod = pod_of(&built(|_| ()).unwrap());
    assert_eq!(pod.automount_service_account_token, Some(false));
    let context = pod.security_context.unwrap();
    assert_eq!((context.run_as_non_root, context.run_as_user), (Some(true), Some(USER)));
    assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let container = &pod.containers[0];
    let own = container.security_context.clone().unwrap();
    assert_eq!(own.allow_privilege_escalation, Some(false));
    assert_eq!(own.read_only_root_filesystem, Some(true));
    assert_eq!(own.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    assert!(
        container
            .env
            .iter()
            .flatten()
            .all(|variable| variable.value_from.is_none())
    );
    assert!(pod.volumes.unwrap().iter().all(|volume| volume.host_path.is_none()));
}

#[test]
fn the_payload_is_a_secret_of_the_jobs_own_name_and_nobody_can_guess_it() {
    let objects = built(|_| ()).unwrap();
    let name = objects.job.metadata.name.clone().unwrap();
    assert_eq!(objects.payload.metadata.name.as_ref(), Some(&name));
    assert_eq!(objects.payload.immutable, Some(true));
    assert_eq!(objects.payload.metadata.labels, objects.job.metadata.labels);
    assert!(name.starts_with("coder-fix-login-code-") && name.len() <= 63, "{name}");
    let other = built(|asked| asked.secret = ClaimSecret::new([8; 32])).unwrap();
    assert_ne!(other.job.metadata.name.unwrap(), name);
    // Neither the secret nor what may be known of it stands in the name.
    assert!(!request().secret.sha256().contains(name.rsplit('-').next().unwrap()));
    let mounted: Vec<_> = pod_of(&objects)
        .volumes
        .unwrap()
        .into_iter()
        .filter_map(|volume| volume.secret?.secret_name)
        .collect();
    assert_eq!(mounted, [name.as_str(), "push"]);
    let long = built(|asked| asked.task_name = "x".repeat(63)).unwrap();
    assert!(long.job.metadata.name.unwrap().len() <= 63);
}

#[test]
fn the_job_begins_suspended_and_its_limits_come_after_those_of_the_agent() {
    let spec = built(|_| ()).unwrap().job.spec.unwrap();
    assert_eq!(spec.suspend, Some(true), "until its payload is there");
    assert_eq!(spec.active_deadline_seconds, Some(300 + 3600 + 120));
    assert_eq!(
        (spec.backoff_limit, spec.ttl_seconds_after_finished),
        (Some(0), Some(600))
    );
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels[KIND_LABEL], "coder");
    assert_eq!(labels[schemas::labels::NODE], "a");
}

#[test]
fn what_an_agent_says_of_execution_is_what_the_pod_gets() {
    let execution = said(json!({
        "mode": "Job",
        "image": "registry.example/cuda:2",
        "imagePullSecrets": [{ "name": "registry" }, { "name": "" }],
        "serviceAccountName": "gpu",
        "nodeSelector": { "gpu": "h100" },
        "tolerations": [{ "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" }],
        "runtimeClassName": "nvidia",
        "resources": { "limits": { "nvidia.com/gpu": "1", "memory": "24Gi" } },
        "startupTimeoutSeconds": 900,
        "activeDeadlineSeconds": 1800,
        "ttlSecondsAfterFinished": 900,
    }));
    let objects = built(|asked| {
        asked.limits = Limits::of(&execution, Duration::from_secs(300));
        asked.execution = execution;
    })
    .unwrap();
    let spec = objects.job.spec.clone().unwrap();
    assert_eq!(spec.active_deadline_seconds, Some(900 + 1800 + 120));
    assert_eq!(spec.ttl_seconds_after_finished, Some(900));
    let pod = pod_of(&objects);
    assert_eq!(pod.containers[0].image.as_deref(), Some("registry.example/cuda:2"));
    assert_eq!(pod.service_account_name.as_deref(), Some("gpu"));
    let pulls: Vec<_> = pod.image_pull_secrets.unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(pulls, ["registry"]);
    assert_eq!(pod.node_selector.unwrap()["gpu"], "h100");
    assert_eq!(pod.tolerations.unwrap()[0].key.as_deref(), Some("nvidia.com/gpu"));
    assert_eq!(pod.runtime_class_name.as_deref(), Some("nvidia"));
}

#[test]
fn what_an_agent_does_not_say_the_node_says() {
    let pod = pod_of(&built(|_| ()).unwrap());
    assert_eq!(pod.containers[0].image.as_deref(), Some("example/agent:1"));
    assert_eq!(pod.service_account_name.as_deref(), Some("foreman-coder"));
    assert!(pod.image_pull_secrets.is_none() && pod.node_selector.is_none() && pod.tolerations.is_none());
    let bare = pod_of(
        &built(|asked| {
            (asked.default_image, asked.default_account) = (None, None);
            asked.execution = said(json!({ "image": " ", "serviceAccountName": "" }));
        })
        .unwrap(),
    );
    assert_eq!(bare.containers[0].image.as_deref(), Some(IMAGE));
    assert_eq!(bare.service_account_name, None);
}

#[test]
fn a_job_that_ended_stays_until_its_result_is_read() {
    for (agent, node, stays) in [
        (Some(0), 600, 120),
        (Some(121), 0, 121),
        (None, 0, 120),
        (None, 600, 600),
    ] {
        let objects = built(|asked| {
            asked.ttl_seconds = node;
            asked.execution.ttl_seconds_after_finished = agent;
        });
        let spec = objects.unwrap().job.spec.unwrap();
        assert_eq!(spec.ttl_seconds_after_finished, Some(stays), "{agent:?} {node}");
    }
}

#[test]
fn limits_of_no_time_at_all_are_a_second_each() {
    let none = said(json!({ "startupTimeoutSeconds": 0, "activeDeadlineSeconds": -5 }));
    let limits = Limits::of(&none, Duration::from_secs(300));
    assert_eq!((limits.startup_seconds, limits.run_seconds), (1, 1));
    let forever = said(json!({ "startupTimeoutSeconds": i64::MAX, "activeDeadlineSeconds": i64::MAX }));
    assert!(Limits::of(&forever, Duration::ZERO).deadline() > 0);
}

#[test]
fn resources_are_the_agents_and_a_word_of_one_is_not_added_to() {
    let table: [(serde_json::Value, serde_json::Value); 4] = [
        (
            json!({}),
            json!({ "limits": { "memory": "4Gi" }, "requests": { "cpu": "500m", "memory": "512Mi" } }),
        ),
        (
            json!({ "limits": { "nvidia.com/gpu": "1", "memory": "24Gi" } }),
            json!({ "limits": { "memory": "24Gi", "nvidia.com/gpu": "1" }, "requests": { "cpu": "500m" } }),
        ),
        (
            json!({ "requests": { "cpu": "8", "memory": "8Gi" } }),
            json!({ "requests": { "cpu": "8", "memory": "8Gi" } }),
        ),
        (
            json!({ "limits": { "nvidia.com/gpu": "2" } }),
            json!({ "limits": { "memory": "4Gi", "nvidia.com/gpu": "2" }, "requests": { "cpu": "500m", "memory": "512Mi" } }),
        ),
    ];
    for (resources, wanted) in table {
        let objects = built(|asked| asked.execution = said(json!({ "resources": resources }))).unwrap();
        let found = serde_json::to_value(pod_of(&objects).containers[0].resources.clone()).unwrap();
        assert_eq!(found, wanted, "{resources}");
    }
}

#[test]
fn what_is_made_says_which_base_it_is_bound_to_and_is_left_alone_by_argo_cd() {
    let objects = built(|asked| asked.task_name = "a".repeat(100)).unwrap();
    for metadata in [&objects.job.metadata, &objects.payload.metadata] {
        let annotations = metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations[BASE_ANNOTATION], "b".repeat(40));
        assert_eq!(annotations["argocd.argoproj.io/compare-options"], "IgnoreExtraneous");
        assert!(metadata.labels.as_ref().unwrap()[labels::TASK].len() <= 63);
        assert!(metadata.name.as_ref().unwrap().len() <= 63);
    }
}

#[test]
fn the_secret_of_the_claim_and_the_key_of_the_model_stand_in_the_payload_alone() {
    let mut payload = Payload {
        secret: request().secret.expose().to_owned(),
        ..Payload::default()
    };
    payload
        .objects
        .insert("/x".into(), json!({ "data": { "key": "aHVudGVyMg==" } }));
    let objects = build(&request(), &payload).unwrap();
    let job = serde_json::to_string(&objects.job).unwrap();
    for secret in [request().secret.expose(), "aHVudGVyMg=="] {
        assert!(!job.contains(secret), "{job}");
    }
    assert!(objects.payload.string_data.is_none() && objects.payload.data.unwrap().len() == 1);
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    type Change = fn(&mut CoderRequest);
    let table: [(Change, &str); 6] = [
        (
            |asked| asked.execution = said(json!({ "resources": { "limits": { "memory": [1] } } })),
            "execution.resources",
        ),
        (
            |asked| asked.execution = said(json!({ "resources": { "claims": [{ "name": "x" }] } })),
            "execution.resources",
        ),
        (
            |asked| asked.execution = said(json!({ "tolerations": [{ "tolerationSeconds": "x" }] })),
            "execution.tolerations",
        ),
        (|asked| asked.repository = "file:///etc".into(), "/srv/git"),
        (
            |asked| asked.repository = "file:///srv/git/../../etc".into(),
            "/srv/git",
        ),
        (|asked| asked.repository = "file:///srv/gitolite".into(), "/srv/git"),
    ];
    for (change, named) in table {
        let error = built(change).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let large = Payload {
        ca_bundle: Some("x".repeat(PAYLOAD_MAX)),
        ..Payload::default()
    };
    assert!(matches!(build(&request(), &large), Err(BuildError::TooLong(_))));
    let local = built(|asked| asked.repository = "file:///srv/git/a".into()).unwrap();
    let pod = pod_of(&local);
    assert!(
        pod.volumes
            .unwrap()
            .iter()
            .any(|volume| volume.host_path.as_ref().is_some_and(|host| host.path == "/srv/git/a"))
    );
}

#[test]
fn a_credential_key_of_another_name_is_shown_as_the_token() {
    let items = |key: &str| {
        let objects = built(|asked| asked.credentials = Some(("push".into(), key.into()))).unwrap();
        let volumes = pod_of(&objects).volumes.unwrap();
        let found = volumes.into_iter().find(|volume| volume.name == "credentials").unwrap();
        found.secret.unwrap().items
    };
    assert_eq!(items("token"), None, "all keys");
    let one = items("GITHUB_TOKEN").unwrap();
    assert_eq!((one[0].key.as_str(), one[0].path.as_str()), ("GITHUB_TOKEN", "token"));
    let without = pod_of(&built(|asked| asked.credentials = None).unwrap());
    assert!(
        !without.containers[0]
            .args
            .iter()
            .flatten()
            .any(|word| word == "--credentials")
    );
}
