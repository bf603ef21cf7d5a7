//! Keeping the number of packs small. Every fetch adds one, and each makes every look-up a little dearer.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::Mirror;
use crate::repository::Repository;

/// So many packs are joined.
const MANY: usize = 64;
/// Without a git program to join them, the store is opened again after so many, to have room for more.
const ROOM: usize = 512;
/// Joining takes longer only where something is wrong.
const LIMIT: Duration = Duration::from_secs(300);

impl Mirror {
    /// Joins packs when there are many. Nothing is thrown away, reachable or not. A failure costs speed only.
    pub(super) fn tidy(&self) {
        let packs = self.count_packs();
        if packs < MANY {
            return;
        }
        if let Err(reason) = self.repack() {
            tracing::debug!(mirror = %self.path.display(), packs, reason, "packs are not joined");
            if !packs.is_multiple_of(ROOM) {
                return;
            }
        }
        match Repository::open(&self.path) {
            Ok(repository) => *crate::lock(&self.repository) = repository,
            Err(error) => {
                tracing::warn!(mirror = %self.path.display(), %error, "the mirror cannot be opened again")
            }
        }
    }

    fn count_packs(&self) -> usize {
        let entries = std::fs::read_dir(self.path.join("objects/pack"));
        let names = entries.into_iter().flatten().flatten().map(|e| e.path());
        names
            .filter(|path| path.extension().is_some_and(|e| e == "idx"))
            .count()
    }

    fn repack(&self) -> std::result::Result<(), String> {
        let program = self
            .remotes
            .settings()
            .git_program
            .clone()
            .unwrap_or_else(|| "git".into());
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        // Our own folder, whatever user it was made by.
        command
            .arg("-c")
            .arg("safe.directory=*")
            .arg("--git-dir")
            .arg(&self.path);
        command.args(["repack", "--geometric=2", "-d", "-q"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let until = Instant::now() + LIMIT;
        loop {
            match child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(status.to_string()),
                None if Instant::now() >= until => {
                    // It is gone after this, one way or the other.
                    let _ = child.kill().and_then(|()| child.wait().map(drop));
                    return Err("it took too long".into());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}
