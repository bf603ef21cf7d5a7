//! `foreman demo`: the whole thread, and that it can fail.

use std::path::Path;

use crate::foreman::{Said, call};

/// Copies the sample repository of the demo and changes its library.
fn altered(folder: &Path, change: impl Fn(String) -> String) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/sample");
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        ".gitignore",
        "README.md",
        "src/lib.rs",
        "tests/parse.rs",
        ".foreman/gate.yaml",
    ] {
        let to = folder.join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(source.join(path), to).unwrap();
    }
    let library = folder.join("src/lib.rs");
    let before = std::fs::read_to_string(&library).unwrap();
    let after = change(before.clone());
    assert_ne!(before, after, "the change changes nothing");
    std::fs::write(library, after).unwrap();
}

fn clean_up(said: &Said) {
    if let Some(folder) = said.out.lines().find_map(|line| line.strip_prefix("Folder:")) {
        let folder = Path::new(folder.trim());
        assert!(
            folder
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("foreman-demo-")
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_replayed_demo_says_so_twice_and_reaches_its_three_ends() {
    let folder = tempfile::tempdir().unwrap();
    let said = call(folder.path(), &["demo", "--replay"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    let first = said.out.find("REPLAYED").unwrap();
    let last = said.out.rfind("REPLAY ").unwrap();
    let work = said.out.find("Committed tasks/").unwrap();
    assert!(first < work && work < last, "{}", said.out);
    let after = |start: &str| {
        said.out
            .split(start)
            .nth(1)
            .unwrap_or_else(|| panic!("no {start:?} in {}", said.out))
    };
    let fix = after("--- fix-compound-durations ---").split("\n--- ").next().unwrap();
    assert!(
        fix.contains("round 1: GATE-FAIL") && fix.contains("round 2: GATE-PASS"),
        "{fix}"
    );
    assert!(
        fix.contains("+                total += number"),
        "the diff is shown: {fix}"
    );
    let feature = after("--- add-format ---").split("\n--- ").next().unwrap();
    assert!(feature.contains("round 1: GATE-PASS"), "{feature}");
    let refused = after("--- speed-up-the-gate ---");
    assert!(
        refused.contains("protected paths: .foreman/gate.yaml") && refused.contains("not pushed"),
        "{refused}"
    );
    clean_up(&said);
}

#[test]
fn a_demo_whose_recorded_edit_no_longer_matches_fails() {
    let folder = tempfile::tempdir().unwrap();
    altered(folder.path(), |text| {
        text.replace("total = number * seconds_of(c);", "total = seconds_of(c) * number;")
    });
    let said = call(
        folder.path(),
        &["demo", "--replay", "--sample", folder.path().to_str().unwrap()],
    );
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.err.contains("fix-compound-durations"), "{}", said.err);
    clean_up(&said);
}

#[test]
fn a_demo_whose_fix_is_already_there_fails() {
    let folder = tempfile::tempdir().unwrap();
    altered(folder.path(), |text| text.replace("total = number", "total += number"));
    let said = call(
        folder.path(),
        &["demo", "--replay", "--sample", folder.path().to_str().unwrap()],
    );
    assert_eq!(said.code, Some(1), "{said:#?}");
    clean_up(&said);
}
