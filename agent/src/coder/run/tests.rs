#![allow(clippy::unwrap_used, clippy::panic)]

mod away;

use super::*;
use crate::coder::worktree::Snapshot;
use crate::coder::{Ending, FailureReason, Verdict};
use crate::journal;
use crate::model::news::News;
use crate::model::replay::Replay;
use crate::model::{Finish, ModelError, RawCall, Reply, Request, Sink};
use crate::tools::bash::{Shell, ShellError, ShellExit, ShellOutput};
use crate::tools::fetch::Briefing;
use crate::tools::{Caps, ToolboxSettings};
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Answers with prepared replies; after them it never answers.
struct Scripted {
    replies: Mutex<VecDeque<Reply>>,
    asked: tokio::sync::Notify,
}

impl Scripted {
    fn new(replies: Vec<Reply>) -> Self {
        Self {
            replies: Mutex::new(replies.into()),
            asked: tokio::sync::Notify::new(),
        }
    }
}

impl Provider for Scripted {
    fn complete<'a>(&'a self, _request: &'a Request, _sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async move {
            let reply = self.replies.lock().unwrap().pop_front();
            match reply {
                Some(reply) => Ok(reply),
                None => {
                    self.asked.notify_one();
                    std::future::pending().await
                }
            }
        })
    }

    fn model(&self) -> String {
        "scripted".into()
    }
}

/// Appends a line to a file: what a command that changes files does.
struct Appending(PathBuf);

impl Shell for Appending {
    fn run<'a>(
        &'a self,
        command: &'a str,
        _limit: Duration,
        _cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ShellOutput, ShellError>> {
        Box::pin(async move {
            let before = std::fs::read_to_string(&self.0).unwrap_or_default();
            std::fs::write(&self.0, format!("{before}{command}\n"))
                .map_err(|error| ShellError::Sandbox(error.to_string()))?;
            Ok(ShellOutput {
                exit: ShellExit::Code(0),
                output: format!("\u{1b}[31m{command}"),
                notes: vec![],
            })
        })
    }
}

fn call(name: &str, arguments: serde_json::Value) -> Reply {
    let call = RawCall {
        id: String::new(),
        name: name.into(),
        arguments: arguments.to_string(),
    };
    Reply {
        calls: vec![call],
        finish: Finish::ToolCalls,
        usage: Usage {
            prompt: 100,
            cached: 50,
            completion: 10,
            estimated: false,
        },
        ..Reply::default()
    }
}

fn make_tree(at: &Path) {
    std::fs::create_dir_all(at.join("src")).unwrap();
    std::fs::write(
        at.join("src/lib.rs"),
        "pub fn sum(a: i32, b: i32) -> i32 {\n    a - b\n}\n",
    )
    .unwrap();
    std::fs::create_dir_all(at.join(".foreman")).unwrap();
    std::fs::write(at.join(".foreman/gate.yaml"), "steps: []\n").unwrap();
}

fn session(folder: &Path, name: &str) -> Session {
    let tree = folder.join(name);
    make_tree(&tree);
    let toolbox = Toolbox::new(ToolboxSettings {
        work_tree: tree.clone(),
        tracked: Arc::default(),
        kept_outputs: folder.join(format!("{name}-out")),
        tools: schemas::tools::CODER.map(str::to_owned).to_vec(),
        protected: vec![".foreman/**".into()],
        shell: Some(Arc::new(Appending(tree.join("log.txt")))),
        bash_timeout: Duration::from_secs(30),
        briefing: Briefing::default(),
        caps: Caps::default(),
    })
    .unwrap();
    Session {
        settings: AgentSettings::default(),
        budget: Budget::default(),
        began: Instant::now(),
        task: TaskText {
            stem: "fix-sum".into(),
            round: 1,
            text: "Fix the sum.".into(),
            ..TaskText::default()
        },
        toolbox,
        work_tree: Arc::new(Snapshot::take(&tree, Arc::default()).unwrap()),
        news: News::new().0,
    }
}

fn fixing() -> Vec<Reply> {
    vec![
        call("read_file", serde_json::json!({"path": "src/lib.rs"})),
        call(
            "str_replace",
            serde_json::json!({"path": "src/lib.rs", "old_string": "a - b", "new_string": "a + b"}),
        ),
        call("bash", serde_json::json!({"command": "cargo test"})),
        call(
            "submit_result",
            serde_json::json!({"verdict": "GO", "summary": "sum adds", "commit_message": "Add in sum"}),
        ),
    ]
}

#[tokio::test]
async fn a_run_changes_the_tree_and_its_journal_replays_to_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions/fix-sum/round-1.jsonl");
    let mut journal = Journal::create(&path, None).unwrap();
    let first = run(
        session(folder.path(), "one"),
        &Scripted::new(fixing()),
        &mut journal,
        CancellationToken::new(),
    )
    .await;
    assert_eq!((first.verdict, first.failure_reason), (Verdict::Go, None));
    assert_eq!(first.changed, ["log.txt", "src/lib.rs"]);
    assert_eq!((first.turns, first.tool_calls, first.replay), (4, 3, false));
    assert!(
        std::fs::read_to_string(folder.path().join("one/src/lib.rs"))
            .unwrap()
            .contains("a + b")
    );

    let entries = journal::read(&path).unwrap();
    assert!(matches!(&entries[0], Entry::Header(header) if header.task == "fix-sum" && header.model == "scripted"));
    assert_eq!(
        entries
            .iter()
            .filter(|entry| matches!(entry, Entry::Reply { .. }))
            .count(),
        4
    );
    assert_eq!(
        entries
            .iter()
            .filter(|entry| matches!(entry, Entry::Result { .. }))
            .count(),
        3
    );
    assert!(matches!(entries.last(), Some(Entry::End(end)) if *end == first));

    let replay = Replay::find(&folder.path().join("sessions"), "fix-sum", 1).unwrap();
    let mut journal = Journal::create(&folder.path().join("two.jsonl"), None).unwrap();
    let second = run(
        session(folder.path(), "two"),
        &replay,
        &mut journal,
        CancellationToken::new(),
    )
    .await;
    assert!(second.replay);
    assert_eq!(
        End {
            replay: false,
            ..second
        },
        first
    );
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name).join("src/lib.rs")).unwrap();
    assert_eq!(text("one"), text("two"));
}

#[tokio::test]
async fn a_recording_whose_edit_no_longer_fits_does_not_end_in_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.jsonl");
    let edits = vec![fixing().remove(1), fixing().remove(3)];
    let mut journal = Journal::create(&path, None).unwrap();
    run(
        session(folder.path(), "one"),
        &Scripted::new(edits),
        &mut journal,
        CancellationToken::new(),
    )
    .await;
    let session = session(folder.path(), "two");
    std::fs::write(folder.path().join("two/src/lib.rs"), "pub fn sum() {}\n").unwrap();
    let session = Session {
        work_tree: Arc::new(Snapshot::take(&folder.path().join("two"), Arc::default()).unwrap()),
        ..session
    };
    let mut journal = Journal::create(&folder.path().join("two.jsonl"), None).unwrap();
    let end = run(
        session,
        &Replay::open(path).unwrap(),
        &mut journal,
        CancellationToken::new(),
    )
    .await;
    assert_eq!(
        (end.verdict, end.ending),
        (Verdict::Incomplete, Ending::RecordingExhausted)
    );
    assert!(end.summary.contains("all its 2 replies are played"), "{}", end.summary);
}

#[tokio::test]
async fn protected_paths_changed_by_a_command_are_refused_by_looking_at_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = session(folder.path(), "one");
    let tree = folder.path().join("one");
    session.toolbox = Toolbox::new(ToolboxSettings {
        work_tree: tree.clone(),
        tracked: Arc::default(),
        kept_outputs: folder.path().join("out"),
        tools: vec!["bash".into()],
        protected: vec![".foreman/**".into()],
        shell: Some(Arc::new(Appending(tree.join(".foreman/gate.yaml")))),
        bash_timeout: Duration::from_secs(30),
        briefing: Briefing::default(),
        caps: Caps::default(),
    })
    .unwrap();
    let go = || fixing().remove(3);
    let replies = vec![call("bash", serde_json::json!({"command": "# weaker"})), go(), go()];
    let mut journal = Journal::create(&folder.path().join("j"), None).unwrap();
    let end = run(session, &Scripted::new(replies), &mut journal, CancellationToken::new()).await;
    assert_eq!(
        (end.failure_reason, end.ending),
        (Some(FailureReason::ConstraintViolated), Ending::ProtectedPath)
    );
}

#[tokio::test]
async fn cancelling_stops_a_turn_at_once_and_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let mut journal = Journal::create(&path, None).unwrap();
    let provider = Scripted::new(vec![fixing().remove(0)]);
    let cancel = CancellationToken::new();
    let session = session(folder.path(), "one");
    let running = run(session, &provider, &mut journal, cancel.clone());
    let cancelling = async {
        provider.asked.notified().await;
        cancel.cancel();
    };
    let (end, ()) = tokio::join!(running, cancelling);
    assert!(end.is_cancelled());
    assert_eq!(end.turns, 2);
    assert!(matches!(journal::read(&path).unwrap().last(), Some(Entry::End(end)) if end.is_cancelled()));
}

#[tokio::test]
async fn a_model_that_never_answers_is_left_when_the_time_is_over() {
    for (budget, ending) in [
        (
            Budget {
                wall: Duration::from_millis(40),
                ..Budget::default()
            },
            Ending::WallTimeExhausted,
        ),
        (
            Budget {
                idle: Some(Duration::from_millis(40)),
                ..Budget::default()
            },
            Ending::IdleTimeExhausted,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&folder.path().join("j"), None).unwrap();
        let session = Session {
            budget,
            ..session(folder.path(), "one")
        };
        let end = run(session, &Scripted::new(vec![]), &mut journal, CancellationToken::new()).await;
        assert_eq!((end.ending, end.failure_reason), (ending, Some(FailureReason::Timeout)));
    }
}

#[tokio::test]
async fn what_went_before_the_first_turn_counts_as_time_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(&folder.path().join("j"), None).unwrap();
    let mut session = session(folder.path(), "one");
    session.budget.wall = Duration::from_secs(60);
    session.began = Instant::now().checked_sub(session.budget.wall).unwrap();
    let scripted = Scripted::new(fixing());
    let end = run(session, &scripted, &mut journal, CancellationToken::new()).await;
    assert_eq!(end.ending, Ending::WallTimeExhausted);
    assert!(
        end.summary.contains("limit of 60 s"),
        "the limit as it was set: {}",
        end.summary
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_journal_that_cannot_be_written_stops_the_run_before_it_acts() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::full_for_tests();
    let end = run(
        session(folder.path(), "one"),
        &Scripted::new(fixing()),
        &mut journal,
        CancellationToken::new(),
    )
    .await;
    assert_eq!(
        (end.failure_reason, end.turns),
        (Some(FailureReason::InfrastructureError), 0)
    );
    assert!(
        std::fs::read_to_string(folder.path().join("one/src/lib.rs"))
            .unwrap()
            .contains("a - b")
    );
}
