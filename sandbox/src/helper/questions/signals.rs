//! Signals, on kernels whose Landlock has no scope for them (before Linux 6.12).
//!
//! Such a kernel lets a process signal any other of its user. The filter cannot tell a process of the sandbox from one of
//! the host; init can: what lies below it is the sandbox's. The numbers are in registers that nobody can change.

use crate::helper::processes;
use crate::sys::{self, Question};

/// Tells whether a signal reaches nobody but processes below init.
pub(super) fn stays_inside(question: &Question) -> bool {
    let init = sys::own_pid();
    // The kernel, too, reads no more than the lower half.
    let target = question.arguments[0] as i32;
    match libc::c_long::from(question.number) {
        libc::SYS_kill if target < -1 => target
            .checked_neg()
            .is_some_and(|group| processes::is_group_below(init, group)),
        libc::SYS_kill
        | libc::SYS_tkill
        | libc::SYS_tgkill
        | libc::SYS_rt_sigqueueinfo
        | libc::SYS_rt_tgsigqueueinfo => target > 0 && processes::is_below(init, target),
        _ => false,
    }
}
