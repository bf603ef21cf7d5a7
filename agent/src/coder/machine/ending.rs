//! How runs end: what the model hands in is held against the change, and every ending has its meaning.

use serde_json::{Map, Value, json};

use super::{Action, Diff, Phase, State};
use crate::budget::Exhausted;
use crate::coder::{End, Ending, FailureReason, Role, Verdict};
use crate::tools::output::one_line;
use crate::tools::root::pins::Held;
use crate::tools::submit_result::{self, Claim, SUMMARY_CHARS, Submission};

/// Most things that must be put back and are named.
const HELD: usize = 10;

impl State {
    /// Takes what the model hands in. GO of a coder rests on the change, not on the words.
    pub(super) fn judge(&mut self, id: String, submission: Submission, actions: &mut Vec<Action>) {
        match (submission.verdict, self.settings.role) {
            (Claim::Go, Role::Coder) => {
                self.phase = Phase::Judging { id, submission };
                actions.push(Action::InspectDiff);
            }
            _ => self.end_with(Ending::Submitted, submission.summary.clone(), Some(submission), actions),
        }
    }

    pub(super) fn on_diff(&mut self, id: String, submission: Submission, diff: Diff, actions: &mut Vec<Action>) {
        self.changed = diff.changed;
        if !diff.held.is_empty() {
            let what: Vec<&str> = diff.held.iter().take(HELD).map(|held| held.what.as_str()).collect();
            if self.protected_refused {
                self.end_with(
                    Ending::ProtectedPath,
                    format!(
                        "the change touches protected paths: {}",
                        one_line(&what.join(", "), 200)
                    ),
                    Some(submission),
                    actions,
                );
                return;
            }
            self.protected_refused = true;
            self.refuse(id, held_lesson(&diff.held), actions);
            return;
        }
        if self.changed.is_empty() {
            if !self.protected_wanted.is_empty() && self.empty_refused {
                let paths = one_line(&self.protected_wanted.join(", "), 200);
                self.end_with(
                    Ending::ProtectedPath,
                    format!("nothing was changed but for attempts on protected paths: {paths}"),
                    Some(submission),
                    actions,
                );
                return;
            }
            if self.empty_refused {
                self.end_with(
                    Ending::EmptyDiff,
                    format!("the model says GO, but nothing was changed: {}", submission.summary),
                    Some(submission),
                    actions,
                );
                return;
            }
            self.empty_refused = true;
            let lesson = "the result was not taken: GO needs a change, and no file differs from the start (new files that .gitignore names do not count). Make the change; or, if nothing has to be changed, submit NO-GO with extra {\"outcome\": \"ALREADY-RESOLVED\"} and say where you saw it.";
            self.refuse(id, lesson.into(), actions);
            return;
        }
        // Told once: after that the rest counts, and what is left out is named beside it.
        if !diff.oversized.is_empty() && !std::mem::replace(&mut self.oversized_refused, true) {
            let files: Vec<String> = diff
                .oversized
                .iter()
                .take(10)
                .map(|(path, size)| format!("{path} with {} MiB", size >> 20))
                .collect();
            let lesson = format!(
                "the result was not taken: files are too large to be committed and would be left out ({}). Remove them, or name them in .gitignore if they are build output, then submit again.",
                one_line(&files.join(", "), 400)
            );
            self.refuse(id, lesson, actions);
            return;
        }
        if !diff.overwritten.is_empty() && !std::mem::replace(&mut self.overwritten_refused, true) {
            let files: Vec<&str> = diff.overwritten.iter().take(10).map(String::as_str).collect();
            let lesson = format!(
                "the result was not taken: Git LFS pointers were written over, and what stands there now would be committed in place of the files for which they stand ({}). Put the pointers back (git show HEAD:PATH > PATH), then submit again; if the task cannot be done without their content, submit NO-GO and say so.",
                one_line(&files.join(", "), 400)
            );
            self.refuse(id, lesson, actions);
            return;
        }
        self.end_with(Ending::Submitted, submission.summary.clone(), Some(submission), actions);
    }

    /// Answers a submission that is not taken, and goes on.
    fn refuse(&mut self, id: String, lesson: String, actions: &mut Vec<Action>) {
        self.observe(id, submit_result::NAME, "", "refused", lesson, actions);
        self.go_on(actions);
    }

    pub(super) fn exhausted(&mut self, which: Exhausted, actions: &mut Vec<Action>) {
        let ending = match which {
            Exhausted::Turns => Ending::TurnsExhausted,
            Exhausted::Tokens => Ending::TokensExhausted,
            Exhausted::Wall => Ending::WallTimeExhausted,
            Exhausted::Idle => Ending::IdleTimeExhausted,
        };
        self.end(ending, self.budget.describe(which), actions);
    }

    pub(super) fn end(&mut self, ending: Ending, summary: String, actions: &mut Vec<Action>) {
        self.end_with(ending, summary, None, actions);
    }

    pub(super) fn end_with(
        &mut self,
        ending: Ending,
        summary: String,
        submission: Option<Submission>,
        actions: &mut Vec<Action>,
    ) {
        let claim = submission.as_ref().map(|submission| submission.verdict);
        let (verdict, failure_reason) = judge_ending(ending, claim);
        let mut extra = Map::new();
        let mut outcome = json!(ending);
        let mut commit_message = String::new();
        if let Some(submission) = submission {
            // Only words that other parts act on may replace the name of the ending.
            let word = submission.extra.get("outcome").and_then(Value::as_str);
            if verdict == Verdict::NoGo
                && ending == Ending::Submitted
                && matches!(word, Some("ALREADY-RESOLVED" | "NEEDS-VERIFICATION"))
            {
                outcome = json!(word);
            }
            extra = submission.extra;
            commit_message = submission.commit_message;
        }
        let counts = [
            ("formatErrors", self.problems_total),
            ("recoveredCalls", self.recovered),
            ("compactions", self.compactions),
        ];
        extra.insert("outcome".into(), outcome);
        extra.extend(
            counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.to_owned(), json!(count))),
        );
        if !self.protected_wanted.is_empty() {
            extra.insert("protectedPathsWanted".into(), json!(self.protected_wanted));
        }
        self.phase = Phase::Over;
        actions.push(Action::End(Box::new(End {
            verdict,
            failure_reason,
            ending,
            summary: one_line(&summary, SUMMARY_CHARS),
            commit_message,
            usage: self.usage,
            turns: self.turn,
            tool_calls: self.tool_calls,
            replay: self.replay,
            changed: self.changed.clone(),
            extra,
        })));
    }
}

/// Says what must be put back, one line for each, and what to do then.
fn held_lesson(held: &[Held]) -> String {
    let lines = held.iter().take(HELD);
    let lines = lines.map(|held| format!("- {}: {}", one_line(&held.what, 200), one_line(&held.remedy, 400)));
    let more = match held.len().saturating_sub(HELD) {
        0 => String::new(),
        more => format!("\n- and {more} more"),
    };
    format!(
        "the result was not taken: the change touches what must stay as it is.\n{}{more}\nThen submit again; if the task cannot be done without changing it, submit NO-GO and say so.",
        lines.collect::<Vec<_>>().join("\n")
    )
}

/// The table of endings: what each means in the published words.
pub fn judge_ending(ending: Ending, claim: Option<Claim>) -> (Verdict, Option<FailureReason>) {
    use FailureReason as Reason;
    let incomplete = |reason| (Verdict::Incomplete, Some(reason));
    match ending {
        Ending::Submitted => match claim {
            Some(Claim::Go) => (Verdict::Go, None),
            Some(Claim::NoGo) => (Verdict::NoGo, None),
            Some(Claim::Error) | None => incomplete(Reason::ModelReportedError),
        },
        Ending::EmptyDiff => (Verdict::NoGo, None),
        Ending::ProtectedPath => incomplete(Reason::ConstraintViolated),
        Ending::FormatErrors
        | Ending::NoToolCall
        | Ending::EmptyReplies
        | Ending::ReasoningOnly
        | Ending::RepliesCut
        | Ending::StuckLoop => incomplete(Reason::ModelMisunderstood),
        Ending::NoEdits | Ending::ContextExhausted | Ending::TurnsExhausted | Ending::TokensExhausted => {
            incomplete(Reason::MaxTurnsExhausted)
        }
        Ending::WallTimeExhausted | Ending::IdleTimeExhausted | Ending::ModelTimeout => incomplete(Reason::Timeout),
        Ending::ToolsFailed => incomplete(Reason::ToolFailed),
        Ending::ModelUnavailable | Ending::RecordingExhausted => incomplete(Reason::InferenceServiceUnavailable),
        Ending::ModelAuth => incomplete(Reason::AuthUnavailable),
        Ending::Infrastructure => incomplete(Reason::InfrastructureError),
        Ending::Cancelled => (Verdict::Incomplete, None),
    }
}
