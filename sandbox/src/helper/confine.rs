//! The last steps before a program: streams, limits, Landlock, seccomp, exec.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::init::Message;
use super::supervise::Streams;
use super::{Failure, seccomp};
use crate::Backend;
use crate::command::{Access, Mount};
use crate::sys;
use crate::wire::{Net, Request};

/// Becomes the program; returns only when that fails.
pub(super) fn become_program(request: &Request, streams: &Streams, reports: &mut File) -> Failure {
    match prepare(request, streams, reports) {
        Ok(()) => {}
        Err(failure) => return failure,
    }
    let Some(program) = &request.program else {
        sys::exit_now(0);
    };
    exec(program, request)
}

fn prepare(request: &Request, streams: &Streams, reports: &mut File) -> Result<(), Failure> {
    // Init's end takes the command along also where no pid namespace does.
    sys::signal_on_parent_death(libc::SIGKILL).map_err(Failure::to("bind the command to init"))?;
    sys::new_session().map_err(Failure::to("start a session"))?;
    for (fd, number) in [(&streams.stdin, 0), (&streams.stdout, 1), (&streams.stderr, 2)] {
        sys::become_standard(fd.as_fd(), number).map_err(Failure::to("connect a standard stream"))?;
    }
    sys::close_on_exec_from(3).map_err(Failure::to("close descriptors"))?;
    set_limits(request)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::chdir(&request.cwd).map_err(Failure::to(format!(
        "enter the working directory {}",
        request.cwd.display()
    )))?;
    let mut landlock_abi = 0;
    if request.backend != Backend::Unsafe {
        sys::drop_capabilities().map_err(Failure::to("drop the capabilities"))?;
        sys::set_no_new_privileges().map_err(Failure::to("give up new privileges"))?;
        landlock_abi = restrict(request)?;
    }
    sys::reset_signals();
    let seccomp = request.backend != Backend::Unsafe;
    Message::Confined { landlock_abi, seccomp }.send(reports);
    if seccomp {
        let program = seccomp::filter(&seccomp::Rules {
            backend: request.backend,
            net: request.net,
            nesting: request.nesting,
            preallocates: request.limits.keep_free.is_none(),
            unmapped_memory: request.unmapped_memory,
            landlock_abi,
        });
        sys::install_filter(&program).map_err(Failure::to("install the seccomp filter"))?;
    }
    Ok(())
}

fn set_limits(request: &Request) -> Result<(), Failure> {
    let limits = &request.limits;
    let wanted = [
        (libc::RLIMIT_CORE, Some(0)),
        (libc::RLIMIT_FSIZE, limits.file_size_bytes),
        (libc::RLIMIT_NOFILE, limits.open_files),
        // Counted within the user namespace; without one it would count all of the user's processes.
        (
            libc::RLIMIT_NPROC,
            limits
                .pids
                .map(u64::from)
                .filter(|_| request.backend == Backend::Namespaces),
        ),
    ];
    for (resource, value) in wanted {
        if let Some(value) = value {
            sys::limit(libc::c_long::from(resource), value).map_err(Failure::to("set a resource limit"))?;
        }
    }
    Ok(())
}

/// Puts init into a Landlock domain that signals cannot leave, which the command's lies below.
///
/// A signal to all processes then reaches those of the sandbox, at one stroke that no fork outruns, and
/// no other. Returns whether that was seen to be so.
pub(super) fn enter_signal_scope() -> bool {
    if sys::landlock_abi() < 6 || sys::set_no_new_privileges().is_err() {
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
fn restrict(request: &Request) -> Result<u32, Failure> {
    let abi = sys::landlock_abi().min(7);
    let namespaces = request.backend == Backend::Namespaces;
    // A file-system domain forbids all mounting, which an inner sandbox needs. Without Landlock in the
    // kernel, the private root stands alone.
    if namespaces && (request.nesting || abi == 0) {
        return Ok(0);
    }
    let failed = || Failure::to::<landlock::RulesetError>("set up Landlock");
    let known = match abi {
        0 => {
            return Err(Failure {
                text: "this kernel has no Landlock".into(),
                missing: false,
            });
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
    if let Net::PortProxy(port) = request.net {
        if abi < 4 {
            let text = format!(
                "this kernel's Landlock (ABI {abi}) cannot bind a command to its proxy's port: network by \
                 allow-list needs ABI 4 (Linux 6.7) or namespaces"
            );
            return Err(Failure { text, missing: false });
        }
        rules = rules
            .add_rule(NetPort::new(port, AccessNet::ConnectTcp))
            .map_err(failed())?;
    }
    let status = rules.restrict_self().map_err(failed())?;
    if status.ruleset == landlock::RulesetStatus::NotEnforced {
        return Err(Failure {
            text: "Landlock did not take the rules".into(),
            missing: false,
        });
    }
    Ok(abi)
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, Failure> {
    // What is gone needs no rule.
    let Ok(fd) = PathFd::new(path) else {
        return Ok(rules);
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
    for device in crate::resolve::DEVICES {
        paths.push((Path::new("/dev").join(device), Access::ReadWrite));
    }
    if !root_of_machine {
        paths.push(("/proc".into(), Access::ReadWrite));
    }
    paths
}

/// Looks the program up and becomes it.
fn exec(program: &str, request: &Request) -> Failure {
    let missing = |text: String| Failure { text, missing: true };
    let path = request
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, value)| value.as_str());
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        path.split(':')
            .filter(|folder| folder.starts_with('/'))
            .map(|folder| Path::new(folder).join(program))
            .collect()
    };
    let c_string = |text: &str| CString::new(text).ok();
    let args: Option<Vec<CString>> = [program]
        .into_iter()
        .chain(request.args.iter().map(String::as_str))
        .map(c_string)
        .collect();
    let env: Option<Vec<CString>> = request
        .env
        .iter()
        .map(|(name, value)| c_string(&format!("{name}={value}")))
        .collect();
    let (Some(args), Some(env)) = (args, env) else {
        return missing("the command holds a NUL byte".into());
    };
    let mut denied = None;
    for candidate in candidates {
        let Some(file) = candidate.to_str().and_then(c_string) else {
            continue;
        };
        let error = sys::exec(&file, &args, &env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => denied = Some((candidate, error)),
            Some(libc::ENOEXEC) => {
                let text = format!(
                    "{} is neither a program of this machine nor a script with #!",
                    candidate.display()
                );
                return missing(text);
            }
            _ => {
                let text = format!("failed to run {}: {error}", candidate.display());
                return Failure { text, missing: false };
            }
        }
    }
    match denied {
        Some((candidate, error)) => missing(format!("failed to run {}: {error}", candidate.display())),
        None if program.contains('/') => missing(format!("the program {program} does not exist in the sandbox")),
        None => missing(format!(
            "the program {program} is not on the PATH of the sandbox ({path})"
        )),
    }
}
