//! What a run may spend. Each limit has its own name, so that every end says what ran out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Holds the limits of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Replies asked of the model.
    pub turns: u32,
    /// Prompt and completion tokens together; none where absent.
    pub tokens: Option<u64>,
    /// The whole run.
    pub wall: Duration,
    /// The time without any sign of life from model or tool; none where absent.
    pub idle: Option<Duration>,
}

impl Default for Budget {
    /// Returns the published defaults: 50 turns, 2700 s.
    fn default() -> Self {
        Self {
            turns: 50,
            tokens: None,
            wall: Duration::from_secs(2700),
            idle: None,
        }
    }
}

/// Names the limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exhausted {
    /// No further reply may be asked.
    Turns,
    /// The tokens are spent.
    Tokens,
    /// The time is over.
    Wall,
    /// Nothing happened for too long.
    Idle,
}

impl Budget {
    /// Returns the limit that forbids another turn, after `turns` and `tokens` were spent.
    pub fn forbids_turn(&self, turns: u32, tokens: u64) -> Option<Exhausted> {
        if turns >= self.turns {
            return Some(Exhausted::Turns);
        }
        self.tokens.filter(|limit| tokens >= *limit).map(|_| Exhausted::Tokens)
    }

    /// Returns the limit of time that was reached.
    pub fn overdue(&self, elapsed: Duration, idle: Duration) -> Option<Exhausted> {
        if elapsed >= self.wall {
            return Some(Exhausted::Wall);
        }
        self.idle.filter(|limit| idle >= *limit).map(|_| Exhausted::Idle)
    }

    /// Says the limit with its number.
    pub fn describe(&self, which: Exhausted) -> String {
        match which {
            Exhausted::Turns => format!("the limit of {} turns is reached", self.turns),
            Exhausted::Tokens => format!("the limit of {} tokens is reached", self.tokens.unwrap_or_default()),
            Exhausted::Wall => format!("the limit of {} s for the whole run is reached", self.wall.as_secs()),
            Exhausted::Idle => format!("nothing happened for {} s", self.idle.unwrap_or_default().as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_named_when_it_is_reached_and_not_before() {
        let budget = Budget {
            turns: 2,
            tokens: Some(100),
            wall: Duration::from_secs(10),
            idle: Some(Duration::from_secs(5)),
        };
        let cases = [
            (1, 99, None),
            (2, 0, Some(Exhausted::Turns)),
            (1, 100, Some(Exhausted::Tokens)),
            (3, 300, Some(Exhausted::Turns)),
        ];
        for (turns, tokens, expected) in cases {
            assert_eq!(
                budget.forbids_turn(turns, tokens),
                expected,
                "{turns} turns, {tokens} tokens"
            );
        }
        let second = Duration::from_secs(1);
        assert_eq!(budget.overdue(9 * second, 4 * second), None);
        assert_eq!(budget.overdue(10 * second, second), Some(Exhausted::Wall));
        assert_eq!(budget.overdue(6 * second, 5 * second), Some(Exhausted::Idle));
        assert_eq!(
            Budget {
                idle: None,
                tokens: None,
                ..budget
            }
            .overdue(9 * second, 9 * second),
            None
        );
    }
}
