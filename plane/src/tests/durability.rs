use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "PLANE_TEST_STATE";

/// The process that is killed: writes without end and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run as a child by the test below, which kills it"]
async fn child() {
    let folder = std::env::var(FOLDER).unwrap();
    let plane = Plane::open(PlaneConfig::new(folder, "0.1.0")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..8 {
        let router = plane.router();
        tasks.spawn(async move {
            for n in 0.. {
                let body = config_map(&format!("m-{client}-{n}")).to_string();
                let request = Request::post(CMS)
                    .header("content-type", "application/json")
                    .body(Body::from(body));
                let response = router.clone().oneshot(request.unwrap()).await.unwrap();
                assert_eq!(response.status(), 201);
                println!("m-{client}-{n}");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut acknowledged = Vec::new();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::durability::child", "--ignored", "--nocapture"])
            .env(FOLDER, &state)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = acknowledged.len() + 40 * round;
        while acknowledged.len() < wanted {
            let line = lines.next().unwrap().unwrap();
            // The harness may print on the same line as the first name.
            if let Some(at) = line.find("m-") {
                acknowledged.push(line[at..].to_owned());
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let rest = lines.map_while(Result::ok).filter(|line| line.starts_with("m-"));
        acknowledged.extend(rest);
        // A name that was cut in the middle was not read to its end.
        let config = PlaneConfig::new(&state, "0.1.0");
        let plane = Plane::open(config).await.unwrap();
        let store = &plane.shared.server.store;
        let missing: Vec<&String> = acknowledged
            .iter()
            .filter(|name| store.get(&format!("core/configmaps/default/{name}")).is_none())
            .collect();
        assert!(missing.is_empty(), "round {round}: lost {missing:?}");
        let listing = store.list("core/configmaps/", None, None).unwrap();
        for entry in &listing.entries {
            let object = crate::object::read(entry).unwrap();
            assert_eq!(object["metadata"]["resourceVersion"], entry.version.to_string());
        }
        // The next child counts from zero again: it must start without what this one made.
        for entry in listing.entries {
            let delete = crate::storage::Write::Delete {
                key: entry.key.clone(),
                expect: entry.version,
            };
            store.commit(vec![delete]).await.unwrap();
        }
        acknowledged.clear();
        plane.shutdown().await;
    }
}

#[tokio::test]
async fn everything_is_as_it_was_after_a_restart() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 1}))).await;
    let before = f.get(THINGS).await;
    let config = f.plane.config().clone();
    f.plane.shutdown().await;
    let plane = Plane::open(config).await.unwrap();
    let again = Fixture {
        plane,
        folder: f.folder,
    };
    assert_eq!(again.get(THINGS).await.text, before.text);
    let version = before.body["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(
        again.plane.latest_version().to_string(),
        version,
        "a start writes nothing"
    );
}
