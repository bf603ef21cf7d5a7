//! What the model has seen, and what it is shown of that now.
//!
//! Everything is kept; only the view leaves things out. The view changes what it already showed as rarely as it
//! can, in steps, because servers reuse what begins with the same bytes.

use crate::model::{Message, Protocol, RawCall, Speaker, Usage, estimate_tokens};
use crate::tools::output::one_line;

/// Outputs up to this size are never worth replacing.
const SMALL: usize = 400;

/// Holds one thing that was said.
#[derive(Clone, Debug)]
enum Item {
    /// System prompt and task: always shown as they are.
    Opening(Message),
    /// What the model answered.
    Reply { turn: u32, message: Message },
    /// What a tool answered.
    Observation {
        turn: u32,
        observation: Observation,
        same_as: Option<u32>,
    },
    /// What the loop said in between.
    Said { turn: u32, text: String },
}

/// Holds what one tool call brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The server's id of the call; empty where the call was found in text.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// What it was about, on one line: a path or a command.
    pub about: String,
    /// `ok`, `refused` or `failed`.
    pub status: &'static str,
    /// The answer.
    pub content: String,
}

/// Holds a conversation and how much of it is shown.
#[derive(Clone, Debug)]
pub struct Conversation {
    items: Vec<Item>,
    protocol: Protocol,
    /// Outputs of turns before this one are replaced by a line.
    stub_before: u32,
    /// Turns before this one are replaced by a list.
    drop_before: u32,
    /// Bytes that every request carries beside the messages: the tools.
    overhead: usize,
    /// Tokens per byte, as the server counted last.
    tokens_per_byte: Option<f64>,
    /// Bytes of the request that is under way.
    asked: usize,
}

impl Conversation {
    /// Starts a conversation.
    pub fn new(opening: Vec<Message>, protocol: Protocol, overhead: usize) -> Self {
        let items = opening.into_iter().map(Item::Opening).collect();
        Self {
            items,
            protocol,
            stub_before: 0,
            drop_before: 0,
            overhead,
            tokens_per_byte: None,
            asked: 0,
        }
    }

    /// Adds what the model said.
    pub fn reply(&mut self, turn: u32, content: String, calls: Vec<RawCall>) {
        if !content.is_empty() || !calls.is_empty() {
            let message = Message {
                calls,
                ..Message::text(Speaker::Assistant, content)
            };
            self.items.push(Item::Reply { turn, message });
        }
    }

    /// Adds what a tool answered. A long answer that the model can still see is not shown twice.
    pub fn observe(&mut self, turn: u32, observation: Observation) {
        let shown_from = self.stub_before.max(self.drop_before);
        let same_as = self.items.iter().rev().find_map(|item| match item {
            Item::Observation {
                turn,
                observation: earlier,
                same_as: None,
            } if *turn >= shown_from
                && earlier.content.len() > SMALL
                && (&earlier.tool, &earlier.about, &earlier.content)
                    == (&observation.tool, &observation.about, &observation.content) =>
            {
                Some(*turn)
            }
            _ => None,
        });
        self.items.push(Item::Observation {
            turn,
            observation,
            same_as,
        });
    }

    /// Adds what the loop says.
    pub fn say(&mut self, turn: u32, text: String) {
        self.items.push(Item::Said { turn, text });
    }

    /// Returns the messages to send.
    pub fn view(&self) -> Vec<Message> {
        let mut view: Vec<Message> = Vec::new();
        let mut listed = self.drop_before == 0;
        for item in &self.items {
            if item.turn().is_some_and(|turn| turn < self.drop_before) {
                if !listed {
                    listed = true;
                    push_user(&mut view, self.list_dropped());
                }
                continue;
            }
            match item {
                Item::Opening(message) | Item::Reply { message, .. } => view.push(message.clone()),
                Item::Said { text, .. } => push_user(&mut view, text.clone()),
                Item::Observation {
                    turn,
                    observation,
                    same_as,
                } => {
                    let body = self.shown(*turn, observation, *same_as);
                    if observation.id.is_empty() || self.protocol != Protocol::Native {
                        push_user(
                            &mut view,
                            format!(
                                "<tool_result tool=\"{}\" status=\"{}\">\n{body}\n</tool_result>",
                                observation.tool, observation.status
                            ),
                        );
                    } else {
                        view.push(Message {
                            call_id: Some(observation.id.clone()),
                            ..Message::text(Speaker::Tool, body)
                        });
                    }
                }
            }
        }
        view
    }

    fn shown(&self, turn: u32, observation: &Observation, same_as: Option<u32>) -> String {
        let shown_from = self.stub_before.max(self.drop_before);
        if turn < self.stub_before && observation.content.len() > SMALL {
            return format!(
                "[the output of {} {} is left out here ({} bytes); call it again if it is needed]",
                observation.tool,
                observation.about,
                observation.content.len()
            );
        }
        match same_as {
            Some(earlier) if earlier >= shown_from => {
                "[the same answer as before to the same call; nothing has changed since]".to_owned()
            }
            _ => observation.content.clone(),
        }
    }

    fn list_dropped(&self) -> String {
        const MOST: usize = 60;
        let lines: Vec<String> = self
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Observation { turn, observation, .. } if *turn < self.drop_before => Some(format!(
                    "- {} {}: {}",
                    observation.tool, observation.about, observation.status
                )),
                _ => None,
            })
            .collect();
        let skipped = lines.len().saturating_sub(MOST);
        let note = if skipped > 0 {
            format!("- {skipped} earlier calls\n")
        } else {
            String::new()
        };
        format!(
            "[Earlier turns are left out to save room. What was called in them:\n{note}{}\nThe files are as those calls left them.]",
            lines[skipped..].join("\n")
        )
    }

    /// Notes that the view is being sent.
    pub fn asking(&mut self) {
        self.asked = self.bytes();
    }

    /// Learns from what the server counted how many tokens a byte costs.
    pub fn learn(&mut self, usage: Usage) {
        if !usage.estimated && usage.prompt > 0 && self.asked > 0 {
            let ratio = usage.prompt as f64 / self.asked as f64;
            self.tokens_per_byte = Some(ratio.clamp(0.05, 1.5));
        }
    }

    /// Returns the size of the next prompt in tokens: by the server's last count where there is one.
    pub fn tokens(&self) -> u64 {
        let bytes = self.bytes();
        match self.tokens_per_byte {
            Some(ratio) => (bytes as f64 * ratio).ceil() as u64,
            None => estimate_tokens(bytes),
        }
    }

    fn bytes(&self) -> usize {
        let message = |message: &Message| {
            let calls: usize = message
                .calls
                .iter()
                .map(|call| call.name.len() + call.arguments.len() + 40)
                .sum();
            message.content.len() + calls + 20
        };
        self.overhead + self.view().iter().map(message).sum::<usize>()
    }

    /// Replaces outputs of turns before `turn`; returns whether that leaves anything more out.
    pub fn stub(&mut self, turn: u32) -> bool {
        let from = self.stub_before.max(self.drop_before);
        let helps = self.items.iter().any(|item| match item {
            Item::Observation {
                turn: at,
                observation,
                same_as: None,
            } => *at >= from && *at < turn && observation.content.len() > SMALL,
            _ => false,
        });
        if helps {
            self.stub_before = turn;
        }
        helps
    }

    /// Replaces turns before `turn` by a list; returns whether that leaves anything more out.
    pub fn drop_turns(&mut self, turn: u32) -> bool {
        let helps = self
            .items
            .iter()
            .any(|item| item.turn().is_some_and(|at| at >= self.drop_before && at < turn));
        if helps {
            self.drop_before = turn;
            self.stub_before = self.stub_before.max(turn);
        }
        helps
    }
}

impl Item {
    fn turn(&self) -> Option<u32> {
        match self {
            Self::Opening(_) => None,
            Self::Reply { turn, .. } | Self::Observation { turn, .. } | Self::Said { turn, .. } => Some(*turn),
        }
    }
}

/// Adds what stands on the user's side. Many chat templates want the sides to alternate, and nothing but the model
/// after tool results, so it joins what already stands there.
fn push_user(view: &mut Vec<Message>, text: String) {
    match view.last_mut() {
        Some(last) if matches!(last.role, Speaker::User | Speaker::Tool) => {
            last.content.push_str("\n\n");
            last.content.push_str(&text);
        }
        _ => view.push(Message::text(Speaker::User, text)),
    }
}

/// Says in a few words what a call is about.
pub fn about(arguments: &crate::tools::schema::Arguments) -> String {
    let first = ["path", "command", "pattern", "number"]
        .iter()
        .find_map(|name| arguments.get(*name));
    match first {
        Some(serde_json::Value::String(text)) => one_line(text, 60),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn observation(about: &str, content: String) -> Observation {
        Observation {
            id: String::new(),
            tool: "read_file".into(),
            about: about.into(),
            status: "ok",
            content,
        }
    }

    fn conversation(protocol: Protocol) -> Conversation {
        let opening = vec![
            Message::text(Speaker::System, "rules"),
            Message::text(Speaker::User, "task"),
        ];
        let mut conversation = Conversation::new(opening, protocol, 100);
        for turn in 1..=4 {
            conversation.reply(turn, format!("reply {turn}"), Vec::new());
            conversation.observe(turn, observation(&format!("f{turn}"), format!("{turn}").repeat(1000)));
        }
        conversation
    }

    #[test]
    fn the_view_only_grows_until_outputs_are_replaced_in_one_step() {
        let mut conversation = conversation(Protocol::Text);
        let before = conversation.view();
        conversation.reply(5, "reply 5".into(), Vec::new());
        conversation.say(5, "note".into());
        let after = conversation.view();
        assert_eq!(after[..before.len()], before[..]);
        let tokens = conversation.tokens();
        assert!(conversation.stub(3));
        assert!(
            !conversation.stub(3),
            "the second time there is nothing left to replace"
        );
        assert!(conversation.tokens() < tokens);
        let view = conversation.view();
        assert_eq!(view[..2], before[..2], "rules and task stay byte for byte");
        assert!(view[3].content.contains("f1 is left out") && view[7].content.contains("333"));
    }

    #[test]
    fn dropped_turns_become_a_list_and_sides_still_alternate() {
        let mut conversation = conversation(Protocol::Text);
        assert!(conversation.drop_turns(4));
        let view = conversation.view();
        let roles: Vec<Speaker> = view.iter().map(|message| message.role).collect();
        assert_eq!(
            roles,
            [Speaker::System, Speaker::User, Speaker::Assistant, Speaker::User]
        );
        assert!(
            view[1].content.starts_with("task\n\n[Earlier turns") && view[1].content.contains("- read_file f3: ok")
        );
        assert!(!conversation.drop_turns(4));
    }

    #[test]
    fn a_repeated_answer_is_shown_once_and_again_when_the_first_is_gone() {
        let mut conversation = conversation(Protocol::Text);
        conversation.reply(5, "again".into(), Vec::new());
        conversation.observe(5, observation("f4", "4".repeat(1000)));
        assert!(
            conversation
                .view()
                .last()
                .unwrap()
                .content
                .contains("the same answer as before")
        );
        conversation.stub(5);
        assert!(conversation.view().last().unwrap().content.contains("4444"));
    }

    #[test]
    fn sizes_follow_what_the_server_counts() {
        let mut conversation = conversation(Protocol::Native);
        let estimated = conversation.tokens();
        conversation.asking();
        conversation.learn(Usage {
            prompt: estimated * 2,
            ..Usage::default()
        });
        let learned = conversation.tokens();
        assert!(learned.abs_diff(estimated * 2) <= 2, "{learned} {estimated}");
        conversation.learn(Usage {
            prompt: 1,
            estimated: true,
            ..Usage::default()
        });
        assert_eq!(conversation.tokens(), learned);
    }
}
