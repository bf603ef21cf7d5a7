//! `foreman validate`: bad input ends in a message that names its place.

use crate::sample::Sample;

const TASK: &str = "\
apiVersion: foreman.llmkube.dev/v1alpha1
kind: AgenticTask
metadata: { name: same }
spec: { agentRef: { name: coder }, kind: freeform, payload: { prompt: look } }
";

struct Bad {
    what: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    /// What is printed: file, line and column, then words of the message.
    places: Vec<&'static str>,
    words: Vec<&'static str>,
}

fn table() -> Vec<Bad> {
    let bad = |what, files: &[(&'static str, &[u8])], places: &[&'static str], words: &[&'static str]| Bad {
        what,
        files: files.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect(),
        places: places.to_vec(),
        words: words.to_vec(),
    };
    vec![
        bad(
            "YAML that is none",
            &[("bad.yaml", b"kind: [\n")],
            &["bad.yaml:2:1:"],
            &["cannot be read"],
        ),
        bad(
            "an unknown key",
            &[("typo.md", b"---\ntitel: x\n---\nx\n")],
            &["typo.md:2:1:"],
            &["titel", "did you mean \"title\""],
        ),
        bad(
            "a wrong type",
            &[("type.md", b"---\ntitle: x\npriority: high\n---\nx\n")],
            &["type.md:3:11:"],
            &["\"high\"", "whole number"],
        ),
        bad(
            "one name twice",
            &[("one.yaml", TASK.as_bytes()), ("two.yaml", TASK.as_bytes())],
            &["two.yaml:3:19:"],
            &["same", "one.yaml"],
        ),
        bad(
            "a circle",
            &[
                ("a.md", b"---\ndepends: [b.md]\n---\nx\n"),
                ("b.md", b"---\ndepends: [a.md]\n---\nx\n"),
                ("c.md", b"---\ndepends: [a.md]\n---\nx\n"),
            ],
            &["a.md:2:10:", "b.md:2:10:"],
            &["circle"],
        ),
        bad(
            "5 MiB",
            &[("big.md", &vec![b'x'; 5 << 20])],
            &["big.md:1:1:"],
            &["5242880 bytes", "64 KiB"],
        ),
        bad(
            "a body over the limit",
            &[("long.md", &vec![b'x'; 65 << 10])],
            &["long.md:"],
            &["64 KiB"],
        ),
        bad(
            "what is not UTF-8",
            &[("bytes.md", b"ok\n\xff\xfe\n")],
            &["bytes.md:2:1:"],
            &["0xff", "UTF-8"],
        ),
        bad("an empty file", &[("empty.md", b"")], &["empty.md:1:1:"], &[]),
        bad(
            "a kind that is none of ours",
            &[("pod.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: { name: x }\n")],
            &["pod.yaml:"],
            &["Pod"],
        ),
    ]
}

#[test]
fn bad_task_files_end_in_messages_that_name_the_place() {
    for bad in table() {
        let sample = Sample::new();
        let folder = sample.repository().join(".foreman/tasks");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("good.md"), "Do it.\n").unwrap();
        for (name, bytes) in &bad.files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let said = sample.call(&["validate"]);
        assert_eq!(said.code, Some(1), "{}: {said:#?}", bad.what);
        for place in &bad.places {
            let whole = format!(".foreman/tasks/{place}");
            assert!(
                said.out.lines().any(|line| line.starts_with(&whole)),
                "{}: no {whole} in {}",
                bad.what,
                said.out
            );
        }
        for word in &bad.words {
            assert!(said.out.contains(word), "{}: no {word:?} in {}", bad.what, said.out);
        }
        let errors = said.out.lines().filter(|line| line.starts_with(".foreman/")).count();
        assert_eq!(
            errors,
            bad.places.len(),
            "{}: an error too many in {}",
            bad.what,
            said.out
        );
    }
}

#[test]
fn a_link_out_of_the_tree_is_refused_and_not_read() {
    let sample = Sample::new();
    sample.task("good", "Do it.\n");
    let secret = sample.root().join("secret.md");
    std::fs::write(&secret, "---\nhidden-word: x\n---\n").unwrap();
    std::os::unix::fs::symlink(&secret, sample.repository().join(".foreman/tasks/link.md")).unwrap();
    let said = sample.call(&["validate"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.starts_with(".foreman/tasks/link.md:1:1: a symbolic link"),
        "{}",
        said.out
    );
    assert!(!said.out.contains("hidden-word"), "{}", said.out);
}

#[test]
fn errors_for_programs_carry_path_line_and_column() {
    let sample = Sample::new();
    sample.commit(&[(".foreman/gate.yaml", "steps:\n  - name: test\n    comand: x\n")]);
    let said = sample.call(&["validate", "-o", "json"]);
    assert_eq!(said.code, Some(1));
    let errors: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let errors = errors.as_array().unwrap();
    let misspelt = errors
        .iter()
        .find(|error| error["message"].as_str().unwrap().contains("comand"))
        .unwrap();
    assert_eq!(misspelt["path"], ".foreman/gate.yaml");
    assert_eq!(
        (misspelt["line"].as_u64(), misspelt["column"].as_u64()),
        (Some(3), Some(5)),
        "{misspelt}"
    );
}

#[test]
fn what_is_well_exits_zero_and_says_how_much_was_read() {
    let sample = Sample::new();
    sample.task("good", "Do it.\n");
    let said = sample.call(&["validate"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "4 files are valid\n"),
        "{said:#?}"
    );
}
