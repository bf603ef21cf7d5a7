//! The writes of a plan, several at once.

use futures::StreamExt;
use schemas::inert::one_line;
use serde_json::{Value, json};

use super::plan::{Owners, Plan, Write};
use super::{Context, Error};
use crate::cache::Key;
use crate::events::{self, Warning};
use crate::writer::{self, Outcome, Refusal, Writer};

/// Writes that are under way at once.
const CONCURRENT: usize = 64;
/// Events of one revision; the rest stands in the status and in the note.
const EVENTS: usize = 50;

/// What came of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All of it is written.
    Done,
    /// Somebody else was faster somewhere.
    Lost,
    /// The API refused some of it.
    Refused {
        /// The first refusal.
        first: Refusal,
        /// How many writes were refused.
        count: usize,
    },
}

/// Carries a plan out. What one write meets does not stop the others.
pub async fn apply(ctx: &Context, queue: &Key, plan: Plan) -> Result<Applied, Error> {
    let Plan {
        writes,
        broke,
        taken: _,
        leaving: _,
        guarded: _,
        rejects: _,
        revision,
        uid,
        note_to,
    } = plan;
    let total = writes.len();
    let results: Vec<Result<Outcome, writer::Error>> = {
        let writer = &ctx.writer.first();
        let writes = futures::stream::iter(writes).map(|write| carry_out(ctx, writer, write));
        writes.buffer_unordered(CONCURRENT).collect().await
    };
    if total > 0 {
        let written = results.iter().filter(|it| matches!(it, Ok(Outcome::Done))).count();
        tracing::info!(queue = %queue, revision, written, left = total - written, "the queue's files were applied");
    }
    for error in broke.iter().take(EVENTS) {
        let warning = Warning {
            kind: "TaskQueue",
            of: queue,
            uid: &uid,
            reason: "InvalidFile",
            message: &format!("{error} ({revision})"),
            once: &format!("{revision}\n{}\n{}", error.path, error.text()),
        };
        events::warn(&ctx.writer, &warning, ctx.clock.now()).await;
    }
    if let (Some((url, commit)), Some(forge)) = (note_to, &ctx.forge) {
        let mut text = format!("foreman: {} of the task files cannot be used\n", broke.len());
        for error in broke.iter().take(EVENTS) {
            text.push_str(&one_line(&error.to_string(), 500));
            text.push('\n');
        }
        let (forge, queue) = (forge.clone(), queue.clone());
        // The status says it in any case; a repository that cannot be written to is no failure.
        tokio::spawn(async move {
            if let Err(error) = forge.note(&url.to_string(), &commit.to_string(), &text).await {
                tracing::debug!(queue = %queue, %error, "broken files were not noted on the commit");
            }
        });
    }
    let mut all = Applied::Done;
    let mut refused: Option<(Refusal, usize)> = None;
    for result in results {
        match result {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Lost) => all = Applied::Lost,
            Err(error) => match error.refusal() {
                // Of several the same one is told each time: news of the status would bring the queue here at once.
                Some(refusal) => {
                    let (told, count) = refused.get_or_insert_with(|| (refusal.clone(), 0));
                    *count += 1;
                    if refusal.message < told.message {
                        *told = refusal;
                    }
                }
                None => return Err(error.into()),
            },
        }
    }
    // The others are written; these are tried again, and somebody has to know what they need.
    Ok(match refused {
        Some((first, count)) => Applied::Refused { first, count },
        None => all,
    })
}

/// Reads back what the plan wrote.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn owned_by(owners: &Owners) -> Value {
    let mut patch = json!({ "metadata": { "ownerReferences": owners.all } });
    if let Some(version) = &owners.version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    patch
}

async fn carry_out(ctx: &Context, writer: &Writer, write: Write) -> Result<Outcome, writer::Error> {
    match write {
        Write::Workload(key, text) => writer.apply(&ctx.workloads, &key, parsed(&text)).await,
        Write::Task(key, text) => writer.create(&ctx.tasks, &key, parsed(&text)).await,
        Write::Move(key, text) => writer.apply(&ctx.tasks, &key, parsed(&text)).await,
        Write::Own("Workload", key, owners) => writer.patch(&ctx.workloads, &key, owned_by(&owners)).await,
        Write::Own(_, key, owners) => writer.patch(&ctx.tasks, &key, owned_by(&owners)).await,
        Write::Delete("Workload", key, uid) => ctx
            .writer
            .delete(&ctx.workloads, &key, &uid)
            .await
            .map(|_| Outcome::Done),
        Write::Delete(_, key, uid) => writer.delete(&ctx.tasks, &key, &uid).await.map(|_| Outcome::Done),
    }
}
