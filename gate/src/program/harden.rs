//! What this process gives up before it starts anything of the branch.

use rustix::process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::Trouble;

/// Makes this process unreadable for its equals, gives its capabilities away for good, and makes it
/// the parent of every orphan below it. Only before threads exist.
pub(super) fn harden() -> Result<(), Trouble> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Trouble::internal("make this process unreadable", error))?;
    set_no_new_privs(true).map_err(|error| Trouble::internal("give up new privileges", error))?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Trouble::internal("become the parent of orphans", error))?;
    drop_capabilities()
}

/// A process with capabilities could read and change this one whatever it set above, and a child of
/// root regains what the bounding set allows.
fn drop_capabilities() -> Result<(), Trouble> {
    let held = capabilities(None).map_err(|error| Trouble::internal("read capabilities", error))?;
    if held.permitted.is_empty() && held.effective.is_empty() {
        return Ok(());
    }
    // Fails without CAP_SETPCAP; then there is nothing in the bounding set that a child could gain
    // except by being root, which the check below covers.
    let mut bounded = true;
    for one in CapabilitySet::all().iter() {
        bounded &= matches!(
            remove_capability_from_bounding_set(one),
            Ok(()) | Err(rustix::io::Errno::INVAL)
        );
    }
    let _ = clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(|error| Trouble::internal("give up capabilities", error))?;
    if !bounded && rustix::process::geteuid().is_root() {
        return Err(Trouble::internal(
            "give up capabilities",
            "this is root with a bounding set that it cannot shrink; run as another user",
        ));
    }
    Ok(())
}
