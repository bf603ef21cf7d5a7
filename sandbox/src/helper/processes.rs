//! The processes below one, as `/proc` knows them, and their end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::sys::{self, Waited};

/// One line of the process table.
struct Entry {
    pid: i32,
    parent: i32,
    group: i32,
    zombie: bool,
}

fn table() -> Vec<Entry> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    folder
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(read_entry)
        .collect()
}

fn read_entry(pid: i32) -> Option<Entry> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the last `)` ends it.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut words = rest.split(' ');
    let zombie = matches!(words.next(), Some("Z" | "X"));
    Some(Entry {
        pid,
        parent: words.next()?.parse().ok()?,
        group: words.next()?.parse().ok()?,
        zombie,
    })
}

/// Tells whether a process, or a thread by its own number, lies below another.
pub(super) fn is_below(root: i32, pid: i32) -> bool {
    is_below_by(root, pid, |pid| Some(read_entry(pid)?.parent))
}

fn is_below_by(root: i32, pid: i32, parent_of: impl Fn(i32) -> Option<i32>) -> bool {
    let mut seen = HashSet::new();
    let mut next = pid;
    // Numbers are used again, so that what is read one by one may go in a circle.
    while seen.insert(next) {
        match parent_of(next) {
            Some(parent) if parent == root => return true,
            Some(parent) if parent > 0 => next = parent,
            _ => return false,
        }
    }
    false
}

/// Tells whether a process group has members, all of them below a process.
pub(super) fn is_group_below(root: i32, group: i32) -> bool {
    let table = table();
    let below: HashSet<i32> = below(root, &table).iter().map(|entry| entry.pid).collect();
    let mut members = table.iter().filter(|entry| entry.group == group).peekable();
    members.peek().is_some() && members.all(|entry| below.contains(&entry.pid))
}

/// Returns a process, first, and those below it, by the kernel's own lists of children where it keeps
/// them, otherwise by the whole table.
pub(super) fn descendants(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            match std::fs::read_to_string(thread.path().join("children")) {
                Ok(children) => found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
                Err(error) if pid == root && error.kind() == std::io::ErrorKind::NotFound => {
                    let table = table();
                    let others = below(root, &table).into_iter().map(|entry| entry.pid);
                    return [root].into_iter().chain(others).collect();
                }
                Err(_) => {}
            }
        }
    }
    found
}

fn below(root: i32, table: &[Entry]) -> Vec<&Entry> {
    let mut children: HashMap<i32, Vec<&Entry>> = HashMap::new();
    for entry in table {
        children.entry(entry.parent).or_default().push(entry);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for entry in children.remove(&pid).unwrap_or_default() {
            next.push(entry.pid);
            found.push(entry);
        }
    }
    found
}

/// Returns how many threads processes have together.
pub(super) fn threads(pids: &[i32]) -> u64 {
    pids.iter()
        .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok())
        .map(|tasks| tasks.count() as u64)
        .sum()
}

/// Returns a number that differs from start to start.
pub(super) fn seed() -> usize {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos() as usize)
}

/// Kills everything in this process's own signal domain but itself, and reaps it.
///
/// Only for a process that was seen to be in such a domain: without one this would reach every process
/// of the user.
pub(super) fn kill_domain() {
    loop {
        sys::kill(-1, libc::SIGKILL);
        match sys::wait(-1, true) {
            Waited::Ended(..) | Waited::Nothing => {}
            Waited::NoChildren => return,
        }
    }
}

/// Kills everything below a process, which is this one and a subreaper, and reaps it.
///
/// All are stopped first, until no new one is found, so that none can start another between the look
/// and the kill. Returns when there is no child left.
pub(super) fn kill_descendants(root: i32) {
    loop {
        let mut stopped = HashSet::new();
        for _ in 0..64 {
            let table = table();
            let fresh: Vec<i32> = below(root, &table)
                .into_iter()
                .filter(|entry| !entry.zombie && !stopped.contains(&entry.pid))
                .map(|entry| entry.pid)
                .collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                sys::kill(pid, libc::SIGSTOP);
                stopped.insert(pid);
            }
        }
        for pid in &stopped {
            sys::kill(*pid, libc::SIGKILL);
        }
        loop {
            match sys::wait(-1, false) {
                Waited::Ended(..) => {}
                Waited::NoChildren => return,
                Waited::Nothing => break,
            }
        }
        // The killed take a moment to end and to be handed over by their parents.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_below_its_parents_and_nobody_else() {
        let parents = HashMap::from([(10, 1), (20, 10), (30, 20), (40, 1), (50, 0), (60, 70), (70, 60)]);
        let parent_of = |pid: i32| parents.get(&pid).copied();
        for (pid, expected) in [
            (20, true),
            (30, true),
            (10, false),
            (40, false),
            (50, false),
            (60, false),
            (99, false),
        ] {
            assert_eq!(is_below_by(10, pid, parent_of), expected, "{pid}");
        }
    }

    #[test]
    fn a_group_is_below_when_all_its_members_are() {
        use std::os::unix::process::CommandExt;
        let child = std::process::Command::new("sleep").arg("1000").process_group(0).spawn();
        let mut child = child.expect("sleep is everywhere");
        let pid = i32::try_from(child.id()).expect("a process id");
        let inside = is_group_below(sys::own_pid(), pid);
        let _ = child.kill();
        let _ = child.wait();
        assert!(inside);
        // Its leader, at least, is not below itself.
        assert!(!is_group_below(pid, pid));
        assert!(!is_group_below(1, i32::MAX));
    }
}
