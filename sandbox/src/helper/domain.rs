//! Landlock domains: what init and the command may reach of files, network and signals.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use rustix::io::Errno;

use super::failure::Failure;
use super::real::open_real;
use crate::backend::Backend;
use crate::mount::{Access, DEVICES, Mount};
use crate::sys;
use crate::wire::{Net, Request};

/// Puts init into a Landlock domain that signals cannot leave, which the command's lies below.
///
/// A signal to all processes then reaches those of the sandbox, at one stroke that no fork outruns, and
/// no other. Returns whether that was seen to be so.
pub(super) fn enter_signal_scope(at_most: u32) -> bool {
    if sys::landlock_abi().min(at_most) < 6 || sys::set_no_new_privileges().is_err() {
        return false;
    }
    // Every domain denies moves and links between folders unless it allows them, also one that is only a scope.
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
        .and_then(|rules| rules.handle_access(AccessFs::Refer))
        .and_then(Ruleset::create)
        .and_then(|rules| match PathFd::new("/") {
            Ok(root) => rules.add_rule(PathBeneath::new(root, AccessFs::Refer)),
            Err(_) => Ok(rules),
        })
        .and_then(RulesetCreated::restrict_self);
    let entered = status.is_ok_and(|status| status.ruleset == landlock::RulesetStatus::FullyEnforced);
    // The supervisor has the same user: nothing but the domain can forbid this.
    entered && !sys::may_signal(std::os::unix::process::parent_id() as i32)
}

/// Puts the command into a Landlock domain; returns the ABI in force, 0 for none.
pub(super) fn restrict(request: &Request) -> Result<u32, Failure> {
    let abi = sys::landlock_abi().min(request.landlock_at_most).min(7);
    let namespaces = request.backend == Backend::Namespaces;
    // A file-system domain forbids all mounting, which an inner sandbox needs. Without Landlock in the
    // kernel, the private root stands alone.
    if namespaces && (request.nesting || abi == 0) {
        return Ok(0);
    }
    let failed = || Failure::to::<landlock::RulesetError>("set up Landlock");
    let known = match abi {
        0 => {
            return Err(Failure::new("this kernel has no Landlock"));
        }
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        _ => ABI::V7,
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(known))
        .map_err(failed())?;
    // No port is allowed: the one connection that there may be, to the proxy, is init's (see `questions::connects`).
    if !namespaces && abi >= 4 && request.net != Net::Host {
        rules = rules.handle_access(AccessNet::from_all(known)).map_err(failed())?;
    }
    if abi >= 6 {
        rules = rules.scope(Scope::from_all(known)).map_err(failed())?;
    }
    let mut rules = rules
        .create()
        .map_err(failed())?
        .set_compatibility(CompatLevel::BestEffort);
    let read = AccessFs::from_read(known);
    let all = AccessFs::from_all(known);
    let paths = if namespaces {
        private_paths(&request.mounts, request.root_of_machine)
    } else {
        request.grants.clone()
    };
    for (path, access) in paths {
        let access = if access == Access::ReadOnly { read } else { all };
        rules = allow(rules, &path, access)?;
    }
    let status = rules.restrict_self().map_err(failed())?;
    if status.ruleset == landlock::RulesetStatus::NotEnforced {
        return Err(Failure::new("Landlock did not take the rules"));
    }
    Ok(abi)
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, Failure> {
    let fd = match open_real(path) {
        Ok(fd) => fd,
        // What is gone needs no rule.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(rules),
        Err(error) => return Err(Failure::to(format!("open {} for Landlock", path.display()))(error)),
    };
    rules
        .add_rule(PathBeneath::new(fd, access))
        .map_err(Failure::to(format!("allow {} by Landlock", path.display())))
}

/// Returns the rules inside a private root: everything may be read, what was meant to be is writable.
fn private_paths(mounts: &[Mount], root_of_machine: bool) -> Vec<(PathBuf, Access)> {
    let mut paths = vec![("/".into(), Access::ReadOnly)];
    for mount in mounts {
        match mount {
            Mount::Bind {
                target,
                access: Access::ReadWrite,
                ..
            }
            | Mount::Tmpfs { target, .. } => {
                paths.push((target.clone(), Access::ReadWrite));
            }
            _ => {}
        }
    }
    paths.push(("/dev/pts".into(), Access::ReadWrite));
    for device in DEVICES {
        paths.push((Path::new("/dev").join(device), Access::ReadWrite));
    }
    if !root_of_machine {
        paths.push(("/proc".into(), Access::ReadWrite));
    }
    paths
}
