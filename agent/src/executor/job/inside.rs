//! What a coder's Pod runs: one claim from its payload, and then an end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::jiff::Timestamp;
use schemas::agent::Execution;
use schemas::agentic_task::FailureReason;
use schemas::{Agent, AgenticTask};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::build::{Limits, PROGRAM, WORD};
use super::payload::{self, Payload};
use super::report::Report;
use crate::config::{Config, Flags, Identities, Mode};
use crate::daemon::claim::{ClaimSecret, Held};
use crate::evidence::{SEND_TIME, Spool};
use crate::executor::{HAND_IN_TIME, Repositories, Run, Services, coder, confinement};
use crate::model::news::News;
use crate::outcome::{Outcome, shorten};
use crate::probes::Probes;

/// How long a run may take to end once the Pod is to stop; the grace period is longer.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long its evidence may take to be sent then.
const LAST_SEND_TIME: Duration = Duration::from_secs(2);

/// Runs the one claim that a payload holds.
#[derive(Parser, Debug)]
#[command(name = "foreman-agent run-claim")]
struct Arguments {
    /// File with the payload.
    #[arg(long)]
    payload: PathBuf,
    /// Folder for mirror, work tree and spool.
    #[arg(long)]
    work: PathBuf,
    /// Folder with the credential for fetches and pushes.
    #[arg(long)]
    credentials: Option<PathBuf>,
    /// File of the Pod's last message.
    #[arg(long)]
    termination_log: PathBuf,
}

/// Says whether a program was asked for this.
pub fn is_asked(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|word| word == WORD)
}

/// Runs the claim; `args` begin with the program's name and the word.
pub fn main(args: Vec<OsString>) -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    telemetry::logging::init(telemetry::logging::Form::Text, "info");
    let words = args.into_iter().enumerate().filter(|(index, _)| *index != 1);
    let arguments = match Arguments::try_parse_from(words.map(|(_, word)| word)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(run(arguments));
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("failed to start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> ExitCode {
    let payload: Payload = match read(&arguments.payload) {
        Ok(payload) => payload,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let held = held(&payload);
    let outcome = match prepare(&arguments, payload, &held) {
        Ok((run, agent)) => carry_out(&run, &agent).await,
        Err(why) => Outcome::failed(FailureReason::InfrastructureError, why),
    };
    eprintln!("ended: {}", outcome.summary);
    match std::fs::write(&arguments.termination_log, Report::of(outcome, &held).text()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to write the Pod's last message: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> Result<Payload, String> {
    let text = std::fs::read(path).map_err(|error| format!("failed to read {}: {error}", path.display()))?;
    // What is wrong is said without a word of what the payload holds.
    serde_json::from_slice(&text).map_err(|error| {
        format!(
            "failed to read {}: line {}, column {}: not a payload of this version",
            path.display(),
            error.line(),
            error.column()
        )
    })
}

fn held(payload: &Payload) -> Held {
    let metadata = &payload.task.metadata;
    Held {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        claim: payload.claim.clone(),
        secret: ClaimSecret::from_text(payload.secret.clone()),
    }
}

fn prepare(arguments: &Arguments, payload: Payload, held: &Held) -> Result<(Run, Agent), String> {
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("failed to {what}: {error}");
    let work = &arguments.work;
    for (path, text) in &payload.sessions {
        let path = sessions_of(work).join(path);
        let folder = path.parent().unwrap_or(work);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| fail("store the recorded session", &error))?;
    }
    let ca_bundle = match &payload.ca_bundle {
        Some(pem) => {
            let path = work.join("ca.crt");
            std::fs::write(&path, pem).map_err(|error| fail("store the CA bundle", &error))?;
            Some(path)
        }
        None => None,
    };
    let config = config(arguments, &payload, ca_bundle)?;
    let agent = payload.agent.clone().ok_or("the payload names no Agent")?;
    let mut http = reqwest::Client::builder()
        .timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = &payload.ca_bundle {
        let found = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
        for certificate in found.map_err(|error| fail("read the CA bundle", &error))? {
            http = http.add_root_certificate(certificate);
        }
    }
    let http = http.build().map_err(|error| fail("set up the HTTP client", &error))?;
    let spool = Spool::open(
        &work.join("evidence"),
        config.evidence_url.as_deref(),
        held,
        http.clone(),
    )
    .map_err(|error| error.to_string())?;
    let config = Arc::new(config);
    let here = Instant::now();
    let began = began(&payload.task, Timestamp::now(), here);
    let execution = agent.spec.execution.clone().unwrap_or_default();
    let limit = limit(&payload.task, &execution, here - began);
    let run = Run {
        services: Services {
            client: payload::client(payload.objects, &payload.task, &held.namespace),
            git: git::Git::new(work.join("mirrors"), config.git.clone()),
            repositories: Repositories::default(),
            sandbox: confinement::open_sandbox(&config)?,
            http,
            probes: Probes::new(&config),
            config,
        },
        task: payload.task,
        agent: Some(agent.clone()),
        held: held.clone(),
        began,
        limit,
        cancel: CancellationToken::new(),
        spool,
    };
    Ok((run, agent))
}

/// Returns when the run's time began to count: at the claim, since the node agent counts from there. Clocks that differ take
/// no more than half of it.
fn began(task: &AgenticTask, now: Timestamp, here: Instant) -> Instant {
    let claimed = task.status.as_ref().and_then(|status| status.claimed_at.as_ref());
    let since = claimed.map_or(0.0, |at| now.duration_since(at.0).as_secs_f64());
    let since = Duration::try_from_secs_f64(since).unwrap_or_default();
    here.checked_sub(since.min(task.spec.limit() / 2)).unwrap_or(here)
}

/// Returns how long a run may take whose time counts for `already`: it hands in what it has before its Pod is stopped.
fn limit(task: &AgenticTask, execution: &Execution, already: Duration) -> Duration {
    // The node's word on starts does not matter here: the container runs.
    let container = Duration::from_secs(Limits::of(execution, Duration::ZERO).run_seconds);
    let work = container - HAND_IN_TIME.min(container / 4);
    task.spec.limit().min(already.saturating_add(work))
}

fn sessions_of(work: &Path) -> PathBuf {
    work.join("sessions")
}

#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    flags: Flags,
}

/// Makes the configuration of an agent that has one claim and nothing else.
fn config(arguments: &Arguments, payload: &Payload, ca_bundle: Option<PathBuf>) -> Result<Config, String> {
    let said = &payload.settings;
    let mut flags = Defaults::try_parse_from([PROGRAM])
        .map_err(|error| error.to_string())?
        .flags;
    flags.fleet_node_name = Some(said.node.clone());
    flags.workspace_dir.clone_from(&arguments.work);
    flags.agent_mode = Mode::Native;
    flags.ca_bundle = ca_bundle;
    flags.file_roots.clone_from(&said.file_roots);
    flags.evidence_url = said.evidence_url.clone().unwrap_or_default();
    let mut config = flags.into_config("coder")?;
    config.git_remote_url.clone_from(&said.git_remote_url);
    config.inference_base_url.clone_from(&said.inference_base_url);
    config.inference_host.clone_from(&said.inference_host);
    config.allow_cloud_providers = said.allow_cloud_providers;
    config.unsafe_no_sandbox = said.unsafe_no_sandbox;
    let [author_name, author_email, committer_name, committer_email] = said.identities.clone();
    config.identities = Identities {
        author_name,
        author_email,
        committer_name,
        committer_email,
        sign_off: said.sign_off,
    };
    if !payload.sessions.is_empty() {
        config.replay_sessions = Some(sessions_of(&arguments.work));
    }
    if let Some(folder) = &arguments.credentials {
        let repository =
            crate::executor::source::repository(&payload.task, &config).map_err(|failed| failed.summary)?;
        let kind = credential(folder, &arguments.work)?;
        if let git::CredentialKind::SshKey { .. } = &kind {
            let known = folder.join("known_hosts");
            config.git.ssh.known_hosts = known.is_file().then_some(known);
        }
        let credential = git::Credential::new(&repository.to_string(), kind).map_err(|error| error.to_string())?;
        config.git.credentials.push(credential);
    }
    Ok(config)
}

/// Reads the credential that the Secret's keys make up.
fn credential(folder: &Path, work: &Path) -> Result<git::CredentialKind, String> {
    let read = |name: &str| {
        std::fs::read_to_string(folder.join(name))
            .ok()
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
            .filter(|text| !text.is_empty())
    };
    if let Some(key) = read("ssh-privatekey") {
        // `ssh` refuses a file that a group may read, as it may read a Secret's.
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = work.join("push-key");
        let mut options = std::fs::OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(format!("{key}\n").as_bytes()))
            .map_err(|error| format!("failed to store the key: {error}"))?;
        return Ok(git::CredentialKind::SshKey { path });
    }
    if let Some(password) = read("password") {
        return Ok(git::CredentialKind::Basic {
            username: read("username").unwrap_or_else(|| "git".to_owned()),
            password: password.into(),
        });
    }
    read("token")
        .map(|token| git::CredentialKind::Token(token.into()))
        .ok_or_else(|| "the Secret with the credential has none of the keys ssh-privatekey, password, token".to_owned())
}

async fn carry_out(run: &Run, agent: &Agent) -> Outcome {
    let cancel = run.cancel.clone();
    tokio::spawn(async move {
        if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            terminate.recv().await;
            cancel.cancel();
        }
    });
    let patience = async {
        run.cancel.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    let mut outcome = tokio::select! {
        biased;
        // Only the log tells of the model server: a Pod cannot write its task.
        ended = coder::carry_out(run, agent, News::new().0) => match ended { Ok(outcome) | Err(outcome) => outcome },
        () = patience => Outcome::failed(FailureReason::InfrastructureError, "the run did not end after it was cancelled"),
    };
    if outcome.failure == Some(FailureReason::Timeout) && run.limit < run.task.spec.limit() {
        let execution = agent.spec.execution.clone().unwrap_or_default();
        let seconds = execution.active_deadline_seconds;
        outcome.summary = format!("{} (execution.activeDeadlineSeconds is {seconds} s)", outcome.summary);
    }
    let limit = if run.cancel.is_cancelled() {
        LAST_SEND_TIME
    } else {
        SEND_TIME
    };
    let (stored, error) = run.spool.send_all(limit).await;
    outcome.evidence = stored;
    outcome.evidence_error = error.map(|error| shorten(&error.to_string(), 300));
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn secret(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<git::CredentialKind, String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let found = credential(folder.path(), folder.path());
        (folder, found)
    }

    #[test]
    fn the_keys_of_the_secret_say_which_credential_it_is() {
        let token = git::CredentialKind::Token("t".into());
        assert_eq!(secret(&[("token", "t\n")]).1, Ok(token));
        let basic = git::CredentialKind::Basic {
            username: "me".into(),
            password: "p".into(),
        };
        assert_eq!(
            secret(&[("username", "me"), ("password", "p"), ("token", "t")]).1,
            Ok(basic)
        );
        let (folder, key) = secret(&[("ssh-privatekey", "k")]);
        let path = folder.path().join("push-key");
        assert_eq!(key, Ok(git::CredentialKind::SshKey { path: path.clone() }));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(secret(&[("other", "x")]).1.unwrap_err().contains("ssh-privatekey"));
    }

    #[test]
    fn the_time_that_a_pod_took_to_start_is_time_of_its_run() {
        let here = Instant::now();
        let mut task = AgenticTask::default();
        task.spec.timeout_seconds = Some(600);
        assert_eq!(
            began(&task, Timestamp::UNIX_EPOCH, here),
            here,
            "a claim without its time"
        );
        let claimed = Timestamp::from_second(1_000_000).unwrap();
        let status = task.status.get_or_insert_default();
        status.claimed_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(claimed));
        for (seconds, counted) in [(0, 0), (90, 90), (-90, 0), (300, 300), (86_400, 300)] {
            let now = Timestamp::from_second(1_000_000 + seconds).unwrap();
            assert_eq!(
                here - began(&task, now, here),
                Duration::from_secs(counted),
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_run_hands_in_what_it_has_before_its_pod_is_stopped() {
        let mut task = AgenticTask::default();
        task.spec.timeout_seconds = Some(1000);
        let limited = |seconds, already| {
            let execution = Execution {
                active_deadline_seconds: seconds,
                ..Execution::default()
            };
            limit(&task, &execution, Duration::from_secs(already)).as_secs()
        };
        assert_eq!(limited(3600, 0), 1000, "the task's own limit comes first");
        assert_eq!(limited(600, 0), 540);
        assert_eq!(limited(600, 100), 640, "the Pod took a while to start");
        assert_eq!(limited(20, 0), 15);
        assert_eq!(limited(900, 400), 1000);
    }

    #[test]
    fn a_payload_that_cannot_be_read_is_told_of_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("payload.json");
        std::fs::write(&file, "{\"secret\":\"hunter2\",\"claim\":\"hunter2\"}").unwrap();
        let said = read(&file).unwrap_err();
        assert!(said.contains("payload.json") && !said.contains("hunter2"), "{said}");
    }
}
