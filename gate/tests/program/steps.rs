//! Steps end as they should.

use std::path::Path;
use std::time::{Duration, Instant};

use gate::Verdict;
use gate::fixlog::FixLog;
use gate::report::StepOutcome;
use gate::verdict::FailCause;
use git::FileEdit;

use crate::runner::{Bench, step};

fn bench(script: &str) -> Bench {
    Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step("test", script)],
    )
}

#[test]
fn a_green_gate_passes_on_the_head() {
    let mut bench = bench("cat file; grep head file");
    let ran = bench.run();
    let Verdict::Pass { report } = &ran.verdict else {
        panic!("{:?}\n{}", ran.verdict, ran.printed);
    };
    let log = std::fs::read(ran.folder.join("evidence/gate.log")).unwrap();
    let digest = report.log.as_ref().unwrap();
    assert_eq!(digest.bytes, log.len() as u64);
    assert!(
        ran.printed.contains(&String::from_utf8(log).unwrap()),
        "the log is printed as it is stored"
    );
}

#[test]
fn git_works_in_the_work_tree_for_checks_of_generated_files() {
    let ran = bench("git diff --exit-code && echo more >> file && ! git diff --quiet").run();
    ran.assert_passed();
}

#[test]
fn the_first_failing_step_and_its_tail_are_reported_and_the_rest_still_runs() {
    let mut bench = bench("echo fine");
    bench.gate.steps = vec![
        step("format", "true"),
        step("build", "echo 'expected ; found }' >&2; exit 3"),
        step("test", "echo other trouble; exit 4"),
    ];
    let ran = bench.run();
    assert_eq!(ran.verdict.summary(), "step build failed with exit code 3");
    let report = ran.report();
    assert_eq!(report.steps.len(), 3);
    assert_eq!(report.tail, "expected ; found }");
    let fix = FixLog::of(&ran.verdict, None).unwrap();
    assert!(fix.render().contains("expected ; found }"));
}

#[test]
fn an_advisory_step_is_only_remarked() {
    let mut bench = bench("true");
    let mut lint = step("lint", "exit 1");
    lint.advisory = true;
    bench.gate.steps.insert(0, lint);
    let ran = bench.run();
    ran.assert_passed();
    assert_eq!(ran.report().steps[0].outcome, StepOutcome::Fail);
}

#[test]
fn a_step_that_overruns_its_timeout_fails_and_ends_at_once() {
    let mut bench = bench("echo started; sleep 600");
    bench.gate.steps[0].timeout_seconds = 1;
    let started = Instant::now();
    let ran = bench.run();
    assert!(matches!(&ran.verdict, Verdict::Fail { cause: FailCause::Timeout { name }, .. } if name == "test"));
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(ran.report().tail, "started");
}

#[test]
fn a_missing_program_is_an_error_and_is_not_tried_again() {
    let ran = bench("no-such-program-anywhere --check").run();
    assert_eq!(ran.error(), ("ProgramMissing".to_owned(), false));
    assert!(
        ran.verdict.summary().contains("no-such-program-anywhere"),
        "{}",
        ran.verdict.summary()
    );
    // A script of the branch that is missing is the branch's fault.
    let ran = bench("./no-such-script").run();
    assert_eq!(ran.verdict.summary(), "step test failed with exit code 127");
}

#[test]
fn a_daemon_is_gone_after_its_step() {
    let mut bench = bench("true");
    bench.gate.steps = vec![
        step(
            "start",
            "(setsid sh -c 'echo $$ > pid; exec sleep 1000' >/dev/null 2>&1 &) ; while ! test -s pid; do sleep 0.01; done",
        ),
        step("look", "! test -e /proc/$(cat pid)"),
    ];
    let ran = bench.run();
    ran.assert_passed();
    let pid = std::fs::read_to_string(ran.folder.join("work/pid")).unwrap();
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists());
}

#[test]
fn a_daemon_that_holds_the_output_open_does_not_hold_up_the_gate() {
    let started = Instant::now();
    let ran = bench("sleep 600 & echo done").run();
    ran.assert_passed();
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_gibibyte_of_output_costs_little_memory_and_keeps_its_last_line() {
    /// Peak resident memory that the program may have, whatever a step prints.
    const CAP_KIB: u64 = 96 << 10;
    let mut bench = bench("head -c 1073741824 /dev/zero | tr '\\0' 'x'; echo; echo the true last line; exit 1");
    // Its peak is read by the step after it, from the one process that judges both.
    bench.gate.steps.push(step("peak", "grep VmHWM /proc/$PPID/status"));
    let ran = bench.run();
    assert_eq!(ran.verdict.summary(), "step test failed with exit code 1");
    assert!(
        ran.report().tail.ends_with("the true last line"),
        "{}",
        ran.report().tail
    );
    let peak: u64 = ran
        .printed
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    assert!(peak < CAP_KIB, "peak of {peak} KiB");
    assert!(std::fs::metadata(ran.folder.join("evidence/gate.log")).unwrap().len() < 32 << 20);
}

#[test]
fn steps_see_no_variables_of_foreman() {
    let mut bench = bench("! env | grep FOREMAN_TOKEN && test \"$HOME\" != \"$OLD_HOME\"");
    bench.env.insert("FOREMAN_TOKEN".into(), "secret".into());
    let ran = bench.run();
    ran.assert_passed();
    assert!(!ran.printed.contains("secret"));
}

#[test]
fn a_commit_that_is_not_there_is_a_clone_error() {
    let mut bench = bench("true");
    std::fs::remove_dir_all(bench.root.path().join("repo.git/objects")).unwrap();
    let ran = bench.run();
    assert_eq!(ran.error(), ("CloneFailed".to_owned(), true));
}

#[test]
fn what_go_compiled_serves_the_next_step_until_one_may_have_run_code_of_the_branch() {
    let mut bench = bench("true");
    let bin = bench.root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let go = bin.join("go");
    std::fs::write(
        &go,
        "#!/bin/sh\nmkdir -p \"$GOCACHE\" && echo \"$1\" >> \"$GOCACHE/log\" && cat \"$GOCACHE/log\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&go, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench
        .env
        .insert("PATH".into(), format!("{}:{}", bin.display(), bench.env["PATH"]));
    let preset = gate::definition::resolve(None, &GoModule, &|_| Err("no file".into()), &[]).unwrap();
    let of_preset = |name: &str| preset.steps.iter().find(|step| step.name == name).unwrap().clone();
    bench.gate.steps = vec![
        of_preset("lint"),
        of_preset("build"),
        step(
            "compiled",
            "test \"$(cat \"$GOCACHE/log\")\" = \"$(printf 'vet\\nbuild')\"",
        ),
        step("run", "mkdir -p \"$GOCACHE\"; echo forged > \"$GOCACHE/log\""),
        step("judge", "! test -e \"$GOCACHE\""),
        of_preset("test"),
        step("after", "! test -e \"$GOCACHE\""),
    ];
    let ran = bench.run();
    ran.assert_passed();
}

/// A module that needs no other.
struct GoModule;

impl gate::definition::BaseTree for GoModule {
    fn exists(&self, path: &str) -> bool {
        path == "go.mod"
    }

    fn read(&self, path: &str, _: usize) -> Option<Vec<u8>> {
        self.exists(path).then(|| b"module example.org/m\n".to_vec())
    }
}
