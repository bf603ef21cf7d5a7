//! Conditions as kstatus reads them: Ready, Reconciling, Stalled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Type.
    pub kind: &'static str,
    /// True, False, or Unknown for `None`.
    pub status: Option<bool>,
    /// Reason, in CamelCase.
    pub reason: String,
    /// Message, for people.
    pub message: String,
}

impl Said {
    /// Says that `kind` holds or not.
    pub fn new(kind: &'static str, status: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Some(status),
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// Says that nothing is known about `kind` yet.
    pub fn unknown(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: None,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Longest message that is kept, so that a status stays small.
const MESSAGE_BYTES: usize = 1024;

/// Sets `said` among `conditions`; the transition time moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, said: Said, generation: Option<i64>, now: Timestamp) {
    let status = match said.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let mut message = said.message;
    if message.len() > MESSAGE_BYTES {
        let mut end = MESSAGE_BYTES;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    let kept = conditions.iter_mut().find(|condition| condition.type_ == said.kind);
    match kept {
        Some(condition) => {
            if condition.status != status {
                condition.status = status.to_owned();
                condition.last_transition_time = Time(now);
            }
            condition.reason = said.reason;
            condition.message = message;
            condition.observed_generation = generation;
        }
        None => conditions.push(Condition {
            type_: said.kind.to_owned(),
            status: status.to_owned(),
            reason: said.reason,
            message,
            observed_generation: generation,
            last_transition_time: Time(now),
        }),
    }
}

/// Takes the condition `kind` away.
pub fn clear(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|condition| condition.type_ != kind);
}

/// Sets `said` where there is something to say, and takes `kind` away where there is not.
pub fn set_or_clear(
    conditions: &mut Vec<Condition>,
    kind: &'static str,
    said: Option<Said>,
    generation: Option<i64>,
    now: Timestamp,
) {
    match said {
        Some(said) => set(conditions, said, generation, now),
        None => clear(conditions, kind),
    }
}

/// Finds the condition `kind`.
pub fn find<'a>(conditions: Option<&'a [Condition]>, kind: &str) -> Option<&'a Condition> {
    conditions?.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        set(&mut conditions, Said::new("Ready", false, "A", "a"), Some(1), at(1));
        set(&mut conditions, Said::new("Ready", false, "B", "b"), Some(2), at(2));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, Time(at(1)));
        assert_eq!(
            (conditions[0].reason.as_str(), conditions[0].observed_generation),
            ("B", Some(2))
        );
        set(&mut conditions, Said::new("Ready", true, "C", "c"), Some(2), at(3));
        assert_eq!(conditions[0].last_transition_time, Time(at(3)));
        set_or_clear(&mut conditions, "Ready", None, None, at(4));
        assert!(conditions.is_empty());
    }
}
