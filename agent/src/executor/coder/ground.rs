//! Where a coder's work starts and where it may push.

use gate::pinned::Pinned;
use gate::{GateError, ResolvedGate};
use git::{Claim, Expected, Git, Oid, RemoteUrl};
use schemas::agentic_task::FailureReason;
use schemas::workload::RoundRecord;
use schemas::{AgenticTask, Workload};

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

    /// Returns the parts of manifests that must stay as the base has them.
    pub(super) fn pinned(&self) -> Vec<Pinned> {
        self.gate.as_ref().map(|gate| gate.pinned.clone()).unwrap_or_default()
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
        let whose = whose(run, &git, &url, tip, workload.as_ref()).await?;
        if whose != Whose::Ours && task.spec.payload.allow_overwrite != Some(true) {
            let short = &tip.to_string()[..10];
            let why = match whose {
                Whose::Altered => format!(
                    "branch {branch:?} is at {short}, where somebody amended or rebased what this work had pushed; \
                     nothing was pushed over it. Keep it by another name and delete the branch, or set allowOverwrite"
                ),
                _ => format!(
                    "branch {branch:?} exists at {short} and was not made by this task; delete it, name another branch, or \
                     set allowOverwrite"
                ),
            };
            return Err(Outcome::failed(FailureReason::PushRejected, why));
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

/// Whose work the tip of a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// This task's, its Workload's, or an earlier claim's: a later commit may take its place.
    Ours,
    /// A commit that names a task of ours and that somebody changed since.
    Altered,
    /// Somebody else's.
    Foreign,
}

/// Says whose work the branch's tip is.
///
/// Ours is what a status says that we pushed, by its whole id. That is not all: an agent may push and die before it
/// writes a status, and the next claim must go on from there and not call its own branch taken. Such a tip is known by
/// itself: [`git::Repository::read_marker`] believes trailers only under a seal that fits the commit to the byte, and then
/// the commit, or the marker, is what a claim of that task made. A commit that a person amended, rebased or
/// cherry-picked keeps the trailers and no longer fits; it is in no status either, and nobody's to replace.
async fn whose(run: &Run, git: &Git, url: &RemoteUrl, tip: Oid, workload: Option<&Workload>) -> Result<Whose, Outcome> {
    let read = git.read(url, move |repository| {
        Ok((repository.read_marker(tip)?, repository.commit_info(tip)?.message))
    });
    let (made, message) = read.await.map_err(|error| source::clone_failed(&error))?;
    let named = git::claim_of(&message);
    let own = |claim: &Option<Claim>| claim.as_ref().is_some_and(|claim| claim.task == run.held.uid);
    let sha = Some(tip.to_string());
    if own(&made) || run.task.status.as_ref().is_some_and(|status| status.commit_sha == sha) {
        return Ok(Whose::Ours);
    }
    let foreign = if own(&named) { Whose::Altered } else { Whose::Foreign };
    let Some(workload) = workload else { return Ok(foreign) };
    let status = workload.status.clone().unwrap_or_default();
    let hex = tip.to_string();
    let in_ledger = |round: &RoundRecord| {
        let heads = round.heads.as_ref();
        round.head_sha == sha || heads.is_some_and(|heads| heads.contains_key(&hex))
    };
    if status.head_sha == sha || status.rounds.iter().flatten().any(in_ledger) {
        return Ok(Whose::Ours);
    }
    let siblings = source::siblings(run, workload).await?;
    let of = |claim: &Option<Claim>| {
        let task = claim.as_ref().map(|claim| &claim.task);
        task.is_some() && siblings.iter().any(|sibling| sibling.metadata.uid.as_ref() == task)
    };
    let pushed = |sibling: &AgenticTask| sibling.status.as_ref().is_some_and(|status| status.commit_sha == sha);
    Ok(if of(&made) || siblings.iter().any(pushed) {
        Whose::Ours
    } else if of(&named) {
        Whose::Altered
    } else {
        foreign
    })
}

#[cfg(test)]
mod tests;
