//! Bad repositories, through `foreman up`: each ends in a clear message, and nothing is lost.

use std::time::Duration;

use schemas::Workload;
use schemas::agentic_task::FailureReason;
use schemas::shared::Verdict;
use schemas::workload::WorkloadPhase;

use crate::git_server::GitServer;
use crate::stage::{self, Setup, Stage};

const SOON: Duration = Duration::from_secs(30);
const QUICK: Setup = Setup {
    gate: String::new(),
    tasks_url: None,
    sample_url: None,
    base: "main",
    interval: "200ms",
};

fn quick() -> Setup {
    Setup {
        gate: stage::GATE.into(),
        ..QUICK
    }
}

/// Asks for one thing, waits for its end and returns it with what `show` says.
async fn one(stage: &Stage) -> (Workload, String) {
    stage.ask(&["one".into()]);
    let up = stage.up(&[]);
    let client = up.client().await;
    let ended = stage::ended(&client, 1, Duration::from_secs(90)).await.remove(0);
    let (code, shown) = stage.foreman(&["show", "tasks/one.md"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(up.stop().success());
    (ended, shown)
}

fn reason(workload: &Workload) -> Option<FailureReason> {
    workload.status.as_ref()?.failure_reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tasks_repository_that_is_missing_is_named_and_served_once_it_is_there() {
    let stage = Stage::build(&quick());
    let away = stage.root.join("away.git");
    std::fs::rename(&stage.tasks, &away).unwrap();
    let up = stage.up(&[]);
    let client = up.client().await;
    let queue = stage::queue_says(&client, "\"status\":\"False\"", SOON).await;
    let text = serde_json::to_string(&queue.status).unwrap();
    assert!(text.contains("tasks.git"), "{text}");
    let (code, shown) = stage.foreman(&["get", "queues", "-o", "wide"]);
    assert!(code == Some(0) && shown.contains("tasks.git"), "{shown}");
    std::fs::rename(&away, &stage.tasks).unwrap();
    stage.ask(&["one".into()]);
    stage::ended(&client, 1, SOON).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_gone_or_rewritten_ends_nothing_that_was_done() {
    let stage = Stage::build(&quick());
    stage.ask(&["one".into()]);
    let up = stage.up(&[]);
    let client = up.client().await;
    let done = stage::ended(&client, 1, SOON).await.remove(0);
    assert_eq!(done.status.clone().unwrap().phase, Some(WorkloadPhase::Completed));
    stage::git(&stage.tasks, &["update-ref", "refs/heads/kept", "refs/heads/main"]);
    stage::git(&stage.tasks, &["update-ref", "-d", "refs/heads/main"]);
    let queue = stage::queue_says(&client, "\"status\":\"False\"", SOON).await;
    let text = serde_json::to_string(&queue.status).unwrap();
    assert!(text.contains("main"), "{text}");
    assert_eq!(
        stage::workloads(&client).await.unwrap().len(),
        1,
        "a branch that is gone prunes nothing"
    );
    // Rewritten: another history, the same file and one more.
    stage::git(&stage.tasks, &["update-ref", "refs/heads/main", "refs/heads/kept"]);
    let clone = stage.root.join("tasks");
    stage::git(&clone, &["checkout", "-q", "--orphan", "other"]);
    stage::git(&clone, &["commit", "-qm", "Another history"]);
    stage::git(&clone, &["push", "-qf", "origin", "HEAD:refs/heads/main"]);
    stage.ask(&["two".into()]);
    let all = stage::ended(&client, 2, SOON).await;
    let kept = all
        .iter()
        .find(|workload| workload.metadata.uid == done.metadata.uid)
        .unwrap();
    assert_eq!(
        kept.status.as_ref().unwrap().run,
        done.status.as_ref().unwrap().run,
        "the same file does not run again"
    );
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_a_server_that_hangs_are_said_and_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    // tester:right
    let server = GitServer::start(root.clone(), Some("Basic dGVzdGVyOnJpZ2h0")).await;
    let tasks_url = Some(format!("{}/tasks.git", server.url));
    let stage = Stage::below(&root, &Setup { tasks_url, ..quick() });
    stage.ask(&["one".into()]);
    let credentials = root.join("credentials");
    let write = |password: &str| {
        let line = format!("http://tester:{password}@{}/", server.url.trim_start_matches("http://"));
        std::fs::write(&credentials, format!("{line}\n")).unwrap();
        std::process::Command::new("chmod")
            .arg("600")
            .arg(&credentials)
            .status()
            .unwrap();
    };
    write("a-wrong-secret");
    let more = ["--git-credentials", credentials.to_str().unwrap()];
    let up = stage.up(&more);
    let client = up.client().await;
    let queue = stage::queue_says(&client, "\"status\":\"False\"", SOON).await;
    let text = serde_json::to_string(&queue.status).unwrap();
    assert!(
        text.contains("credential") || text.contains("401") || text.contains("authenti"),
        "{text}"
    );
    assert!(!text.contains("a-wrong-secret") && !up.said().contains("a-wrong-secret"));
    assert!(up.stop().success());
    write("right");
    let up = stage.up(&more);
    let client = up.client().await;
    stage::ended(&client, 1, SOON).await;
    server.hang(true);
    stage.ask(&["two".into()]);
    stage::queue_says(&client, "\"status\":\"False\"", Duration::from_secs(90)).await;
    assert_eq!(
        stage::workloads(&client).await.unwrap().len(),
        1,
        "a server that hangs prunes nothing"
    );
    server.hang(false);
    stage::ended(&client, 2, Duration::from_secs(90)).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_the_base_branch_is_named() {
    let stage = Stage::build(&Setup {
        base: "no-such-branch",
        ..quick()
    });
    let (ended, shown) = one(&stage).await;
    assert_eq!(ended.status.clone().unwrap().phase, Some(WorkloadPhase::Failed));
    assert!(shown.contains("no-such-branch"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_gate_file_is_an_error_of_the_gate_and_names_the_file() {
    let stage = Stage::build(&Setup {
        gate: "steps:\n  - name: [\n".into(),
        ..quick()
    });
    let (ended, shown) = one(&stage).await;
    assert_eq!(reason(&ended), Some(FailureReason::GateError), "{shown}");
    assert!(shown.contains(".foreman/gate.yaml"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_hangs_fails_by_its_own_limit() {
    let gate = "steps:\n  - name: check\n    command: sleep 600\n    timeoutSeconds: 1\n".to_owned();
    let stage = Stage::build(&Setup { gate, ..quick() });
    let (ended, shown) = one(&stage).await;
    assert_eq!(
        ended.status.clone().unwrap().verdict,
        Some(Verdict::GateFail),
        "{shown}"
    );
    assert!(shown.contains("check"), "{shown}");
    stage.gone("sleep 600");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_forks_a_daemon_passes_and_leaves_nothing() {
    let seconds = 700_000 + std::process::id();
    let gate =
        format!("steps:\n  - name: check\n    command: (setsid sleep {seconds} &) ; true\n    timeoutSeconds: 30\n");
    let stage = Stage::build(&Setup { gate, ..quick() });
    let (ended, shown) = one(&stage).await;
    assert_eq!(
        ended.status.clone().unwrap().verdict,
        Some(Verdict::GatePass),
        "{shown}"
    );
    stage.gone(&format!("sleep {seconds}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_prints_a_gibibyte_keeps_its_true_last_line_and_little_memory() {
    let gate = "steps:\n  - name: check\n    command: head -c 1073741824 /dev/zero | tr '\\\\0' 'x'; echo; echo the true last line; exit 1\n    timeoutSeconds: 120\n".to_owned();
    let stage = Stage::build(&Setup { gate, ..quick() });
    stage.ask(&["one".into()]);
    let up = stage.up(&[]);
    let client = up.client().await;
    let ended = stage::ended(&client, 1, Duration::from_secs(240)).await.remove(0);
    assert_eq!(ended.status.clone().unwrap().verdict, Some(Verdict::GateFail));
    let tasks = stage::tasks(&client).await.unwrap();
    let text = serde_json::to_string(&tasks).unwrap();
    assert!(
        text.contains("the true last line"),
        "the status does not tell the end of the log"
    );
    let peak = std::fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
    let peak: u64 = peak
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    println!("peak of foreman up: {} MiB", peak / 1024);
    assert!(peak < 400 * 1024, "{peak} kB");
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_somebody_else_is_left_as_it_is() {
    let stage = Stage::build(&quick());
    stage.ask(&["one".into()]);
    // The name of the branch is known once the work is done elsewhere: take it there first.
    let up = stage.up(&[]);
    let client = up.client().await;
    let done = stage::ended(&client, 1, SOON).await.remove(0);
    let branch = done.status.unwrap().branch.unwrap();
    assert!(up.stop().success());
    let other = Stage::build(&quick());
    other.ask(&["one".into()]);
    let prefix = branch.rsplit_once('-').unwrap().0.to_owned();
    let foreign = stage::git(&other.sample, &["rev-parse", "main"]).trim().to_owned();
    let up = other.up(&[]);
    let client = up.client().await;
    let done = stage::ended(&client, 1, SOON).await.remove(0);
    let branch = done.status.unwrap().branch.unwrap();
    assert!(branch.starts_with(&prefix), "{branch}");
    stage::git(
        &other.sample,
        &["update-ref", &format!("refs/heads/{branch}"), &foreign],
    );
    let (code, text) = other.foreman(&["retry", "tasks/one.md"]);
    assert_eq!(code, Some(0), "{text}");
    let begun = std::time::Instant::now();
    let again = loop {
        let again = stage::workloads(&client).await.unwrap().remove(0);
        if stage::is_over(&again) && again.status.as_ref().and_then(|status| status.run) == Some(2) {
            break again;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", again.status);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("{:?}", again.status);
    assert_eq!(
        stage::git(&other.sample, &["rev-parse", &format!("refs/heads/{branch}")]).trim(),
        foreign,
        "the foreign branch was moved"
    );
    assert!(up.stop().success());
}
