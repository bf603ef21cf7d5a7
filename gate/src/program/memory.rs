//! How often the kernel killed for want of memory.

use std::path::{Path, PathBuf};

/// The counter of this process's control group, where one is shown.
pub(super) struct OomCounter {
    file: Option<PathBuf>,
}

impl OomCounter {
    pub(super) fn of_this_process() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut candidates = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                candidates.push(Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
            } else if controllers.split(',').any(|one| one == "memory") {
                candidates.push(Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"));
                candidates.push(PathBuf::from("/sys/fs/cgroup/memory/memory.oom_control"));
            }
        }
        Self {
            file: candidates.into_iter().find(|path| path.exists()),
        }
    }

    /// Returns the number of kills so far; 0 where it is not shown.
    pub(super) fn kills(&self) -> u64 {
        let text = self
            .file
            .as_ref()
            .and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        kills_in(&text)
    }
}

fn kills_in(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == "oom_kill")
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_from_either_generation_of_control_groups() {
        assert_eq!(
            kills_in("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
            2
        );
        assert_eq!(kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"), 5);
        assert_eq!(kills_in(""), 0);
    }
}
