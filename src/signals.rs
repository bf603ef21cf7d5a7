//! The signals that end a command: Ctrl-C, SIGTERM, and a terminal that is closed.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Ctrl-C: end what runs, begin nothing.
    Drain,
    /// SIGTERM, or the terminal is gone: end now, and give back what runs.
    Stop,
}

/// Listens for the signals that end a command.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?,
            // Under nohup the command outlives its terminal, as was asked.
            hangup: match ignores_hangup(&status) {
                true => None,
                false => Some(signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?),
            },
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Drain,
            _ = self.terminate.recv() => Asked::Stop,
            _ = hangup => Asked::Stop,
        }
    }
}

/// Says whether a process was started with SIGHUP ignored, as its `/proc/…/status` has it.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_under_nohup_is_known_by_its_mask_of_ignored_signals() {
        assert!(ignores_hangup("Name:\tforeman\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tforeman\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
