//! `foreman demo`: the whole thread on a sample repository.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use git::{FileEdit, Identity, Repository};
use schemas::agent::{AgentRole, AgentSpec, ProviderConfig};
use schemas::agentic_task::FailureReason;
use schemas::shared::{LocalRef, SecretKeyRef, Verdict};
use schemas::task_queue::{GitSource, QueueDefaults, TaskQueueSpec};
use schemas::workload::WorkloadPhase;
use schemas::{Agent, TaskQueue, Workload, tools};

use crate::cli::{AccessArgs, DemoArgs, Global};
use crate::endpoint::{self, Server};
use crate::follow;
use crate::local::{Local, LocalConfig, MODEL_SECRET};
use crate::place::Place;
use crate::project::Project;
use crate::table::plain;

const NAMESPACE: &str = "default";

/// Files of the sample repository.
const SAMPLE: [(&str, &str); 7] = [
    ("Cargo.toml", include_str!("../../fixtures/sample/Cargo.toml")),
    ("Cargo.lock", include_str!("../../fixtures/sample/Cargo.lock")),
    (".gitignore", include_str!("../../fixtures/sample/.gitignore")),
    ("README.md", include_str!("../../fixtures/sample/README.md")),
    ("src/lib.rs", include_str!("../../fixtures/sample/src/lib.rs")),
    ("tests/parse.rs", include_str!("../../fixtures/sample/tests/parse.rs")),
    (
        ".foreman/gate.yaml",
        include_str!("../../fixtures/sample/.foreman/gate.yaml"),
    ),
];

/// Task files, and the end that the recorded sessions bring each to.
const TASKS: [(&str, &str, Expected); 3] = [
    (
        "fix-compound-durations.md",
        include_str!("../../fixtures/demo/tasks/fix-compound-durations.md"),
        Expected::Passed { rounds: 2 },
    ),
    (
        "add-format.md",
        include_str!("../../fixtures/demo/tasks/add-format.md"),
        Expected::Passed { rounds: 1 },
    ),
    (
        "speed-up-the-gate.md",
        include_str!("../../fixtures/demo/tasks/speed-up-the-gate.md"),
        Expected::Refused,
    ),
];

/// Recorded sessions, by their path in the sessions folder.
const SESSIONS: [(&str, &str); 4] = [
    (
        "fix-compound-durations/round-1.jsonl",
        include_str!("../../fixtures/demo/sessions/fix-compound-durations/round-1.jsonl"),
    ),
    (
        "fix-compound-durations/round-2.jsonl",
        include_str!("../../fixtures/demo/sessions/fix-compound-durations/round-2.jsonl"),
    ),
    (
        "add-format/round-1.jsonl",
        include_str!("../../fixtures/demo/sessions/add-format/round-1.jsonl"),
    ),
    (
        "speed-up-the-gate/round-1.jsonl",
        include_str!("../../fixtures/demo/sessions/speed-up-the-gate/round-1.jsonl"),
    ),
];

/// The end that a recorded session brings a task to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The gate passes in this round, and failed in every earlier one.
    Passed { rounds: i64 },
    /// The change is refused before it is pushed.
    Refused,
}

/// Runs the demo.
pub async fn run(global: &Global, args: &DemoArgs) -> Result<ExitCode> {
    let server = if args.replay {
        None
    } else {
        endpoint::find(global, true)
            .await
            .ok()
            .filter(|server| server.named || server.report.is_ok())
    };
    find_cargo(&sandbox::Toolchain::host(), args.sandbox.unsafe_no_sandbox)?;
    say_mode(server.as_ref(), args.replay);
    let folder = make_folder()?;
    let stage = Stage::build(&folder, args.sample.as_deref())?;
    println!("Folder:      {}", folder.display());
    println!(
        "Repository:  {} (a small Rust crate with tests)",
        stage.sample.display()
    );
    println!(
        "Tasks:       {} (three task files will be committed)",
        stage.tasks.display()
    );

    let place = Place {
        root: folder.clone(),
        state: folder.join("state"),
    };
    let lock = place.lock_for_server()?;
    let config = LocalConfig {
        port: None,
        slots: 3,
        sandbox: args.sandbox.clone(),
        access: AccessArgs {
            replay_sessions: Some(stage.sessions.clone()),
            ..AccessArgs::default()
        },
        ca_bundle: global.ca_bundle.clone(),
        file_roots: vec![folder.clone()],
        user: None,
    };
    let mut local = Local::start(&place, NAMESPACE, config).await?;
    println!("Sandbox:     {}", local.sandbox.backend());
    if let Some(weakness) = local.sandbox.backend().weakness() {
        println!("             {weakness}");
    }
    println!();
    let ended = thread(&mut local, &stage, server.as_ref(), Duration::from_secs(args.timeout)).await;
    local.stop().await;
    drop(lock);
    let ended = ended?;
    report(&stage, &place, &ended)?;
    let wrong = judge(&ended, server.is_none(), &stage);
    println!();
    say_end(server.as_ref());
    if wrong.is_empty() {
        println!("\nAll three tasks reached the end that was expected of them.");
        return Ok(ExitCode::SUCCESS);
    }
    for line in &wrong {
        eprintln!("Not as expected: {line}");
    }
    Ok(ExitCode::FAILURE)
}

/// Fails where no cargo can be run: the gate of the sample builds a Rust crate.
fn find_cargo(tools: &sandbox::Toolchain, unconfined: bool) -> Result<()> {
    if unconfined || tools.find("cargo").is_some() {
        return Ok(());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let closed: Vec<String> = std::env::split_paths(&path)
        .filter_map(|folder| {
            let error = std::fs::read_dir(&folder).err()?;
            (error.kind() == std::io::ErrorKind::PermissionDenied).then(|| folder.display().to_string())
        })
        .collect();
    let closed = match closed.as_slice() {
        [] => String::new(),
        folders => format!(" (this user may not enter {})", folders.join(", ")),
    };
    bail!(
        "failed to find cargo on PATH{closed}: the gate of the demo builds a Rust crate; install Rust for this user \
         (https://rustup.rs), or put the bin folder of a toolchain that this user may read on PATH"
    )
}

/// Makes the demo's folder where programs may run: the gate builds and runs some in it.
fn make_folder() -> Result<PathBuf> {
    let home = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let places = [
        Some(std::env::temp_dir()),
        Some(PathBuf::from("/var/tmp")),
        home("XDG_CACHE_HOME").or_else(|| home("HOME").map(|home| home.join(".cache"))),
    ];
    let mut tried = Vec::new();
    for place in places.into_iter().flatten() {
        if place.ends_with(".cache") {
            // Where it cannot be made, the next line says why.
            let _ = std::fs::create_dir_all(&place);
        }
        if sandbox::forbids_programs(&place) {
            tried.push(format!("{} is mounted noexec", place.display()));
            continue;
        }
        match tempfile::Builder::new().prefix("foreman-demo-").tempdir_in(&place) {
            Ok(folder) => return Ok(folder.keep()),
            Err(error) => tried.push(format!("{}: {error}", place.display())),
        }
    }
    bail!(
        "failed to make a temporary folder ({}); name one where programs may run with TMPDIR",
        tried.join("; ")
    )
}

fn say_mode(server: Option<&Server>, asked: bool) {
    match server {
        Some(server) => println!("Model:       {}\n", endpoint::describe(server)),
        None => println!(
            "No model is asked in this run: {}, so recorded sessions are REPLAYED.\n\
             Only the model's words are recorded; the tools, the commits and the gate really run.\n",
            if asked {
                "--replay was given"
            } else {
                "no model server was found"
            }
        ),
    }
}

fn say_end(server: Option<&Server>) {
    match server {
        Some(_) => println!("The exit code says whether the thread worked, not whether the model did well."),
        None => println!(
            "This was a REPLAY of recorded sessions: no model was asked. To see a real one at work:\n\
             \n    FOREMAN_MODEL_URL=http://127.0.0.1:8080/v1 foreman demo        # llama.cpp, Ollama, vLLM, LM Studio, LiteLLM\n\
             \nFOREMAN_MODEL names the model, FOREMAN_MODEL_API_KEY holds its key. In a repository of your own: `foreman init`, then `foreman up`."
        ),
    }
}

/// The repositories and sessions of one demo.
struct Stage {
    sample: PathBuf,
    tasks: PathBuf,
    sessions: PathBuf,
}

fn identity() -> Identity {
    Identity::new("Foreman Demo", "demo@localhost", jiff::Timestamp::now().as_second())
}

impl Stage {
    fn build(folder: &Path, other: Option<&Path>) -> Result<Self> {
        let stage = Self {
            sample: folder.join("sample.git"),
            tasks: folder.join("tasks.git"),
            sessions: folder.join("sessions"),
        };
        let files: Vec<FileEdit> = match other {
            Some(other) => SAMPLE
                .iter()
                .map(|(path, _)| {
                    let bytes = std::fs::read(other.join(path))
                        .with_context(|| format!("failed to read {path} of {}", other.display()))?;
                    Ok(FileEdit::write(*path, bytes))
                })
                .collect::<Result<_>>()?,
            None => SAMPLE
                .iter()
                .map(|(path, text)| FileEdit::write(*path, text.as_bytes()))
                .collect(),
        };
        commit(&stage.sample, &files, "A stopwatch that reads durations")?;
        commit(
            &stage.tasks,
            &[FileEdit::write("README.md", "Task files lie in `tasks/`.\n")],
            "Begin the queue",
        )?;
        for (path, text) in SESSIONS {
            let path = stage.sessions.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&stage.sessions))?;
            std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(stage)
    }

    fn commit_tasks(&self) -> Result<()> {
        let files: Vec<FileEdit> = TASKS
            .iter()
            .map(|(name, text, _)| FileEdit::write(format!("tasks/{name}"), text.as_bytes()))
            .collect();
        commit(&self.tasks, &files, "Ask for three things")
    }
}

fn commit(path: &Path, files: &[FileEdit], message: &str) -> Result<()> {
    let repository = if path.exists() {
        Repository::open(path)?
    } else {
        Repository::init_bare(path, "main")?
    };
    let parent = repository.resolve("refs/heads/main")?;
    let new = repository.commit_files(parent, files, message, &identity())?;
    repository.set_ref("refs/heads/main", Some(new))?;
    Ok(())
}

/// Builds the agents of a local set-up: a coder that asks `provider`, and a verifier.
pub fn build_agents(provider: ProviderConfig, tools: &[&str]) -> Vec<Agent> {
    let coder = AgentSpec {
        role: AgentRole::Coder,
        model: provider.model.clone(),
        provider_config: Some(provider),
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        bash_timeout_seconds: 120,
        // As `init` writes it: a slow machine with a long prompt needs more than the published default.
        request_turn_timeout_seconds: 600,
        ..spec_with_defaults()
    };
    let verifier = AgentSpec {
        role: AgentRole::Verifier,
        tools: vec!["run_gate_job".into()],
        ..spec_with_defaults()
    };
    vec![Agent::new("coder", coder), Agent::new("verifier", verifier)]
}

/// Returns a spec with the published defaults.
fn spec_with_defaults() -> AgentSpec {
    let minimal = serde_json::json!({ "role": "coder", "tools": ["submit_result"] });
    serde_json::from_value(minimal).unwrap_or_default()
}

/// Builds the endpoint settings of a server that was found.
pub fn build_provider(server: &Server) -> ProviderConfig {
    ProviderConfig {
        base_url: Some(server.base_url.clone()),
        model: server.model.clone(),
        api_key_secret_ref: endpoint::api_key().map(|_| SecretKeyRef {
            name: MODEL_SECRET.0.into(),
            key: MODEL_SECRET.1.into(),
            optional: Some(true),
        }),
    }
}

fn build_project(stage: &Stage, server: Option<&Server>) -> Project {
    let provider = match server {
        Some(server) => build_provider(server),
        None => ProviderConfig {
            base_url: Some(agent::executor::endpoint::REPLAY.into()),
            model: Some("recorded".into()),
            api_key_secret_ref: None,
        },
    };
    let queue = TaskQueueSpec {
        git: Some(GitSource {
            url: stage.tasks.display().to_string(),
            branch: Some("main".into()),
            path: "tasks".into(),
            interval: "60s".into(),
            secret_ref: None,
        }),
        defaults: Some(QueueDefaults {
            repo: Some(stage.sample.display().to_string()),
            base_branch: Some("main".into()),
            coder_agent_ref: Some(LocalRef::new("coder")),
            verifier_agent_ref: Some(LocalRef::new("verifier")),
            ..QueueDefaults::default()
        }),
        prune: true,
        ..TaskQueueSpec::default()
    };
    Project {
        queue: Some(TaskQueue::new("demo", queue)),
        agents: build_agents(provider, &tools::CODER),
    }
}

async fn thread(
    local: &mut Local,
    stage: &Stage,
    server: Option<&Server>,
    limit: Duration,
) -> Result<HashMap<String, Workload>> {
    local.accept(NAMESPACE, &build_project(stage, server)).await?;
    stage.commit_tasks()?;
    println!("Committed tasks/{}.\n", TASKS.map(|(name, ..)| name).join(", tasks/"));
    let client = local.client.clone();
    let all = |seen: &HashMap<String, Workload>| {
        seen.len() >= TASKS.len()
            && seen
                .values()
                .all(|workload| phase(workload).is_some_and(WorkloadPhase::is_terminal))
    };
    tokio::select! {
        ended = follow::until(&client, NAMESPACE, None, limit, all) => ended,
        why = local.broken() => bail!("{why}"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

fn phase(workload: &Workload) -> Option<WorkloadPhase> {
    workload.status.as_ref()?.phase
}

fn report(stage: &Stage, place: &Place, ended: &HashMap<String, Workload>) -> Result<()> {
    let repository = Repository::open(&stage.sample)?;
    let mut workloads: Vec<&Workload> = ended.values().collect();
    workloads.sort_by_key(|workload| follow::title(workload));
    for workload in workloads {
        let status = workload.status.clone().unwrap_or_default();
        println!("\n--- {} ---", follow::title(workload));
        let verdict = status
            .verdict
            .map(|verdict| verdict.to_string())
            .unwrap_or_else(|| "no verdict".into());
        println!("{}: {verdict}", status.phase.unwrap_or_default().as_str());
        if let Some(message) = &status.message {
            println!("{}", plain(message));
        }
        for round in status.rounds.iter().flatten() {
            let verdict = round
                .verdict
                .map(|verdict| verdict.to_string())
                .unwrap_or_else(|| "no verdict".into());
            println!(
                "  round {}: {verdict}  {}",
                round.round,
                plain(round.summary.as_deref().unwrap_or_default())
            );
        }
        let Some(branch) = &status.branch else { continue };
        match repository.resolve(&format!("refs/heads/{branch}"))? {
            None => println!("branch {branch}: not pushed"),
            Some(head) => {
                println!("branch {branch} at {head}");
                let base = status
                    .base_sha
                    .as_deref()
                    .and_then(|sha| git::Oid::from_hex(sha.as_bytes()).ok());
                let diff = repository.diff(base, head, 16 * 1024)?;
                for line in diff.text.lines() {
                    println!("    {}", plain(&line.replace('\t', "    ")));
                }
            }
        }
    }
    println!(
        "\nEvidence (transcripts, gate logs, diffs): {}",
        place.state.join("evidence").display()
    );
    println!("Look closer:  foreman --state {} get workloads", place.state.display());
    println!(
        "              foreman --state {} show fix-compound-durations.md",
        place.state.display()
    );
    println!(
        "              git -C {} log --all --notes=foreman",
        stage.sample.display()
    );
    println!("Clean up:     rm -r {}", place.root.display());
    Ok(())
}

/// Returns what is not as expected, in words.
fn judge(ended: &HashMap<String, Workload>, replayed: bool, stage: &Stage) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, _, expected) in TASKS {
        let stem = name.trim_end_matches(".md");
        let Some(workload) = ended.values().find(|workload| follow::title(workload) == stem) else {
            wrong.push(format!("{stem} never became a workload"));
            continue;
        };
        let broken = if replayed {
            unexpected(workload, expected, stage)
        } else {
            not_worked(workload)
        };
        wrong.extend(broken.map(|why| format!("{stem}: {why}")));
    }
    wrong
}

fn unexpected(workload: &Workload, expected: Expected, stage: &Stage) -> Option<String> {
    let status = workload.status.clone().unwrap_or_default();
    let found = format!(
        "found {:?} {:?} {:?}",
        status.phase, status.verdict, status.failure_reason
    );
    match expected {
        Expected::Passed { rounds } => {
            let verdicts: Vec<Option<Verdict>> = status.rounds.iter().flatten().map(|round| round.verdict).collect();
            let mut wanted = vec![Some(Verdict::GateFail); rounds as usize - 1];
            wanted.push(Some(Verdict::GatePass));
            let passed = status.phase == Some(WorkloadPhase::Completed) && status.verdict == Some(Verdict::GatePass);
            (!passed || verdicts != wanted)
                .then(|| format!("expected GATE-PASS in round {rounds}; {found}, rounds {verdicts:?}"))
        }
        Expected::Refused => {
            let branch = status.branch.clone().unwrap_or_default();
            let pushed = Repository::open(&stage.sample)
                .and_then(|repository| repository.resolve(&format!("refs/heads/{branch}")))
                .map_or(true, |tip| tip.is_some());
            let refused = status.phase == Some(WorkloadPhase::Failed)
                && status.failure_reason == Some(FailureReason::ConstraintViolated);
            (!refused || pushed)
                .then(|| format!("expected a refusal (ConstraintViolated) and no branch; {found}, pushed: {pushed}"))
        }
    }
}

/// Says why the thread itself failed, whatever the model did.
fn not_worked(workload: &Workload) -> Option<String> {
    let status = workload.status.clone().unwrap_or_default();
    let infrastructure = [
        FailureReason::InferenceServiceUnavailable,
        FailureReason::AuthUnavailable,
        FailureReason::CloneFailed,
        FailureReason::InfrastructureError,
        FailureReason::GateError,
        FailureReason::ToolFailed,
        FailureReason::AgentNotFound,
        FailureReason::PushRejected,
        FailureReason::LostClaims,
        FailureReason::JobNotStarted,
    ];
    status
        .failure_reason
        .filter(|reason| infrastructure.contains(reason))
        .map(|reason| format!("the thread broke: {}", reason.as_str()))
}
