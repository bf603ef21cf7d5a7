//! The reporter: a Workload's verdict on its head commit, pending first, always resolved.
//!
//! A status that says GATE-PASS is not believed by itself: when a verifier ends, the gate Job's own exit code and
//! termination message are read ([`confirm`]), and only what they confirm is reported as success. Every commit that was
//! reported as pending is noted in the Workload's status until its verdict is told, also when the work left it behind.

pub mod confirm;
pub mod notes;
pub mod plan;
pub mod reading;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use schemas::workload::{Confirmation, PendingHead};
use schemas::{AgenticTask, Workload};
use serde_json::{Value, json};

use crate::cache::{Cache, Cached, Key};
use crate::clock::lock;
use crate::metrics::{Metrics, REPORTS};
use crate::work_queue::{Next, WorkQueue};
use crate::workload::observe::{Links, is_owned, workload_of};
use crate::writer::{Outcome, Writer};
use plan::{CommitStatus, State};
use reading::{Reader, Reading};

/// Why a report did not reach its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// The server refused the push, or the ref was always moved by somebody else.
    #[error("failed to push the note: {0}")]
    Push(String),
    /// The repository is `owner/name` and no server is set.
    #[error("failed to find the repository {0:?}: it is no URL, and no Git remote URL is set (--git-remote-url)")]
    NoRemote(String),
    /// A commit is not 40 hex digits.
    #[error("failed to read the commit {0:?}")]
    Commit(String),
}

/// Where verdicts are reported: a forge, or the notes of a plain Git server.
pub trait Forge: Send + Sync {
    /// Reports a state of a commit and says where it stands. Sending the same again has no second effect.
    fn commit_status<'a>(
        &'a self,
        repo: &'a str,
        commit: &'a str,
        status: &'a CommitStatus,
    ) -> BoxFuture<'a, Result<String, Error>>;

    /// Leaves a remark on a commit.
    fn note<'a>(&'a self, repo: &'a str, commit: &'a str, text: &'a str) -> BoxFuture<'a, Result<String, Error>>;
}

/// What the reporter works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Reads what proves a pass.
    pub reader: Reader,
    /// Workloads.
    pub workloads: Arc<Cache<Workload>>,
    /// Tasks.
    pub tasks: Arc<Cache<schemas::AgenticTask>>,
    /// Which tasks belong to which Workload.
    pub links: Arc<Links>,
    /// Where verdicts are reported.
    pub forge: Arc<dyn Forge>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What Workloads that were deleted left to be said.
    pub deleted: Arc<Deleted>,
    /// How often in a row a repository could not be reached, by Workload.
    pub failures: Mutex<HashMap<Key, u32>>,
}

/// What Workloads that were deleted left to be said.
pub type Deleted = Mutex<HashMap<Key, Words>>;

/// What is to be said of deleted Workloads of one name.
#[derive(Debug, Default)]
pub struct Words {
    statuses: Vec<CommitStatus>,
    /// Tries that failed since words were added.
    failures: u32,
}

/// Tries to tell of a deleted Workload before that is given up; they take about two hours.
const LAST_WORDS: u32 = 16;
/// Most that is read, noted and told at once; what is left comes with the next change.
const MOST_TURNS: usize = 200;
/// Between two tries to reach a repository, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Queues a Workload whenever there is something to read or to report.
pub fn observe(queue: &Arc<WorkQueue<Key>>, ctx: &Arc<Context>) {
    let (adds, deleted, writer) = (queue.clone(), ctx.deleted.clone(), ctx.writer.clone());
    ctx.workloads.subscribe(move |change| {
        let after = change.after.and_then(|workload| workload.readable());
        let same = |before: &Cached<Workload>| change.after.is_some_and(|after| after.uid() == before.uid());
        let gone = change.before.filter(|before| !same(before));
        // Who does not lead does not tell; the last words of a Workload are said by the one that led when it went.
        let words = match gone.and_then(|gone| gone.readable()) {
            Some(gone) if writer.leads() => plan::plan_deleted(gone),
            _ => Vec::new(),
        };
        let due = !words.is_empty() || after.is_some_and(|workload| !plan::plan(workload).is_empty());
        if !words.is_empty() {
            let mut deleted = lock(&deleted);
            let left = deleted.entry(change.key.clone()).or_default();
            left.statuses.extend(words);
            left.failures = 0;
        }
        if due {
            adds.add(change.key.clone());
        }
    });
    let adds = queue.clone();
    ctx.tasks.subscribe(move |change| {
        let is_pass = |side: Option<&Arc<Cached<AgenticTask>>>| {
            side.and_then(|task| task.readable()).is_some_and(confirm::is_pass)
        };
        if is_pass(change.after)
            && !is_pass(change.before)
            && let Some(workload) = change.after.and_then(workload_of)
        {
            adds.add(workload);
        }
    });
}

/// Why a step ended before all was told.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// Another writer was faster.
    Lost,
    /// The API could not be asked.
    Api(String),
    /// The repository could not be reached.
    Repository,
}

/// Reports one Workload.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Next {
    match step(&ctx, &key).await {
        Ok(()) => {
            lock(&ctx.failures).remove(&key);
            Next::Wait
        }
        Err(Trouble::Lost) => Next::Lost,
        Err(Trouble::Api(error)) => Next::Failed(error),
        Err(Trouble::Repository) => {
            let mut failures = lock(&ctx.failures);
            let count = failures.entry(key).or_default();
            *count = count.saturating_add(1);
            Next::After(pause(*count))
        }
    }
}

/// Returns the pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(LONGEST_PAUSE)
}

async fn step(ctx: &Context, key: &Key) -> Result<(), Trouble> {
    let has_words = tell_of_deleted(ctx, key).await.is_err();
    let mut unreached = has_words;
    let mut told: Vec<CommitStatus> = Vec::new();
    let mut is_asked = false;
    let mut reading = Reading::default();
    // What is written on the way changes what is left to be told.
    for _ in 0..MOST_TURNS {
        let Some(workload) = ctx.workloads.get(key) else { break };
        let Some(object) = workload.readable() else { break };
        // The same state of the Workload is read and told of: its verdict never stands before its verifier's task.
        if note_passes(ctx, key, &workload, &known_tasks(ctx, key), &mut reading).await? {
            continue;
        }
        let is_left = |status: &CommitStatus| !told.contains(status) && !reading.holds(status);
        let Some(status) = plan::plan(object).into_iter().find(is_left) else {
            break;
        };
        if status.is_unread && !is_asked {
            // Who has just begun to lead may not have heard yet of the task whose end the Workload tells of.
            is_asked = true;
            match ctx.reader.tasks(key).await {
                Ok(tasks) => drop(note_passes(ctx, key, &workload, &tasks, &mut reading).await?),
                Err(error) => reading.fails(status.head, status.run, error),
            }
            continue;
        }
        let head = status.head.as_str();
        if status.state == State::Pending && !is_noted(object, &status) {
            // Noted before it is told: whatever happens then, somebody knows that it has to be taken back.
            let mut note = json!(note(&status));
            note["told"] = Value::Null;
            let patch = json!({ "pendingHeads": { head: note } });
            let version = workload.meta().resource_version.as_deref();
            write(ctx, key, version, patch).await?;
        }
        match tell(ctx, key, &status).await {
            Ok(()) => write(ctx, key, None, receipt(object, &status)).await?,
            Err(Error::NoRemote(_) | Error::Commit(_)) => {
                // Nobody will ever be told of a commit that was left behind.
                if status.left_behind && status.state != State::Pending {
                    write(ctx, key, None, receipt(object, &status)).await?;
                }
            }
            Err(_) => unreached = true,
        }
        told.push(status);
    }
    match reading.error {
        // A Job may soon be gone, so it is asked again earlier than a repository that is away.
        Some(error) if !has_words => Err(Trouble::Api(error)),
        _ if unreached => Err(Trouble::Repository),
        _ => Ok(()),
    }
}

/// Builds the note of a commit that is told of as pending.
fn note(status: &CommitStatus) -> PendingHead {
    PendingHead {
        run: status.run,
        repo: status.repo.clone(),
        told: Some(true),
    }
}

/// Says whether a commit is noted as pending in the run that is told of.
fn is_noted(workload: &Workload, status: &CommitStatus) -> bool {
    let known = workload.status.as_ref().and_then(|known| known.pending_heads.as_ref());
    known
        .and_then(|heads| heads.get(&status.head))
        .is_some_and(|pending| pending.run == status.run)
}

/// Returns a Workload's tasks as the watch told of them.
fn known_tasks(ctx: &Context, key: &Key) -> Vec<Arc<Cached<AgenticTask>>> {
    let keys = ctx.links.tasks_of(key);
    keys.into_iter().filter_map(|key| ctx.tasks.get(&key)).collect()
}

/// Notes what the Jobs of passes among these tasks say; says whether any said something.
async fn note_passes(
    ctx: &Context,
    key: &Key,
    workload: &Cached<Workload>,
    tasks: &[Arc<Cached<AgenticTask>>],
    reading: &mut Reading,
) -> Result<bool, Trouble> {
    let Some(object) = workload.readable() else {
        return Ok(false);
    };
    let own = tasks.iter().filter(|task| is_owned(task, workload.uid()));
    let found = reading
        .read(&ctx.reader, object, own.filter_map(|task| task.readable()))
        .await;
    if found.is_empty() {
        return Ok(false);
    }
    let version = workload.meta().resource_version.as_deref();
    write(ctx, key, version, json!({ "confirmed": found })).await?;
    for confirmation in found.values() {
        match &confirmation.doubt {
            None => tracing::info!(workload = %key, job = confirmation.job, "the gate's Job confirms the pass"),
            Some(doubt) => tracing::warn!(workload = %key, job = confirmation.job, doubt, "a pass is not confirmed"),
        }
    }
    Ok(true)
}

/// Tells what deleted Workloads of this name left to be said; the error is that a repository could not be reached.
async fn tell_of_deleted(ctx: &Context, key: &Key) -> Result<(), ()> {
    let words = lock(&ctx.deleted).remove(key).unwrap_or_default();
    let mut left = Vec::new();
    for status in words.statuses {
        match tell(ctx, key, &status).await {
            Ok(()) | Err(Error::NoRemote(_) | Error::Commit(_)) => {}
            Err(_) => left.push(status),
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    if words.failures >= LAST_WORDS {
        tracing::warn!(workload = %key, "the repository stays away; a commit of the deleted Workload stays pending");
        return Ok(());
    }
    let mut deleted = lock(&ctx.deleted);
    let again = deleted.entry(key.clone()).or_default();
    // Words that came meanwhile have all their tries.
    if again.statuses.is_empty() {
        again.failures = words.failures.saturating_add(1);
    }
    again.statuses.extend(left);
    Err(())
}

/// Tells one state of a commit.
async fn tell(ctx: &Context, key: &Key, status: &CommitStatus) -> Result<(), Error> {
    let told = ctx.forge.commit_status(&status.repo, &status.head, status).await;
    match &told {
        Ok(place) => {
            ctx.metrics.count(REPORTS, &[("state", status.state.as_str())]);
            tracing::info!(workload = %key, state = status.state.as_str(), head = status.head, place, "reported");
        }
        Err(error @ (Error::NoRemote(_) | Error::Commit(_))) => {
            tracing::info!(workload = %key, %error, "the verdict stays in the Workload's status");
        }
        Err(error) => tracing::warn!(workload = %key, %error, "the verdict was not reported"),
    }
    told.map(drop)
}

/// Builds what the Workload's status says once a state of a commit was told.
fn receipt(workload: &Workload, status: &CommitStatus) -> Value {
    let mut patch = json!({});
    if !status.left_behind {
        patch["reported"] = json!(status.receipt());
    }
    if status.state == State::Pending {
        patch["pendingHeads"] = json!({ status.head.as_str(): note(status) });
        return patch;
    }
    if is_noted(workload, status) {
        patch["pendingHeads"] = json!({ status.head.as_str(): null });
    }
    if status.left_behind {
        let of_head = |it: &Confirmation| it.run == status.run && it.head_sha == status.head;
        let known = workload.status.as_ref().and_then(|known| known.confirmed.as_ref());
        let confirmed = known.into_iter().flatten();
        for (uid, _) in confirmed.filter(|(_, confirmation)| of_head(confirmation)) {
            patch["confirmed"][uid.as_str()] = Value::Null;
        }
    }
    patch
}

async fn write(ctx: &Context, key: &Key, version: Option<&str>, patch: Value) -> Result<(), Trouble> {
    match ctx.writer.patch_status(&ctx.workloads, key, version, patch).await {
        Ok(Outcome::Done) => Ok(()),
        // One that is gone leaves its last words behind; one that changed is looked at again.
        Ok(Outcome::Lost) if ctx.workloads.get(key).is_none() => Ok(()),
        Ok(Outcome::Lost) => Err(Trouble::Lost),
        Err(error) => Err(Trouble::Api(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
