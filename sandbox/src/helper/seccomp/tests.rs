#![allow(clippy::unwrap_used, clippy::panic)]
use super::program::{ALLOW, AND, ANY_BIT, ARCH, ASK, AT_LEAST, DENY, EQUAL, LOAD, RETURN};
use super::*;
use libc::c_long;

/// Runs a filter as the kernel would.
fn judge(program: &[sock_filter], number: c_long, args: &[u64]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&(number as u32).to_le_bytes());
    data[4..8].copy_from_slice(&ARCH.to_le_bytes());
    for (index, arg) in args.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut at, mut value) = (0, 0u32);
    loop {
        let step = program[at];
        let code = u32::from(step.code);
        at += 1;
        match code {
            LOAD => {
                let at = step.k as usize;
                value = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
            }
            AND => value &= step.k,
            RETURN => return step.k,
            _ => {
                let hit = match code {
                    EQUAL => value == step.k,
                    AT_LEAST => value >= step.k,
                    ANY_BIT => value & step.k != 0,
                    _ => panic!("unknown code {code}"),
                };
                at += usize::from(if hit { step.jt } else { step.jf });
            }
        }
    }
}

#[test]
fn calls_are_denied_and_allowed_by_number_and_arguments() {
    let rules = Rules {
        backend: Backend::Namespaces,
        net: Net::None,
        nesting: false,
        preallocates: true,
        unmapped_memory: true,
        any_processor: true,
        landlock_abi: 7,
        askable: true,
    };
    let own = filter(&rules);
    let watched = filter(&Rules {
        preallocates: false,
        ..rules
    });
    let counted = filter(&Rules {
        unmapped_memory: false,
        ..rules
    });
    let nesting = filter(&Rules {
        nesting: true,
        landlock_abi: 0,
        ..rules
    });
    let alone = Rules {
        backend: Backend::Landlock,
        ..rules
    };
    let none = filter(&alone);
    let proxy = filter(&Rules {
        net: Net::PortProxy(1),
        ..alone
    });
    let old = filter(&Rules {
        landlock_abi: 5,
        ..alone
    });
    let inner = filter(&Rules {
        landlock_abi: 5,
        askable: false,
        ..alone
    });
    let bound = filter(&Rules {
        any_processor: false,
        ..rules
    });
    let oldest = filter(&Rules {
        landlock_abi: 2,
        ..alone
    });
    let truncate = libc::O_TRUNC as u64;
    let (unix, inet, netlink, vsock) = (1, 2, 16, 40);
    let (stream, dgram) = (1, 2);
    let cloexec = 0o2_000_000;
    let table: &[(&[sock_filter], c_long, [u64; 3], bool)] = &[
        (&own, libc::SYS_read, [0; 3], true),
        (&own, libc::SYS_ptrace, [0; 3], false),
        (&own, libc::SYS_mount, [0; 3], false),
        (&nesting, libc::SYS_mount, [0; 3], true),
        (&nesting, libc::SYS_keyctl, [0; 3], false),
        (&own, libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0], true),
        (&own, libc::SYS_clone, [libc::CLONE_NEWUSER as u64 | 17, 0, 0], false),
        (&nesting, libc::SYS_clone, [libc::CLONE_NEWUSER as u64 | 17, 0, 0], true),
        (&own, libc::SYS_clone3, [0; 3], false),
        (&own, libc::SYS_ioctl, [0, 0x5401, 0], true),
        (&own, libc::SYS_ioctl, [0, u64::from(TIOCSTI), 0], false),
        (&own, libc::SYS_ioctl, [0, u64::from(TIOCSTI) | 1 << 32, 0], false),
        (&own, libc::SYS_ioctl, [3, u64::from(FS_IOC_ENABLE_VERITY), 0], false),
        (&own, libc::SYS_socket, [inet, dgram, 0], true),
        (&own, libc::SYS_socket, [unix, stream | cloexec, 0], true),
        (&own, libc::SYS_socket, [netlink, 3, 0], true),
        (&own, libc::SYS_socket, [netlink, 3, 9], false),
        (&own, libc::SYS_socket, [vsock, stream, 0], false),
        (&none, libc::SYS_socket, [inet, stream, 0], false),
        (&none, libc::SYS_socket, [unix, stream, 0], false),
        (&none, libc::SYS_socketpair, [unix, stream | cloexec, 0], true),
        (&none, libc::SYS_socketpair, [unix, dgram, 0], false),
        (&proxy, libc::SYS_socket, [inet, stream | cloexec, 0], true),
        (&proxy, libc::SYS_socket, [10, stream, 6], true),
        (&proxy, libc::SYS_socket, [inet, stream, 262], false),
        (&proxy, libc::SYS_socket, [inet, dgram, 0], false),
        (&proxy, libc::SYS_socket, [unix, stream, 0], false),
        (&proxy, libc::SYS_socket, [vsock, stream, 0], false),
        (&proxy, libc::SYS_sendmsg, [0, 0, u64::from(MSG_FASTOPEN)], false),
        (&proxy, libc::SYS_sendmsg, [0, 0, 0x4000], true),
        (&none, libc::SYS_kill, [1, 9, 0], true),
        (&inner, libc::SYS_kill, [1, 9, 0], false),
        (&inner, libc::SYS_kill, [0, 9, 0], true),
        (&inner, libc::SYS_tgkill, [1, 1, 9], false),
        (&old, libc::SYS_kill, [0, 9, 0], true),
        (&old, libc::SYS_pidfd_send_signal, [3, 9, 0], false),
        (&old, libc::SYS_fcntl, [3, libc::F_GETFL as u64, 0], true),
        (&old, libc::SYS_fcntl, [3, libc::F_SETOWN as u64, 1], false),
        (&old, libc::SYS_fcntl, [3, u64::from(F_SETOWN_EX), 0], false),
        (&none, libc::SYS_fcntl, [3, libc::F_SETOWN as u64, 1], true),
        (&old, libc::SYS_ioctl, [3, u64::from(FIOSETOWN), 0], false),
        (&old, libc::SYS_ioctl, [3, u64::from(SIOCSPGRP), 0], false),
        (&none, libc::SYS_prlimit64, [0, 7, 0], true),
        (&none, libc::SYS_prlimit64, [7, 7, 0], false),
        (&own, libc::SYS_prlimit64, [7, 7, 0], true),
        (&none, libc::SYS_setpriority, [0, 0, 5], true),
        (&none, libc::SYS_setpriority, [0, 7, 5], false),
        (&none, libc::SYS_setpriority, [libc::PRIO_USER as u64, 0, 5], false),
        (&none, libc::SYS_ioprio_set, [1, 0, 0], true),
        (&none, libc::SYS_ioprio_set, [1, 7, 0], false),
        (&none, libc::SYS_ioprio_set, [3, 0, 0], false),
        (&none, libc::SYS_sched_setscheduler, [7, 0, 0], false),
        (&none, libc::SYS_sched_setaffinity, [0, 8, 0], true),
        (&none, libc::SYS_sched_setaffinity, [7, 8, 0], false),
        (&own, libc::SYS_sched_setaffinity, [7, 8, 0], true),
        (&bound, libc::SYS_sched_setaffinity, [0, 8, 0], false),
        (&none, libc::SYS_shmat, [1, 0, 0], false),
        (&none, libc::SYS_msgrcv, [1, 0, 0], false),
        (&none, libc::SYS_mq_open, [0, 0, 0], false),
        (&own, libc::SYS_shmat, [1, 0, 0], true),
        (&own, libc::SYS_read + 0x4000_0000, [0; 3], false),
        (&own, libc::SYS_fchmod, [3, 0o755, 0], true),
        (&own, libc::SYS_fchmod, [3, 0o4755, 0], false),
        (&own, libc::SYS_fchmodat, [3, 0, 0o4755], false),
        (&own, FCHMODAT2, [3, 0, 0o4755], false),
        (&nesting, libc::SYS_mknodat, [3, 0, 0o104_755], false),
        (&own, libc::SYS_openat2, [0; 3], false),
        (&own, libc::SYS_memfd_create, [0; 3], true),
        (&counted, libc::SYS_memfd_create, [0; 3], false),
        (&own, libc::SYS_shmget, [0, 1 << 30, 0], true),
        (&counted, libc::SYS_shmget, [0, 4096, 0], true),
        (&counted, libc::SYS_shmget, [0, 4097, 0], false),
        (&counted, libc::SYS_semget, [0, 20, 0], true),
        (&counted, libc::SYS_semget, [0, 1000, 0], false),
        (&counted, libc::SYS_msgget, [0, 0, 0], false),
        (&counted, libc::SYS_shmget, [0, 1 << 32, 0], false),
        (&own, libc::SYS_fallocate, [3, 0, 0], true),
        (&watched, libc::SYS_fallocate, [3, 0, 0], false),
        (&watched, libc::SYS_fallocate, [3, 1, 0], false),
        (&watched, libc::SYS_fallocate, [3, 3, 0], true),
        (&own, libc::SYS_truncate, [0; 3], true),
        (&none, libc::SYS_truncate, [0; 3], true),
        (&oldest, libc::SYS_truncate, [0; 3], false),
        (&oldest, libc::SYS_ftruncate, [3, 0, 0], true),
        (&oldest, libc::SYS_openat, [3, 0, truncate], false),
        (&oldest, libc::SYS_openat, [3, 0, truncate | 3], false),
        (&oldest, libc::SYS_openat, [3, 0, truncate | 1], true),
        (&oldest, libc::SYS_openat, [3, 0, truncate | 2], true),
        (&oldest, libc::SYS_openat, [3, 0, 0], true),
        (&none, libc::SYS_openat, [3, 0, truncate], true),
    ];
    for (program, number, args, allowed) in table {
        let verdict = judge(program, *number, args);
        assert_eq!(verdict == ALLOW, *allowed, "call {number} with {args:?}: {verdict:#x}");
    }
    let create = libc::O_CREAT as u64;
    let nameless = libc::O_TMPFILE as u64;
    for (flags, mode, allowed) in [
        (create, 0o755, true),
        (create, 0o4755, false),
        (nameless, 0o4755, false),
        // What opens a folder or a file that is there has no mode, whatever the register holds.
        (libc::O_DIRECTORY as u64, 0o4755, true),
        (0, u64::MAX, true),
    ] {
        let verdict = judge(&none, libc::SYS_openat, &[3, 0, flags, mode]);
        assert_eq!(verdict == ALLOW, allowed, "openat with {flags:#o} and {mode:#o}");
    }
}

#[test]
fn calls_are_asked_about_that_neither_landlock_nor_a_filter_can_judge() {
    let rules = Rules {
        backend: Backend::Landlock,
        net: Net::None,
        nesting: false,
        preallocates: true,
        unmapped_memory: true,
        any_processor: true,
        landlock_abi: 5,
        askable: true,
    };
    let asking = filter(&rules);
    for number in [
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
    ] {
        assert_eq!(judge(&asking, number, &[7, 7, 9]), ASK, "{number}");
    }
    assert!(rules.asks());
    assert!(
        !Rules {
            landlock_abi: 6,
            ..rules
        }
        .asks()
    );
    assert!(
        !Rules {
            askable: false,
            ..rules
        }
        .asks()
    );
    assert!(
        !Rules {
            backend: Backend::Namespaces,
            ..rules
        }
        .asks()
    );
    let proxy = Rules {
        net: Net::PortProxy(1),
        landlock_abi: 7,
        ..rules
    };
    assert!(proxy.asks());
    let connect = |rules: &Rules| judge(&filter(rules), libc::SYS_connect, &[3, 4096, 16]);
    assert_eq!(connect(&proxy), ASK);
    assert_eq!(
        connect(&Rules {
            askable: false,
            ..proxy
        }),
        DENY | libc::EPERM as u32
    );
}
