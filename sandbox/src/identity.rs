//! Who a command sees itself as.

use crate::sys;

/// The user and group that a command of root sees itself as.
const ORDINARY: u32 = 1000;

/// Returns the user and group that a command in a user namespace sees itself as.
///
/// Root runs its commands as an ordinary user, so that programs behave as they do for people and no
/// program takes its user id for power that it has not.
pub(crate) fn inside() -> (u32, u32) {
    match sys::identity() {
        (0, _) => (ORDINARY, ORDINARY),
        (user, group) => (user, group),
    }
}
