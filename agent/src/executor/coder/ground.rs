//! Where a coder's work starts and where it may push.

use gate::{GateError, ResolvedGate};
use git::{Claim, Expected, Git, Oid, RemoteUrl};
use kube::ResourceExt;
use schemas::Workload;
use schemas::agentic_task::FailureReason;

use crate::executor::{Run, source};
use crate::outcome::Outcome;

/// Where one run starts and where it may push.
pub(super) struct Ground {
    pub(super) git: Git,
    pub(super) url: RemoteUrl,
    pub(super) branch: String,
    pub(super) base: Oid,
    pub(super) start: Oid,
    pub(super) expected: Expected,
    /// What this claim pushed before the work, where an earlier claim may still push.
    pub(super) marker: Option<Oid>,
    pub(super) claim: Claim,
    pub(super) gate: Option<ResolvedGate>,
    pub(super) workload: Option<Workload>,
    pub(super) round: u32,
    pub(super) stem: String,
}

impl Ground {
    pub(super) fn refname(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }

    /// Returns the rules for paths that the work may not change; without a gate, those that always hold.
    pub(super) fn protected(&self) -> Vec<String> {
        match &self.gate {
            Some(gate) => gate.protected.clone(),
            None => vec![gate::protected::ALWAYS.into()],
        }
    }
}

pub(super) async fn lay(run: &Run) -> Result<Ground, Outcome> {
    let config = &run.services.config;
    let task = &run.task;
    let url = source::repository(task, config)?;
    let git = run.services.git.clone();
    let workload = source::workload(run).await?;
    let branch = source::branch(task, workload.as_ref())?;
    let pinned = source::pinned_base(task, workload.as_ref());
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
        marker: None,
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
    let siblings = source::siblings(run, workload).await?;
    Ok(siblings
        .iter()
        .any(|sibling| sibling.uid().as_ref() == Some(&found.task)))
}
