//! Limits end what passes them, by cgroup and by monitor, and output stays bounded.

use std::time::Duration;

use sandbox::{Backend, Capture, Exit, FileSink, KeepFree, Limits, Output, Reason, Sandbox, Sink};

use crate::part::part;
use crate::{backends, shell};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 96 * MIB;

/// Every backend, with control groups where they can be made, and without.
fn all_ways() -> Vec<Sandbox> {
    backends()
        .into_iter()
        .flat_map(|sandbox| [sandbox.clone(), sandbox.without_cgroups()])
        .collect()
}

/// `tail` keeps a line in memory until it ends, and then until somebody reads it. It grows slowly enough for a monitor
/// on a busy machine.
fn hog(mebibytes: u64) -> String {
    let step = mebibytes * MIB / 20;
    format!("(for step in $(seq 20); do head -c {step} /dev/zero; sleep 0.1; done) | tail -n 1 | sleep 20")
}

#[test]
fn memory_past_the_limit_ends_in_oom_killed() {
    for sandbox in all_ways() {
        let outcome = sandbox.run_blocking(shell(&hog(2 * LIMIT / MIB)).memory(LIMIT), Output::captured());
        check_killed(&sandbox, &outcome);
    }
}

#[test]
fn memory_of_forked_children_counts_together() {
    for sandbox in all_ways() {
        // Slow enough for a monitor on a busy machine; four times what one may have grow to nearly four limits.
        let step = LIMIT / 10;
        let one = format!(
            "(for step in 1 2 3 4 5 6 7 8 9; do head -c {step} /dev/zero; sleep 0.2; done) | tail -n 1 | sleep 20"
        );
        let script = format!("({one}) & ({one}) & ({one}) & ({one}) & wait; wait; echo survived");
        let outcome = sandbox.run_blocking(shell(&script).memory(LIMIT), Output::captured());
        check_killed(&sandbox, &outcome);
        assert_eq!(outcome.stdout.text(), "");
    }
}

fn check_killed(sandbox: &Sandbox, outcome: &sandbox::Outcome) {
    let way = (sandbox.backend(), outcome.enforced.memory.clone());
    assert_eq!(outcome.reason, Reason::OOMKilled, "{way:?} {outcome:?}");
    let peak = outcome.peak_memory_bytes;
    assert!(
        (LIMIT * 8 / 10..=LIMIT * 2).contains(&peak),
        "{way:?}: peak {} MiB",
        peak / MIB
    );
    assert!(
        outcome.message.as_deref().unwrap().contains(&LIMIT.to_string()),
        "{way:?}"
    );
    println!("{way:?}: limit {} MiB, peak {} MiB", LIMIT / MIB, peak / MIB);
}

#[test]
fn memory_in_files_that_nobody_maps_counts_too() {
    for sandbox in all_ways() {
        // Where there is no private root, such a file lies on a disk.
        if sandbox.backend() == Backend::Landlock {
            continue;
        }
        let step = LIMIT / 5;
        let script = format!("for n in $(seq 10); do head -c {step} /dev/zero > /tmp/f$n; sleep 0.1; done; sleep 20");
        let command = shell(&script).tmpfs("/tmp", 4 * LIMIT).memory(LIMIT);
        check_killed(&sandbox, &sandbox.run_blocking(command, Output::captured()));
        // What is in use and within the limit is left alone.
        let script = format!("head -c {} /dev/zero > /tmp/f; sleep 0.3; wc -c < /tmp/f", LIMIT / 2);
        let command = shell(&script).tmpfs("/tmp", 4 * LIMIT).memory(LIMIT);
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(outcome.stdout.text().trim(), (LIMIT / 2).to_string(), "{outcome:?}");
    }
}

#[test]
fn memory_that_could_be_shared_counts_for_each_who_has_it() {
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    let (args, (key, value)) = part(&format!("share {}", LIMIT * 45 / 100));
    let script = format!(
        "for n in 1 2 3; do /opt/self {} >/dev/null & done; wait",
        args.join(" ")
    );
    for sandbox in all_ways() {
        let command = shell(&script)
            .env(key, value.clone())
            .ro(&own, "/opt/self")
            .memory(LIMIT);
        check_killed(&sandbox, &sandbox.run_blocking(command, Output::captured()));
    }
}

#[test]
fn memory_below_the_limit_is_left_alone() {
    for sandbox in all_ways() {
        let script = format!("head -c {} /dev/zero | tail -n 1 | wc -c", LIMIT / 2);
        let outcome = sandbox.run_blocking(shell(&script).memory(LIMIT), Output::captured());
        assert_eq!(outcome.stdout.text().trim(), (LIMIT / 2).to_string(), "{outcome:?}");
        assert_eq!(outcome.reason, Reason::Completed);
    }
}

#[test]
fn pages_shared_since_a_fork_count_once() {
    // Perl is part of every git installation; four children share what their parent made.
    let script = format!(
        "perl -e '$x = \"x\" x {}; for (1..4) {{ if (!fork) {{ sleep 1; exit }} }} 1 while wait > 0; print length $x'",
        LIMIT / 3
    );
    for sandbox in all_ways() {
        let outcome = sandbox.run_blocking(shell(&script).memory(LIMIT), Output::captured());
        assert_eq!(outcome.stdout.text(), (LIMIT / 3).to_string(), "{outcome:?}");
        assert!(
            outcome.peak_memory_bytes >= LIMIT / 4 && outcome.peak_memory_bytes <= LIMIT,
            "{outcome:?}"
        );
    }
}

#[test]
fn more_processes_than_allowed_are_not_made_or_end_the_command() {
    for sandbox in all_ways() {
        let limits = Limits {
            pids: Some(40),
            wall: Some(Duration::from_secs(20)),
            ..Limits::default()
        };
        let script = "n=0; while [ $n -lt 150 ]; do sleep 30 & n=$((n+1)); done; echo made all; sleep 1";
        let outcome = sandbox.run_blocking(shell(script).limits(limits), Output::captured());
        let way = (sandbox.backend(), outcome.enforced.pids.as_str());
        assert_eq!(outcome.reason, Reason::Error, "{way:?} {outcome:?}");
        assert!(
            !outcome.stdout.text().contains("made all") || way.1 == "monitor",
            "{way:?}"
        );
        let said = outcome.message.clone().unwrap_or_default();
        assert!(
            way.1 != "monitor" || said.contains("more than 40 processes"),
            "{way:?} {outcome:?}"
        );
        assert!(outcome.wall < Duration::from_secs(10), "{way:?} {:?}", outcome.wall);
    }
}

#[test]
fn processors_are_kept_from_who_wants_others() {
    for sandbox in all_ways() {
        let limits = Limits {
            cpus: Some(1.0),
            wall: Some(Duration::from_secs(20)),
            ..Limits::default()
        };
        let outcome = sandbox.run_blocking(
            shell("nproc; taskset -p ff $$ >&2; nproc").limits(limits),
            Output::captured(),
        );
        let counts = outcome.stdout.text();
        let way = (sandbox.backend(), outcome.enforced.cpus.as_str());
        if way.1 == "affinity" {
            assert_eq!(counts, "1\n1\n", "{way:?} {outcome:?}");
        } else {
            assert!(counts.starts_with("1\n"), "{way:?} {outcome:?}");
        }
    }
}

#[test]
fn a_private_folder_holds_no_more_files_than_pages() {
    for sandbox in backends() {
        // Where there is no private root, files lie on a disk.
        if sandbox.backend() == Backend::Landlock {
            continue;
        }
        let command = shell("stat -f -c %c /tmp").tmpfs("/tmp", 64 * MIB);
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(
            outcome.stdout.text().trim(),
            (64 * MIB / 4096).to_string(),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_file_past_its_size_is_cut_and_no_core_is_left() {
    for sandbox in backends() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            file_size_bytes: Some(MIB),
            ..Limits::default()
        };
        let script = "head -c 5000000 /dev/zero > big; ulimit -c; kill -SEGV $$";
        let command = shell(script)
            .rw(folder.path(), "/workspace")
            .cwd("/workspace")
            .limits(limits);
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(outcome.exit, Exit::Signal(11), "{outcome:?}");
        assert_eq!(outcome.stdout.text(), "0\n");
        assert_eq!(std::fs::metadata(folder.path().join("big")).unwrap().len(), MIB);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_command_that_takes_what_is_to_stay_free_is_ended_and_told_why() {
    for sandbox in all_ways() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            // All of every disk: whoever takes more than a little is ended.
            keep_free: Some(KeepFree {
                bytes: u64::MAX,
                percent: 100,
            }),
            wall: Some(Duration::from_secs(60)),
            ..Limits::default()
        };
        let script = "for n in 1 2 3 4; do head -c 52428800 /dev/urandom > f$n || exit 9; done; sync; sleep 100";
        let command = shell(script)
            .rw(folder.path(), "/workspace")
            .cwd("/workspace")
            .limits(limits);
        let outcome = sandbox.run_blocking(command, Output::captured());
        let said = outcome.message.clone().unwrap_or_default();
        assert_eq!(outcome.reason, Reason::Error, "{outcome:?}");
        assert!(said.contains("disk is nearly full"), "{outcome:?}");
        assert!(outcome.wall < Duration::from_secs(60), "{outcome:?}");
    }
}

/// Returns the most memory that this process ever had, in bytes.
fn own_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_gibibyte_of_output_leaves_memory_bounded_and_its_last_line() {
    let before = own_peak();
    for sandbox in backends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sink = FileSink::bounded(file.reopen().unwrap(), 4 * MIB, 4096);
        let output = Output::captured_together().together(Sink::File(sink));
        let script = "head -c 1073741824 /dev/zero | tr '\\0' x; echo; echo the true last line";
        let outcome = sandbox.run_blocking(shell(script), output);
        assert_eq!(outcome.reason, Reason::Completed, "{outcome:?}");
        let Capture {
            total_bytes,
            truncated,
            head,
            ..
        } = &outcome.stdout;
        assert_eq!((*total_bytes, *truncated, head[0]), (1_073_741_824 + 20, true, b'x'));
        assert_eq!(outcome.stdout.last_line().as_deref(), Some("the true last line"));
        let written = std::fs::read_to_string(file.path()).unwrap();
        assert!(written.ends_with("\nthe true last line\n"));
        assert!(written.len() as u64 <= 4 * MIB + 100, "{}", written.len());
    }
    // Other tests of this process take some of it.
    let grown = own_peak() - before;
    assert!(grown < 96 * MIB, "grew by {} MiB", grown / MIB);
}
