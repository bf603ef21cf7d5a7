//! What a queue's status says.

use schemas::TaskQueue;
use schemas::task_queue::TaskQueueStatus;

use super::files::Summary;
use super::source::Problem;
use super::{Context, Error, validate};
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
    Refused(Problem),
    /// Nothing changed; what stands of all files, where it is known.
    Unchanged(Option<Summary>),
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

/// Says whether the status tells that this commit was acted on, and everything that was made then is there.
pub fn is_acted_on(queue: &TaskQueue, branch: &str, tip: git::Oid, objects: i64) -> bool {
    let Some(status) = &queue.status else { return false };
    let counted: i64 = status.counts.iter().flatten().map(|(_, count)| count).sum();
    status.observed_revision.as_deref() == Some(&format!("{branch}@sha1:{tip}"))
        && status.observed_generation == queue.metadata.generation
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
        Seen::Refused(problem) => {
            conditions::clear(&mut list, "Stalled");
            set(&mut list, Said::new("Ready", false, &problem.reason, &problem.message));
        }
        Seen::Unchanged(summary) => {
            if let Some(summary) = summary {
                summarise(&mut after, summary);
            }
            let failed = conditions::find(Some(&list), "Fetched").is_none_or(|fetched| fetched.status != "True");
            if failed {
                conditions::clear(&mut list, "Stalled");
                let revision = after.observed_revision.clone().unwrap_or_default();
                set(
                    &mut list,
                    Said::new("Fetched", true, "Fetched", format!("read {revision}")),
                );
                set(
                    &mut list,
                    Said::new("Ready", true, "Applied", format!("applied {revision}")),
                );
            }
        }
        Seen::Acted {
            revision,
            summary,
            taken,
            guarded,
        } => {
            summarise(&mut after, summary);
            let branch = queue
                .spec
                .git
                .as_ref()
                .and_then(|git| git.branch.clone())
                .filter(|branch| !branch.is_empty());
            let text = format!("{}@sha1:{revision}", branch.as_deref().unwrap_or("main"));
            after.observed_revision = Some(text.clone());
            conditions::clear(&mut list, "Stalled");
            set(&mut list, Said::new("Fetched", true, "Fetched", format!("read {text}")));
            let first = taken.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let name_taken = (!taken.is_empty()).then(|| {
                let message = format!(
                    "{} of the wanted names belong to something else, which is left alone: {first}",
                    taken.len()
                );
                Said::new("NameTaken", true, "NameTaken", message)
            });
            conditions::set_or_clear(&mut list, "NameTaken", name_taken.clone(), generation, now);
            let guard = (*guarded > 0).then(|| {
                let message = format!(
                    "there are no task files any more, so {guarded} objects were kept; delete them or the TaskQueue by hand if that is meant"
                );
                Said::new("PruneGuarded", true, "NoTaskFiles", message)
            });
            conditions::set_or_clear(&mut list, "PruneGuarded", guard.clone(), generation, now);
            let ready = match (&name_taken, &guard) {
                (Some(said), _) | (None, Some(said)) => Said::new("Ready", false, &said.reason, &said.message),
                (None, None) if summary.invalid_count > 0 => {
                    let message = format!(
                        "applied {text}; {} of {} files cannot be used",
                        summary.invalid_count, summary.files
                    );
                    Said::new("Ready", true, "AppliedWithInvalidFiles", message)
                }
                (None, None) => Said::new("Ready", true, "Applied", format!("applied {text}")),
            };
            set(&mut list, ready);
        }
    }
    let suspended = queue
        .spec
        .suspend
        .then(|| Said::new("Suspended", true, "Suspended", "spec.suspend is set"));
    conditions::set_or_clear(&mut list, "Suspended", suspended, generation, now);
    let fields = validate::unsupported(queue);
    let unsupported = (!fields.is_empty()).then(|| {
        Said::new(
            "NotSupportedYet",
            true,
            "NotSupportedYet",
            format!("nothing acts on {} yet", fields.join(", ")),
        )
    });
    conditions::set_or_clear(&mut list, "NotSupportedYet", unsupported, generation, now);
    after.counts = Some(ctx.inventory.counts(cached.uid()));
    if let Some(served) = served {
        after.last_handled_reconcile_at = Some(served.to_owned());
    }
    after.conditions = Some(list);
    after.observed_generation = generation;
    after
}
