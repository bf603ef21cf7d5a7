//! A fence around the steps: they cannot write outside their folders, nor signal this process, nor connect where Git
//! servers listen.
//!
//! The container is what keeps a step from the host. This keeps it from the gate that judges it: the
//! termination message, the log and the program. Landlock binds a thread and what it starts, so a
//! step is started from a thread of its own that is bound first.
//!
//! A Pod has one network, which a NetworkPolicy limits to name look-up and the ports of Git servers. Landlock knows ports
//! and no addresses, so a step keeps those that servers of tests listen on, and loses the others.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
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

/// The lowest port that a step may connect to: servers of the network have those below, those of tests the others.
const LOWEST_PORT: u16 = 1024;
/// The port of the `git` protocol.
const GIT_PORT: u16 = 9418;

/// What of the network is left to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// All that its container has.
    Whole,
    /// No port that is a Git server's by convention. One of a test's own server is not taken for that, such as 3000.
    NoGit,
}

/// How far the kernel keeps the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    /// Files, signals and connections.
    Whole,
    /// Something less, as old kernels do.
    Partly,
    /// Not at all: this kernel has no Landlock. The report is as safe: a gate that is killed or whose
    /// file is replaced gives no verdict.
    Not,
}

/// Binds the current thread and everything that it will start.
pub(super) fn bind_this_thread(writable: &[PathBuf], network: Network) -> Result<Fenced, String> {
    let abi = ABI::V6;
    let fail = |error: landlock::RulesetError| format!("failed to fence a step: {error}");
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(fail)?
        .scope(Scope::from_all(abi))
        .map_err(fail)?;
    if network == Network::NoGit {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp).map_err(fail)?;
    }
    let mut ruleset = ruleset.create().map_err(fail)?;
    if network == Network::NoGit {
        for port in (LOWEST_PORT..=u16::MAX).filter(|port| *port != GIT_PORT) {
            let rule = NetPort::new(port, AccessNet::ConnectTcp);
            ruleset = ruleset.add_rule(rule).map_err(fail)?;
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_step_reaches_servers_of_its_own_and_no_port_of_a_git_server() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = server.local_addr().unwrap().port();
        let connect = |network: Network, port: u16| {
            std::thread::spawn(move || {
                bind_this_thread(&[], network).unwrap();
                TcpStream::connect(("127.0.0.1", port))
                    .map(drop)
                    .map_err(|error| error.kind())
            })
            .join()
            .unwrap()
        };
        assert_eq!(connect(Network::NoGit, own), Ok(()));
        for port in [22, 53, 80, 443, GIT_PORT] {
            assert_eq!(
                connect(Network::NoGit, port),
                Err(ErrorKind::PermissionDenied),
                "{port}"
            );
            assert_ne!(
                connect(Network::Whole, port),
                Err(ErrorKind::PermissionDenied),
                "{port}"
            );
        }
    }
}
