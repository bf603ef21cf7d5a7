//! Running one command to its end, and everything that it started with it.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::environment::Environment;
use super::fence::{self, Fenced, Network};
use super::log::{Drained, GateLog, drain};
use super::{Trouble, reap};
use crate::report::ErrorReason;

/// How long a killed shell may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a command runs in.
pub(super) struct Place<'a> {
    /// Working directory.
    pub(super) work: &'a Path,
    /// Folders that it may write.
    pub(super) writable: &'a [PathBuf],
    /// Its variables.
    pub(super) environment: &'a Environment,
    /// What it may connect to.
    pub(super) network: Network,
}

/// How a command ended.
pub(super) struct Ended {
    /// Exit code of its shell, 128 and the number of the signal that ended it; `None` where it overran.
    pub(super) exit_code: Option<i32>,
    /// How long it took.
    pub(super) took: Duration,
    /// End of its output.
    pub(super) tail: Vec<u8>,
    /// How far it was fenced.
    pub(super) fenced: Fenced,
}

/// Runs `shell -c command`, and kills what it leaves behind before it returns.
pub(super) fn run(
    shell: &Path,
    command: &str,
    place: &Place<'_>,
    timeout: Duration,
    log: &Arc<Mutex<GateLog>>,
) -> Result<Ended, Trouble> {
    let started = Instant::now();
    let (output, input) = std::io::pipe().map_err(|error| Trouble::internal("make a pipe", error))?;
    let second = input
        .try_clone()
        .map_err(|error| Trouble::internal("make a pipe", error))?;
    let mut process = Command::new(shell);
    process
        .arg("-c")
        .arg(command)
        .current_dir(place.work)
        .env_clear()
        .envs(place.environment)
        .stdin(Stdio::null())
        .stdout(input)
        .stderr(second)
        .process_group(0);
    // The fence binds the thread that starts the shell, and with it all that the shell starts.
    let (mut child, fenced) = std::thread::scope(|scope| {
        let (writable, network) = (place.writable, place.network);
        let spawned = scope.spawn(move || {
            let fenced = fence::bind_this_thread(writable, network)?;
            let child = process
                .spawn()
                .map_err(|error| format!("failed to start the shell: {error}"))?;
            Ok::<_, String>((child, fenced))
        });
        spawned
            .join()
            .unwrap_or_else(|_| Err("the thread that starts a step ended".to_owned()))
    })
    .map_err(|error| Trouble::internal("start a step", error))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);

    let (drained_tx, drained_rx) = channel::<Drained>();
    let log = Arc::clone(log);
    let drainer = std::thread::spawn(move || {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = drained_tx.send(drain(output, &mut log));
    });
    let (ended_tx, ended_rx) = channel();
    std::thread::spawn(move || {
        let _ = ended_tx.send(child.wait());
    });

    let mut overran = false;
    let status = match ended_rx.recv_timeout(timeout) {
        Err(RecvTimeoutError::Timeout) => {
            overran = true;
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            ended_rx.recv_timeout(PATIENCE).ok()
        }
        other => other.ok(),
    };
    let took = started.elapsed();
    let remain = || {
        Trouble::new(
            ErrorReason::ProcessesRemain,
            "a process of the step would not end".to_owned(),
            true,
        )
    };
    let status = status.ok_or_else(remain)?;
    if !reap::end_all_others() {
        return Err(remain());
    }
    // Nobody holds the other end of the pipe any more.
    let drained = drained_rx.recv_timeout(PATIENCE).map_err(|_| remain())?;
    let _ = drainer.join();
    let exit_code = match status {
        _ if overran => None,
        Ok(status) => Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))),
        Err(error) => return Err(Trouble::internal("wait for a step", error)),
    };
    Ok(Ended {
        exit_code,
        took,
        tail: drained.tail,
        fenced,
    })
}
