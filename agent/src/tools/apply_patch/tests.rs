#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use proptest::prelude::*;

fn apply(text: &str, hunks: &[Hunk]) -> Result<String, String> {
    super::apply(text, hunks, &|| false)
}

#[test]
fn the_envelope_is_read_and_applied() {
    let patch = "*** Begin Patch\n*** Update File: a.rs\n@@ fn b() {\n-    1\n+    2\n*** Add File: n.txt\n+one\n+\n*** Delete File: d\n*** End Patch";
    let changes = parse(patch).unwrap();
    assert_eq!(changes.len(), 3);
    let Change::Update { hunks, .. } = &changes[0] else {
        panic!("{changes:?}")
    };
    let text = "fn a() {\n    1\n}\nfn b() {\n    1\n}\n";
    assert_eq!(apply(text, hunks).unwrap(), "fn a() {\n    1\n}\nfn b() {\n    2\n}\n");
    assert_eq!(
        changes[1],
        Change::Add {
            path: "n.txt".into(),
            content: "one\n\n".into()
        }
    );
}

#[test]
fn a_unified_diff_is_read_and_applied_in_order() {
    let patch = "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n@@ -5,2 +5,3 @@ x\n e\n+new\n f\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+hello\n";
    let changes = parse(patch).unwrap();
    let Change::Update { path, hunks, .. } = &changes[0] else {
        panic!("{changes:?}")
    };
    assert_eq!(path, "f");
    assert_eq!(apply("a\nb\nc\nd\ne\nf\n", hunks).unwrap(), "a\nB\nc\nd\ne\nnew\nf\n");
    assert_eq!(
        changes[1],
        Change::Add {
            path: "n".into(),
            content: "hello\n".into()
        }
    );
}

#[test]
fn removed_lines_that_look_like_headers_stay_lines() {
    let patch = "--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,1 @@\n--- a comment\n select 1\n";
    let Change::Update { hunks, .. } = &parse(patch).unwrap()[0] else {
        panic!()
    };
    assert_eq!(apply("-- a comment\nselect 1\n", hunks).unwrap(), "select 1\n");
}

#[test]
fn a_hunk_that_does_not_fit_teaches() {
    let hunk = Hunk {
        near: None,
        old: vec!["let total = 2;".into()],
        new: vec![],
    };
    let error = apply("let total = 1;\n", &[hunk]).unwrap_err();
    assert!(
        error.contains("hunk 1 of 1") && error.contains("1| let total = 1;"),
        "{error}"
    );
    assert!(parse("hello").unwrap_err().contains("neither"));
    assert!(parse("*** Update File: a\n").unwrap_err().contains("no changed lines"));
}

#[test]
fn mixed_line_ends_shift_no_place() {
    let hunk = |near: &str, old: &[&str], new: &[&str]| Hunk {
        near: Some(near.into()),
        old: old.iter().map(|line| (*line).to_owned()).collect(),
        new: new.iter().map(|line| (*line).to_owned()).collect(),
    };
    let text = "a\r\nb\r\n\u{e9}\nx\n";
    assert_eq!(
        apply(text, &[hunk("\u{e9}", &["x"], &["y"])]).unwrap(),
        "a\r\nb\r\n\u{e9}\ny\n"
    );
    assert_eq!(
        apply(text, &[hunk("b", &[], &["new"])]).unwrap(),
        "a\r\nb\r\nnew\n\u{e9}\nx\n"
    );
    assert_eq!(
        apply("a\r\nlast", &[hunk("last", &[], &["new"])]).unwrap(),
        "a\r\nlast\nnew\n"
    );
}

proptest! {
    #[test]
    fn arbitrary_patches_never_break_the_parser(patch in "(\\*\\*\\* (Add|Update|Delete) File: [a-z]{0,3}|@@ ?[-+0-9, a-z@]{0,9}|[-+ ]{1,3}[a-c]{0,3}|--- [a-z/]{0,4}|\\+\\+\\+ [a-z/]{0,4}|\n){0,20}", text in "([a-c\u{e9}]|\r?\n){0,20}") {
        for change in parse(&patch).into_iter().flatten() {
            if let Change::Update { hunks, .. } = change {
                let _ = apply(&text, &hunks);
            }
        }
    }
}

#[test]
fn a_patch_of_many_hunks_is_given_up_when_it_is_to_stop() {
    let hunk = |old: &str| Hunk {
        near: None,
        old: vec![old.to_owned()],
        new: vec!["x".to_owned()],
    };
    let looks = std::cell::Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) == 1;
    let error = super::apply("a\nb\n", &[hunk("a"), hunk("b")], &stop).unwrap_err();
    assert!(error.contains("hunk 2 of 2") && error.contains("too long"), "{error}");
}
