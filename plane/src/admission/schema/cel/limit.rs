//! How long an expression may run. kube-apiserver counts the cost of what a rule does and gives up beyond a limit; here
//! each turn of a loop is counted, and the clock is looked at.

use std::cell::Cell;
use std::time::{Duration, Instant};

use kube_cel::cel::{Context, ExecutionError};

/// Most turns of loops in one rule.
const TURNS_OF_A_RULE: u64 = 250_000;
/// Most turns of loops and rules in one object.
const TURNS_OF_AN_OBJECT: u64 = 1_000_000;
/// Longest time that the rules of one object may take.
const TIME_OF_AN_OBJECT: Duration = Duration::from_secs(3);
/// Turns between two looks at the clock.
const LOOK: u64 = 256;
/// The function that loops ask; no rule can name it.
pub(super) const ASK: &str = "@may_go_on";

/// What is left to spend.
#[derive(Clone, Copy)]
struct Left {
    rule: u64,
    object: u64,
    until: Option<Instant>,
}

thread_local! {
    static LEFT: Cell<Left> = const {
        Cell::new(Left { rule: TURNS_OF_A_RULE, object: TURNS_OF_AN_OBJECT, until: None })
    };
}

/// What was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission::schema) enum Spent {
    /// A rule's own share.
    Rule,
    /// All that the rules of one object have together.
    Object,
}

/// Begins with the rules of an object.
pub(in crate::admission::schema) fn begin_object() {
    LEFT.set(Left {
        rule: TURNS_OF_A_RULE,
        object: TURNS_OF_AN_OBJECT,
        until: Some(Instant::now() + TIME_OF_AN_OBJECT),
    });
}

/// Begins with the next rule of an object; tells whether anything is left for it.
pub(super) fn begin_rule() -> bool {
    LEFT.set(Left {
        rule: TURNS_OF_A_RULE,
        ..LEFT.get()
    });
    turn()
}

/// Returns what was spent, if anything was.
pub(super) fn spent() -> Option<Spent> {
    let left = LEFT.get();
    match (left.rule, left.object) {
        (_, 0) => Some(Spent::Object),
        (0, _) => Some(Spent::Rule),
        _ => None,
    }
}

/// Takes one turn; tells whether it may be taken.
fn turn() -> bool {
    let mut left = LEFT.get();
    left.rule = left.rule.saturating_sub(1);
    left.object = left.object.saturating_sub(1);
    if left.object.is_multiple_of(LOOK) && left.until.is_some_and(|until| Instant::now() > until) {
        left.object = 0;
    }
    LEFT.set(left);
    left.rule > 0 && left.object > 0
}

/// Lets loops of `context` ask whether they may go on.
pub(super) fn register(context: &mut Context<'_>) {
    context.add_function(ASK, || -> Result<bool, ExecutionError> {
        if turn() {
            Ok(true)
        } else {
            Err(ExecutionError::function_error("loop", "the cost limit is exceeded"))
        }
    });
}
