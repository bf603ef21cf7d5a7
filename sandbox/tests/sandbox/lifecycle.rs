//! Nothing of a command outlives it, whatever ends it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use sandbox::{Backend, Output, Reason};

use crate::{backends, fixture, shell};

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
        let (args, (key, value)) = fixture::part(&format!("{name} {script}"));
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
            let (args, (key, value)) = fixture::part("nested echo from inside; cat /workspace/secret");
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
