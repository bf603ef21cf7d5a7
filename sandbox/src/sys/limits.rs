//! What a process may use: resource limits, processors, the attention of the scheduler.

use std::io;

use super::answer::check;

/// Sets both values of a resource limit, at most to the hard one in force.
pub(crate) fn limit(resource: libc::c_long, value: u64) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // The resource's type is an enum of C on one libc and an integer on another.
    let resource = resource as _;
    // SAFETY: the structure lives through both calls.
    unsafe {
        check(libc::c_long::from(libc::getrlimit(resource, &raw mut now)))?;
        let value = value.min(now.rlim_max);
        let wanted = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        check(libc::c_long::from(libc::setrlimit(resource, &raw const wanted))).map(drop)
    }
}

/// Keeps this process on `count` of the processors that it may use, beginning at one that varies.
pub(crate) fn use_processors(count: usize, seed: usize) -> io::Result<()> {
    // SAFETY: the sets are plain data, initialised by zeroing, and live through the calls.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = std::mem::size_of::<libc::cpu_set_t>();
        check(libc::c_long::from(libc::sched_getaffinity(0, size, &raw mut allowed)))?;
        let usable: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
            .filter(|&cpu| libc::CPU_ISSET(cpu, &allowed))
            .collect();
        if count >= usable.len() {
            return Ok(());
        }
        let mut chosen: libc::cpu_set_t = std::mem::zeroed();
        for index in 0..count.max(1) {
            libc::CPU_SET(usable[(seed + index) % usable.len()], &mut chosen);
        }
        check(libc::c_long::from(libc::sched_setaffinity(0, size, &raw const chosen))).map(drop)
    }
}

/// Asks the scheduler to run this thread soon after it wakes, for a short time, before others that
/// wait as long; and, where that is allowed, with more weight.
///
/// Kernels before Linux 6.12 know no slice of one's own, and leave things as they are.
pub(crate) fn run_promptly() {
    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SLICE_NANOSECONDS: u64 = 100_000;
    for nice in [-10, 0] {
        let size = std::mem::size_of::<SchedAttr>() as u32;
        let wanted = SchedAttr {
            size,
            nice,
            runtime: SLICE_NANOSECONDS,
            ..SchedAttr::default()
        };
        // SAFETY: the structure lives through the call, says its size, and has sched_setattr(2)'s layout.
        if check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) }).is_ok() {
            return;
        }
    }
}

/// Returns the size of a memory page in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf takes a plain integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
