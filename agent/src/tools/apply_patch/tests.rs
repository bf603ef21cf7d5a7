#![allow(clippy::unwrap_used, clippy::panic)]
use super::parse::Hunk;
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

/// Applies a unified diff of one file, `f`.
fn patched(text: &str, hunks: &str) -> Result<String, String> {
    match &parse(&format!("--- a/f\n+++ b/f\n{hunks}"))?[..] {
        [Change::Update { hunks, .. }] => apply(text, hunks),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_beyond_the_count_of_a_hunk_belong_to_it() {
    let text = "a\nb\n\nc\nd\n";
    for (hunk, result) in [
        ("@@ -1,2 +1,3 @@\n a\n+1\n b\n+2\n+3\n", "a\n1\nb\n2\n3\n\nc\nd\n"),
        ("@@ -1,1 +1,1 @@\n-a\n+A\n-b\n+B\n\n c\n", "A\nB\n\nc\nd\n"),
        ("@@ -1,1 +1,1 @@\n-a\n+A\n\n@@ -4,2 +4,1 @@\n-c\n d\n", "A\nb\n\nd\n"),
        ("@@ -4 +4 @@\n-c\n+C\n+++ c\n", "a\nb\n\nC\n++ c\nd\n"),
        (
            "@@ -4 +4 @@\n-c\n+C\n\\ No newline at end of file\n d\n",
            "a\nb\n\nC\nd\n",
        ),
        // What stands after the patch is no part of it.
        ("@@ -4 +4 @@\n-c\n+C\n-- \n2.43.0\n", "a\nb\n\nC\nd\n"),
        ("@@ -4 +4 @@\n-c\n+C\n\nThis mends c.\n", "a\nb\n\nC\nd\n"),
        // More were counted than came.
        ("@@ -4,5 +4,5 @@\n-c\n+C\n", "a\nb\n\nC\nd\n"),
    ] {
        assert_eq!(patched(text, hunk).as_deref(), Ok(result), "{hunk}");
    }
}

#[test]
fn a_header_ends_a_hunk_that_is_counted_wrong() {
    for count in ["-1 +1", "-1,4 +1,4"] {
        for next in [
            "--- a/g\n+++ b/g\n",
            "diff --git a/g b/g\nindex 1..2\n--- a/g\n+++ b/g\n",
        ] {
            let patch = format!("--- a/f\n+++ b/f\n@@ {count} @@\n-a\n+A\n+B\n{next}@@ -1 +1 @@\n-c\n+C\n");
            let changes = parse(&patch).unwrap();
            let [
                Change::Update { path, hunks: first, .. },
                Change::Update {
                    path: other,
                    hunks: second,
                    ..
                },
            ] = &changes[..]
            else {
                panic!("{changes:?}")
            };
            assert_eq!((path.as_str(), other.as_str()), ("f", "g"));
            assert_eq!(apply("a\n", first).as_deref(), Ok("A\nB\n"), "{patch}");
            assert_eq!(apply("c\n", second).as_deref(), Ok("C\n"), "{patch}");
        }
    }
}

#[test]
fn changed_lines_outside_of_every_hunk_are_refused_by_their_line() {
    for (hunks, line) in [
        ("-a\n+b\n@@ -1 +1 @@\n-c\n+d\n", 3),
        ("@@ -1 +1 @@\n-a\n+b\nand\n+c\n", 7),
    ] {
        let error = patched("a\n", hunks).unwrap_err();
        assert!(error.starts_with(&format!("line {line}: expected `@@ ")), "{error}");
    }
}

#[test]
fn of_several_places_the_one_nearest_to_the_line_number_is_changed() {
    let text = "x\n}\ny\n}\nz\n}\n";
    for (hunk, result) in [
        ("@@ -2 +2 @@\n-}\n+2\n", "x\n2\ny\n}\nz\n}\n"),
        ("@@ -4 +4 @@\n-}\n+4\n", "x\n}\ny\n4\nz\n}\n"),
        ("@@ -7 +7 @@\n-}\n+6\n", "x\n}\ny\n}\nz\n6\n"),
        ("@@ -60 +60 @@\n-}\n+6\n", "x\n}\ny\n}\nz\n6\n"),
        // Lines that an earlier hunk adds shift those after them, in whatever order the hunks stand.
        (
            "@@ -1 +1,4 @@\n x\n+1\n+1\n+1\n@@ -4 +7 @@\n-}\n+4\n",
            "x\n1\n1\n1\n}\ny\n4\nz\n}\n",
        ),
        (
            "@@ -4 +7 @@\n-}\n+4\n@@ -1 +1,4 @@\n x\n+1\n+1\n+1\n",
            "x\n1\n1\n1\n}\ny\n4\nz\n}\n",
        ),
    ] {
        assert_eq!(patched(text, hunk).as_deref(), Ok(result), "{hunk}");
    }
    // Places that overlap, and one that is alike but for a space.
    assert_eq!(
        patched("a\na\na\n", "@@ -2,2 +2,2 @@\n a\n-a\n+b\n").as_deref(),
        Ok("a\na\nb\n")
    );
    assert_eq!(
        patched("a\nb\nc\nb \n", "@@ -4 +4 @@\n-b\n+B\n").as_deref(),
        Ok("a\nb\nc\nB\n")
    );
}

#[test]
fn lines_that_are_only_added_follow_their_line_number() {
    let text = "a\nb\nc\n";
    for (hunk, result) in [
        ("@@ -0,0 +1 @@\n+x\n", "x\na\nb\nc\n"),
        ("@@ -2,0 +3,2 @@\n+x\n+y\n", "a\nb\nx\ny\nc\n"),
        ("@@ -9,0 +10 @@\n+x\n", "a\nb\nc\nx\n"),
        ("@@ -1,0 +2 @@\n+x\n@@ -2,0 +4 @@\n+y\n", "a\nx\nb\ny\nc\n"),
    ] {
        assert_eq!(patched(text, hunk).as_deref(), Ok(result), "{hunk}");
    }
    let envelope = parse("*** Update File: f\n@@ -1,0 +2 @@\n+x\n").unwrap();
    let [Change::Update { hunks, .. }] = &envelope[..] else {
        panic!("{envelope:?}")
    };
    assert_eq!(apply(text, hunks).as_deref(), Ok("a\nx\nb\nc\n"));
}

#[test]
fn of_several_places_none_is_changed_where_nothing_says_which() {
    let text = "x\n}\ny\n}\n";
    let hunk = |near: Option<&str>, new: &[&str]| Hunk {
        near: near.map(str::to_owned),
        old: if new.is_empty() { vec!["}".into()] } else { vec![] },
        new: new.iter().map(|line| (*line).to_owned()).collect(),
        ..Hunk::default()
    };
    for near in [None, Some("no such line")] {
        let error = apply(text, &[hunk(near, &[])]).unwrap_err();
        assert!(error.contains("2 places (at line 2, 4)"), "{error}");
    }
    assert_eq!(apply(text, &[hunk(Some("y"), &[])]).as_deref(), Ok("x\n}\ny\n"));
    let error = apply(text, &[hunk(Some("no such line"), &["new"])]).unwrap_err();
    assert!(error.contains("no line begins with \"no such line\""), "{error}");
    assert_eq!(apply(text, &[hunk(None, &["new"])]).as_deref(), Ok("x\n}\ny\n}\nnew\n"));
}

#[test]
fn a_hunk_that_does_not_fit_teaches() {
    let hunk = Hunk {
        old: vec!["let total = 2;".into()],
        ..Hunk::default()
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
        ..Hunk::default()
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
        old: vec![old.to_owned()],
        new: vec!["x".to_owned()],
        ..Hunk::default()
    };
    let looks = std::cell::Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) == 1;
    let error = super::apply("a\nb\n", &[hunk("a"), hunk("b")], &stop).unwrap_err();
    assert!(error.contains("hunk 2 of 2") && error.contains("too long"), "{error}");
}
