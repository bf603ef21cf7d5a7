//! The role coder: work tree, loop, commit, push.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gate::protected::{ChangedPath, EntryNow, Protected};
use gate::{GateError, ResolvedGate};
use git::{Claim, CommitLimits, EntryKind, Expected, Git, Identity, Oid, PushOutcome, RemoteUrl, Repository, WorkTree};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::agentic_task::FailureReason;
use schemas::shared::{DiffStat, Usage, Verdict};
use schemas::{Agent, AgenticTask, Workload, labels};
use serde_json::json;

use super::native::toolchain;
use super::{Run, endpoint, source};
use crate::budget::Budget;
use crate::coder::worktree::Snapshot;
use crate::coder::{self as machine, AgentSettings, End, Facts, Feedback, Role, Session, StuckLoop, TaskText};
use crate::journal::Journal;
use crate::outcome::Outcome;
use crate::tools::fetch::{Briefing, Subject};
use crate::tools::sandboxed::{SandboxSettings, SandboxShell};
use crate::tools::{Caps, Toolbox, ToolboxSettings};

/// Bytes of a diff that are kept as evidence.
const DIFF_BYTES: usize = 4 << 20;
/// Bytes of the repository's own guidelines that reach the prompt.
const GUIDELINES_BYTES: u64 = 8 * 1024;

/// Where one run starts and where it may push.
struct Ground {
    git: Git,
    url: RemoteUrl,
    branch: String,
    base: Oid,
    start: Oid,
    expected: Expected,
    claim: Claim,
    gate: Option<ResolvedGate>,
    workload: Option<Workload>,
    round: u32,
    stem: String,
}

impl Ground {
    fn refname(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }
}

/// Carries out a coder's task.
pub async fn run(run: &Run, agent: &Agent) -> Result<Outcome, Outcome> {
    let mut ground = lay(run).await?;
    let asked = endpoint::ask(run, agent, &ground.stem, ground.round).await?;
    fence(run, &mut ground).await?;
    let folder = run
        .services
        .config
        .workspace_dir
        .join("work")
        .join(format!("{}-{}", run.held.uid, run.held.claim.epoch));
    let (tree, admin) = (folder.join("tree"), folder.join("git"));
    let made = ground.git.work_tree(&ground.url, ground.start, tree, admin).await;
    let work_tree = made.map_err(|error| source::clone_failed(&error))?;
    let worked = work(run, agent, &ground, &work_tree, asked, &folder.join("outputs")).await;
    let result = match worked {
        Ok(end) => hand_in(run, &ground, &work_tree, end).await,
        Err(outcome) => Err(outcome),
    };
    if !run.services.config.keep_workspace {
        let removal = tokio::task::spawn_blocking(move || {
            let _ = work_tree.remove();
            git::remove_tree(&folder)
        });
        if run.cancel.is_cancelled() {
            // The claim is given back first; a large tree goes on being removed beside it.
            let _ = tokio::time::timeout(Duration::from_millis(300), removal).await;
        } else {
            let _ = removal.await;
        }
    }
    let fill = |mut outcome: Outcome| {
        outcome.base_sha.get_or_insert_with(|| ground.base.to_string());
        outcome.branch.get_or_insert_with(|| ground.branch.clone());
        outcome
    };
    result.map(fill).map_err(fill)
}

async fn lay(run: &Run) -> Result<Ground, Outcome> {
    let config = &run.services.config;
    let task = &run.task;
    let url = source::repository(task, config)?;
    let git = run.services.git.clone();
    let workload = source::workload(run).await?;
    let branch = source::branch(task, workload.as_ref())?;
    let pinned = task.spec.base_sha.as_deref().or(workload.as_ref().and_then(|w| {
        let status = w.status.as_ref()?;
        status
            .base_sha
            .as_deref()
            .filter(|_| status.run == Some(task.spec.run.unwrap_or(1)))
    }));
    let base = source::base(run, &git, &url, pinned).await?;
    run.services.repositories.add(&url);
    let tip = git
        .find_ref(&url, &format!("refs/heads/{branch}"))
        .await
        .map_err(|error| source::clone_failed(&error))?;
    let claim = Claim {
        task: run.held.uid.clone(),
        epoch: run.held.claim.epoch as u64,
    };
    let round = task.spec.round.unwrap_or(1).max(1) as u32;
    if let Some(tip) = tip {
        git.fetch_oid(&url, tip, false)
            .await
            .map_err(|error| source::clone_failed(&error))?;
        if !is_ours(run, &git, &url, tip, &claim, workload.as_ref()).await?
            && task.spec.payload.allow_overwrite != Some(true)
        {
            return Err(Outcome::failed(
                FailureReason::PushRejected,
                format!(
                    "branch {branch:?} exists at {} and was not made by this task; delete it, name another branch, or set allowOverwrite",
                    &tip.to_string()[..10]
                ),
            ));
        }
    }
    let start = start_of(run, &git, &url, base).await?;
    let gate = {
        let task = task.clone();
        let found = git.read(&url, move |repository| {
            source::resolve_gate(&task, source::CommitTree::new(repository.clone(), base))
        });
        match found.await.map_err(|error| source::clone_failed(&error))? {
            Ok(gate) => Some(gate),
            Err(GateError::NotFound) => None,
            Err(error) => return Err(Outcome::failed(FailureReason::GateError, error.to_string())),
        }
    };
    let stem = source::stem(task, workload.as_ref());
    Ok(Ground {
        git,
        url,
        branch,
        base,
        start,
        expected: Expected::found(tip),
        claim,
        gate,
        workload,
        round,
        stem,
    })
}

/// Finds the commit that the work starts from: the base, an earlier round's head, or a branch to revise.
async fn start_of(run: &Run, git: &Git, url: &RemoteUrl, base: Oid) -> Result<Oid, Outcome> {
    let task = &run.task;
    let start = if let Some(branch) = task
        .spec
        .payload
        .revise_from_branch
        .as_deref()
        .filter(|branch| !branch.is_empty())
    {
        return git
            .fetch_branch(url, branch, false)
            .await
            .map_err(|error| source::clone_failed(&error));
    } else if let Some(name) = &task.spec.feedback_from {
        source::task(run, name)
            .await?
            .and_then(|earlier| earlier.status?.commit_sha)
    } else {
        None
    };
    match start {
        Some(sha) => {
            let oid = source::parse(&sha)?;
            git.fetch_oid(url, oid, false)
                .await
                .map_err(|error| source::clone_failed(&error))?;
            Ok(oid)
        }
        None => Ok(base),
    }
}

/// Says whether the branch's tip is the work of this task, of its Workload, or of an earlier claim.
async fn is_ours(
    run: &Run,
    git: &Git,
    url: &RemoteUrl,
    tip: Oid,
    claim: &Claim,
    workload: Option<&Workload>,
) -> Result<bool, Outcome> {
    let found = git
        .read(url, move |repository| repository.read_marker(tip))
        .await
        .map_err(|error| source::clone_failed(&error))?;
    if found.as_ref().is_some_and(|found| found.task == claim.task) {
        return Ok(true);
    }
    let Some(workload) = workload else { return Ok(false) };
    let sha = tip.to_string();
    let status = workload.status.clone().unwrap_or_default();
    let recorded = status.head_sha.iter().chain(
        status
            .rounds
            .iter()
            .flatten()
            .filter_map(|round| round.head_sha.as_ref()),
    );
    if recorded.into_iter().any(|head| *head == sha) {
        return Ok(true);
    }
    let Some(found) = found else { return Ok(false) };
    let tasks: Api<AgenticTask> = Api::namespaced(run.services.client.clone(), &run.held.namespace);
    let selector = format!("{}={}", labels::WORKLOAD, labels_value(workload));
    let siblings = tasks
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| {
            Outcome::failed(
                FailureReason::InfrastructureError,
                format!("failed to list the workload's tasks: {error}"),
            )
        })?;
    Ok(siblings
        .items
        .iter()
        .any(|sibling| sibling.metadata.uid.as_deref() == Some(&found.task)))
}

fn labels_value(workload: &Workload) -> String {
    schemas::names::label_value(&workload.name_any())
}

fn identity(run: &Run, committer: bool) -> Identity {
    let who = &run.services.config.identities;
    let now = Timestamp::now().as_second();
    if committer {
        Identity::new(who.committer_name.clone(), who.committer_email.clone(), now)
    } else {
        Identity::new(who.author_name.clone(), who.author_email.clone(), now)
    }
}

/// Pushes a marker where an earlier claim may still push, so that it can only lose.
async fn fence(run: &Run, ground: &mut Ground) -> Result<(), Outcome> {
    if ground.claim.epoch <= 1 {
        return Ok(());
    }
    let (claim, start, who) = (ground.claim.clone(), ground.start, identity(run, true));
    let marker = ground
        .git
        .read(&ground.url, move |repository| {
            repository.build_marker(start, &claim, &who)
        })
        .await
        .map_err(|error| source::clone_failed(&error))?;
    let repository = ground
        .git
        .read(&ground.url, |repository| Ok(repository.clone()))
        .await
        .map_err(|error| source::clone_failed(&error))?;
    push(ground, &repository, marker).await?;
    ground.expected = Expected::At(marker);
    Ok(())
}

fn push_failed(error: &git::Error) -> Outcome {
    let reason = match error.category() {
        git::Category::Auth => FailureReason::AuthUnavailable,
        _ => FailureReason::InfrastructureError,
    };
    Outcome::failed(reason, error.to_string())
}

async fn work(
    run: &Run,
    agent: &Agent,
    ground: &Ground,
    work_tree: &WorkTree,
    asked: endpoint::Asked,
    outputs: &std::path::Path,
) -> Result<End, Outcome> {
    let broken = |error: String| Outcome::failed(FailureReason::InfrastructureError, error);
    let text = text(run, ground).await?;
    let protected = ground
        .gate
        .as_ref()
        .map(|gate| gate.protected.clone())
        .unwrap_or_else(|| vec![gate::protected::ALWAYS.into()]);
    let root: PathBuf = work_tree.path().to_owned();
    let read_only = work_tree.read_only_paths();
    let mut shell = SandboxSettings::new(root.clone());
    shell.read_only = read_only;
    shell.env.insert("GIT_OPTIONAL_LOCKS".into(), "0".into());
    let shell = SandboxShell::new(run.services.sandbox.clone(), toolchain().clone(), shell);
    let toolbox = Toolbox::new(ToolboxSettings {
        work_tree: root.clone(),
        kept_outputs: outputs.to_owned(),
        tools: agent.spec.tools.clone(),
        protected,
        shell: Some(Arc::new(shell)),
        bash_timeout: Duration::from_secs(agent.spec.bash_timeout_seconds.max(1) as u64),
        briefing: briefing(run, &text),
        caps: Caps::default(),
    })
    .map_err(|error| Outcome::failed(FailureReason::ToolFailed, error.to_string()))?;
    let snapshot = tokio::task::spawn_blocking(move || Snapshot::take(&root))
        .await
        .map_err(|error| broken(error.to_string()))?
        .map_err(|error| broken(format!("failed to read the work tree: {error}")))?;
    let session = Session {
        settings: settings(run, agent, &asked).await?,
        budget: budget(run, agent, ground),
        task: text,
        toolbox,
        work_tree: Arc::new(snapshot),
        live: None,
    };
    let path = run.spool.path("transcript");
    let mut journal = Journal::create(&path, None).map_err(|error| broken(error.to_string()))?;
    Ok(machine::run(session, asked.provider.as_ref(), &mut journal, run.cancel.clone()).await)
}

async fn text(run: &Run, ground: &Ground) -> Result<TaskText, Outcome> {
    let payload = &run.task.spec.payload;
    let given = payload.prompt.clone().filter(|prompt| !prompt.trim().is_empty());
    let text = match (given, &ground.workload) {
        (Some(prompt), _) => prompt,
        (None, Some(workload)) => match &workload.spec.title {
            Some(title) if !workload.spec.intent.contains(title.as_str()) => {
                format!("{title}\n\n{}", workload.spec.intent)
            }
            _ => workload.spec.intent.clone(),
        },
        (None, None) if payload.issue.is_some() => {
            return Err(Outcome::failed(
                FailureReason::NotSupportedYet,
                "payload.issue without payload.prompt needs a forge, which is not supported yet; set payload.prompt",
            ));
        }
        (None, None) => {
            return Err(Outcome::failed(
                FailureReason::ModelMisunderstood,
                "the task has no text: set payload.prompt",
            ));
        }
    };
    let feedback = match &run.task.spec.feedback_from {
        Some(name) => source::task(run, name).await?.and_then(|earlier| feedback(&earlier)),
        None => None,
    };
    let (base, start, url) = (ground.base, ground.start, ground.url.clone());
    let (top_level, guidelines) = ground
        .git
        .read(&url, move |repository| {
            let names = repository.tree_entries(start, "", false)?.unwrap_or_default();
            let names: Vec<String> = names
                .into_iter()
                .take(200)
                .map(|entry| entry.path.to_string())
                .collect();
            let guide = repository.read_file(base, "AGENTS.md", GUIDELINES_BYTES).ok().flatten();
            let guide = guide.filter(|(kind, _)| matches!(kind, EntryKind::File | EntryKind::Exec));
            Ok((
                names,
                guide
                    .map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
                    .unwrap_or_default(),
            ))
        })
        .await
        .map_err(|error| source::clone_failed(&error))?;
    let advisories = payload.gate_advisories.iter().flatten().map(|advisory| {
        format!(
            "- {}: {}\n",
            advisory.check.as_deref().unwrap_or("gate"),
            advisory.detail.as_deref().unwrap_or_default()
        )
    });
    let advisories: String = advisories.collect();
    let text = if advisories.is_empty() {
        text
    } else {
        format!("{text}\n\nThe gate remarked earlier:\n{advisories}")
    };
    Ok(TaskText {
        stem: ground.stem.clone(),
        round: ground.round,
        prefix: payload.prompt_prefix.clone().unwrap_or_default(),
        text,
        feedback,
        facts: Facts {
            repository: ground.url.to_string(),
            base_branch: source::base_branch(&run.task),
            language: String::new(),
            top_level,
            checks: ground
                .gate
                .iter()
                .flat_map(|gate| &gate.steps)
                .map(|step| step.command.clone())
                .collect(),
            protected: ground
                .gate
                .as_ref()
                .map(|gate| gate.protected.clone())
                .unwrap_or_default(),
            guidelines,
        },
    })
}

fn feedback(earlier: &AgenticTask) -> Option<Feedback> {
    let status = earlier.status.as_ref()?;
    let result = status.result.as_ref()?;
    let extra = |key: &str| {
        result
            .get("extra")
            .and_then(|extra| extra.get(key))
            .and_then(|value| value.as_str())
            .unwrap_or_default()
    };
    match status.verdict? {
        Verdict::GateFail => Some(Feedback::Gate {
            step: extra("firstFailingStep").to_owned(),
            log_tail: extra("logTail").to_owned(),
        }),
        Verdict::NoGo => {
            let summary = result
                .get("summary")
                .and_then(|value| value.as_str())
                .unwrap_or_default();
            Some(Feedback::Review {
                findings: summary.to_owned(),
            })
        }
        _ => None,
    }
}

fn briefing(run: &Run, text: &TaskText) -> Briefing {
    let payload = &run.task.spec.payload;
    let issue = payload.issue.map(|number| Subject {
        repo: payload.repo.clone().unwrap_or_default(),
        number: number.max(0) as u64,
        text: text.text.clone(),
    });
    Briefing {
        issue,
        pull_request: None,
    }
}

async fn settings(run: &Run, agent: &Agent, asked: &endpoint::Asked) -> Result<AgentSettings, Outcome> {
    let spec = &agent.spec;
    let defaults = AgentSettings::default();
    let profile = match spec.model_profile_ref.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let api: Api<schemas::ModelProfile> = Api::all(run.services.client.clone());
            api.get_opt(name).await.map_err(|error| {
                Outcome::failed(
                    FailureReason::InfrastructureError,
                    format!("failed to read ModelProfile {name}: {error}"),
                )
            })?
        }
        None => None,
    };
    let said = spec
        .stuck_loop_detection
        .clone()
        .or_else(|| profile.as_ref()?.spec.stuck_loop_detection.clone())
        .unwrap_or_default();
    let base = StuckLoop::default();
    let small =
        |value: Option<i64>, default: u32| value.map_or(default, |value| value.clamp(0, i64::from(u32::MAX)) as u32);
    let window = small(
        spec.context_window_tokens.filter(|n| *n > 0),
        defaults.context_window_tokens,
    );
    let window = match asked.window {
        Some(served) if spec.context_window_tokens.is_none() => served,
        Some(served) => window.min(served),
        None => window,
    };
    Ok(AgentSettings {
        role: Role::Coder,
        system_prompt: spec.system_prompt.clone().unwrap_or_default(),
        system_prompt_addendum: profile
            .and_then(|profile| profile.spec.system_prompt_addendum)
            .unwrap_or_default(),
        protocol: asked.protocol,
        context_window_tokens: window,
        max_output_tokens: small(spec.max_output_tokens.filter(|n| *n > 0), defaults.max_output_tokens)
            .min(window / 2)
            .max(256),
        observation_window_turns: match spec.context_strategy {
            schemas::agent::ContextStrategy::Window => {
                small(spec.observation_window_turns, defaults.observation_window_turns)
            }
            schemas::agent::ContextStrategy::Session => 0,
        },
        working_set_tokens: defaults.working_set_tokens,
        stuck: StuckLoop {
            repeated_tool_threshold: small(said.repeated_tool_threshold, base.repeated_tool_threshold),
            edit_free_turns_limit: small(said.edit_free_turns_limit, base.edit_free_turns_limit),
            context_soft_cap: said.context_soft_cap.map_or(base.context_soft_cap, |n| n.max(0) as u64),
            context_hard_cap: said.context_hard_cap.map_or(base.context_hard_cap, |n| n.max(0) as u64),
        },
        temperature: spec.temperature.as_deref().and_then(|text| text.parse().ok()),
        chat_template_kwargs: spec.chat_template_kwargs.clone().unwrap_or_default(),
    })
}

fn budget(run: &Run, agent: &Agent, ground: &Ground) -> Budget {
    let said = run.task.spec.budget.clone().unwrap_or_default();
    let turns = said
        .turns
        .map_or(agent.spec.max_turns, |turns| turns.min(agent.spec.max_turns));
    let used = ground
        .workload
        .as_ref()
        .and_then(|w| w.status.as_ref()?.usage.clone())
        .unwrap_or_default();
    let spent = used.prompt_tokens + used.completion_tokens;
    Budget {
        turns: turns.clamp(1, 500) as u32,
        tokens: said.tokens.map(|tokens| (tokens - spent).max(1) as u64),
        wall: Duration::from_secs(run.task.spec.timeout().max(1) as u64),
        idle: None,
    }
}

async fn hand_in(run: &Run, ground: &Ground, work_tree: &WorkTree, end: End) -> Result<Outcome, Outcome> {
    let mut outcome = outcome_of(&end);
    if end.is_cancelled() {
        return Ok(outcome);
    }
    let message = git::compose_message(&message(ground, &end), Some(&ground.claim), sign_off(run).as_ref());
    let committed = ground
        .git
        .commit_all(
            work_tree,
            ground.start,
            message,
            identity(run, false),
            identity(run, true),
            CommitLimits::default(),
        )
        .await
        .map_err(|error| Outcome::failed(FailureReason::InfrastructureError, format!("failed to commit: {error}")))?;
    let Some(commit) = committed else {
        if outcome.verdict == Some(Verdict::Go) && ground.start == ground.base {
            outcome.extra("outcome", json!("EMPTY-DIFF"));
        }
        if ground.start != ground.base {
            outcome.head_sha = Some(ground.start.to_string());
        }
        return Ok(outcome);
    };
    let (base, repository) = (ground.base, work_tree.repository().clone());
    let (changes, diff) = ground
        .git
        .run(move |_| {
            Ok((
                repository.changed_paths(Some(base), Some(commit), "")?,
                repository.diff(Some(base), commit, DIFF_BYTES)?,
            ))
        })
        .await
        .map_err(|error| {
            Outcome::failed(
                FailureReason::InfrastructureError,
                format!("failed to compare with the base: {error}"),
            )
        })?;
    let _ = run.spool.write("diff", diff.text.as_bytes());
    outcome.diff_stat = Some(DiffStat {
        files: diff.files.len() as i64,
        insertions: diff.insertions as i64,
        deletions: diff.deletions as i64,
    });
    let changed: Vec<ChangedPath> = changes.iter().map(changed_path).collect();
    let rules: Vec<String> = ground
        .gate
        .as_ref()
        .map(|gate| gate.protected.clone())
        .unwrap_or_else(|| vec![gate::protected::ALWAYS.into()]);
    let protected = Protected::new(rules.iter().map(String::as_str))
        .map_err(|error| Outcome::failed(FailureReason::GateError, error.to_string()))?;
    let violations = protected.violations(&changed);
    if !violations.is_empty() {
        let paths: Vec<&str> = violations.iter().map(|violation| violation.path.as_str()).collect();
        outcome.verdict = Some(Verdict::Incomplete);
        outcome.failure = Some(FailureReason::ConstraintViolated);
        outcome.summary = crate::outcome::shorten(
            &format!(
                "refused before the push: the change touches protected paths: {}",
                paths.join(", ")
            ),
            280,
        );
        outcome.extra("refused", json!(paths.iter().take(20).collect::<Vec<_>>()));
        return Ok(outcome);
    }
    if outcome.verdict == Some(Verdict::NoGo) {
        return Ok(outcome);
    }
    match push(ground, work_tree.repository(), commit).await {
        Ok(()) => {
            outcome.head_sha = Some(commit.to_string());
            Ok(outcome)
        }
        Err(rejected) => Err(Outcome {
            verdict: Some(Verdict::Incomplete),
            failure: rejected.failure,
            summary: rejected.summary,
            ..outcome
        }),
    }
}

/// Moves the branch to `commit`, replacing what an earlier claim of this task pushed meanwhile.
async fn push(ground: &Ground, repository: &Repository, commit: Oid) -> Result<(), Outcome> {
    let pushed = ground
        .git
        .push_fenced(
            repository,
            &ground.url,
            &ground.refname(),
            ground.expected,
            commit,
            &ground.claim,
        )
        .await
        .map_err(|error| push_failed(&error))?;
    let branch = &ground.branch;
    let why = match pushed {
        PushOutcome::Won => return Ok(()),
        PushOutcome::Refused(message) => format!("the Git server refused the push to {branch}: {message}"),
        PushOutcome::Lost { found: None } => {
            format!("branch {branch} was deleted while the task ran; nothing was pushed")
        }
        PushOutcome::Lost { found: Some(found) } => format!(
            "branch {branch} was moved to {} by somebody else while the task ran; nothing was pushed",
            &found.to_string()[..10]
        ),
    };
    Err(Outcome::failed(FailureReason::PushRejected, why))
}

fn changed_path(change: &git::Change) -> ChangedPath {
    let now = match &change.new {
        None => EntryNow::Gone,
        Some((EntryKind::Symlink, _)) => EntryNow::Symlink,
        Some((EntryKind::Submodule, _)) => EntryNow::Submodule,
        Some(_) => EntryNow::File,
    };
    ChangedPath {
        path: change.path.to_vec(),
        now,
    }
}

fn sign_off(run: &Run) -> Option<Identity> {
    run.services.config.identities.sign_off.then(|| identity(run, true))
}

fn message(ground: &Ground, end: &End) -> String {
    let own = end.commit_message.trim();
    if !own.is_empty() {
        return own.to_owned();
    }
    let title = ground
        .workload
        .as_ref()
        .and_then(|workload| workload.spec.title.clone());
    match end.verdict {
        machine::Verdict::Go => title.unwrap_or_else(|| end.summary.clone()),
        _ => format!("Unfinished: {}", title.unwrap_or_else(|| ground.stem.clone())),
    }
}

fn outcome_of(end: &End) -> Outcome {
    let verdict = match end.verdict {
        machine::Verdict::Go => Verdict::Go,
        machine::Verdict::NoGo => Verdict::NoGo,
        machine::Verdict::Incomplete => Verdict::Incomplete,
    };
    let mut outcome = Outcome::ended(verdict, end.summary.clone());
    outcome.failure = end
        .failure_reason
        .and_then(|reason| serde_json::from_value(json!(reason.as_str())).ok());
    if end.failure_reason.is_some() && outcome.failure.is_none() {
        outcome.failure = Some(FailureReason::InfrastructureError);
    }
    outcome.replay = end.replay;
    outcome.usage = Some(Usage {
        prompt_tokens: end.usage.prompt as i64,
        cached_prompt_tokens: end.usage.cached as i64,
        completion_tokens: end.usage.completion as i64,
        turns: i64::from(end.turns),
        tool_calls: i64::from(end.tool_calls),
        estimated: end.usage.estimated,
    });
    outcome.result.insert("extra".into(), json!(end.extra));
    outcome.extra("ending", json!(end.ending));
    outcome
}
