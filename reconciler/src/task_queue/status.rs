//! What a queue's status says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemas::task_queue::TaskQueueStatus;
use schemas::{TaskQueue, unsupported};

use super::files::Summary;
use super::problem::Problem;
use super::{Context, Error};
use crate::cache::{Cached, Key};
use crate::conditions::{self, Said};
use crate::writer::{Outcome, status_patch};

/// What was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The queue cannot be served until somebody changes it.
    Stalled(Problem),
    /// The queue rests: what was said of it stands.
    Suspended,
    /// The repository cannot be read.
    NotFetched(Problem),
    /// The repository was read, but the API refuses objects that it asks for.
    Refused {
        /// What it refuses.
        problem: Problem,
        /// Commit that was read.
        revision: git::Oid,
    },
    /// Nothing changed since a revision was acted on.
    Unchanged {
        /// Commit.
        revision: git::Oid,
        /// What stands of all files, where it is known.
        summary: Option<Summary>,
    },
    /// A revision was acted on.
    Acted {
        /// Commit.
        revision: git::Oid,
        /// What stands of all files.
        summary: Summary,
        /// Names that belong to somebody else.
        taken: Vec<String>,
        /// How many objects the zero guard kept.
        guarded: i64,
    },
}

/// Says whether the status tells that this commit was acted on as the spec now asks, and everything that was made then
/// is there.
///
/// `status.observedGeneration` tells only which spec the status is about: it may be about a failure. Ready is true of
/// what was acted on.
pub fn is_acted_on(queue: &TaskQueue, branch: &str, tip: git::Oid, objects: i64) -> bool {
    let Some(status) = &queue.status else { return false };
    let counted: i64 = status.counts.iter().flatten().map(|(_, count)| count).sum();
    let ready = conditions::find(status.conditions.as_deref(), "Ready");
    status.observed_revision.as_deref() == Some(&format!("{branch}@sha1:{tip}"))
        && ready.is_some_and(|it| it.status == "True" && it.observed_generation == queue.metadata.generation)
        && counted == objects
}

/// Writes the status if it says anything new.
pub async fn write(
    ctx: &Context,
    cached: &Cached<TaskQueue>,
    queue: &TaskQueue,
    seen: &Seen,
    served: Option<&str>,
) -> Result<(), Error> {
    let after = build(ctx, cached, queue, seen, served);
    let Some(patch) = status_patch(queue.status.as_ref(), &after) else {
        return Ok(());
    };
    // No version: the queue's status has one writer, and a spec that moved on brings the queue here again.
    match ctx
        .writer
        .patch_status(&ctx.queues, &Key::of(cached.meta()), None, patch)
        .await?
    {
        Outcome::Done | Outcome::Lost => Ok(()),
    }
}

fn build(
    ctx: &Context,
    cached: &Cached<TaskQueue>,
    queue: &TaskQueue,
    seen: &Seen,
    served: Option<&str>,
) -> TaskQueueStatus {
    let generation = cached.meta().generation;
    let now = ctx.clock.now();
    let mut after = queue.status.clone().unwrap_or_default();
    let mut list = after.conditions.take().unwrap_or_default();
    let set = |list: &mut Vec<_>, said: Said| conditions::set(list, said, generation, now);
    let summarise = |after: &mut TaskQueueStatus, summary: &Summary| {
        after.files = Some(summary.files);
        after.invalid_files = Some(summary.invalid.clone()).filter(|files| !files.is_empty());
        after.invalid_file_count = Some(summary.invalid_count);
    };
    match seen {
        Seen::Stalled(problem) => {
            set(&mut list, Said::new("Stalled", true, &problem.reason, &problem.message));
            set(&mut list, Said::new("Ready", false, &problem.reason, &problem.message));
        }
        Seen::Suspended => conditions::clear(&mut list, "Stalled"),
        Seen::NotFetched(problem) => {
            conditions::clear(&mut list, "Stalled");
            set(
                &mut list,
                Said::new("Fetched", false, &problem.reason, &problem.message),
            );
            set(&mut list, Said::new("Ready", false, &problem.reason, &problem.message));
        }
        Seen::Refused { problem, revision } => {
            conditions::clear(&mut list, "Stalled");
            let read = format!("read {}", revision_text(queue, *revision));
            set(&mut list, Said::new("Fetched", true, "Fetched", read));
            set(&mut list, Said::new("Ready", false, &problem.reason, &problem.message));
        }
        Seen::Unchanged { revision, summary } => {
            if let Some(summary) = summary {
                summarise(&mut after, summary);
            }
            after.observed_revision = Some(revision_text(queue, *revision));
        }
        Seen::Acted {
            revision,
            summary,
            taken,
            guarded,
        } => {
            summarise(&mut after, summary);
            after.observed_revision = Some(revision_text(queue, *revision));
            let first = taken.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let name_taken = (!taken.is_empty()).then(|| {
                let message = format!(
                    "{} of the wanted names belong to something else, which is left alone: {first}",
                    taken.len()
                );
                Said::new("NameTaken", true, "NameTaken", message)
            });
            conditions::set_or_clear(&mut list, "NameTaken", name_taken, generation, now);
            let guard = (*guarded > 0).then(|| {
                let message = format!(
                    "there are no task files any more, so {guarded} objects are kept until there is one again; delete them or the TaskQueue by hand if that is meant"
                );
                Said::new("PruneGuarded", true, "NoTaskFiles", message)
            });
            conditions::set_or_clear(&mut list, "PruneGuarded", guard, generation, now);
        }
    }
    if matches!(seen, Seen::Unchanged { .. } | Seen::Acted { .. }) {
        let text = after.observed_revision.clone().unwrap_or_default();
        conditions::clear(&mut list, "Stalled");
        set(&mut list, Said::new("Fetched", true, "Fetched", format!("read {text}")));
        let ready = ready(&list, &after, &text);
        set(&mut list, ready);
    }
    let suspended = queue.spec.suspend.then(|| {
        Said::new(
            "Suspended",
            true,
            "Suspended",
            "spec.suspend is set: nothing is read, made or removed until it is unset",
        )
    });
    conditions::set_or_clear(&mut list, "Suspended", suspended, generation, now);
    unsupported::tell(&mut list, &unsupported::of_queue(&queue.spec), generation, now);
    after.counts = Some(ctx.inventory.counts(cached.uid()));
    if let Some(served) = served {
        after.last_handled_reconcile_at = Some(served.to_owned());
    }
    after.conditions = Some(list);
    after.observed_generation = generation;
    after
}

/// Says what came of a revision that was acted on.
fn ready(list: &[Condition], status: &TaskQueueStatus, revision: &str) -> Said {
    let kept = ["NameTaken", "PruneGuarded"];
    if let Some(found) = kept.iter().find_map(|kind| conditions::find(Some(list), kind)) {
        return Said::new("Ready", false, &found.reason, &found.message);
    }
    match status.invalid_file_count {
        Some(invalid @ 1..) => {
            let files = status.files.unwrap_or_default();
            let message = format!("applied {revision}; {invalid} of {files} files cannot be used");
            Said::new("Ready", true, "AppliedWithInvalidFiles", message)
        }
        _ => Said::new("Ready", true, "Applied", format!("applied {revision}")),
    }
}

fn revision_text(queue: &TaskQueue, revision: git::Oid) -> String {
    let branch = queue.spec.git.as_ref().and_then(|git| git.branch.as_deref());
    let branch = branch.filter(|branch| !branch.is_empty()).unwrap_or("main");
    format!("{branch}@sha1:{revision}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_counts_as_acted_on_only_where_ready_says_so_of_this_spec() {
        let tip: git::Oid = "1234567890123456789012345678901234567890".parse().unwrap();
        let acted = |status: &str, reason: &str, generation: i64, revision: &str, objects: i64| {
            let queue: TaskQueue = serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue",
                "metadata": { "name": "q", "generation": 2 }, "spec": { "git": { "url": "file:///t" } },
                "status": {
                    "observedRevision": format!("main@sha1:{revision}"), "observedGeneration": 2,
                    "counts": { "Planning": 1, "Completed": 2 },
                    "conditions": [{
                        "type": "Ready", "status": status, "reason": reason, "message": "", "observedGeneration": generation,
                        "lastTransitionTime": "2026-01-01T00:00:00Z"
                    }]
                }
            }))
            .unwrap();
            is_acted_on(&queue, "main", tip, objects)
        };
        let now = tip.to_string();
        assert!(acted("True", "Applied", 2, &now, 3));
        assert!(acted("True", "AppliedWithInvalidFiles", 2, &now, 3));
        assert!(!acted("True", "Applied", 1, &now, 3), "the spec was edited since");
        assert!(
            !acted("False", "Unreachable", 2, &now, 3),
            "the spec was seen and not acted on"
        );
        assert!(!acted("False", "Forbidden", 2, &now, 3), "writes were refused");
        assert!(!acted("True", "Applied", 2, &now, 2), "an object is gone");
        assert!(
            !acted("True", "Applied", 2, &now.replace('1', "2"), 3),
            "the branch moved"
        );
    }
}
