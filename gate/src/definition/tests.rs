#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::BTreeMap;

use schemas::gate_definition::{GateStep, Prepare};

use super::*;

pub(crate) struct FakeTree(pub BTreeMap<String, Vec<u8>>);

impl FakeTree {
    fn of(files: &[(&str, &str)]) -> Self {
        Self(
            files
                .iter()
                .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
                .collect(),
        )
    }
}

impl BaseTree for FakeTree {
    fn exists(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn read(&self, path: &str, max: usize) -> Option<Vec<u8>> {
        self.0.get(path).filter(|bytes| bytes.len() <= max).cloned()
    }
}

/// The YAML parser is another room's; these tests hand over JSON, which is YAML too.
fn parse(bytes: &[u8]) -> Result<GateDefinition, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{}:{}: {error}", error.line(), error.column()))
}

fn find(profile: Option<&GateProfile>, files: &[(&str, &str)]) -> Result<ResolvedGate, GateError> {
    resolve(profile, &FakeTree::of(files), &parse, &[])
}

fn commands(gate: &ResolvedGate) -> Vec<(&str, &str)> {
    gate.steps
        .iter()
        .map(|step| (step.name.as_str(), step.command.as_str()))
        .collect()
}

const FILE: &str = r#"{"steps":[{"name":"all","command":"make check"}],"protectedPaths":["ci/**"]}"#;

#[test]
fn the_profile_goes_before_the_file_and_the_file_before_the_preset() {
    let tree = [("Cargo.toml", "[package]"), (GATE_FILE, FILE)];
    let profile = GateProfile {
        language: Some(GateLanguage::Generic),
        commands: Some(GateCommands {
            test: Some("./run-tests".into()),
            ..GateCommands::default()
        }),
        ..GateProfile::default()
    };
    let gate = find(Some(&profile), &tree).unwrap();
    assert_eq!(gate.source, Source::Profile);
    assert_eq!(commands(&gate), [("test", "./run-tests")]);
    assert_eq!(
        gate.protected,
        [".foreman/**", "ci/**"],
        "rules of the base hold for a profile too"
    );

    let gate = find(None, &tree).unwrap();
    assert_eq!(gate.source, Source::File);
    assert_eq!(commands(&gate), [("all", "make check")]);

    let gate = find(Some(&GateProfile::default()), &tree[..1]).unwrap();
    assert_eq!(gate.source, Source::Preset("rust".into()));
}

#[test]
fn every_command_of_a_profile_replaces_the_presets() {
    let profile = GateProfile {
        commands: Some(GateCommands {
            test: Some("cargo nextest run".into()),
            format: Some(String::new()),
            codegen_check: Some("./gen --check".into()),
            ..GateCommands::default()
        }),
        image: Some("registry.example/rust:1".into()),
        ..GateProfile::default()
    };
    let gate = find(Some(&profile), &[("Cargo.toml", "[package]\nname = \"a\"")]).unwrap();
    assert_eq!(
        commands(&gate),
        [
            ("build", "cargo build --workspace --all-targets"),
            ("test", "cargo nextest run"),
            ("codegenCheck", "./gen --check"),
        ]
    );
    assert_eq!(gate.image, "registry.example/rust:1");
}

#[test]
fn presets_prepare_only_what_must_be_downloaded() {
    let prepared = |files: &[(&str, &str)]| find(None, files).unwrap().prepare.map(|prepare| prepare.command);
    assert_eq!(
        prepared(&[("Cargo.toml", "[package]\nname=\"a\"\n[dependencies]\n")]),
        None
    );
    assert_eq!(
        prepared(&[("Cargo.toml", "[dependencies]\nserde = \"1\"")]).as_deref(),
        Some("cargo fetch")
    );
    assert_eq!(
        prepared(&[("Cargo.toml", ""), ("Cargo.lock", "source = \"registry+x\"")]).as_deref(),
        Some("cargo fetch --locked")
    );
    assert_eq!(prepared(&[("go.mod", "module a\n")]), None);
    assert_eq!(
        prepared(&[("go.mod", "module a\nrequire b v1.0.0\n")]).as_deref(),
        Some("go mod download")
    );
    assert_eq!(prepared(&[("package.json", r#"{"scripts":{"test":"node t"}}"#)]), None);
    assert_eq!(
        prepared(&[
            ("package.json", r#"{"dependencies":{"a":"1"}}"#),
            ("package-lock.json", "{}")
        ])
        .as_deref(),
        Some("npm ci --ignore-scripts --no-audit --no-fund")
    );
    assert!(
        prepared(&[("requirements.txt", "six==1.16.0")])
            .unwrap()
            .contains("-r requirements.txt")
    );
    assert_eq!(prepared(&[("setup.py", "")]), None);
}

#[test]
fn go_goes_before_node_in_a_tree_that_has_both() {
    let gate = find(None, &[("go.mod", "module a"), ("package.json", "{}")]).unwrap();
    assert_eq!(gate.source, Source::Preset("go".into()));
}

#[test]
fn a_gate_file_of_another_name_is_an_error_and_never_left_for_a_preset() {
    let manifest = ("Cargo.toml", "[package]");
    let error = find(None, &[manifest, (".foreman/gate.yml", FILE)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to use .foreman/gate.yml at the base commit: the gate is read from .foreman/gate.yaml; rename the file"
    );
    let both = find(None, &[manifest, (".foreman/gate.yml", ""), (GATE_FILE, FILE)]);
    assert_eq!(both.unwrap().source, Source::File);
}

#[test]
fn a_broken_gate_file_names_file_and_line_even_beside_a_profile() {
    let profile = GateProfile {
        language: Some(GateLanguage::Rust),
        ..GateProfile::default()
    };
    for profile in [None, Some(&profile)] {
        let error = find(profile, &[(GATE_FILE, "{\n \"stepz\": []}")]).unwrap_err();
        assert!(matches!(error, GateError::BrokenFile { .. }));
        assert!(error.to_string().contains(".foreman/gate.yaml:2:"), "{error}");
    }
    let long = "x".repeat(GATE_FILE_MAX + 1);
    let error = find(None, &[(GATE_FILE, &long)]).unwrap_err();
    assert!(error.to_string().contains("65536"), "{error}");
}

#[test]
fn nothing_to_run_is_said_so() {
    assert_eq!(find(None, &[("README.md", "")]), Err(GateError::NotFound));
    let generic = GateProfile {
        language: Some(GateLanguage::Generic),
        ..GateProfile::default()
    };
    assert!(matches!(find(Some(&generic), &[]), Err(GateError::Invalid { .. })));
}

#[test]
fn unusable_definitions_are_refused_with_what_was_found() {
    let step = |name: &str| GateStep {
        name: name.into(),
        command: "true".into(),
        ..GateStep::default()
    };
    let with = |change: &dyn Fn(&mut GateDefinition)| {
        let mut file = GateDefinition {
            steps: vec![step("a")],
            ..GateDefinition::default()
        };
        change(&mut file);
        let text = serde_json::to_string(&file).unwrap();
        find(None, &[(GATE_FILE, &text)]).unwrap_err().to_string()
    };
    for (message, found) in [
        (with(&|file| file.steps.clear()), "no steps"),
        (with(&|file| file.steps.push(step("a"))), "\"a\""),
        (with(&|file| file.steps[0].advisory = true), "advisory"),
        (with(&|file| file.steps[0].name = "a\u{1b}".into()), "named"),
        (
            with(&|file| file.steps[0].timeout_seconds = Some(0)),
            "timeoutSeconds is 0",
        ),
        (with(&|file| file.deadline_seconds = Some(-1)), "deadlineSeconds is -1"),
        (with(&|file| file.protected_paths = vec!["[".into()]), "\"[\""),
        (with(&|file| file.image = Some("a b".into())), "\"a b\""),
        (
            with(&|file| file.steps = (0..17).map(|n| step(&n.to_string())).collect()),
            "17 steps",
        ),
        (
            with(&|file| {
                file.prepare = Some(Prepare {
                    command: "x".into(),
                    allow_hosts: vec!["http://x".into()],
                    ..Prepare::default()
                });
            }),
            "\"http://x\"",
        ),
        (
            with(&|file| {
                file.resources = Some(schemas::gate_definition::GateResources {
                    cpu: None,
                    memory: Some("lots".into()),
                });
            }),
            "\"lots\"",
        ),
    ] {
        assert!(message.contains(found), "{message} does not name {found}");
        assert!(message.contains(".foreman/gate.yaml"), "{message}");
    }
}

#[test]
fn small_limits_pull_the_requests_down() {
    let file = r#"{"steps":[{"name":"a","command":"true"}],"resources":{"cpu":"500m","memory":"1Gi"}}"#;
    let gate = find(None, &[(GATE_FILE, file)]).unwrap();
    assert_eq!(gate.resources.cpu_request, "500m");
    assert_eq!(gate.resources.memory_request, "1Gi");
    assert_eq!(ResolvedResources::default().memory_request, "4Gi");
}

#[test]
fn the_digest_changes_with_every_part_that_a_verdict_rests_on() {
    let gate = find(None, &[(GATE_FILE, FILE)]).unwrap();
    let digest = gate.digest();
    assert_eq!(digest.len(), 64);
    let mut seen = vec![digest.clone()];
    let changes: [&dyn Fn(&mut ResolvedGate); 7] = [
        &|gate| gate.image.push('x'),
        &|gate| gate.steps[0].command.push('x'),
        &|gate| gate.steps[0].advisory = true,
        &|gate| gate.protected.push("x".into()),
        &|gate| {
            gate.pinned.push(crate::pinned::Pinned {
                file: "x".into(),
                parts: Vec::new(),
            });
        },
        &|gate| gate.resources.memory_limit = "1Gi".into(),
        &|gate| gate.deadline_seconds = 1,
    ];
    for change in changes {
        let mut other = gate.clone();
        change(&mut other);
        assert!(!seen.contains(&other.digest()));
        seen.push(other.digest());
    }
    let mut moved = gate.clone();
    moved.source = Source::Profile;
    assert_eq!(moved.digest(), digest, "the place where it is written does not matter");
    let read_back: ResolvedGate = serde_json::from_str(&serde_json::to_string(&gate).unwrap()).unwrap();
    assert_eq!(read_back.digest(), digest);
}

#[test]
fn the_real_parser_names_line_and_column_and_reads_what_is_sound() {
    let good = "image: rust:1\nsteps:\n  - name: test\n    command: cargo test\n";
    let gate = resolve(None, &FakeTree::of(&[(GATE_FILE, good)]), &parse_file, &[]).unwrap();
    assert_eq!(commands(&gate), [("test", "cargo test")]);
    for bad in [
        "steps:\n  - nam: test\n    command: x\n",
        "steps: [\n",
        "image: rust:1\nstepz: []\n",
    ] {
        let error = resolve(None, &FakeTree::of(&[(GATE_FILE, bad)]), &parse_file, &[]).unwrap_err();
        assert!(matches!(error, GateError::BrokenFile { .. }), "{error}");
        let text = error.to_string();
        let place = text.rsplit_once(".foreman/gate.yaml:").unwrap().1;
        assert!(place.starts_with(|c: char| c.is_ascii_digit()), "{text}");
    }
}

#[test]
fn a_preset_protects_what_names_the_judge_and_leaves_work_free() {
    let allows = |files: &[(&str, &str)], path: &str| {
        let gate = find(None, files).unwrap();
        let rules = Protected::new(gate.protected.iter().map(String::as_str)).unwrap();
        rules.covers(path).is_none()
    };
    let rust = [("Cargo.toml", "[package]")];
    let python = [("requirements.txt", "pytest")];
    let plain_python = [("setup.py", "")];
    let node = [("package.json", r#"{"devDependencies":{"vitest":"1"}}"#)];
    let plain_node = [("package.json", r#"{"scripts":{"test":"node t"}}"#)];
    for (files, path) in [
        (&rust[..], ".cargo/config.toml"),
        (&rust, "rust-toolchain.toml"),
        (&python, "pytest.ini"),
        (&python, "tox.ini"),
        (&python, "pytest/__main__.py"),
        (&plain_python, "unittest.py"),
        (&node, ".npmrc"),
        (&node, "vitest.config.ts"),
        (&node, "vite.config.ts"),
        (&node, ".mocharc.yml"),
        (&plain_node, "node_modules/.bin/node"),
    ] {
        assert!(!allows(files, path), "{path} may be changed");
    }
    for (files, path) in [
        (&rust[..], "Cargo.toml"),
        (&rust, "Cargo.lock"),
        (&rust, "tests/new.rs"),
        (&rust, "sub/.cargo-notes"),
        (&python, "requirements.txt"),
        (&python, "pyproject.toml"),
        (&python, "tests/conftest.py"),
        (&plain_python, "pytest.ini"),
        (&node, "package.json"),
        (&node, "package-lock.json"),
        (&node, "src/a.test.ts"),
        (&plain_node, "vite.config.ts"),
    ] {
        assert!(allows(files, path), "{path} may not be changed");
    }
}

#[test]
fn a_preset_pins_the_scripts_that_it_runs_and_what_they_run() {
    let scripts = r#"{
        "devDependencies": {"jest": "1"},
        "scripts": {
            "test": "npm run unit && run-p 'check:*'",
            "unit": "jest",
            "posttest": "node report",
            "prebuild": "npm run clean",
            "build": "tsc",
            "clean": "rm -rf dist",
            "check:types": "tsc --noEmit",
            "dev": "vite",
            "start": "node ."
        }
    }"#;
    let gate = find(None, &[("package.json", scripts)]).unwrap();
    assert_eq!(gate.pinned.len(), 1);
    let pinned = |part: &str| gate.pinned[0].parts.iter().any(|one| one == part);
    for part in [
        "scripts.test",
        "scripts.pretest",
        "scripts.posttest",
        "scripts.unit",
        "scripts.preunit",
        "scripts.build",
        "scripts.prebuild",
        "scripts.clean",
        "scripts.check:types",
        "scripts.postinstall",
        "jest",
    ] {
        assert!(pinned(part), "{part} may be changed: {:?}", gate.pinned);
    }
    for part in ["scripts.dev", "scripts.start", "devDependencies", "dependencies"] {
        assert!(!pinned(part), "{part} may not be changed");
    }
    let gate = find(None, &[("package.json", "{}")]).unwrap();
    assert!(gate.pinned[0].parts.contains(&"scripts.test".to_owned()));
    let files: Vec<String> = find(None, &[("pyproject.toml", "dependencies = [\"pytest\"]")])
        .unwrap()
        .pinned
        .into_iter()
        .map(|pinned| pinned.file)
        .collect();
    assert_eq!(files, ["/pyproject.toml", "/setup.cfg"]);
}

#[test]
fn a_gate_file_says_alone_what_is_protected_also_where_a_profile_takes_a_preset() {
    let profile = GateProfile {
        language: Some(GateLanguage::Rust),
        ..GateProfile::default()
    };
    let tree = [("Cargo.toml", "[package]"), (GATE_FILE, FILE)];
    let gate = find(Some(&profile), &tree).unwrap();
    assert_eq!(gate.protected, [".foreman/**", "ci/**"]);
    let gate = find(Some(&profile), &tree[..1]).unwrap();
    assert!(
        gate.protected.contains(&"/.cargo/**".to_owned()),
        "{:?}",
        gate.protected
    );
    let profile = GateProfile {
        language: Some(GateLanguage::Node),
        ..GateProfile::default()
    };
    let tree = [("package.json", "{}"), (GATE_FILE, FILE)];
    assert!(find(Some(&profile), &tree).unwrap().pinned.is_empty());
    assert!(!find(Some(&profile), &tree[..1]).unwrap().pinned.is_empty());
}
