//! Servers that are programs: `git upload-pack` for local repositories, `ssh` for others.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    Remotes, Service,
    duplex::{Reader, Writer, watched},
    session::{Failure, Session},
};
use crate::{
    error::{Error, Result},
    lock,
    settings::{Credential, CredentialKind, HostKeys, Settings},
    url::{RemoteUrl, Scheme},
};

/// Serves the local repository at `path`, which was checked to lie below an allowed root.
pub(super) fn serve_local(
    remotes: &Remotes,
    session: &Arc<Session>,
    service: Service,
    path: &Path,
) -> Result<(Reader, Writer)> {
    let program = remotes.settings().git_program.clone().unwrap_or_else(|| "git".into());
    let mut command = Command::new(&program);
    if service == Service::UploadPack {
        // The folder was allowed by name. Reading runs nothing of the repository's; pushing may run its hooks, so
        // there Git's own check of who owns it stays.
        command.arg("-c").arg(safe_directory(path));
    }
    command.arg(service.as_str().trim_start_matches("git-")).arg(path);
    command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE");
    spawn(command, session, service)
}

fn safe_directory(path: &Path) -> OsString {
    let mut setting = OsString::from("safe.directory=");
    setting.push(path);
    setting
}

/// Reaches the repository through the `ssh` program.
pub(super) fn ssh(remotes: &Remotes, session: &Arc<Session>, service: Service) -> Result<(Reader, Writer)> {
    let ssh = &remotes.settings().ssh;
    let url = &session.url;
    let mut command = Command::new(&ssh.program);
    let connect = remotes
        .settings()
        .timeouts
        .connect
        .min(session.remaining())
        .as_secs()
        .max(1);
    let host_keys = match ssh.host_keys {
        HostKeys::Known => "yes",
        HostKeys::AcceptNew => "accept-new",
    };
    for option in [
        "BatchMode=yes".to_owned(),
        format!("ConnectTimeout={connect}"),
        format!("StrictHostKeyChecking={host_keys}"),
        "SendEnv=GIT_PROTOCOL".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    if let Some(file) = &ssh.known_hosts {
        let mut option = OsString::from("UserKnownHostsFile=");
        option.push(file);
        command.arg("-o").arg(option);
    }
    name_identity(&mut command, remotes.settings(), url);
    if let Some(port) = url.port {
        command.arg("-p").arg(port.to_string());
    }
    let host = url.host().trim_start_matches('[').trim_end_matches(']');
    command.arg("--");
    match &url.user {
        Some(user) => command.arg(format!("{user}@{host}")),
        None => command.arg(host),
    };
    // `ssh://host/~user/x` means the server's home folders, as with Git.
    let path = url
        .path()
        .strip_prefix('/')
        .filter(|rest| rest.starts_with('~'))
        .unwrap_or(url.path());
    command.arg(format!("{} {}", service.as_str(), shell_quote(path)));
    spawn(command, session, service)
}

/// Says which key proves who we are: that of the credential whose prefix covers the address, and no other.
///
/// Where the settings hold credentials for ssh and none covers the address, no key is offered at all. Only where they
/// hold none for ssh does the program choose, from the person's own keys.
fn name_identity(command: &mut Command, settings: &Settings, url: &RemoteUrl) {
    let only: &[&str] = &["IdentitiesOnly=yes", "IdentityAgent=none"];
    // `IdentityFile=none` stands for the keys that are tried by default. Those that the person's configuration names
    // for the host, and Kerberos tickets, need the way itself closed.
    let nothing: &[&str] = &[
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "IdentityFile=none",
        "PreferredAuthentications=none",
    ];
    let key = match settings.credential_for(url).map(Credential::kind) {
        Some(CredentialKind::SshKey { path }) => Some(path),
        _ => None,
    };
    let bound = |credential: &Credential| credential.prefix().scheme() == Scheme::Ssh;
    let options = match key {
        Some(_) => only,
        None if settings.credentials.iter().any(bound) => nothing,
        None => &[],
    };
    for option in options {
        command.arg("-o").arg(option);
    }
    if let Some(path) = key {
        command.arg("-i").arg(path);
    }
}

/// Quotes for the remote shell, which forges also parse this way.
fn shell_quote(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''").replace('!', "'\\!'"))
}

fn spawn(mut command: Command, session: &Arc<Session>, service: Service) -> Result<(Reader, Writer)> {
    for (name, _) in std::env::vars_os() {
        let inherited = name.to_string_lossy();
        // What a hook or a user's shell set must not change which repository is served, or how.
        // Which configuration files are read is not theirs: a sandbox says so because it hides them.
        let kept = ["GIT_EXEC_PATH", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL"];
        if inherited.starts_with("GIT_") && !kept.contains(&&*inherited) {
            command.env_remove(&name);
        }
    }
    command.env(
        "GIT_PROTOCOL",
        if service == Service::UploadPack {
            "version=2"
        } else {
            "version=0"
        },
    );
    command
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env_remove("SSH_ASKPASS");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A group of its own: the time limit ends the helpers that it started too.
    command.process_group(0);
    let program = command.get_program().to_owned();
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => session.fail(Failure::Refused(format!(
            "the program {} is not on PATH; install it or name it in the settings",
            program.display()
        ))),
        _ => Error::io("start", program.clone(), e),
    })?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    if let Some(stderr) = child.stderr.take() {
        session.collect(stderr);
    }
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(session.fail(Failure::Network("the program has no streams".into())));
    };
    let child = Arc::new(Mutex::new(child));
    let killed = child.clone();
    // A server that took objects may still run its own hooks; one that sent them has nothing left to do.
    let linger = match service {
        Service::UploadPack => Duration::from_millis(200),
        Service::ReceivePack => Duration::from_secs(10),
    };
    let closing = session.clone();
    let stdin: SharedInput = Arc::new(Mutex::new(Some(stdin)));
    let input = stdin.clone();
    let halves = watched(
        session,
        Box::new(stdout),
        Box::new(Input(stdin)),
        Box::new(move || kill_group(&mut lock(&killed))),
        Box::new(move || {
            drop(lock(&input).take());
            finish(&mut lock(&child), linger.min(closing.remaining()));
        }),
    );
    halves.map_err(|e| Error::io("start", program, e))
}

type SharedInput = Arc<Mutex<Option<std::process::ChildStdin>>>;

/// The program's input, which is closed before its end is waited for.
struct Input(SharedInput);

impl std::io::Write for Input {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match lock(&self.0).as_mut() {
            Some(input) => input.write(buffer),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn kill_group(child: &mut Child) {
    // A child that was waited for has no group any more; its number may be somebody else's.
    if matches!(child.try_wait(), Ok(None))
        && let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
    {
        // Failing means that it is gone.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

fn finish(child: &mut Child, linger: Duration) {
    let until = Instant::now() + linger;
    let mut pause = Duration::from_micros(200);
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= until {
            kill_group(child);
            // It was killed: this ends.
            let _ = child.wait();
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_quotes_in_the_remote_shell() {
        assert_eq!(shell_quote("/a b"), "'/a b'");
        assert_eq!(shell_quote("/a'; id #"), "'/a'\\''; id #'");
    }
}
