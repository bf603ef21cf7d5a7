//! Keeps the conversation within the window.

use super::{Action, MARGIN, SMALLEST_REPLY, State};

impl State {
    /// Leaves out as much as is needed to fit the window; returns whether it fits.
    pub(super) fn fit(&mut self, actions: &mut Vec<Action>) -> bool {
        let cap = |value: u64| if value == 0 { u64::MAX } else { value };
        let reply = u64::from(self.settings.max_output_tokens)
            .min(self.window / 4)
            .max(SMALLEST_REPLY);
        let hard = self
            .window
            .saturating_sub(reply + MARGIN)
            .min(cap(self.settings.stuck.context_hard_cap));
        let soft = cap(self.settings.stuck.context_soft_cap)
            .min(cap(self.settings.working_set_tokens))
            .min(hard);
        let keep = self.settings.observation_window_turns;
        let before = self.conversation.tokens();
        // In steps, with a pause between them: each step costs the server's cache of everything after it.
        let rested = self.turn >= self.compacted_at + keep.max(1) || self.compactions == 0;
        if keep > 0 && before > soft && rested && self.conversation.stub((self.turn + 1).saturating_sub(keep)) {
            self.compacted(before, actions);
        }
        for keep in [2, 1] {
            if self.conversation.tokens() > hard && self.conversation.stub((self.turn + 1).saturating_sub(keep)) {
                self.compacted(before, actions);
            }
        }
        for keep in [keep.max(2), 1, 0] {
            if self.conversation.tokens() > hard && self.conversation.drop_turns((self.turn + 1).saturating_sub(keep)) {
                self.compacted(before, actions);
            }
        }
        self.conversation.tokens() <= hard
    }

    pub(super) fn compacted(&mut self, before: u64, actions: &mut Vec<Action>) {
        self.compactions = self.compactions.saturating_add(1);
        self.compacted_at = self.turn;
        actions.push(Action::Note(format!(
            "older outputs are left out: about {before} tokens become {}",
            self.conversation.tokens()
        )));
    }
}
