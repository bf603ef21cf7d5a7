//! What a kind's rules are told from outside.

use jiff::Timestamp;

/// What a write is told from outside: time and identity.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The time of the write.
    pub now: Timestamp,
    /// The identity of an object that is made.
    pub uid: String,
}
