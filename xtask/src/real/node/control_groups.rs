//! Control groups: pods live below one of this cluster's own, in whichever version the machine has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How long a killed process may stay in its group.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Makes the group in every hierarchy that has controllers; the kubelet asks for it to be there.
pub fn make(name: &str) -> Result<()> {
    let made = |path: &Path| format!("failed to make the control group {}", path.display());
    let unified = Path::new(ROOT).join("cgroup.controllers").exists();
    if unified {
        delegate(Path::new(ROOT))?;
    }
    for hierarchy in hierarchies("cgroup ") {
        let group = hierarchy.join(name);
        std::fs::create_dir_all(&group).with_context(|| made(&group))?;
        if unified {
            delegate(&group)?;
        }
    }
    Ok(())
}

/// Lets the groups below this one use all that it may use itself (version 2).
fn delegate(group: &Path) -> Result<()> {
    let file = group.join("cgroup.controllers");
    let controllers = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let file = group.join("cgroup.subtree_control");
    let granted = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    for controller in controllers.split_whitespace() {
        if granted.split_whitespace().any(|it| it == controller) {
            continue;
        }
        std::fs::write(&file, format!("+{controller}")).with_context(|| {
            format!(
                "failed to hand {controller} to the groups below {}; in a container, its processes must lie in a group \
                 below the container's own",
                group.display()
            )
        })?;
    }
    Ok(())
}

/// Kills what is left in the group and removes it.
pub fn remove(name: &str) -> Result<()> {
    // Of machines with both versions, runc also uses the hierarchy without controllers.
    let groups: Vec<PathBuf> = hierarchies("cgroup")
        .into_iter()
        .flat_map(|hierarchy| below(&hierarchy.join(name)))
        .collect();
    let begin = Instant::now();
    let mut left = groups;
    loop {
        for group in &left {
            for pid in processes(group) {
                process::kill(pid);
            }
        }
        left.retain(|group| std::fs::remove_dir(group).is_err() && group.exists());
        let Some(first) = left.first() else { return Ok(()) };
        if begin.elapsed() > GONE_WITHIN {
            return std::fs::remove_dir(first)
                .with_context(|| format!("failed to remove the control group {}", first.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the folders in which groups are made: one in version 2, one for each controller in version 1. The kind is the
/// beginning of the name of the file system.
fn hierarchies(kind: &str) -> Vec<PathBuf> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return vec![ROOT.into()];
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hierarchies_of(&table, kind)
}

fn hierarchies_of(table: &str, kind: &str) -> Vec<PathBuf> {
    let lines = table
        .lines()
        .filter(|line| line.split_once(" - ").is_some_and(|(_, rest)| rest.starts_with(kind)));
    lines
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect()
}

/// Returns a group and those below it, the innermost first.
fn below(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(group) else {
        return Vec::new();
    };
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| below(&entry.path()))
        .collect();
    all.push(group.to_owned());
    all
}

fn processes(group: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_hierarchies_of_version_1_are_told_from_the_unified_one() {
        let table = "1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     2 0 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                     3 0 0:3 / /sys/fs/cgroup rw - tmpfs cgroup rw\n";
        assert_eq!(hierarchies_of(table, "cgroup "), [Path::new("/sys/fs/cgroup/memory")]);
        assert_eq!(hierarchies_of(table, "cgroup").len(), 2);
    }

    #[test]
    fn groups_are_listed_from_the_inside_out() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(folder.path().join("a/cgroup.procs"), "1\n").unwrap();
        let found = below(&folder.path().join("a"));
        assert_eq!(found, [inner, folder.path().join("a")]);
        assert_eq!(below(&folder.path().join("none")), Vec::<PathBuf>::new());
    }
}
