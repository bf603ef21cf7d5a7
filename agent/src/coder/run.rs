//! The I/O around the machine: asks the model, runs the tools, keeps the journal, watches the clock.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine::{Action, Diff, Event, State};
use super::worktree::WorkTree;
use super::{AgentSettings, End, Ending, TaskText, Verdict};
use crate::budget::Budget;
use crate::journal::{Entry, Header, Journal, JournalError};
use crate::model::news::News;
use crate::model::retry::{PATIENCE, Patience};
use crate::model::{ModelError, Provider, Reply, Request, Usage};
use crate::prompt;
use crate::tools::{Call, ToolResult, Toolbox};

/// Holds what one run works with.
#[derive(Clone)]
pub struct Session {
    /// The Agent's rules.
    pub settings: AgentSettings,
    /// What may be spent.
    pub budget: Budget,
    /// When its time began to count: what went before the first turn belongs to the whole run.
    pub began: Instant,
    /// The task.
    pub task: TaskText,
    /// The tools, in the task's work tree.
    pub toolbox: Toolbox,
    /// Tells what was changed.
    pub work_tree: Arc<dyn WorkTree>,
    /// Hears whether the model server answers.
    pub news: News,
}

/// Why waiting was given up.
enum Interrupted {
    Cancelled,
    Overdue { elapsed: Duration, idle: Duration },
}

/// The clock of one run.
struct Watch {
    started: Instant,
    /// Milliseconds from the start to the last sign of life.
    life: AtomicU64,
    budget: Budget,
}

impl Watch {
    fn sign(&self) {
        self.life.store(
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    fn now(&self) -> (Duration, Duration) {
        let elapsed = self.started.elapsed();
        (
            elapsed,
            elapsed.saturating_sub(Duration::from_millis(self.life.load(Ordering::Relaxed))),
        )
    }

    /// Waits for work, but not beyond the limits of time, and not after a cancellation.
    async fn guard<T>(&self, cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        let mut work = std::pin::pin!(work);
        loop {
            let (elapsed, idle) = self.now();
            if self.budget.overdue(elapsed, idle).is_some() {
                return Err(Interrupted::Overdue { elapsed, idle });
            }
            let wall = self.budget.wall.saturating_sub(elapsed);
            let left = self
                .budget
                .idle
                .map_or(wall, |limit| wall.min(limit.saturating_sub(idle)));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Interrupted::Cancelled),
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

/// Runs a task to its end. Never fails: whatever happens is an [`End`] with a name, and the journal's last line.
pub async fn run(session: Session, provider: &dyn Provider, journal: &mut Journal, cancel: CancellationToken) -> End {
    run_with(PATIENCE, session, provider, journal, cancel).await
}

async fn run_with(
    patience: Patience,
    session: Session,
    provider: &dyn Provider,
    journal: &mut Journal,
    cancel: CancellationToken,
) -> End {
    let mut settings = session.settings.clone();
    settings.protocol = provider.protocol().unwrap_or(settings.protocol);
    let tools = session.toolbox.specs().to_vec();
    let opening = prompt::opening(&settings, settings.protocol, &tools, &session.task);
    let header = Header {
        format: 1,
        task: session.task.stem.clone(),
        round: session.task.round,
        model: provider.model(),
        protocol: settings.protocol,
        replay: provider.replays(),
    };
    let watch = Watch {
        started: session.began,
        life: AtomicU64::new(0),
        budget: session.budget,
    };
    let state = State::new(settings, session.budget, tools, opening, provider.replays());
    let mut driver = Driver {
        session: &session,
        provider,
        patience,
        journal,
        cancel,
        watch,
        state,
    };
    let finished = match driver.journal.append(&Entry::Header(header)) {
        Ok(()) => driver.drive().await,
        Err(error) => Err(error),
    };
    match finished {
        Ok(end) => end,
        Err(error) => {
            // What cannot be written down is not acted on.
            tracing::error!(%error, "the run stops because its journal cannot be written");
            let (verdict, failure_reason) = super::machine::judge_ending(Ending::Infrastructure, None);
            debug_assert_eq!(verdict, Verdict::Incomplete);
            End {
                verdict,
                failure_reason,
                ending: Ending::Infrastructure,
                summary: crate::tools::output::one_line(&error.to_string(), 280),
                commit_message: String::new(),
                usage: Usage::default(),
                turns: driver.state.turn(),
                tool_calls: 0,
                replay: provider.replays(),
                changed: Vec::new(),
                extra: serde_json::Map::from_iter([("outcome".to_owned(), serde_json::json!(Ending::Infrastructure))]),
            }
        }
    }
}

struct Driver<'a> {
    session: &'a Session,
    provider: &'a dyn Provider,
    patience: Patience,
    journal: &'a mut Journal,
    cancel: CancellationToken,
    watch: Watch,
    state: State,
}

impl Driver<'_> {
    async fn drive(&mut self) -> Result<End, JournalError> {
        let mut events = VecDeque::from([Event::Start]);
        loop {
            // The machine always leaves something to wait for; if it ever did not, cancelling is the way out.
            let event = events.pop_front().unwrap_or(Event::Cancelled);
            let turn = self.state.turn();
            for action in self.state.apply(event) {
                match action {
                    Action::Say(message) => self.journal.append(&Entry::Message { turn, message })?,
                    Action::Note(text) => self.journal.append(&Entry::Note { turn, text })?,
                    Action::Ask => events.push_back(self.ask().await?),
                    Action::RunTools(calls) => events.push_back(self.run_tools(&calls).await?),
                    Action::InspectDiff => events.push_back(self.inspect().await),
                    Action::End(end) => {
                        self.journal.append(&Entry::End((*end).clone()))?;
                        self.journal.seal()?;
                        return Ok(*end);
                    }
                }
            }
        }
    }

    /// Asks for one reply, and again while the model server is away.
    async fn ask(&mut self) -> Result<Event, JournalError> {
        let turn = self.state.turn();
        let request = self.state.request();
        let mut pause = self.patience.pause;
        let mut away_since = None;
        loop {
            let error = match self.ask_once(&request).await {
                Err(interrupted) => return Ok(interrupted.into()),
                Ok(Ok(reply)) => {
                    self.session.news.answers();
                    let said = reply.clone();
                    self.journal.append(&Entry::Reply { turn, reply: said })?;
                    return Ok(Event::Reply(reply));
                }
                Ok(Err(error)) => error,
            };
            let (category, mut message) = (error.category(), error.to_string());
            let since = *away_since.get_or_insert_with(Instant::now);
            if !error.is_away() || since.elapsed() >= self.patience.whole {
                if error.is_away() {
                    message.push_str(&format!("; it was asked again for {} s", since.elapsed().as_secs()));
                }
                self.journal.append(&Entry::ModelFailed {
                    turn,
                    category,
                    message: message.clone(),
                })?;
                return Ok(Event::ModelFailed { category, message });
            }
            tracing::warn!(
                task = self.session.task.stem,
                turn,
                error = message,
                "the model server does not answer; it is asked again"
            );
            let text = format!(
                "the model server does not answer and is asked again in {} s: {message}",
                pause.as_secs()
            );
            self.journal.append(&Entry::Note { turn, text })?;
            self.session.news.is_away(&message, self.patience.whole);
            if let Err(interrupted) = self.watch.guard(&self.cancel, tokio::time::sleep(pause)).await {
                return Ok(interrupted.into());
            }
            pause = self.patience.after(pause);
        }
    }

    async fn ask_once(&self, request: &Request) -> Result<Result<Reply, ModelError>, Interrupted> {
        self.watch.sign();
        let sink = || self.watch.sign();
        let answered = self
            .watch
            .guard(&self.cancel, self.provider.complete(request, &sink))
            .await;
        self.watch.sign();
        answered
    }

    async fn run_tools(&mut self, calls: &[Call]) -> Result<Event, JournalError> {
        let turn = self.state.turn();
        let mut results: Vec<ToolResult> = Vec::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            self.watch.sign();
            let ran = self
                .watch
                .guard(&self.cancel, self.session.toolbox.run(call, &self.cancel))
                .await;
            let result = match ran {
                Ok(result) => result,
                Err(interrupted) => return Ok(interrupted.into()),
            };
            self.watch.sign();
            self.journal.append(&Entry::Result {
                turn,
                index,
                tool: call.tool.clone(),
                outcome: result.outcome,
                mutated: result.mutated,
                content: result.content.clone(),
            })?;
            results.push(result);
        }
        Ok(Event::Results(results))
    }

    async fn inspect(&mut self) -> Event {
        match self.watch.guard(&self.cancel, self.session.work_tree.changed()).await {
            Err(interrupted) => interrupted.into(),
            Ok(Err(reason)) => Event::DiffFailed(reason),
            Ok(Ok(changed)) => {
                let guard = self.session.toolbox.protected();
                let held = changed.paths.iter().filter_map(|path| guard.covers(path)).collect();
                Event::Diff(Diff {
                    changed: changed.paths,
                    held,
                    oversized: changed.oversized,
                    overwritten: changed.overwritten,
                })
            }
        }
    }
}

impl From<Interrupted> for Event {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Cancelled => Self::Cancelled,
            Interrupted::Overdue { elapsed, idle } => Self::Tick { elapsed, idle },
        }
    }
}

#[cfg(test)]
mod tests;
