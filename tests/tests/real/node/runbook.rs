//! `docs/runbook.md`, typed as it stands.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::AgenticTask;
use schemas::agentic_task::Phase;

use super::site::Site;
use crate::stage;

const PAGE: &str = include_str!("../../../../docs/runbook.md");
/// The gate that the page shows.
const GATE: &str = "image: docker.io/library/debian:bookworm-slim\nresources: { cpu: 500m, memory: 256Mi }\nsteps:\n  - name: test\n    command: sh test.sh\n";
/// What the page says of the smoke task.
const SMOKE_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn the_runbook_holds_what_it_says() {
    assert!(PAGE.contains(GATE), "the page shows another gate");
    let site = Site::open().await;
    let project = site.repository(
        "team/project",
        &[(".foreman/gate.yaml", GATE), ("test.sh", "echo all is well\n")],
        &[
            ("good", &[("notes", "better\n")]),
            ("bad", &[("test.sh", "echo the sum is wrong >&2\nexit 3\n")]),
        ],
    );
    let tasks = site.repository("team/tasks", &[("README.md", "Task files lie in `tasks/`.\n")], &[]);
    let phases = follow(site.client.clone());
    tokio::task::block_in_place(|| {
        site.carry_out(PAGE, |commands| {
            if commands == "kubectl get agentictasks -w" {
                smoke_was_quick(&site, &phases.lock().unwrap());
            }
            if commands == "kubectl get taskqueue project" {
                let file = ("tasks/notes.md", "---\ntitle: Write notes\n---\nWrite notes.txt.\n");
                stage::commit(&site.clone_of("team/tasks"), &tasks, &[file]);
            }
        });
    });
    let branches = stage::git(
        &project,
        &["for-each-ref", "--format=%(refname:short)", "refs/heads/foreman/"],
    );
    let notes = stage::git(&project, &["show", &format!("{}:notes.txt", branches.trim())]);
    assert_eq!(notes, "by a model\n");
}

/// A phase of a task, and when it was seen.
type Seen = (String, Phase, Instant);

/// Notes every phase of every task.
fn follow(client: Client) -> Arc<Mutex<Vec<Seen>>> {
    let phases: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let into = phases.clone();
    tokio::spawn(async move {
        let api: Api<AgenticTask> = Api::all(client);
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let Ok(watcher::Event::Apply(task) | watcher::Event::InitApply(task)) = event else {
                continue;
            };
            let phase = task.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
            into.lock().unwrap().push((task.name_any(), phase, Instant::now()));
        }
    });
    phases
}

/// The smoke task went through every phase in the order and in the time that the page says. A machine that is busy with
/// something else is given two more tries.
fn smoke_was_quick(site: &Site, seen: &[Seen]) {
    let own: Vec<&Seen> = seen.iter().filter(|(name, ..)| name == "verifier-smoke").collect();
    let mut phases: Vec<Phase> = own.iter().map(|(_, phase, _)| *phase).collect();
    phases.dedup();
    assert_eq!(
        phases,
        [Phase::Pending, Phase::Scheduled, Phase::Running, Phase::Succeeded]
    );
    let mut took = own[own.len() - 1].2 - own[0].2;
    for number in 0..2 {
        println!("the smoke task took {:.1} s", took.as_secs_f64());
        if took <= SMOKE_WITHIN {
            return;
        }
        let begin = Instant::now();
        site.shell(&format!(
            "sed 's/verifier-smoke/again-{number}/' foreman-smoke.yaml | kubectl apply -f -
             kubectl wait agentictask again-{number} --for=jsonpath='{{.status.phase}}'=Succeeded --timeout=2m"
        ));
        took = begin.elapsed();
    }
    assert!(took <= SMOKE_WITHIN, "the smoke task took {took:?}");
}
