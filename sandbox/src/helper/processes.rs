//! What `/proc` knows about the processes below one: who they are, what they use, and their end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::sys::{self, Waited};

/// One line of the process table.
struct Entry {
    pid: i32,
    parent: i32,
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
        zombie,
    })
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

/// Returns the most memory that processes can be using together, in bytes: quick, and too much where
/// forked processes still share pages.
pub(super) fn memory_at_most(pids: &[i32]) -> u64 {
    let page = sys::page_size();
    let (mut own, mut shared) = (0, 0);
    for pid in pids {
        let (resident, mapped) = resident(*pid);
        own += resident.saturating_sub(mapped);
        shared = mapped.max(shared);
    }
    (own + shared) * page
}

/// Returns the least memory that processes can be using together, in bytes: of those that may still
/// share pages since a fork, the largest alone.
///
/// They are known by the place of their stack, which every exec draws anew; where two draw the same the
/// answer is only smaller.
pub(super) fn memory_at_least(pids: &[i32]) -> u64 {
    let mut groups: HashMap<u64, u64> = HashMap::new();
    for pid in pids {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (resident, mapped) = resident(*pid);
        let largest = groups.entry(stack_place(&stat).unwrap_or(0)).or_default();
        *largest = (*largest).max(resident.saturating_sub(mapped));
    }
    groups.values().sum::<u64>() * sys::page_size()
}

fn stack_place(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    // The 28th field; the first after the name is the third.
    std::str::from_utf8(stat.get(end + 2..)?)
        .ok()?
        .split(' ')
        .nth(25)?
        .parse()
        .ok()
}

/// Returns the memory that processes use together with `files` bytes of private memory files, each shared page counted
/// once.
///
/// The kernel takes long to say so while processes change their memory, so all are stopped meanwhile;
/// those that are to live are to be let go on by [`go_on`].
pub(super) fn memory_exactly(pids: &[i32], files: u64) -> u64 {
    for pid in pids {
        sys::kill(*pid, libc::SIGSTOP);
    }
    let parts = pids.iter().map(|pid| proportional(*pid));
    let (own, shared) = parts.fold((0, 0), |(own, shared), part| (own + part.0, shared + part.1));
    together(own, shared, files)
}

/// Adds up memory of processes, their share of memory files, and all memory files that are known: what is mapped of those
/// is in both, and counts once.
fn together(own: u64, shared: u64, files: u64) -> u64 {
    own.saturating_add(shared.max(files))
}

/// Lets stopped processes go on.
pub(super) fn go_on(pids: &[i32]) {
    for pid in pids {
        sys::kill(*pid, libc::SIGCONT);
    }
}

/// Returns a process's resident pages, and how many of them are of files or shared memory.
fn resident(pid: i32) -> (u64, u64) {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut words = statm.split(' ').skip(1).map(|word| word.parse().unwrap_or(0));
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

/// Returns a process's share of memory, in bytes: of its own, and of memory files.
fn proportional(pid: i32) -> (u64, u64) {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    shares(&rollup).unwrap_or_else(|| {
        let (all, mapped) = resident(pid);
        (all.saturating_sub(mapped) * sys::page_size(), mapped * sys::page_size())
    })
}

fn shares(rollup: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let mut values = rollup.lines().filter_map(|line| line.strip_prefix(name));
        let kibibytes = values.next()?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?;
        Some(kibibytes * 1024)
    };
    let all = field("Pss:")?;
    // A kernel that does not tell them apart: better too little than the same page twice.
    let files = field("Pss_Shmem:").unwrap_or(all);
    Some((all.saturating_sub(files), files))
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
    fn what_is_mapped_of_a_memory_file_counts_once() {
        let rollup = "Pss:     1000 kB\nPss_Anon:  300 kB\nPss_File:  100 kB\nPss_Shmem:   600 kB\n";
        let (own, files) = shares(rollup).unwrap_or_default();
        assert_eq!((own, files), (400 * 1024, 600 * 1024));
        assert_eq!(together(own, files, 600 * 1024), 1000 * 1024);
        assert_eq!(together(own, files, 900 * 1024), 1300 * 1024, "300 KiB are not mapped");
        assert_eq!(shares("Pss:  10 kB\n"), Some((0, 10 * 1024)));
        assert_eq!(shares(""), None);
    }
}
