//! The containers as the Job runner of one machine starts them: in each sandbox that works here.

use gate::Verdict;
use gate::verdict::FailCause;
use git::FileEdit;
use sandbox::{Availability, Backend, Sandbox};

use crate::runner::{Bench, Ran, step};

/// Runs `check` on a fresh bench in every sandbox that works here; at least one must.
fn in_every_sandbox(script: &str, check: impl Fn(Backend, &mut Bench)) {
    let probe = sandbox::probe();
    let mut ran = 0;
    for backend in [Backend::Namespaces, Backend::Landlock] {
        if let Availability::Missing(why) = probe.availability(backend) {
            println!("{backend}: {why}");
            continue;
        }
        let mut bench = Bench::new(
            &[("file", "base")],
            &[FileEdit::write("file", "head"), FileEdit::write("attack", script)],
            vec![step("test", "sh ./attack")],
        );
        bench.sandbox = Some(Sandbox::with_backend(backend).unwrap());
        check(backend, &mut bench);
        ran += 1;
    }
    assert!(ran > 0, "no sandbox works on this machine");
}

fn explain(backend: Backend, ran: &Ran) -> String {
    format!("{backend}: {:?}\n{}", ran.verdict, ran.printed)
}

#[test]
fn a_gate_passes_and_fails_in_every_sandbox() {
    in_every_sandbox("grep head file && git diff --exit-code", |backend, bench| {
        let ran = bench.run();
        assert!(
            matches!(ran.verdict, Verdict::Pass { .. }),
            "{}",
            explain(backend, &ran)
        );
        bench.gate.steps.push(step("more", "grep -q base file"));
        let ran = bench.run();
        assert_eq!(
            ran.verdict.summary(),
            "step more failed with exit code 1",
            "{}",
            explain(backend, &ran)
        );
    });
}

#[test]
fn forged_messages_and_killed_parents_do_not_pass_in_any_sandbox() {
    let script = "echo '{\"format\":\"foreman-gate/1\"}' > /dev/termination-log\n\
        kill -9 $PPID; kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); kill -9 -1\n\
        exit 1";
    in_every_sandbox(script, |backend, bench| {
        let ran = bench.run();
        assert!(
            !matches!(ran.verdict, Verdict::Pass { .. }),
            "{}",
            explain(backend, &ran)
        );
    });
}

#[test]
fn steps_killed_at_the_memory_limit_fail_and_the_limit_is_named() {
    // Twice the limit, through forked children that each hold a part of it.
    let script =
        "for n in 1 2 3 4; do (x=$(head -c 134217728 /dev/zero | tr '\\0' x); sleep 30; echo ${#x}) & done; wait";
    in_every_sandbox(script, |backend, bench| {
        bench.gate.resources.memory_limit = "256Mi".into();
        bench.memory_bytes = Some(256 << 20);
        let ran = bench.run();
        match &ran.verdict {
            Verdict::Fail {
                cause: FailCause::OutOfMemory { limit },
                ..
            } => assert_eq!(limit, "256Mi"),
            _ => panic!("{}", explain(backend, &ran)),
        }
    });
}

#[test]
fn a_cache_is_filled_and_used_in_every_sandbox() {
    in_every_sandbox("grep packages \"$FOREMAN_CACHE/kept\"", |backend, bench| {
        bench.prepare("echo packages > \"$FOREMAN_CACHE/kept\"");
        let prepared = bench.run_prepare();
        gate::verdict::judge_prepare(&prepared.outcome)
            .unwrap_or_else(|failure| panic!("{failure:?} {}", explain(backend, &prepared)));
        let ran = bench.run();
        assert!(
            matches!(ran.verdict, Verdict::Pass { .. }),
            "{}",
            explain(backend, &ran)
        );
    });
}

#[test]
fn no_step_leaves_anything_beside_the_work_tree_in_any_sandbox() {
    let leave =
        "for folder in \"$HOME\" \"$TMPDIR\" /dev/shm; do echo left > \"$folder/left\"; done; echo built > output";
    in_every_sandbox(leave, |backend, bench| {
        if backend == Backend::Namespaces {
            bench.gate.steps.push(step("memory", "echo mine > /dev/shm/mine"));
        }
        let look = "grep built output && ! find \"$HOME\" \"$TMPDIR\" /dev/shm -name left -o -name mine | grep .";
        bench.gate.steps.push(step("look", look));
        let ran = bench.run();
        assert!(
            matches!(ran.verdict, Verdict::Pass { .. }),
            "{}",
            explain(backend, &ran)
        );
    });
}
