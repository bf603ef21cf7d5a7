//! How much memory processes take together, where no control group counts it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::sys;

/// How long an exact count below the limit is relied on while a quick one lies above it.
const EXACT_EVERY: Duration = Duration::from_millis(100);

/// Counts memory by quick bounds while they tell on which side of the limit it is.
#[derive(Default)]
pub(super) struct MemoryCounter {
    /// When the last exact count was made, and what it was.
    exact: Option<(Instant, u64)>,
}

impl MemoryCounter {
    /// Returns the memory that processes and `files` bytes of private memory files take together, as exactly as the
    /// limit asks for.
    pub(super) fn count(&mut self, family: &[i32], files: u64, limit: u64) -> u64 {
        let most = memory_at_most(family, limit) + files;
        if most <= limit {
            self.exact = None;
            return most;
        }
        let least = memory_at_least(family) + files;
        if least > limit {
            return least;
        }
        if let Some((made, exact)) = self.exact
            && made.elapsed() < EXACT_EVERY
        {
            return exact.max(least);
        }
        // The first is init, which takes no memory and must go on.
        let commands = family.get(1..).unwrap_or_default();
        let exact = memory_exactly(commands, files);
        if exact <= limit {
            go_on(commands);
        }
        self.exact = Some((Instant::now(), exact));
        exact
    }
}

/// Returns the most memory that processes can be using together, in bytes: quick, and too much where forked processes
/// still share pages.
///
/// What they map of files lies in memory once, whoever maps it, and the kernel may take it back. What they map of shared
/// memory is each one's own as far as can be seen here.
fn memory_at_most(pids: &[i32], limit: u64) -> u64 {
    let quick: Vec<(u64, u64)> = pids.iter().map(|pid| resident(*pid)).collect();
    let all: u64 = quick.iter().map(|(all, _)| all).sum();
    if all * sys::page_size() <= limit {
        let own: u64 = quick.iter().map(|(all, mapped)| all.saturating_sub(*mapped)).sum();
        let mapped = quick.iter().map(|(_, mapped)| *mapped).max().unwrap_or(0);
        return (own + mapped) * sys::page_size();
    }
    let parts = pids.iter().filter_map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        kinds(&status)
    });
    let (own, files) = parts.fold((0, 0), |(own, most), (one, files)| (own + one, files.max(most)));
    own + files
}

/// Reads the bytes of memory that are a process's own or shared memory, and those of files, from its status.
fn kinds(status: &str) -> Option<(u64, u64)> {
    let field = |name| kibibytes(status, name);
    Some((field("RssAnon:")? + field("RssShmem:")?, field("RssFile:")?))
}

/// Reads a field of a table of the kernel's, in bytes.
fn kibibytes(table: &str, name: &str) -> Option<u64> {
    let mut values = table.lines().filter_map(|line| line.strip_prefix(name));
    let number = values.next()?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?;
    Some(number * 1024)
}

/// Returns the least memory that processes can be using together, in bytes: of those that may still
/// share pages since a fork, the largest alone.
///
/// They are known by the place of their stack, which every exec draws anew; where two draw the same the
/// answer is only smaller.
fn memory_at_least(pids: &[i32]) -> u64 {
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
fn memory_exactly(pids: &[i32], files: u64) -> u64 {
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
fn go_on(pids: &[i32]) {
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
    let all = kibibytes(rollup, "Pss:")?;
    // A kernel that does not tell them apart: better too little than the same page twice.
    let files = kibibytes(rollup, "Pss_Shmem:").unwrap_or(all);
    Some((all.saturating_sub(files), files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_told_from_mapped_files() {
        let status =
            "Name:\tx\nVmRSS:\t     700 kB\nRssAnon:\t     300 kB\nRssFile:\t     100 kB\nRssShmem:\t     300 kB\n";
        assert_eq!(kinds(status), Some((600 * 1024, 100 * 1024)));
        assert_eq!(kinds("Name:\tkthread\n"), None);
    }

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
