//! Starting, ending, exit codes, output, environment, mounts.

use std::time::Duration;

use sandbox::{Exit, Output, Reason, Toolchain};

use crate::{backends, shell};

#[test]
fn output_exit_code_and_signal_come_back() {
    for sandbox in backends() {
        let run = |script| sandbox.run_blocking(shell(script), Output::captured());
        let good = run("echo out; echo err >&2");
        assert_eq!(good.reason, Reason::Completed, "{good:?}");
        assert_eq!(good.stdout.text(), "out\n");
        assert_eq!(good.stderr.text(), "err\n");
        assert_eq!(good.enforced.backend, sandbox.backend());
        let bad = run("exit 7");
        assert_eq!((bad.exit, bad.reason), (Exit::Code(7), Reason::Error));
        let killed = run("kill -9 $$");
        assert_eq!((killed.exit, killed.reason), (Exit::Signal(9), Reason::Error));
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    for sandbox in backends() {
        let command = sandbox::Command::new("no-such-program").toolchain(&Toolchain::host());
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert!(outcome.program_missing, "{outcome:?}");
        assert!(matches!(&outcome.reason, Reason::StartError(why) if why.contains("no-such-program")));
    }
}

#[test]
fn the_hosts_tools_run_without_network_and_home() {
    let found = Toolchain::host();
    let mut ran = 0;
    for sandbox in backends() {
        for script in [
            "cargo --version",
            "rustc --version",
            "git --version",
            "python3 -c 'print(1)'",
            "node -e 0",
            "go version",
            "cc --version",
        ] {
            let program = script.split(' ').next().unwrap();
            if found.find(program).is_none() {
                assert!(
                    !["cargo", "rustc", "git"].contains(&program),
                    "{program} is needed by the tests"
                );
                continue;
            }
            let outcome = sandbox.run_blocking(shell(script), Output::captured_together());
            assert!(
                outcome.success(),
                "{} {script}: {outcome:?} {}",
                sandbox.backend(),
                outcome.stdout.text()
            );
            println!("{} {script}: {:?}", sandbox.backend(), outcome.wall);
            ran += 1;
        }
    }
    assert!(ran >= 3);
}

#[test]
fn a_command_past_its_time_is_killed() {
    for sandbox in backends() {
        let command = shell("echo begun; sleep 60").wall(Duration::from_millis(300));
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(outcome.reason, Reason::TimedOut, "{outcome:?}");
        assert_eq!(outcome.stdout.text(), "begun\n");
        assert!(outcome.wall < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn output_that_is_taken_together_keeps_nobody_waiting() {
    for sandbox in backends() {
        // The slowest of several would hide nothing: each used to wait out the whole time for draining.
        let mut fastest = std::time::Duration::MAX;
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            let child = sandbox.spawn(shell("echo out; echo err >&2"), sandbox::Output::captured_together());
            let outcome = child.unwrap().wait().await;
            assert_eq!(outcome.stdout.text(), "out\nerr\n");
            fastest = fastest.min(begun.elapsed());
        }
        assert!(
            fastest < std::time::Duration::from_millis(1500),
            "{}: {fastest:?}",
            sandbox.backend()
        );
    }
}
