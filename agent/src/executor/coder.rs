//! The role coder: work tree, loop, commit, push.

mod folder;
mod ground;
mod hand_in;
mod push;
mod settings;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use git::WorkTree;
use kube::ResourceExt;
use schemas::Agent;
use schemas::agentic_task::FailureReason;

use super::confinement::toolchain;
use super::told::{MODEL_REACHABLE, Told};
use super::{Run, endpoint, source};
use crate::coder::worktree::Snapshot;
use crate::coder::{self as machine, End, Session};
use crate::journal::Journal;
use crate::metrics::Measured;
use crate::model::news::News;
use crate::outcome::Outcome;
use crate::tools::root::pins::Pins;
use crate::tools::sandboxed::{SandboxSettings, SandboxShell};
use crate::tools::{Caps, Toolbox, ToolboxSettings};
use folder::RunFolder;
use ground::{Ground, lay};
use hand_in::hand_in;
use push::fence;
use settings::{budget, settings};
use text::{briefing, text};

/// Carries out a coder's task, and says in its status while the model server does not answer.
pub async fn run(run: &Run, agent: &Agent) -> Result<Outcome, Outcome> {
    let (news, heard) = News::new();
    let told = Told::of(MODEL_REACHABLE, run);
    tokio::select! {
        result = carry_out(run, agent, news) => result,
        never = told.keep(run, heard) => match never {},
    }
}

/// Carries out a coder's task; the `news` of the model server are somebody else's to tell.
pub async fn carry_out(run: &Run, agent: &Agent, news: News) -> Result<Outcome, Outcome> {
    let mut ground = lay(run).await?;
    let mut asked = endpoint::ask(run, agent, &ground.stem, ground.round, &news).await?;
    asked.provider = Box::new(Measured {
        inner: asked.provider,
        metrics: run.services.probes.metrics.clone(),
        agent: agent.name_any(),
    });
    fence(run, &mut ground).await?;
    let config = &run.services.config;
    let name = format!("{}-{}", run.held.uid, run.held.claim.epoch);
    let folder = RunFolder::new(config.workspace_dir.join("work").join(name), config.keep_workspace);
    let (tree, admin) = (folder.path().join("tree"), folder.path().join("git"));
    let made = ground.git.work_tree(&ground.url, ground.start, tree, admin).await;
    let work_tree = made.map_err(|error| source::clone_failed(&error))?;
    let finding = asked.finding.take();
    let outputs = folder.path().join("outputs");
    let worked = work(run, agent, &ground, &work_tree, asked, &outputs, news).await;
    if let (Ok(end), Some(finding)) = (&worked, finding) {
        finding.learn(end.ending);
    }
    let result = match worked {
        Ok(end) => hand_in(run, &ground, &work_tree, end).await,
        Err(outcome) => Err(outcome),
    };
    folder.remove(run.cancel.is_cancelled()).await;
    let fill = |mut outcome: Outcome| {
        outcome.base_sha.get_or_insert_with(|| ground.base.to_string());
        outcome.branch.get_or_insert_with(|| ground.branch.clone());
        outcome
    };
    result.map(fill).map_err(fill)
}

async fn work(
    run: &Run,
    agent: &Agent,
    ground: &Ground,
    work_tree: &WorkTree,
    asked: endpoint::Asked,
    outputs: &std::path::Path,
    news: News,
) -> Result<End, Outcome> {
    let broken = |error: String| Outcome::failed(FailureReason::InfrastructureError, error);
    let text = text(run, ground).await?;
    let root: PathBuf = work_tree.path().to_owned();
    let read_only = work_tree.read_only_paths();
    let mut shell = SandboxSettings::new(root.clone());
    shell.read_only = read_only;
    shell.env.insert("GIT_OPTIONAL_LOCKS".into(), "0".into());
    let shell = SandboxShell::new(run.services.sandbox.clone(), toolchain().clone(), shell);
    let looked_at = work_tree.clone();
    let snapshot = tokio::task::spawn_blocking(move || Snapshot::of(&looked_at))
        .await
        .map_err(|error| broken(error.to_string()))?
        .map_err(broken)?;
    let settings_of_tools = ToolboxSettings {
        work_tree: root,
        tracked: snapshot.tracked(),
        kept_outputs: outputs.to_owned(),
        tools: agent.spec.tools.clone(),
        protected: ground.protected(),
        shell: Some(Arc::new(shell)),
        bash_timeout: Duration::from_secs(agent.spec.bash_timeout_seconds.max(1) as u64),
        briefing: briefing(run, &text),
        caps: Caps::default(),
    };
    let pins = Pins::new(ground.pinned(), work_tree.repository().clone(), ground.base);
    let toolbox = Toolbox::keeping(pins, settings_of_tools)
        .map_err(|error| Outcome::failed(FailureReason::ToolFailed, error.to_string()))?;
    let session = Session {
        settings: settings(run, agent, &asked).await?,
        budget: budget(run, agent, ground),
        began: run.began,
        task: text,
        toolbox,
        work_tree: Arc::new(snapshot),
        news,
    };
    let path = run.spool.path("transcript");
    let mut journal = Journal::create(&path, None).map_err(|error| broken(error.to_string()))?;
    Ok(machine::run(session, asked.provider.as_ref(), &mut journal, run.cancel.clone()).await)
}
