//! Notices when a model goes round in circles: the same calls with the same results.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Longest circle that is looked for, in turns.
const LONGEST: usize = 4;

/// Remembers turns by hash since the work tree last changed.
#[derive(Clone, Debug, Default)]
pub struct Circles {
    turns: Vec<u64>,
}

impl Circles {
    /// Adds a turn: its calls with their results. A change of the work tree makes everything before it void.
    pub fn add<'a>(&mut self, turn: impl IntoIterator<Item = (&'a str, String, &'a str)>, mutated: bool) {
        if mutated {
            self.turns.clear();
            return;
        }
        let mut hasher = DefaultHasher::new();
        for (tool, arguments, result) in turn {
            (tool, arguments, result).hash(&mut hasher);
        }
        self.turns.push(hasher.finish());
    }

    /// Returns the length of the circle that was closed often enough: `threshold` times for one turn,
    /// and about half as often for longer circles. 0 finds none.
    pub fn found(&self, threshold: u32) -> Option<usize> {
        let threshold = usize::try_from(threshold).unwrap_or(0);
        if threshold == 0 {
            return None;
        }
        (1..=LONGEST).find(|length| {
            let times = if *length == 1 {
                threshold
            } else {
                threshold.div_ceil(2).max(2)
            };
            let Some(start) = self.turns.len().checked_sub(length * times) else {
                return false;
            };
            let span = &self.turns[start..];
            span.iter().zip(&span[*length..]).all(|(a, b)| a == b)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(turns: &str) -> Option<usize> {
        let mut circles = Circles::default();
        for turn in turns.split_terminator(' ') {
            circles.add([("bash", turn.to_owned(), "same")], turn == "EDIT");
        }
        circles.found(5)
    }

    #[test]
    fn circles_of_one_to_four_turns_are_found_and_edits_end_them() {
        let cases = [
            ("a a a a", None),
            ("a a a a a", Some(1)),
            ("x a a a a a", Some(1)),
            ("a a a a EDIT a", None),
            ("a b a b a", None),
            ("a b a b a b", Some(2)),
            ("a b c a b c a b c", Some(3)),
            ("a b c d a b c d a b c d", Some(4)),
            ("a b c d e a b c d e a b c d e", None),
            ("a b EDIT a b a b", None),
        ];
        for (turns, expected) in cases {
            assert_eq!(circles(turns), expected, "{turns}");
        }
    }

    #[test]
    fn a_changing_result_is_no_circle_and_zero_turns_the_rule_off() {
        let mut circles = Circles::default();
        for turn in 0..20 {
            circles.add([("bash", "poll".to_owned(), turn.to_string().as_str())], false);
        }
        assert_eq!(circles.found(5), None);
        let mut circles = Circles::default();
        for _ in 0..20 {
            circles.add([("bash", "poll".to_owned(), "same")], false);
        }
        assert_eq!(circles.found(0), None);
        assert_eq!(circles.found(5), Some(1));
    }
}
