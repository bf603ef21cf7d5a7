//! The preset for Python.
//!
//! Prepare installs the locked packages into a folder of the cache, which the steps have on
//! `PYTHONPATH`: no step installs anything, and hashes of a lock are checked where the network is.

use super::{BaseTree, Judge, Parts, ResolvedStep, prepare, rules, text};
use crate::pinned::Pinned;

const HOSTS: &[&str] = &["pypi.org", "files.pythonhosted.org"];
const REQUIREMENTS: &[&str] = &[
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-test.txt",
    "dev-requirements.txt",
    "test-requirements.txt",
];
/// Asks Python for itself: version managers put scripts in front that want to write after an install.
const INSTALL: &str = "\"$(python3 -c 'import sys; print(sys.executable)')\" -m pip install --no-input \
     --disable-pip-version-check --no-warn-script-location --target \"$FOREMAN_CACHE/site\"";
/// Prints what `[project]` and its extras for development ask for.
const FROM_PROJECT: &str = "import tomllib; p=tomllib.load(open('pyproject.toml','rb')).get('project',{}); \
     e=p.get('optional-dependencies',{}); \
     print('\\n'.join(p.get('dependencies',[])+[d for n in ('test','tests','testing','dev') for d in e.get(n,[])]))";
/// `python3 -m unittest discover`, which before Python 3.12 succeeds where it finds no test at all.
const UNITTEST: &str = "python3 -c \"import sys, unittest; \
     r = unittest.main(None, argv=['unittest', 'discover'], exit=False).result; \
     sys.exit('no tests were found' if r.testsRun == 0 else not r.wasSuccessful())\"";

pub(super) fn parts(tree: &dyn BaseTree) -> Parts {
    let files: Vec<&str> = REQUIREMENTS.iter().copied().filter(|path| tree.exists(path)).collect();
    let project = text(tree, "pyproject.toml").unwrap_or_default();
    let mut wanted = project.clone();
    for path in &files {
        wanted.push_str(&text(tree, path).unwrap_or_default());
    }
    let command = if !files.is_empty() {
        let list: Vec<String> = files.iter().map(|path| format!("-r {path}")).collect();
        Some(format!("{INSTALL} {}", list.join(" ")))
    } else if project.contains("dependencies") {
        Some(format!(
            "python3 -c \"{FROM_PROJECT}\" > \"$HOME/requirements.txt\" && {INSTALL} -r \"$HOME/requirements.txt\""
        ))
    } else {
        None
    };
    let test = if wanted.contains("pytest") {
        "python3 -m pytest -q"
    } else {
        UNITTEST
    };
    Parts {
        prepare: command.map(|command| prepare(&command, HOSTS)),
        lint: wanted.contains("ruff").then(|| "python3 -m ruff check .".to_owned()),
        build: Some("python3 -m compileall -q -x '/\\.' .".to_owned()),
        test: Some(test.to_owned()),
        ..Parts::default()
    }
}

/// Files of pytest's settings, which select the tests and load plugins, and names that Python would find before
/// pytest's own.
const PYTEST: &[&str] = &[
    "/pytest.ini",
    "/.pytest.ini",
    "/pytest.toml",
    "/.pytest.toml",
    "/tox.ini",
    "/pytest.py",
    "/pytest/**",
    "/src/pytest.py",
    "/src/pytest/**",
];
/// Names that Python would find before its own unittest.
const UNITTEST_NAMES: &[&str] = &["/unittest.py", "/unittest/**", "/src/unittest.py", "/src/unittest/**"];

pub(super) fn judge(steps: &[ResolvedStep]) -> Judge {
    let pinned = |file: &str, table: &str| Pinned {
        file: file.to_owned(),
        parts: vec![table.to_owned()],
    };
    if steps.iter().any(|step| step.command.contains("pytest")) {
        return Judge {
            protected: rules(PYTEST),
            // Beside them stand dependencies.
            pinned: vec![
                pinned("/pyproject.toml", "tool.pytest"),
                pinned("/setup.cfg", "tool:pytest"),
            ],
        };
    }
    Judge {
        protected: rules(UNITTEST_NAMES),
        ..Judge::default()
    }
}
