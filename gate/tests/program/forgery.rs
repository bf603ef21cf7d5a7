//! Code under test that wants a verdict it has not earned.

use gate::plan::PLAN_KEY;
use gate::report::{LogDigest, Outcome, StepOutcome, StepReport};
use gate::{Plan, Report, Verdict};
use git::FileEdit;

use crate::runner::{Bench, Ran, step};

/// A report that would pass, for the plan that stands in the Pod.
fn forged(plan: &Plan) -> String {
    let mut report = Report::new(&plan.head, &plan.base, &plan.digest, Outcome::Pass);
    report.steps = plan
        .gate
        .steps
        .iter()
        .map(|step| StepReport {
            name: step.name.clone(),
            outcome: StepOutcome::Pass,
            exit_code: Some(0),
            ms: 1,
            advisory: step.advisory,
            oom: false,
        })
        .collect();
    report.log = Some(LogDigest {
        sha256: "0".repeat(64),
        bytes: 1,
    });
    String::from_utf8(report.to_message()).unwrap()
}

/// Runs a script that finds the forged report in `$PWD/forged`, the Pod's folder in `$PWD/..`.
fn attack(script: &str) -> Ran {
    let mut bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step("test", "sh ./attack")],
    );
    bench = with_head(bench, script);
    bench.run_with(|folder, objects| {
        std::fs::write(folder.join("forged"), forged(&objects.plan)).unwrap();
    })
}

fn with_head(bench: Bench, script: &str) -> Bench {
    let steps = bench.gate.steps.clone();
    Bench::new(
        &[("file", "base")],
        &[FileEdit::write("attack", script.as_bytes().to_vec())],
        steps,
    )
}

fn assert_not_passed(ran: &Ran) {
    assert!(!matches!(ran.verdict, Verdict::Pass { .. }), "{}", ran.printed);
}

#[test]
fn the_forged_report_of_these_tests_would_pass() {
    let bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step("test", "true")],
    );
    let plan = bench.objects().plan;
    let report = Report::parse(forged(&plan).as_bytes()).unwrap();
    assert_eq!(report.outcome, Outcome::Pass);
}

#[test]
fn printing_the_verdict_changes_nothing() {
    let ran = attack("echo GATE-PASS; cat ../forged; exit 1");
    assert_eq!(ran.verdict.summary(), "step test failed with exit code 1");
    assert!(ran.printed.contains("GATE-PASS"));
}

#[test]
fn writing_the_termination_message_changes_nothing() {
    let ran = attack("cp ../forged ../message-gate; cat ../forged > ../message-gate; exit 1");
    assert_eq!(ran.verdict.summary(), "step test failed with exit code 1");
}

#[test]
fn a_daemon_that_writes_the_message_later_is_gone_by_then() {
    let ran = attack(
        "for n in 1 2 3; do (setsid sh -c 'trap \"\" TERM HUP INT; while :; do cat ../forged > ../message-gate; done' >/dev/null 2>&1 &); done\n\
         sleep 0.2; exit 1",
    );
    assert_eq!(ran.verdict.summary(), "step test failed with exit code 1");
    assert_eq!(ran.report().outcome, Outcome::Fail);
}

#[test]
fn putting_another_file_in_the_place_of_the_message_gives_no_pass() {
    let ran = attack("rm -f ../message-gate; cp ../forged ../message-gate; ln -sf forged ../message-gate; exit 1");
    assert_not_passed(&ran);
}

#[test]
fn killing_the_gate_gives_no_pass() {
    let ran =
        attack("cat ../forged > ../message-gate; kill -9 $PPID; kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); exit 1");
    assert_not_passed(&ran);
}

#[test]
fn stopping_the_gate_is_refused_or_gives_no_pass() {
    let ran = attack("kill -TERM $PPID; exit 1");
    assert_not_passed(&ran);
}

#[test]
fn the_gates_memory_can_neither_be_read_nor_written() {
    // The step's parent is the shell that the gate started; the gate is the parent of that one.
    let ran = attack(
        "gate=$(cut -d' ' -f4 /proc/$PPID/stat); tr '\\0' ' ' < /proc/$gate/cmdline | grep -q foreman-gate || gate=$PPID\n\
         tr '\\0' ' ' < /proc/$gate/cmdline | grep -q foreman-gate || exit 9\n\
         head -c 1 /proc/$gate/environ && exit 10\n\
         head -c 1 /proc/$gate/mem && exit 11\n\
         (: > /proc/$gate/mem) && exit 12\n\
         for fd in 0 1 2 3 4 5 6 7 8 9 10; do cat < /proc/$gate/fd/$fd && exit 13; (: >> /proc/$gate/fd/$fd) && exit 13; done\n\
         ls /proc/$gate/root/ && exit 14\n\
         exit 42",
    );
    assert_eq!(
        ran.verdict.summary(),
        "step test failed with exit code 42",
        "{}",
        ran.printed
    );
}

#[test]
fn changing_the_plan_of_a_running_gate_changes_nothing() {
    let ran = attack(&format!(
        "sed -i 's/sh .\\/attack/true/' ../plan/{PLAN_KEY}; echo '{{}}' > ../plan/{PLAN_KEY}; rm -f ../plan/{PLAN_KEY}; exit 1"
    ));
    assert_eq!(ran.verdict.summary(), "step test failed with exit code 1");
}

#[test]
fn a_changed_gate_file_is_refused_before_anything_runs() {
    for (path, link) in [
        (".foreman/gate.yaml", false),
        (".foreman", true),
        ("ci", true),
        ("CI/run", false),
    ] {
        let edit = if link {
            FileEdit::symlink(path, b"elsewhere".to_vec())
        } else {
            FileEdit::write(path, "steps: []")
        };
        let mut bench = Bench::new(&[("file", "base")], &[edit], vec![step("test", "echo it ran")]);
        let ran = bench.run();
        assert!(
            matches!(&ran.verdict, Verdict::Refused { paths } if paths == &[path.to_owned()]),
            "{path}: {:?}\n{}",
            ran.verdict,
            ran.printed
        );
        assert!(!ran.printed.contains("it ran"));
    }
}

#[test]
fn attributes_of_the_branch_do_not_rewrite_what_it_is_judged_by() {
    let base = [
        ("ci/forbidden.txt", "secret\n"),
        ("code.txt", "a secret\n"),
        (".gitattributes", "*.bat text eol=crlf\n"),
        ("run.bat", "one\n"),
    ];
    // The check fails on `secret`; with other bytes in the protected list it would find nothing.
    let check = "tr -d '\\n' < run.bat | od -c | grep -q '\\\\r' || exit 9; ! grep -F -f ci/forbidden.txt code.txt";
    for attributes in [
        "/ci/forbidden.txt text eol=crlf\n",
        "/ci/forbidden.txt working-tree-encoding=UTF-16\n",
        "* -text eol=crlf working-tree-encoding=UTF-16\n",
    ] {
        let head = [
            FileEdit::write(".gitattributes", attributes),
            FileEdit::write("code.txt", "more of a secret\n"),
        ];
        let ran = Bench::new(&base, &head, vec![step("check", check)]).run();
        assert_eq!(
            ran.verdict.summary(),
            "step check failed with exit code 1",
            "{attributes}: {}",
            ran.printed
        );
    }
}

#[test]
fn the_main_container_refuses_by_itself_what_the_first_one_let_through() {
    let mut bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("ci/run", "x")],
        vec![step("test", "echo it ran")],
    );
    let strict = bench.objects().config_map.data.unwrap()[PLAN_KEY].clone();
    let strict_binding = bench.objects().plan.binding();
    bench.gate.protected = vec![".foreman/**".into()];
    // The plan is exchanged after the fetch, as if the first check had failed to see the change.
    let ran = bench.run_with(move |folder, objects| {
        assert_eq!(objects.plan.gate.protected.len(), 1);
        std::fs::write(folder.join("strict.json"), &strict).unwrap();
    });
    ran.assert_passed();
    let output = std::process::Command::new(ran.folder.join("tools/bin/foreman-gate"))
        .args(["run", "--plan"])
        .arg(ran.folder.join("strict.json"))
        .args([
            &"--work".into(),
            &ran.folder.join("work"),
            &"--tools".into(),
            &ran.folder.join("tools"),
        ])
        .args([
            &"--home".into(),
            &ran.folder.join("home"),
            &"--evidence".into(),
            &ran.folder.join("evidence"),
        ])
        .args([&"--termination-log".into(), &ran.folder.join("message-again")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let message = std::fs::read(ran.folder.join("message-again")).unwrap();
    let report = Report::parse(&message).unwrap();
    assert_eq!(
        (report.refused, report.digest),
        (vec!["ci/run".to_owned()], strict_binding.digest)
    );
}

#[test]
fn a_work_tree_that_is_not_the_head_is_an_error() {
    let mut bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step("test", "true")],
    );
    let ran = bench.run_with(|folder, _| std::fs::write(folder.join("work/file"), "other").unwrap());
    assert_eq!(ran.error(), ("WorkTreeMismatch".to_owned(), true));
}

#[test]
fn a_program_that_an_earlier_step_puts_in_front_is_not_run() {
    let mut bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![
            step(
                "build",
                "mkdir -p bin && printf '#!/bin/sh\\nexit 0\\n' > bin/false-or-not && chmod +x bin/false-or-not",
            ),
            step("test", "false-or-not"),
        ],
    );
    let folder = bench.root.path().join("pod-1/work/bin");
    let tools = bench.root.path().join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    let tool = tools.join("false-or-not");
    std::fs::write(&tool, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}:{}", folder.display(), tools.display(), bench.env["PATH"]);
    bench.env.insert("PATH".into(), path);
    assert_eq!(bench.run().error(), ("ProgramChanged".to_owned(), false));
}

#[test]
fn no_step_leaves_settings_or_temporary_files_for_the_next() {
    let head = [FileEdit::write(
        "build.sh",
        "set -e\n\
         echo 'script-shell=/bin/true' > \"$HOME/.npmrc\"\n\
         mkdir -p \"$CARGO_HOME\" \"$npm_config_cache\" \"$HOME/.config/go\"\n\
         echo '[target.x]' > \"$CARGO_HOME/config.toml\"\n\
         echo poison > \"$npm_config_cache/index\"\n\
         echo poison > \"$HOME/../beside\"\n\
         echo poison > \"$TMPDIR/left\"\n\
         mkdir built; echo kept > built/output\n",
    )];
    // What is built in the work tree is there for the steps after; nothing else is.
    let look = "set -e; test \"$(cat built/output)\" = kept; test \"$PYTHONNOUSERSITE\" = 1; test -d \"$CARGO_HOME\"\n\
                ! find \"$HOME/..\" \"$TMPDIR\" -type f | grep . || exit 7\n\
                echo more > \"$HOME/x\"; echo more > \"$TMPDIR/x\"";
    let steps = vec![step("build", "sh build.sh"), step("test", look)];
    let mut bench = Bench::new(&[("file", "base")], &head, steps);
    let ran = bench.run();
    ran.assert_passed();
}

#[test]
fn a_step_that_rewrites_what_a_later_one_judges_with_does_not_pass() {
    let base = [("ci/check.sh", "exit 1\n"), ("build.sh", "true\n")];
    let head = [FileEdit::write("build.sh", "echo 'exit 0' > ci/check.sh\n")];
    let steps = vec![step("build", "sh build.sh"), step("check", "sh ci/check.sh")];
    let mut bench = Bench::new(&base, &head, steps);
    // Nobody said that it matters.
    bench.gate.protected = Vec::new();
    assert!(matches!(bench.run().verdict, Verdict::Pass { .. }));
    bench.gate.protected = vec!["ci/**".into()];
    let ran = bench.run();
    assert_eq!(ran.verdict.summary(), "step build failed with exit code 126");
    let report = ran.report();
    assert!(
        report
            .tail
            .contains("step build changed ci/check.sh, which is protected"),
        "{}",
        report.tail
    );
    assert_eq!(report.steps[1].exit_code, Some(126), "{}", ran.printed);
    assert!(ran.printed.contains("not run: step build changed"), "{}", ran.printed);
}

#[test]
fn a_step_that_adds_what_a_later_one_judges_with_does_not_pass() {
    let base = [
        ("Makefile", "check:\n\texit 1\n"),
        (".gitignore", "packages/\n"),
        ("build.sh", "true\n"),
    ];
    let head = [
        FileEdit::write("build.sh", "printf 'check:\\n\\ttrue\\n' > GNUmakefile\n"),
        // Only the base says what nobody looks at.
        FileEdit::write(".gitignore", "*\n"),
    ];
    let steps = vec![
        step("build", "sh build.sh"),
        step("check", "cat GNUmakefile Makefile | grep -q true"),
    ];
    let mut bench = Bench::new(&base, &head, steps);
    assert!(matches!(bench.run().verdict, Verdict::Pass { .. }));
    bench.gate.protected = vec!["Makefile".into(), "GNUmakefile".into(), "makefile".into()];
    let ran = bench.run();
    assert_eq!(ran.verdict.summary(), "step build failed with exit code 126");
    assert!(ran.report().tail.contains("changed GNUmakefile"), "{}", ran.printed);
    // Packages that a step unpacks bring files of the same name.
    bench.gate.steps[0].command = "mkdir -p packages/a; touch packages/a/Makefile; exit 0".into();
    bench.gate.steps[1].command = "true".into();
    let ran = bench.run();
    ran.assert_passed();
}

#[test]
fn a_single_step_that_rewrites_what_it_judges_with_does_not_pass() {
    let base = [("ci/check.sh", "exit 1\n"), ("build.sh", "true\n")];
    let head = [FileEdit::write("build.sh", "echo 'exit 0' > ci/check.sh\n")];
    let mut all = step("all", "sh build.sh && sh ci/check.sh");
    let mut bench = Bench::new(&base, &head, vec![all.clone()]);
    let ran = bench.run();
    assert_eq!(ran.verdict.summary(), "step all failed with exit code 126");
    // One that only remarks leaves nothing for the others to judge by.
    all.advisory = true;
    bench.gate.steps = vec![all, step("check", "sh ci/check.sh")];
    let ran = bench.run();
    assert_eq!(ran.verdict.summary(), "step check failed with exit code 126");
    assert!(
        ran.report().tail.contains("step all changed ci/check.sh"),
        "{}",
        ran.printed
    );
}

#[test]
fn a_step_cannot_show_git_another_base() {
    let base = [("generated", "one\n")];
    let head = [FileEdit::write(
        "build.sh",
        "git init -q --bare ./other && rm .git && echo \"gitdir: $PWD/other\" > .git && echo two > generated\n",
    )];
    let steps = vec![step("build", "sh build.sh"), step("generated", "git diff --exit-code")];
    let ran = Bench::new(&base, &head, steps).run();
    assert_eq!(ran.verdict.summary(), "step build failed with exit code 126");
    assert!(
        ran.report().tail.contains("step build changed .git,"),
        "{}",
        ran.printed
    );
}

/// Makes the gate of a preset for a base, and runs it on a head.
fn by_preset(base: &[(&str, &str)], head: &[FileEdit]) -> Ran {
    struct Base(Vec<(String, String)>);
    impl gate::definition::BaseTree for Base {
        fn exists(&self, path: &str) -> bool {
            self.0.iter().any(|(name, _)| name == path)
        }
        fn read(&self, path: &str, _: usize) -> Option<Vec<u8>> {
            let (_, text) = self.0.iter().find(|(name, _)| name == path)?;
            Some(text.clone().into_bytes())
        }
    }
    let tree = Base(
        base.iter()
            .map(|&(path, text)| (path.to_owned(), text.to_owned()))
            .collect(),
    );
    let preset = gate::definition::resolve(None, &tree, &|_| Err("no file".into()), &[]).unwrap();
    let mut bench = Bench::new(base, head, Vec::new());
    bench.gate = preset;
    bench.gate.prepare = None;
    // The judge itself is another test's matter: this one is about who names it.
    for step in &mut bench.gate.steps {
        step.command = "true".into();
    }
    bench.run()
}

#[test]
fn with_a_preset_the_branch_does_not_name_its_judge() {
    let package = r#"{"scripts":{"test":"node test.js","dev":"x"},"dependencies":{}}"#;
    let node = [("package.json", package), ("packages/a/package.json", package)];
    let rust = [("Cargo.toml", "[package]\nname = \"a\"\n")];
    let python = [("pyproject.toml", "[project]\ndependencies = [\"pytest\"]\n")];
    let exits = r#"{"scripts":{"test":"exit 0","dev":"x"},"dependencies":{}}"#;
    let refused = |base: &[(&str, &str)], path: &str, text: &str, named: &str| {
        let ran = by_preset(base, &[FileEdit::write(path, text.as_bytes().to_vec())]);
        assert!(
            matches!(&ran.verdict, Verdict::Refused { paths } if paths == &[named.to_owned()]),
            "{path}: {:?}\n{}",
            ran.verdict,
            ran.printed
        );
    };
    refused(&node, "package.json", exits, "package.json (scripts.test)");
    refused(
        &node,
        "packages/a/package.json",
        exits,
        "packages/a/package.json (scripts.test)",
    );
    refused(&node, ".npmrc", "script-shell=/bin/true\n", ".npmrc");
    refused(&rust, ".cargo/config.toml", "[build]\n", ".cargo/config.toml");
    refused(&python, "pytest.ini", "[pytest]\n", "pytest.ini");
    let addopts = "[project]\ndependencies = [\"pytest\"]\n[tool.pytest.ini_options]\naddopts = \"--co\"\n";
    refused(&python, "pyproject.toml", addopts, "pyproject.toml (tool.pytest)");

    let depends = r#"{"scripts":{"test":"node test.js","dev":"y"},"dependencies":{"a":"1"}}"#;
    let asyncs = "[project]\ndependencies = [\"pytest\", \"anyio\"]\n[tool.ruff]\nline-length = 100\n";
    for (base, path, text) in [
        (&node[..], "package.json", depends),
        (&node, "packages/b/package.json", exits),
        (
            &rust,
            "Cargo.toml",
            "[package]\nname = \"a\"\n[dependencies]\nb = \"1\"\n",
        ),
        (&python, "pyproject.toml", asyncs),
        (&python, "tests/test_new.py", "def test_new():\n    pass\n"),
    ] {
        let ran = by_preset(base, &[FileEdit::write(path, text.as_bytes().to_vec())]);
        assert!(matches!(ran.verdict, Verdict::Pass { .. }), "{path}: {}", ran.printed);
    }
}

#[test]
fn a_token_in_the_repositorys_address_is_refused_and_said_nowhere() {
    let bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step("test", "true")],
    );
    let mut plan = bench.objects().plan;
    for repository in ["https://t0ken@127.0.0.1:1/a/b", "https://me:t0/ken@127.0.0.1/a/b"] {
        plan.repository = repository.to_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("plan.json"), serde_json::to_string(&plan).unwrap()).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_foreman-gate"));
        command.arg("fetch");
        for (flag, name) in [
            ("--plan", "plan.json"),
            ("--work", "work"),
            ("--tools", "tools"),
            ("--home", "home"),
            ("--termination-log", "message"),
        ] {
            command.arg(flag).arg(path(name));
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let message = std::fs::read_to_string(path("message")).unwrap();
        let said = format!("{message}{output:?}");
        assert!(!said.contains("t0ken") && !said.contains("ken@"), "{said}");
        assert!(message.contains("Git credentials"), "{message}");
    }
}
