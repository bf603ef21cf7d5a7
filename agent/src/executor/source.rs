//! Where a task's work lies: repository, base, branch, and what the base says of the gate.

use std::cell::OnceCell;
use std::time::Duration;

use gate::definition::BaseTree;
use gate::{GateError, ResolvedGate};
use git::{Category, Oid, RemoteUrl, Repository};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::agentic_task::FailureReason;
use schemas::shared::LocalRef;
use schemas::{AgenticTask, Workload, labels, names};
use tokio_util::sync::CancellationToken;

use super::Run;
use crate::config::Config;
use crate::outcome::Outcome;
use crate::patience::answered;

/// Pauses between tries to reach a Git server that is away, as one is that is being restarted. Together they leave
/// [`super::HAND_IN_TIME`] room for a push.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

/// Asks a Git server, and again while it cannot be reached.
pub async fn reached<T, F>(cancel: &CancellationToken, ask: impl FnMut() -> F) -> git::Result<T>
where
    F: Future<Output = git::Result<T>>,
{
    reached_by(&PAUSES, cancel, ask).await
}

async fn reached_by<T, F>(pauses: &[Duration], cancel: &CancellationToken, mut ask: impl FnMut() -> F) -> git::Result<T>
where
    F: Future<Output = git::Result<T>>,
{
    for pause in pauses {
        let error = match ask().await {
            Err(error) if error.category() == Category::Network => error,
            answered => return answered,
        };
        tracing::warn!(%error, "the Git server cannot be reached; it is asked again in {pause:?}");
        tokio::select! {
            () = cancel.cancelled() => return Err(error),
            () = tokio::time::sleep(*pause) => {}
        }
    }
    ask().await
}

/// Resolves `payload.repo`: a URL, a path, or `owner/name` below the configured remote.
pub fn repository(task: &AgenticTask, config: &Config) -> Result<RemoteUrl, Outcome> {
    let Some(repo) = task
        .spec
        .payload
        .repo
        .as_deref()
        .map(str::trim)
        .filter(|repo| !repo.is_empty())
    else {
        return Err(Outcome::failed(
            FailureReason::CloneFailed,
            "the task names no repository: set payload.repo, or defaults.repo in the queue",
        ));
    };
    match git::of_repository(config.git_remote_url.as_deref(), repo) {
        Ok(Some(url)) => Ok(url),
        Ok(None) => Err(Outcome::failed(
            FailureReason::GitRemoteNotConfigured,
            format!(
                "payload.repo is {repo:?} and this node has no --git-remote-url (GitRemoteNotConfigured, also known as \
                 GitRemoteURLNotConfigured); set the flag, or name the repository by its URL"
            ),
        )),
        Err(error) => Err(Outcome::failed(FailureReason::CloneFailed, error.to_string())),
    }
}

/// Returns the branch that work is cut from.
pub fn base_branch(task: &AgenticTask) -> String {
    task.spec
        .payload
        .base_branch
        .clone()
        .filter(|branch| !branch.is_empty())
        .unwrap_or_else(|| "main".into())
}

/// Turns a Git error into the outcome of a run that could not get its code.
pub fn clone_failed(error: &git::Error) -> Outcome {
    let reason = match error.category() {
        git::Category::Auth => FailureReason::AuthUnavailable,
        git::Category::DiskFull => FailureReason::InfrastructureError,
        _ => FailureReason::CloneFailed,
    };
    Outcome::failed(reason, error.to_string())
}

/// Returns the base commit that a task is bound to: its own, else the one of its Workload's run.
pub fn pinned_base<'a>(task: &'a AgenticTask, workload: Option<&'a Workload>) -> Option<&'a str> {
    task.spec.base_sha.as_deref().or_else(|| {
        let status = workload?.status.as_ref()?;
        status
            .base_sha
            .as_deref()
            .filter(|_| status.run == Some(task.spec.run.unwrap_or(1)))
    })
}

/// Finds the base commit: the pinned one, else the base branch's tip now; it is in the mirror afterwards.
pub async fn base(run: &Run, git: &git::Git, url: &RemoteUrl, pinned: Option<&str>) -> Result<Oid, Outcome> {
    let oid = base_id(run, git, url, pinned).await?;
    let branch = base_branch(&run.task);
    let fetched = match pinned {
        Some(_) => reached(&run.cancel, || git.fetch_oid(url, oid, false))
            .await
            .map(|()| oid),
        None => reached(&run.cancel, || git.fetch_branch(url, &branch, false)).await,
    };
    fetched.map_err(|error| clone_failed(&error))
}

/// Finds the id of the base commit, and fetches nothing.
pub async fn base_id(run: &Run, git: &git::Git, url: &RemoteUrl, pinned: Option<&str>) -> Result<Oid, Outcome> {
    if let Some(pinned) = pinned {
        return parse(pinned);
    }
    let branch = base_branch(&run.task);
    let refname = format!("refs/heads/{branch}");
    let tip = reached(&run.cancel, || git.find_ref(url, &refname))
        .await
        .map_err(|error| clone_failed(&error))?;
    if let Some(tip) = tip {
        return Ok(tip);
    }
    let refs = git.list_refs(url, &["refs/heads/"]).await.unwrap_or_default();
    let mut known: Vec<&str> = refs
        .iter()
        .filter_map(|found| found.name.strip_prefix("refs/heads/"))
        .collect();
    known.truncate(10);
    let has = if known.is_empty() {
        "no branch at all".to_owned()
    } else {
        known.join(", ")
    };
    Err(Outcome::failed(
        FailureReason::CloneFailed,
        format!("the base branch {branch:?} does not exist in {url}; it has {has}. Set baseBranch, or push the branch"),
    ))
}

/// Reads a commit id.
pub fn parse(sha: &str) -> Result<Oid, Outcome> {
    Oid::from_hex(sha.as_bytes())
        .map_err(|_| Outcome::failed(FailureReason::InfrastructureError, format!("{sha:?} is no commit id")))
}

/// Reads the Workload that a task belongs to, if any.
pub async fn workload(run: &Run) -> Result<Option<Workload>, Outcome> {
    let Some(name) = run.task.spec.workload_ref.as_ref().and_then(LocalRef::named) else {
        return Ok(None);
    };
    let api: Api<Workload> = Api::namespaced(run.services.client.clone(), &run.held.namespace);
    run.read(&api, name).await.map_err(|error| {
        Outcome::failed(
            FailureReason::InfrastructureError,
            format!("failed to read Workload {name}: {error}"),
        )
    })
}

/// Reads another task of the same namespace.
pub async fn task(run: &Run, name: &str) -> Result<Option<AgenticTask>, Outcome> {
    let api: Api<AgenticTask> = Api::namespaced(run.services.client.clone(), &run.held.namespace);
    run.read(&api, name).await.map_err(|error| {
        Outcome::failed(
            FailureReason::InfrastructureError,
            format!("failed to read task {name}: {error}"),
        )
    })
}

/// Lists the tasks of a Workload.
pub async fn siblings(run: &Run, workload: &Workload) -> Result<Vec<AgenticTask>, Outcome> {
    let name = workload.name_any();
    let api: &Api<AgenticTask> = &Api::namespaced(run.services.client.clone(), &run.held.namespace);
    let selector = labels::tasks_of_workload(&name);
    let params = &ListParams::default().labels(&selector);
    match answered(&run.cancel, &name, |_| api.list(params)).await {
        Ok(found) => Ok(found.items),
        Err(error) => Err(Outcome::failed(
            FailureReason::InfrastructureError,
            format!("failed to list the tasks of Workload {name}: {error}"),
        )),
    }
}

/// Returns the stem of the task's file, or a name where there is no file.
pub fn stem(task: &AgenticTask, workload: Option<&Workload>) -> String {
    let path = workload
        .and_then(|workload| workload.annotations().get(labels::SOURCE_PATH))
        .or_else(|| task.annotations().get(labels::SOURCE_PATH));
    match path {
        Some(path) => {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.rsplit_once('.').map_or(file, |(stem, _)| stem).to_owned()
        }
        None => workload.map(ResourceExt::name_any).unwrap_or_else(|| task.name_any()),
    }
}

/// Returns the work branch of a task.
pub fn branch(task: &AgenticTask, workload: Option<&Workload>) -> Result<String, Outcome> {
    let payload = &task.spec.payload;
    let name = workload.map(ResourceExt::name_any).unwrap_or_else(|| task.name_any());
    let branch = match (
        payload.branch.clone().filter(|branch| !branch.is_empty()),
        &payload.branch_prefix,
    ) {
        (Some(branch), _) => branch,
        (None, Some(prefix)) => format!("{prefix}{name}"),
        (None, None) => names::default_branch(&name),
    };
    names::check_branch(&branch).map_err(|why| {
        Outcome::failed(
            FailureReason::ConstraintViolated,
            format!("{branch:?} cannot be a branch: {why}"),
        )
    })?;
    if branch == base_branch(task) {
        return Err(Outcome::failed(
            FailureReason::ConstraintViolated,
            format!("the work branch {branch:?} is the base branch itself; name another"),
        ));
    }
    Ok(branch)
}

/// The tree of one commit, as the gate's definition is read from it.
///
/// What cannot be read is not the same as what is not there: the first failure is kept, and whoever decides by this
/// tree asks [`CommitTree::checked`] before the decision counts.
pub struct CommitTree {
    repository: Repository,
    commit: Oid,
    fault: OnceCell<git::Error>,
}

impl CommitTree {
    /// Reads `commit` of `repository`.
    pub fn new(repository: Repository, commit: Oid) -> Self {
        Self {
            repository,
            commit,
            fault: OnceCell::new(),
        }
    }

    /// Returns what was decided by this tree, or the failure to read it that makes the decision worthless.
    pub fn checked<T>(self, decided: T) -> git::Result<T> {
        match self.fault.into_inner() {
            Some(fault) => Err(fault),
            None => Ok(decided),
        }
    }

    fn found<T>(&self, read: git::Result<Option<T>>) -> Option<T> {
        read.unwrap_or_else(|error| {
            // Only the first failure is told; the ones after it say no more.
            let _ = self.fault.set(error);
            None
        })
    }
}

impl BaseTree for CommitTree {
    fn exists(&self, path: &str) -> bool {
        self.found(self.repository.entry_at(self.commit, path)).is_some()
    }

    fn read(&self, path: &str, max: usize) -> Option<Vec<u8>> {
        let read = match self.repository.read_file(self.commit, path, max as u64) {
            Err(git::Error::TooLarge { .. }) => return None,
            read => read,
        };
        match self.found(read) {
            Some((git::EntryKind::File | git::EntryKind::Exec, bytes)) => Some(bytes),
            _ => None,
        }
    }
}

/// Finds the gate of a task from its base commit. Blocks. A tree that cannot be read is an error of Git, never a
/// commit without a gate.
pub fn resolve_gate(task: &AgenticTask, tree: CommitTree) -> git::Result<Result<ResolvedGate, GateError>> {
    let resolved = gate_in(task, &tree);
    tree.checked(resolved)
}

/// Finds the gate of a task in a tree that the caller checks afterwards.
pub fn gate_in(task: &AgenticTask, tree: &CommitTree) -> Result<ResolvedGate, GateError> {
    gate::definition::resolve(
        task.spec.gate_profile.as_ref(),
        tree,
        &gate::definition::parse_file,
        &[],
    )
}

#[cfg(test)]
mod tests;
