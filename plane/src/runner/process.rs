//! The process that a container is: how it begins, and what is told of its end.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Desk;
use super::container::{Wanted, WantedNetwork};
use super::status;

/// Where Foreman's own program lies inside a container of its own image.
const OWN_PROGRAMS: &str = "/foreman/bin";

/// Makes the command that a container is.
pub async fn command(desk: &Desk, pod: &str, asked: &Wanted) -> Result<sandbox::Command, String> {
    let toolchain = &desk.config.toolchain;
    let mut command = sandbox::Command::new(&asked.program)
        .args(asked.args.iter().cloned())
        .envs(asked.env.iter().map(|(name, value)| (name.clone(), value.clone())))
        .cwd(&asked.cwd)
        .nesting(true);
    if asked.own_image {
        let name = PathBuf::from(&asked.program);
        let name = name
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("foreman")
            .to_owned();
        // Not below a folder that the toolchain shows read-only.
        let target = format!("{OWN_PROGRAMS}/{name}");
        // The first argument names the program, for a sandbox that shows the executable under its own name.
        command.args.insert(0, name);
        command.program.clone_from(&target);
        let program = desk.program.path().await;
        let program = program.map_err(|error| format!("failed to find the running executable: {error}"))?;
        command = command.toolchain(toolchain).ro(program, target);
    } else {
        command = command.toolchain(toolchain);
    }
    for (source, target, writable) in &asked.mounts {
        command = if *writable {
            command.rw(source, target)
        } else {
            command.ro(source, target)
        };
    }
    command.exact.clone_from(&asked.sub_paths);
    let network = match &asked.network {
        WantedNetwork::None => sandbox::Network::None,
        WantedNetwork::Fetch => sandbox::Network::Host,
        WantedNetwork::AllowList(hosts) => {
            let allow = sandbox::proxy::AllowList::parse(hosts).map_err(|error| error.to_string())?;
            let pod = pod.to_owned();
            sandbox::Network::AllowList(sandbox::proxy::Proxy::with_log(allow, move |record| {
                tracing::info!(pod, host = record.host, port = record.port, allowed = record.allowed, why = ?record.why, "proxy");
            }))
        }
    };
    command = command.network(network);
    command.limits.memory_bytes = asked.memory;
    command.limits.cpus = asked.cpus;
    Ok(command)
}

/// Returns the exit code and the reason that a Pod tells of an end; `overrun` tells whether its time was over.
pub fn ending(outcome: &sandbox::Outcome, overrun: bool) -> (i32, &'static str) {
    match &outcome.reason {
        sandbox::Reason::Completed => (0, "Completed"),
        sandbox::Reason::Error => (outcome.exit.code().max(1), "Error"),
        sandbox::Reason::OOMKilled => (137, "OOMKilled"),
        sandbox::Reason::TimedOut => (137, "DeadlineExceeded"),
        sandbox::Reason::Cancelled if overrun => (137, "DeadlineExceeded"),
        sandbox::Reason::Cancelled => (137, "Error"),
        sandbox::Reason::StartError(_) => (128, "StartError"),
    }
}

/// Reads the message that a container left behind.
pub fn message(path: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(status::MESSAGE_BYTES as u64).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    status::message(&bytes)
}
