#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn a_pod_runs_once_also_where_the_watch_tells_late_how_it_was() {
    let pod = |phase: &str| -> Pod {
        serde_json::from_value(json!({ "metadata": { "uid": "u" }, "status": { "phase": phase } })).unwrap()
    };
    let mut world = World::default();
    assert!(world.is_to_begin(&pod("Pending")));
    assert!(!world.is_to_begin(&pod("Succeeded")));
    world.begun.insert("u".to_owned());
    for told_late in ["Pending", "Running", "Succeeded"] {
        assert!(!world.is_to_begin(&pod(told_late)), "{told_late}");
    }
}

fn desk(folder: &std::path::Path, client: Client) -> Desk {
    Desk {
        program: program::Program::new(folder),
        config: RunnerConfig::new(folder.to_owned(), sandbox::Sandbox::without_confinement()),
        client,
        growing: logs::Growing::default(),
        notes: Mutex::default(),
    }
}

#[tokio::test]
async fn a_job_that_breaks_the_runner_leaves_the_others_running() {
    // A service's answer is awaited by whoever asked: this breaks in the midst of `reconcile`.
    let api = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        assert!(request.uri().path().contains("/namespaces/fine/"), "a defect");
        let made = json!({ "metadata": { "name": "p", "uid": "p" } })
            .to_string()
            .into_bytes();
        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(made)))
    });
    let folder = tempfile::tempdir().unwrap();
    let desk = desk(folder.path(), Client::new(api, "default"));
    let mut world = World::default();
    for namespace in ["broken", "fine"] {
        let job = json!({
            "metadata": { "name": "gate", "namespace": namespace, "uid": namespace },
            "spec": { "template": { "spec": { "containers": [] } } }
        });
        world
            .jobs
            .insert(namespace.to_owned(), serde_json::from_value(job).unwrap());
    }
    let again = reconcile_alone(&desk, &mut world, "broken").await;
    assert!(again.is_some_and(|again| again > Timestamp::now()));
    assert!(world.pods.is_empty());
    reconcile_alone(&desk, &mut world, "fine").await;
    assert!(world.pods.contains_key("p"));
}

/// Binds a Pod where the API answers so, try by try and then on; says whether it is ours, and how often was tried.
async fn bound(answers: &'static [u16]) -> (bool, usize) {
    let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = tries.clone();
    let api = tower::service_fn(move |_: http::Request<kube::client::Body>| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let code = answers[number.min(answers.len() - 1)];
        let body = match code {
            200 => json!({ "metadata": { "name": "p" } }),
            _ => json!({ "kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "Odd" }),
        };
        let answer = http::Response::builder().status(code);
        let answer = answer.body(kube::client::Body::from(body.to_string().into_bytes()));
        async move { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
    });
    let folder = tempfile::tempdir().unwrap();
    let desk = desk(folder.path(), Client::new(api, "default"));
    let pod = serde_json::from_value(json!({ "metadata": { "name": "p", "uid": "u" }, "spec": { "containers": [] } }));
    let is_ours = bind(&desk, &pod.unwrap()).await;
    (is_ours, tries.load(std::sync::atomic::Ordering::SeqCst))
}

#[tokio::test]
async fn a_pod_is_bound_again_after_a_failure_but_not_after_a_refusal() {
    assert_eq!(bound(&[200]).await, (true, 1));
    assert_eq!(bound(&[500, 503, 200]).await, (true, 3));
    assert_eq!(bound(&[409]).await, (false, 1));
    assert_eq!(bound(&[500]).await, (false, BIND_TRIES as usize));
}

#[test]
fn a_pod_of_another_scheduler_or_behind_a_gate_is_left_alone() {
    let pod = |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({ "spec": spec })).unwrap() };
    assert!(is_to_be_bound(&pod(json!({"containers": []}))));
    assert!(is_to_be_bound(&pod(
        json!({"containers": [], "schedulerName": "default-scheduler"})
    )));
    assert!(!is_to_be_bound(&pod(
        json!({"containers": [], "schedulerName": "other"})
    )));
    assert!(!is_to_be_bound(&pod(
        json!({"containers": [], "schedulingGates": [{"name": "g"}]})
    )));
}
