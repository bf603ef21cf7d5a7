//! A control group for one command, version 2 or 1, where this process may make one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::limits::Limits;
use crate::sys;

/// The groups of one command: one for version 2, up to three for version 1.
pub(super) struct Cgroup {
    version: Version,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The period of processor time, in microseconds.
const PERIOD: f64 = 100_000.0;

impl Cgroup {
    /// Makes groups that keep the limits; `None` when none can be made or nothing is limited.
    pub(super) fn create(limits: &Limits) -> Option<Cgroup> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let group = Cgroup::create_v2(limits, &own, &mounts).or_else(|| Cgroup::create_v1(limits, &own, &mounts))?;
        if group.memory.is_none() && group.pids.is_none() && group.cpu.is_none() {
            return None;
        }
        Some(group)
    }

    fn create_v2(limits: &Limits, own: &str, mounts: &str) -> Option<Cgroup> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let folder = mounted(mounts, path, |kind, _| kind == "cgroup2")?;
        // A group with processes cannot hand controllers to its children, so one beside it is tried too.
        let candidates = [Some(folder.as_path()), folder.parent()];
        candidates.into_iter().flatten().find_map(|base| {
            let made = make(base)?;
            let set = |file: &str, value: String| write(&made.join(file), &value).is_ok();
            let memory = limits
                .memory_bytes
                .is_some_and(|bytes| set("memory.max", bytes.to_string()));
            if memory {
                set("memory.swap.max", "0".into());
                set("memory.oom.group", "1".into());
            }
            let pids = limits.pids.is_some_and(|count| set("pids.max", count.to_string()));
            let cpu = limits
                .cpus
                .is_some_and(|cpus| set("cpu.max", format!("{} {PERIOD}", (cpus * PERIOD).max(1000.0) as u64)));
            if !memory && limits.memory_bytes.is_some() || !(memory || pids || cpu) {
                // Without the memory controller, version 1 may still serve.
                let _ = fs::remove_dir(&made);
                return None;
            }
            let only = |on: bool| on.then(|| made.clone());
            Some(Cgroup {
                version: Version::Two,
                memory: only(memory),
                pids: only(pids),
                cpu: only(cpu),
            })
        })
    }

    fn create_v1(limits: &Limits, own: &str, mounts: &str) -> Option<Cgroup> {
        let group = |controller: &str, file: &str, value: Option<String>| {
            let value = value?;
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|one| one == controller).then_some(path)
            })?;
            let folder = mounted(mounts, path, |kind, options| {
                kind == "cgroup" && options.split(',').any(|option| option == controller)
            })?;
            let made = make(&folder)?;
            if write(&made.join(file), &value).is_err() {
                let _ = fs::remove_dir(&made);
                return None;
            }
            Some(made)
        };
        let memory = group(
            "memory",
            "memory.limit_in_bytes",
            limits.memory_bytes.map(|bytes| bytes.to_string()),
        );
        if let (Some(memory), Some(bytes)) = (&memory, limits.memory_bytes) {
            // Where swap is not accounted there is no such file.
            let _ = fs::write(memory.join("memory.memsw.limit_in_bytes"), bytes.to_string());
        }
        let pids = group("pids", "pids.max", limits.pids.map(|count| count.to_string()));
        let quota = limits.cpus.map(|cpus| ((cpus * PERIOD).max(1000.0) as u64).to_string());
        let cpu = group("cpu", "cpu.cfs_quota_us", quota);
        Some(Cgroup {
            version: Version::One,
            memory,
            pids,
            cpu,
        })
    }

    fn folders(&self) -> Vec<&PathBuf> {
        let mut folders: Vec<&PathBuf> = [&self.memory, &self.pids, &self.cpu].into_iter().flatten().collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Moves a process in; its children follow.
    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        self.folders()
            .into_iter()
            .try_for_each(|folder| write(&folder.join("cgroup.procs"), &pid.to_string()))
    }

    /// Returns the name of what keeps the memory limit.
    pub(super) fn memory(&self) -> &'static str {
        match (&self.memory, self.version) {
            (None, _) => "none",
            (Some(_), Version::One) => "cgroup-v1",
            (Some(_), Version::Two) => "cgroup-v2",
        }
    }

    pub(super) fn limits_pids(&self) -> bool {
        self.pids.is_some()
    }

    pub(super) fn limits_cpus(&self) -> bool {
        self.cpu.is_some()
    }

    /// Tells whether the kernel killed a process of the group for want of memory.
    pub(super) fn out_of_memory(&self) -> bool {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = self.memory_file(file);
        text.lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim() != "0")
    }

    /// Returns the memory in use, in bytes.
    pub(super) fn current(&self) -> u64 {
        match self.version {
            // The kernel keeps the peak itself.
            Version::One => 0,
            Version::Two => self.memory_file("memory.current").trim().parse().unwrap_or(0),
        }
    }

    /// Returns the most memory that was in use, in bytes; 0 where the kernel does not say.
    pub(super) fn peak(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        self.memory_file(file).trim().parse().unwrap_or(0)
    }

    fn memory_file(&self, name: &str) -> String {
        let text = self
            .memory
            .as_ref()
            .and_then(|memory| fs::read_to_string(memory.join(name)).ok());
        text.unwrap_or_default()
    }

    /// Kills every process of the groups.
    pub(super) fn kill(&self) {
        for folder in self.folders() {
            if write(&folder.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            // A process that cannot be seen from here is 0, which would mean our own group.
            for pid in procs
                .lines()
                .filter_map(|line| line.parse().ok())
                .filter(|pid| *pid > 0)
            {
                sys::kill(pid, libc::SIGKILL);
            }
        }
    }

    /// Removes the groups, which are empty by now.
    pub(super) fn remove(self) {
        for folder in self.folders() {
            // One that is not removed now is swept when the next is made.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Writes to a file of the kernel's, which is there or is not; none is made.
fn write(file: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all(text.as_bytes())
}

/// Makes a group below another, and removes those that dead supervisors left.
fn make(base: &Path) -> Option<PathBuf> {
    for entry in fs::read_dir(base).ok()?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("foreman-sandbox-"));
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            // Fails while processes are in it, and then it is not ours to end.
            let _ = fs::remove_dir(entry.path());
        }
    }
    let folder = base.join(format!("foreman-sandbox-{}", sys::own_pid()));
    fs::create_dir(&folder).ok()?;
    // Above the mount point lies an ordinary file system, where a new folder stays empty.
    if !folder.join("cgroup.procs").exists() {
        let _ = fs::remove_dir(&folder);
        return None;
    }
    Some(folder)
}

/// Finds the folder of a group below a mount that is looked for by file system and options.
fn mounted(mounts: &str, group: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let (kind, _, options) = (source.next()?, source.next()?, source.next()?);
        if !wanted(kind, options) {
            return None;
        }
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let inside = if root == "/" {
            group
        } else {
            group.strip_prefix(root).unwrap_or("")
        };
        Some(Path::new(point).join(inside.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_below_their_mounts() {
        let mounts = "31 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 23 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      33 23 0:28 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        let memory = mounted(mounts, "/a/b", |kind, options| {
            kind == "cgroup" && options.contains("memory")
        });
        assert_eq!(memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/a/b")));
        let pids = mounted(mounts, "/docker/abc/x", |_, options| options.contains("pids"));
        assert_eq!(pids.as_deref(), Some(Path::new("/sys/fs/cgroup/pids/x")));
        assert_eq!(mounted(mounts, "/", |kind, _| kind == "none"), None);
    }
}
