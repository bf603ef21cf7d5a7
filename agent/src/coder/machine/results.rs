//! What calls brought, and whether the run gets anywhere with it.

use serde_json::Value;

use super::{Action, State, replies};
use crate::coder::conversation::{Observation, about};
use crate::coder::extract::Asked;
use crate::coder::{Ending, Role};
use crate::tools::output::one_line;
use crate::tools::submit_result;
use crate::tools::{Outcome, ToolResult};

/// Turns in a row in which every tool failed, after which a run ends.
const TOOL_FAILURES: u32 = 3;

impl State {
    /// Takes what the calls of a reply brought.
    pub(super) fn on_results(
        &mut self,
        asked: Vec<Asked>,
        left_out: usize,
        results: Vec<ToolResult>,
        actions: &mut Vec<Action>,
    ) {
        let mut results = results.into_iter();
        let mut submission = None;
        let mut unsound = None;
        let (mut ran, mut failed, mut mutated) = (0u32, 0u32, false);
        let mut seen = Vec::new();
        let mut last_failure = String::new();
        for asked in &asked {
            match asked {
                Asked::Wrong { id, name, lesson } => {
                    unsound = Some(name.clone());
                    self.observe(id.clone(), name, "", "refused", lesson.clone(), actions);
                }
                Asked::Sound(call) if call.tool == submit_result::NAME => {
                    if let Some((id, _)) = submission.replace((call.id.clone(), submit_result::read(&call.arguments))) {
                        self.observe(
                            id,
                            submit_result::NAME,
                            "",
                            "refused",
                            "a later submit_result of the same reply counts instead".into(),
                            actions,
                        );
                    }
                }
                Asked::Sound(call) => {
                    let result = results
                        .next()
                        .unwrap_or_else(|| ToolResult::failed("the tool gave no answer"));
                    ran += 1;
                    let status = match result.outcome {
                        Outcome::Done => "ok",
                        Outcome::Refused => "refused",
                        Outcome::Failed => "failed",
                    };
                    if result.outcome != Outcome::Done {
                        unsound = Some(call.tool.clone());
                    }
                    if result.outcome == Outcome::Failed {
                        failed += 1;
                        last_failure = one_line(&result.content, 200);
                    }
                    mutated |= result.mutated;
                    if let Some(path) = &result.protected
                        && self.protected_wanted.len() < 20
                        && !self.protected_wanted.contains(path)
                    {
                        self.protected_wanted.push(path.clone());
                    }
                    seen.push((
                        call.tool.clone(),
                        Value::Object(call.arguments.clone()).to_string(),
                        result.content.clone(),
                    ));
                    let observation = Observation {
                        id: call.id.clone(),
                        tool: call.tool.clone(),
                        about: about(&call.arguments),
                        status,
                        content: result.content,
                    };
                    self.conversation.observe(self.turn, observation);
                }
            }
        }
        if ran > 0 {
            self.circles.add(
                seen.iter()
                    .map(|(tool, arguments, result)| (tool.as_str(), arguments.clone(), result.as_str())),
                mutated,
            );
            self.edit_free = if mutated { 0 } else { self.edit_free.saturating_add(1) };
            self.mutated |= mutated;
            self.circle_warned &= !mutated;
            self.tool_failures = if failed == ran {
                self.tool_failures.saturating_add(1)
            } else {
                0
            };
            if self.tool_failures >= TOOL_FAILURES {
                self.end(
                    Ending::ToolsFailed,
                    format!("tools failed {TOOL_FAILURES} times in a row: {last_failure}"),
                    actions,
                );
                return;
            }
        }
        let left_out = replies::left_out_lesson(left_out);
        let in_the_way = match (unsound, &left_out) {
            (Some(tool), _) => Some(format!(
                "{tool} in the same reply did not work. Look at its answer, mend it, and call submit_result alone."
            )),
            (None, Some(_)) => Some("not all calls of the same reply were run. Call submit_result alone.".to_owned()),
            (None, None) => None,
        };
        match (submission, in_the_way) {
            (Some((id, submission)), None) => return self.judge(id, submission, actions),
            (Some((id, _)), Some(why)) => {
                let lesson = format!("the result was not taken: {why}");
                self.observe(id, submit_result::NAME, "", "refused", lesson, actions);
            }
            (None, _) => {}
        }
        if let Some(lesson) = left_out {
            self.say(lesson, actions);
        }
        self.go_on(actions);
    }

    /// Ends what goes nowhere, warns of what may, and asks again.
    pub(super) fn go_on(&mut self, actions: &mut Vec<Action>) {
        let threshold = self.settings.stuck.repeated_tool_threshold;
        if let Some(length) = self.circles.found(threshold) {
            let what = if length == 1 {
                "the same calls brought the same results".into()
            } else {
                format!("a circle of {length} turns was repeated")
            };
            self.end(
                Ending::StuckLoop,
                format!("{what} again and again without a change"),
                actions,
            );
            return;
        }
        if threshold > 2 && !self.circle_warned && self.circles.found(threshold - 1).is_some() {
            self.circle_warned = true;
            self.say("You repeat calls whose answers do not change. Do something else: read other code, make the edit, or submit a result.".into(), actions);
        }
        let limit = self.settings.stuck.edit_free_turns_limit;
        if limit > 0 && self.settings.role == Role::Coder {
            if self.edit_free >= limit {
                self.end(
                    Ending::NoEdits,
                    format!("{limit} turns went by without a change of the work tree"),
                    actions,
                );
                return;
            }
            if limit > 6 && self.edit_free == limit - 5 {
                self.say(format!("{} turns went by without a change; after 5 more the run ends. Make the edit now, or submit what you have.", self.edit_free), actions);
            }
        }
        self.ask(actions);
    }
}
