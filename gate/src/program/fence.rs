//! A fence around the steps: they cannot write outside their folders, nor signal this process.
//!
//! The container is what keeps a step from the host. This keeps it from the gate that judges it: the
//! termination message, the log and the program. Landlock binds a thread and what it starts, so a
//! step is started from a thread of its own that is bound first.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};

use super::scratch;

/// Devices that programs write to.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/proc",
];

/// How far the kernel keeps the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    /// Files and signals.
    Whole,
    /// Something less, as old kernels do.
    Partly,
    /// Not at all: this kernel has no Landlock. The report is as safe: a gate that is killed or whose
    /// file is replaced gives no verdict.
    Not,
}

/// Binds the current thread and everything that it will start.
pub(super) fn bind_this_thread(writable: &[PathBuf]) -> Result<Fenced, String> {
    let abi = ABI::V6;
    let fail = |error: landlock::RulesetError| format!("failed to fence a step: {error}");
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(fail)?
        .scope(Scope::from_all(abi))
        .map_err(fail)?
        .create()
        .map_err(fail)?;
    let read = AccessFs::from_read(abi);
    let folders = std::iter::once((Path::new("/"), read))
        .chain(writable.iter().map(|path| (path.as_path(), AccessFs::from_all(abi))))
        .chain(DEVICES.iter().map(|path| (Path::new(path), AccessFs::from_all(abi))))
        // Elsewhere it is that of the whole machine.
        .chain(scratch::has_machine_to_itself().then(|| (Path::new(scratch::SHARED_MEMORY), AccessFs::from_all(abi))));
    for (path, access) in folders {
        let Ok(handle) = PathFd::new(path) else {
            continue;
        };
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(abi)
        };
        ruleset = ruleset.add_rule(PathBeneath::new(handle, access)).map_err(fail)?;
    }
    let status = ruleset.restrict_self().map_err(fail)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Fenced::Whole,
        RulesetStatus::PartiallyEnforced => Fenced::Partly,
        RulesetStatus::NotEnforced => Fenced::Not,
    })
}
