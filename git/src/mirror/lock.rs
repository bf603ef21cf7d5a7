//! The lock between processes.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// A held lock. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Held {
    _file: File,
}

/// Waits for the lock until `deadline`. The file holds the process id of whoever took it last; the lock itself is the
/// kernel's, so a file left by a killed process locks nobody out.
pub(super) fn acquire(path: &Path, deadline: Instant) -> Result<Held> {
    let started = Instant::now();
    let io = |e| Error::io("lock", path, e);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io)?;
    let mut pause = Duration::from_millis(1);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let mut holder = String::new();
                // The id only makes the message better.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() {
                    "unknown".into()
                } else {
                    holder.trim().to_owned()
                };
                return Err(Error::Locked {
                    path: path.into(),
                    holder,
                    waited: started.elapsed(),
                });
            }
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
    }
    // Who holds it is told for people; on a full disk the lock works all the same.
    let _ = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| write!(file, "{}", std::process::id()));
    Ok(Held { _file: file })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder_and_a_file_left_behind_locks_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.lock");
        std::fs::write(&path, "4194999").unwrap();
        let held = acquire(&path, Instant::now()).unwrap();
        let error = acquire(&path, Instant::now()).unwrap_err();
        assert!(error.is_transient());
        assert!(
            error
                .to_string()
                .contains(&format!("process {} holds it", std::process::id())),
            "{error}"
        );
        drop(held);
        // A program that another test starts holds a copy of the file until it runs.
        acquire(&path, Instant::now() + Duration::from_secs(10)).unwrap();
    }
}
