//! What a process gives up, and what binds it to others.

use std::io;

use rustix::process::{DumpableBehavior, Signal, set_child_subreaper, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::answer::check;

/// Has the kernel kill this process when its parent thread ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Makes orphaned descendants children of this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Keeps other processes of the same user from inspecting this one.
pub(crate) fn become_unreadable() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up gaining privileges by exec, for good.
pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Drops every capability, from every set, for good.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    for one in CapabilitySet::all().iter() {
        // Not known to this kernel, or not allowed because there are none to drop it with.
        let _ = remove_capability_from_bounding_set(one);
    }
    // Fails on kernels that have no such set.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}

/// Leaves all supplementary groups; needs privilege.
pub(crate) fn drop_groups() -> io::Result<()> {
    // SAFETY: zero groups need no list.
    check(libc::c_long::from(unsafe { libc::setgroups(0, std::ptr::null()) })).map(drop)
}

/// Returns the effective user and group.
pub(crate) fn identity() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Returns the kernel's Landlock ABI, 0 when it has none.
pub(crate) fn landlock_abi() -> u32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no attributes and only answers a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(answer).unwrap_or(0)
}
