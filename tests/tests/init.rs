//! `foreman init`: what it writes, and that it writes over nothing.

use std::path::Path;

use crate::foreman::call;

const FILES: [&str; 4] = ["queue.yaml", "agents.yaml", "gate.yaml", "tasks/first-task.md"];

#[test]
fn what_init_writes_is_valid_and_fits_the_language() {
    for (manifest, text, language, command) in [
        (
            "Cargo.toml",
            "[package]\nname = \"x\"\nversion = \"0.1.0\"\n",
            "rust",
            "cargo test",
        ),
        ("go.mod", "module x\n", "go", "go test"),
        ("package.json", "{\"scripts\": {\"test\": \"true\"}}", "node", "npm"),
        ("pyproject.toml", "[project]\nname = \"x\"\n", "python", "python"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(manifest), text).unwrap();
        let said = call(folder.path(), &["init", "--no-probe"]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        assert!(
            said.out
                .lines()
                .any(|line| line.starts_with("Language") && line.contains(language)),
            "{}",
            said.out
        );
        let gate = std::fs::read_to_string(folder.path().join(".foreman/gate.yaml")).unwrap();
        assert!(gate.contains(command), "{gate}");
        let said = call(folder.path(), &["validate"]);
        assert_eq!(said.code, Some(0), "{said:#?}");
    }
}

#[test]
fn a_python_gate_runs_the_runner_that_finds_the_tests() {
    for (test, command) in [
        ("def test_add():\n    assert True\n", "python3 -m pytest -q"),
        (
            "import unittest\n\nclass T(unittest.TestCase):\n    def test_add(self):\n        pass\n",
            "unittest.main(",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pyproject.toml"), "[project]\nname = \"x\"\n").unwrap();
        std::fs::create_dir(folder.path().join("tests")).unwrap();
        std::fs::write(folder.path().join("tests/test_add.py"), test).unwrap();
        assert_eq!(call(folder.path(), &["init", "--no-probe"]).code, Some(0));
        let gate = std::fs::read_to_string(folder.path().join(".foreman/gate.yaml")).unwrap();
        assert!(gate.contains(command), "{gate}");
    }
}

#[test]
fn init_never_writes_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(".foreman").join(name);
    std::fs::create_dir_all(path("tasks")).unwrap();
    for name in FILES {
        std::fs::write(path(name), format!("mine: {name}\n")).unwrap();
    }
    let said = call(folder.path(), &["init", "--no-probe"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    for name in FILES {
        assert_eq!(std::fs::read_to_string(path(name)).unwrap(), format!("mine: {name}\n"));
        assert!(
            said.out
                .lines()
                .any(|line| line.starts_with("Kept") && line.ends_with(name)),
            "{}",
            said.out
        );
    }
}

#[test]
fn init_writes_only_what_is_missing_and_follows_no_link() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    std::fs::create_dir(folder.path().join(".foreman")).unwrap();
    std::os::unix::fs::symlink(&target, folder.path().join(".foreman/gate.yaml")).unwrap();
    let said = call(folder.path(), &["init", "--no-probe"]);
    assert!(
        !Path::new(&target).exists(),
        "a dangling link was written through: {said:#?}"
    );
    assert!(folder.path().join(".foreman/queue.yaml").exists(), "{said:#?}");
}
