//! Nothing of a command outlives it, whatever ends it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use sandbox::{Backend, Output, Reason};

use crate::part::part;
use crate::{backends, shell};

/// Makes a number of seconds that no other process sleeps for, by which its sleepers are known.
fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "86400.{}{:03}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Returns the processes of the host that have a marker among their arguments.
fn sleepers(marker: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            args.split(|byte| *byte == 0)
                .eq([&b"sleep"[..], marker.as_bytes(), b""])
        })
        .collect()
}

/// Waits for a state of the host that comes by itself; fails when it does not.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon that forked twice, has a session of its own, ignores signals and closed its streams.
fn daemon(marker: &str) -> String {
    format!(
        "( ( trap '' HUP TERM; setsid sleep {marker} </dev/null >/dev/null 2>&1 & ) & ) ; \
         ( setsid sh -c 'sleep {marker} & sleep {marker}' >/dev/null 2>&1 & )"
    )
}

#[test]
fn a_daemon_is_gone_when_its_command_ends() {
    for sandbox in backends() {
        let marker = marker();
        // The command waits until the daemons run, so that there is something to be killed.
        let script = format!(
            "{}; while [ \"$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep {marker}' | wc -l)\" -lt 3 ]; do :; done; echo up",
            daemon(&marker)
        );
        let command = shell(&script).wall(Duration::from_secs(20));
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(sleepers(&marker), [0; 0], "{}", sandbox.backend());
        assert_eq!(
            (outcome.reason, outcome.stdout.text().as_str()),
            (Reason::Completed, "up\n")
        );
    }
}

#[test]
fn a_killed_parent_leaves_nothing_alive() {
    for sandbox in backends() {
        let marker = marker();
        let name = if sandbox.backend() == Backend::Namespaces {
            "parent-namespaces"
        } else {
            "parent-landlock"
        };
        let script = format!("{}; sleep {marker}", daemon(&marker));
        let (args, (key, value)) = part(&format!("{name} {script}"));
        let mut parent = std::process::Command::new("/proc/self/exe")
            .args(args)
            .env(key, value)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until("the command's processes", || sleepers(&marker).len() == 4);
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("their end", || sleepers(&marker).is_empty());
    }
}

#[test]
fn a_killed_supervisor_leaves_nothing_alive_and_is_reported() {
    for sandbox in backends() {
        let marker = marker();
        let script = format!("{}; sleep {marker}", daemon(&marker));
        let child = sandbox.spawn(shell(&script), Output::captured()).unwrap();
        until("the command's processes", || sleepers(&marker).len() == 4);
        std::process::Command::new("sh")
            .args(["-c", &format!("kill -9 {}", child.pid())])
            .status()
            .unwrap();
        let outcome = child.wait_blocking();
        assert!(matches!(outcome.reason, Reason::StartError(_)), "{outcome:?}");
        until("their end", || sleepers(&marker).is_empty());
    }
}

#[test]
fn kill_and_drop_end_a_command() {
    for sandbox in backends() {
        let marker = marker();
        let script = format!("trap '' TERM INT HUP; {}; sleep {marker}", daemon(&marker));
        let child = sandbox.spawn(shell(&script), Output::captured()).unwrap();
        until("the command's processes", || sleepers(&marker).len() == 4);
        child.kill();
        assert_eq!(child.wait_blocking().reason, Reason::Cancelled);
        assert_eq!(sleepers(&marker), [0; 0]);
        let child = sandbox.spawn(shell(&script), Output::captured()).unwrap();
        until("the command's processes", || sleepers(&marker).len() == 4);
        drop(child);
        until("their end", || sleepers(&marker).is_empty());
    }
}

#[test]
fn a_dropped_future_ends_its_command() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for sandbox in backends() {
        let marker = marker();
        runtime.block_on(async {
            let command = shell(&format!("sleep {marker}"));
            let run = sandbox.run(command, Output::captured());
            let seen = async {
                while sleepers(&marker).is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                outcome = run => panic!("ended by itself: {outcome:?}"),
                () = seen => {}
            }
        });
        until("its end", || sleepers(&marker).is_empty());
        let done = runtime.block_on(sandbox.run(shell("echo done"), Output::captured()));
        assert_eq!(done.stdout.text(), "done\n");
    }
}

#[test]
fn a_sandbox_inside_a_sandbox_works() {
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    for sandbox in backends() {
        for nesting in [false, true] {
            let (args, (key, value)) = part("nested echo from inside; cat /workspace/secret");
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("secret"), "of the outer sandbox").unwrap();
            let command = sandbox::Command::new("/opt/self")
                .args(args)
                .env(key, value)
                .toolchain(&sandbox::Toolchain::host())
                .ro(&own, "/opt/self")
                .rw(folder.path(), "/workspace")
                .nesting(nesting);
            let outcome = sandbox.run_blocking(command, Output::captured_together());
            let text = outcome.stdout.text();
            assert!(outcome.success(), "{} {nesting}: {text} {outcome:?}", sandbox.backend());
            let inner = text.lines().find(|line| line.starts_with("NESTED ")).unwrap();
            println!("{} (nesting {nesting}): {text}", sandbox.backend());
            // Root of the machine keeps its settings in /proc covered, which forbids a second /proc.
            let own_user = std::fs::metadata("/proc/self").unwrap().uid();
            if nesting && own_user != 0 && sandbox.backend() == Backend::Namespaces {
                assert!(inner.starts_with("NESTED namespaces "), "{text}");
            }
            assert!(inner.contains("Error from inside"), "{inner}");
            assert!(!text.contains("of the outer sandbox"), "{text}");
        }
    }
}

#[test]
fn a_command_that_is_killed_before_its_supervisor_knows_it_ends_cancelled() {
    for sandbox in backends() {
        for _ in 0..10 {
            // So much takes longer to be handed over than it takes to ask for the end.
            let command = shell("sleep 1000")
                .stdin(vec![0; 8 << 20])
                .wall(Duration::from_secs(20));
            let child = sandbox.spawn(command, Output::captured()).unwrap();
            child.kill();
            let outcome = child.wait_blocking();
            assert_eq!(outcome.reason, Reason::Cancelled, "{outcome:?}");
        }
    }
}

#[test]
fn private_folders_go_whatever_was_made_in_them() {
    for sandbox in backends() {
        // Deeper than a stack or a table of descriptors, closed, and with names that no line holds.
        let script = "cd /tmp; pwd; mkdir -p closed/inner \"$(printf 'two\\nlines')\"; touch closed/inner/x; \
                      ln -s / closed/root; chmod 0 closed/inner closed; \
                      perl -e 'for (1..3000) { mkdir \"d\" and chdir \"d\" or die }'; cd /tmp; chmod 0 .";
        let outcome = sandbox.run_blocking(shell(script), Output::captured());
        assert_eq!(outcome.reason, Reason::Completed, "{outcome:?}");
        let folder = std::path::PathBuf::from(outcome.stdout.text().trim());
        // In a private root it goes with the root.
        assert!(
            sandbox.backend() == Backend::Namespaces || !folder.exists(),
            "{}",
            folder.display()
        );
    }
}

#[test]
fn what_forks_while_it_is_killed_is_gone() {
    for sandbox in backends()
        .into_iter()
        .flat_map(|one| [one.clone(), one.without_cgroups()])
    {
        let marker = marker();
        let script = format!("bomb() {{ setsid sleep {marker} & bomb & bomb & }}; bomb; wait; sleep 1000");
        let limits = sandbox::Limits {
            pids: Some(200),
            wall: Some(Duration::from_secs(3)),
            ..sandbox::Limits::default()
        };
        let outcome = sandbox.run_blocking(shell(&script).limits(limits), Output::discard());
        assert_eq!(sleepers(&marker), [0; 0], "{} {outcome:?}", sandbox.backend());
        assert_ne!(outcome.reason, Reason::Completed, "{outcome:?}");
    }
}

#[test]
fn signals_reach_the_own_processes_also_where_a_kernel_has_no_scope_for_them() {
    for sandbox in backends() {
        let sandbox = sandbox.with_landlock_at_most(5);
        let script = "sleep 1000 & kill $!; wait $!; echo $?; \
                      setsid sh -c 'sleep 1000 & sleep 1000' & pid=$!; \
                      while ! kill -9 -$pid 2>/dev/null; do :; done; wait $pid; echo $?; \
                      perl -e 'use POSIX; POSIX::raise(SIGUSR1)'; echo $?; kill -9 $$";
        let outcome = sandbox.run_blocking(shell(script).wall(Duration::from_secs(20)), Output::captured());
        assert_eq!(
            outcome.stdout.text(),
            "143\n137\n138\n",
            "{} {outcome:?}",
            sandbox.backend()
        );
        assert_eq!(outcome.exit, sandbox::Exit::Signal(9), "{outcome:?}");
    }
}

#[test]
fn a_supervisor_that_cannot_keep_the_input_says_so() {
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    for sandbox in backends() {
        let (args, (key, value)) = part("nested-input cat");
        // Where nobody counts it, there is no memory that nobody maps, and so none for the inner command's input.
        let command = sandbox::Command::new("/opt/self")
            .args(args)
            .env(key, value)
            .toolchain(&sandbox::Toolchain::host())
            .ro(&own, "/opt/self")
            .memory(1 << 30);
        let outcome = sandbox
            .without_cgroups()
            .run_blocking(command, Output::captured_together());
        let text = outcome.stdout.text();
        let because = text
            .lines()
            .find(|line| line.starts_with("BECAUSE "))
            .unwrap_or_default();
        assert!(
            because.contains("failed to keep the standard input"),
            "{text} {outcome:?}"
        );
        assert!(because.ends_with(" of landlock"), "{text}");
    }
}

#[test]
fn a_sandbox_inside_one_that_is_asked_about_signals_keeps_them_to_itself() {
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    for sandbox in backends() {
        let script = "sleep 1000 & kill $! 2>/dev/null && echo reached || echo kept";
        let (args, (key, value)) = part(&format!("nested-old {script}"));
        let command = sandbox::Command::new("/opt/self")
            .args(args)
            .env(key, value)
            .toolchain(&sandbox::Toolchain::host())
            .ro(&own, "/opt/self")
            .wall(Duration::from_secs(20));
        let backend = sandbox.backend();
        let outcome = sandbox
            .with_landlock_at_most(5)
            .run_blocking(command, Output::captured());
        let text = outcome.stdout.text();
        let inner = text
            .lines()
            .find(|line| line.starts_with("NESTED "))
            .unwrap_or_default();
        // A process has one to ask: the outer init has it already, where it is asked at all.
        let expected = if backend == Backend::Landlock {
            "kept"
        } else {
            "reached"
        };
        assert_eq!(
            inner,
            format!("NESTED landlock Completed {expected}"),
            "{text} {outcome:?}"
        );
    }
}
