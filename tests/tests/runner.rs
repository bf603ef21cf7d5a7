//! The integration tests, in one binary: the `foreman` command on real repositories.
//!
//! A test of the tools tier is marked `#[ignore = "needs …"]` and lies below `tools`; `cargo xtask test --tools` runs
//! it, and it fails where its tool is missing. One that needs a real control plane is marked likewise and lies below
//! `real`; `cargo xtask test --real` runs it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod chaos;
mod chart;
mod coder_job;
mod commands;
mod demo;
mod doctor;
mod dry_run;
mod follower;
mod foreman;
mod git_server;
mod health;
mod idle;
mod init;
mod kubectl;
mod monitoring;
mod operator;
mod poll;
mod processes;
mod queue;
mod real;
mod sample;
mod served;
mod site;
mod stage;
mod tasks_repo;
mod tools;
mod up;
mod validate;
mod watch;

use std::collections::BTreeSet;
use std::path::Path;

/// Collects the modules that lie in `folder`, and those that `source` lists.
fn modules(folder: &Path, source: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let files = std::fs::read_dir(folder).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let rust = path.extension().is_some_and(|extension| extension == "rs") && path != source;
        rust.then(|| path.file_stem().unwrap().to_str().unwrap().to_owned())
    });
    let text = std::fs::read_to_string(source).unwrap();
    let listed = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned()));
    (files.collect(), listed.collect())
}

#[test]
fn no_file_of_tests_is_forgotten() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (files, listed) = modules(&folder, &folder.join("runner.rs"));
    assert_eq!(files, listed, "files beside runner.rs, and modules that it lists");
    for tier in ["tools", "real"] {
        let (files, listed) = modules(&folder.join(tier), &folder.join(format!("{tier}.rs")));
        assert_eq!(files, listed, "files in {tier}/, and modules that {tier}.rs lists");
    }
}
