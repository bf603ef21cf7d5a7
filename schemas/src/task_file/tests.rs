#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::shared::{Budget, LocalRef};
use crate::task_queue::QueueDefaults;
use proptest::prelude::*;

fn one(path: &str, text: &str) -> TaskDocument {
    let mut documents = parse(path, text.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn errors(path: &str, bytes: impl AsRef<[u8]>) -> Vec<String> {
    parse(path, bytes.as_ref())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn context<'a>(defaults: &'a QueueDefaults, depends_on: &'a [String]) -> QueueContext<'a> {
    QueueContext {
        name: "queue",
        uid: "uid",
        namespace: "work",
        defaults,
        revision: "main@sha1:00",
        depends_on,
    }
}

fn workload(document: &TaskDocument, defaults: &QueueDefaults) -> Workload {
    match resolve(document, &context(defaults, &[])).unwrap() {
        TaskObject::Workload(workload) => *workload,
        other => panic!("{other:?}"),
    }
}

const MANIFESTS: &str = "\
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Workload
metadata:
  name: fix-issues
  creationTimestamp: null
spec:
  intent: Fix them
  repo: owner/name
  issues: [5, 7]
  coderAgentRef: {name: coder}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: AgenticTask
metadata: {name: verifier-smoke, labels: {team: a}}
spec:
  kind: freeform
  timeoutSeconds: 60
  requiredCapability: {roles: [verifier]}
  payload: {prompt: say hello}
  dependsOn: [other, {name: third, namespace: work}]
";

#[test]
fn published_manifests_are_read() {
    let documents = parse("tasks/all.yaml", MANIFESTS.as_bytes()).unwrap();
    assert_eq!(
        documents.iter().map(TaskDocument::kind).collect::<Vec<_>>(),
        ["Workload", "AgenticTask"]
    );
    assert_eq!(documents[1].depends_on(), ["other", "third"]);
    assert_eq!(documents[1].at.line, 12);
}

#[test]
fn markdown_takes_its_title_from_front_matter_heading_or_file_name() {
    let title = |text: &str| match one("tasks/fix-the-login.md", text).content {
        TaskContent::Markdown(task) => task.title,
        other => panic!("{other:?}"),
    };
    assert_eq!(title("---\ntitle: One\n---\n# Two\n"), "One");
    assert_eq!(title("---\npriority: 3\n---\n\n# Two\ntext\n"), "Two");
    assert_eq!(title("Just do it.\n"), "fix the login");
}

#[test]
fn every_error_of_a_file_is_reported_with_its_place() {
    let text = "apiVersion: foreman.llmkube.dev/v1\nkind: AgenticTask\nmetadata: {name: Bad_Name, labels: {foreman.llmkube.dev/queue: x}}\nstatus: {phase: Succeeded}\nspec:\n  kind: verify\n  payload: {issue: '5'}\n  dependOn: [x]\n---\nkind: Agent\n---\n- a\n";
    let found = errors("t/a.yaml", text);
    let expected = [
        "t/a.yaml:1:13: apiVersion is the string \"foreman.llmkube.dev/v1\"; expected foreman.llmkube.dev/v1alpha1",
        "t/a.yaml:3:18: metadata.name is \"Bad_Name\"; expected lower-case letters",
        "t/a.yaml:3:37: metadata.labels has \"foreman.llmkube.dev/queue\"; remove it",
        "t/a.yaml:4:1: unknown key \"status\" in the manifest; remove it: only Foreman writes a status",
        "t/a.yaml:7:20: spec.payload.issue is the string \"5\"; expected a whole number of at least 1; remove the quotes",
        "t/a.yaml:8:3: unknown key \"dependOn\" in spec; did you mean \"dependsOn\"?",
        "t/a.yaml:10:7: kind is the string \"Agent\"; expected Workload or AgenticTask; a task file makes only",
        "t/a.yaml:12:1: the document is a list; expected a map",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nshould begin with\n{expected}");
    }
}

#[test]
fn front_matter_is_checked_as_strictly_as_manifests() {
    let text = "---\ntitel: x\npriority: high\nbaseBranch: main\ngate: rusty\nbudget: {round: 2}\ntimeout: soon\nprompt: do it\nreviewers: {a: b}\n---\ntext\n";
    let found = errors("t/a.md", text);
    let expected = [
        "t/a.md:2:1: unknown key \"titel\" here; did you mean \"title\"?",
        "t/a.md:3:11: priority is the string \"high\"; expected a whole number",
        "t/a.md:4:1: unknown key \"baseBranch\" here; did you mean \"base\"?",
        "t/a.md:5:7: gate is the string \"rusty\"; expected one of go, python, rust, node, generic; did you mean \"rust\"?",
        "t/a.md:6:10: unknown key \"round\" in budget; did you mean \"rounds\"?",
        "t/a.md:7:10: timeout is the string \"soon\"; expected a time span such as",
        "t/a.md:8:1: unknown key \"prompt\" here; write the prompt below the front matter",
        "t/a.md:9:12: reviewers is a map; expected a string that is not empty, or a list of strings that are not empty",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nshould begin with\n{expected}");
    }
}

#[test]
fn a_front_matter_without_end_and_an_empty_body_are_errors() {
    assert!(errors("a.md", "---\ntitle: x\n")[0].contains("does not end"));
    assert!(errors("a.md", "---\ntitle: x\n---\n \n")[0].starts_with("a.md:4:1: the body is empty"));
    assert!(errors("a.yaml", "# nothing\n")[0].contains("the file is empty"));
    assert!(errors("a.txt", "x")[0].contains("file's name"));
}

#[test]
fn limits_are_named() {
    let body = "x".repeat(5 * 1024 * 1024);
    let found = errors("a.md", &body);
    assert!(
        found[0].contains("5242880 bytes") && found[0].contains("64 KiB"),
        "{found:?}"
    );
    let found = errors("a.md", &body[..MAX_TEXT + 1]);
    assert!(
        found[0].contains("the body has 65537 bytes; expected at most 65536 bytes (64 KiB)"),
        "{found:?}"
    );
    assert!(parse("a.md", &body.as_bytes()[..MAX_TEXT]).is_ok());
    let spec = format!("{}  x: y\n", MANIFESTS.replace("say hello", &"x".repeat(MAX_TEXT)));
    assert!(errors("a.yaml", spec)[0].contains("64 KiB"));
}

#[test]
fn a_byte_that_is_no_utf_8_is_placed() {
    let found = errors("a.md", b"---\ntitle: \xc3\xa4\xff\n---\nx");
    assert!(
        found[0].starts_with("a.md:2:9: the byte 0xff; expected UTF-8 text"),
        "{found:?}"
    );
    assert!(
        parse("a.md", b"\xef\xbb\xbf---\ntitle: x\n---\nbody").is_ok(),
        "a byte order mark is no error"
    );
}

#[test]
fn a_name_given_twice_in_a_file_is_an_error_at_the_second() {
    let twice = format!("{MANIFESTS}---\n{}", MANIFESTS.split("---\n").next().unwrap());
    let found = errors("a.yaml", twice);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("a.yaml:25:9: a second Workload named \"fix-issues\"; the first begins on line 1"),
        "{found:?}"
    );
}

#[test]
fn what_can_never_run_is_an_error_and_what_a_default_may_supply_is_not() {
    let task = |spec: &str| {
        format!("apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata: {{name: a}}\nspec: {spec}\n")
    };
    assert!(errors("a.yaml", task("{kind: verify, payload: {}}"))[0].contains("a verify task without a branch"));
    assert!(
        errors("a.yaml", task("{kind: verify, payload: {branch: 'a..b'}}"))[0].contains("a:4")
            || !errors("a.yaml", task("{kind: verify, payload: {branch: 'a..b'}}")).is_empty()
    );
    assert!(errors("a.yaml", task("{kind: freeform, payload: {}, dependsOn: [7]}"))[0].contains("spec.dependsOn[0]"));
    assert!(
        errors("a.yaml", task("{kind: freeform, payload: {repo: '--upload-pack=x'}}"))[0].contains("cannot be used")
    );
    assert!(parse("a.yaml", task("{kind: issue-fix, payload: {issue: 3}}").as_bytes()).is_ok());
    let cycle = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\nspec:\n  intent: x\n  pipeline:\n    - {name: a, kind: verify, agentRef: {name: v}, payload: {}, dependsOn: [b]}\n    - {name: b, kind: verify, agentRef: {name: v}, payload: {}, dependsOn: [a]}\n";
    assert!(errors("a.yaml", cycle)[0].starts_with("a.yaml:7:5: steps a, b depend on each other"));
}

#[test]
fn markdown_becomes_a_workload_with_an_explicit_pipeline() {
    let text = "---\ntitle: T\nagent: c2\nreviewers: [r1, r2]\nbudget: {turns: 9}\ngate: {test: make check}\ntimeout: 1m30s\ndepends: first.md\n---\nDo it.\n";
    let defaults = QueueDefaults {
        repo: Some("file:///repo".into()),
        base_branch: Some("trunk".into()),
        verifier_agent_ref: Some(LocalRef::new("v1")),
        budget: Some(Budget {
            tokens: Some(5),
            turns: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let document = one("tasks/a.md", text);
    let depends = ["tasks-first-12345678".to_owned()];
    let TaskObject::Workload(made) = resolve(&document, &context(&defaults, &depends)).unwrap() else {
        panic!("no workload")
    };
    let (metadata, spec) = (&made.metadata, &made.spec);
    let name = metadata.name.clone().unwrap();
    assert_eq!(name, names::file_object_name("uid", "tasks/a.md"));
    assert_eq!(metadata.labels.as_ref().unwrap()[crate::labels::QUEUE], "queue");
    let annotations = metadata.annotations.as_ref().unwrap();
    assert_eq!(
        (
            annotations[crate::labels::SOURCE_PATH].as_str(),
            annotations[crate::labels::QUEUE_UID].as_str()
        ),
        ("tasks/a.md", "uid")
    );
    assert_eq!(annotations["argocd.argoproj.io/sync-options"], "Prune=false");
    assert_eq!(
        (spec.intent.as_str(), spec.repo.as_deref(), spec.base_branch.as_deref()),
        ("Do it.", Some("file:///repo"), Some("trunk"))
    );
    assert_eq!(
        spec.budget,
        Some(Budget {
            rounds: Some(3),
            turns: Some(9),
            tokens: Some(5),
            seconds: None
        })
    );
    assert_eq!(spec.depends_on.as_deref(), Some(&depends[..]));
    assert_eq!(spec.run_key.as_deref(), Some(run_key(&document).as_str()));
    assert_eq!(
        spec.gate_profile
            .as_ref()
            .unwrap()
            .commands
            .as_ref()
            .unwrap()
            .test
            .as_deref(),
        Some("make check")
    );
    let steps: Vec<_> = spec
        .pipeline
        .iter()
        .flatten()
        .map(|step| {
            (
                step.name.as_str(),
                step.kind.as_str(),
                step.agent_ref.name.as_str(),
                step.timeout_seconds,
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            ("code", "issue-fix", "c2", Some(90)),
            ("verify", "verify", "v1", Some(90)),
            ("review-1", "review", "r1", Some(90)),
            ("review-2", "review", "r2", Some(90))
        ]
    );
    let branch = format!("foreman/{name}");
    assert!(
        spec.pipeline
            .iter()
            .flatten()
            .all(|step| step.payload.branch.as_deref() == Some(&branch) && step.payload.prompt.is_none())
    );
    assert!(pipeline::expand(&name, "work", spec).is_ok());
}

#[test]
fn defaults_fill_what_a_manifest_leaves_open_and_nothing_else() {
    let defaults = QueueDefaults {
        repo: Some("default/repo".into()),
        coder_agent_ref: Some(LocalRef::new("other")),
        verifier_agent_ref: Some(LocalRef::new("v")),
        priority: Some(7),
        ..Default::default()
    };
    let documents = parse("a.yaml", MANIFESTS.as_bytes()).unwrap();
    let made = workload(&documents[0], &defaults);
    assert_eq!(
        (made.spec.repo.as_deref(), made.spec.coder_agent_ref),
        (Some("owner/name"), Some(LocalRef::new("coder")))
    );
    assert_eq!(
        (made.spec.verifier_agent_ref, made.spec.priority),
        (Some(LocalRef::new("v")), Some(7))
    );
    assert_eq!(made.spec.budget.unwrap().rounds, Some(3));
    let TaskObject::AgenticTask(task) = resolve(&documents[1], &context(&defaults, &[])).unwrap() else {
        panic!("no task")
    };
    assert_eq!(
        (task.spec.agent_ref, task.spec.payload.repo.as_deref()),
        (None, Some("default/repo"))
    );
    assert_eq!(task.metadata.namespace.as_deref(), Some("work"));
}

#[test]
fn a_foreign_namespace_is_refused() {
    let text = MANIFESTS
        .split("---\n")
        .next()
        .unwrap()
        .replace("  creationTimestamp: null\n", "  namespace: elsewhere\n");
    let error = resolve(&one("a.yaml", &text), &context(&QueueDefaults::default(), &[])).unwrap_err();
    assert_eq!((error.line, error.column), (5, 14));
    assert!(error.to_string().contains("\"work\""), "{error}");
}

#[test]
fn reformatting_keeps_the_run_key_and_a_change_does_not() {
    let key = |text: &str| run_key(&one("a.yaml", text));
    let text = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata: {name: a}\nspec: {kind: freeform, priority: 1, payload: {prompt: hi}}\n";
    let other = "# a comment\nkind: AgenticTask\napiVersion: 'foreman.llmkube.dev/v1alpha1'\nspec:\n  payload:\n    prompt: \"hi\"\n  priority: 1\n  kind: freeform\n  agentRef:\nmetadata:\n  name: a\n";
    assert_eq!(key(text), key(other));
    assert_ne!(key(text), key(&text.replace("priority: 1", "priority: 2")));
    let markdown = |text: &str| run_key(&one("a.md", text));
    assert_eq!(
        markdown("---\ntitle: x\npriority: 1\n---\nDo it.\n"),
        markdown("---\npriority: 1 # high\ntitle: 'x'\n---\r\n\r\nDo it.\r\n\r\n")
    );
    assert_ne!(
        markdown("---\ntitle: x\n---\nDo it."),
        markdown("---\ntitle: x\n---\nDo that.")
    );
}

#[test]
fn readmes_and_hidden_files_are_no_tasks() {
    for path in ["tasks/a.md", "a.yml", "x/b.YAML", "c.json"] {
        assert!(is_task_file(path), "{path}");
    }
    for path in [
        "tasks/README.md",
        "readme.markdown",
        "tasks/.draft.md",
        "_notes.md",
        "a.txt",
        "Makefile",
        ".md",
    ] {
        assert!(!is_task_file(path), "{path}");
    }
}

proptest! {
    #[test]
    fn no_file_makes_the_parser_panic_and_errors_lie_within_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), markdown in any::<bool>()) {
        let path = if markdown { "a.md" } else { "a.yaml" };
        if let Err(errors) = parse(path, &bytes) {
            let lines = bytes.iter().filter(|byte| **byte == b'\n' || **byte == b'\r').count() + 2;
            prop_assert!(!errors.is_empty() && errors.len() <= MAX_ERRORS);
            for error in errors {
                prop_assert!(error.line >= 1 && error.line <= lines && error.column >= 1, "{}", error);
            }
        }
    }

    #[test]
    fn mangled_manifests_never_panic(at in 0usize..600, with in "[-:{}\\[\\]&*!|>'\"#\n\t a-z0-9]{0,6}") {
        let mut text = MANIFESTS.to_owned();
        let at = at.min(text.len());
        text.insert_str(at, &with);
        let _ = parse("a.yaml", text.as_bytes());
    }

    #[test]
    fn good_markdown_always_becomes_a_workload_that_its_schema_accepts(title in "[a-zA-Z ]{1,40}", body in "[ -~\n]{1,300}", priority in any::<i64>()) {
        prop_assume!(!title.trim().is_empty() && !body.trim().is_empty());
        let text = format!("---\ntitle: \"{title}\"\npriority: {priority}\n---\n{body}");
        let made = workload(&one("tasks/x.md", &text), &QueueDefaults::default());
        let value = serde_json::to_value(&made.spec).unwrap();
        let (nodes, read) = document::read("x", &crate::yaml::to_string(&value).unwrap(), 0);
        prop_assert!(read.is_empty());
        let mut checker = Checker::new("x", &[]);
        checker.check(&nodes[0], crate::structural::spec_of("Workload").unwrap(), "spec");
        prop_assert_eq!(checker.into_errors(), Vec::new());
    }
}

#[test]
fn the_readmes_example_of_a_task_file_is_one() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("## Task files").nth(1).unwrap();
    let lines = section.lines().skip_while(|line| !line.starts_with("    ---"));
    let example: String = lines
        .map_while(|line| line.strip_prefix("    "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(example.ends_with("for it.\n"), "{example}");
    parse("tasks/a.md", example.as_bytes()).unwrap();
}

#[test]
fn front_matter_that_is_no_map_and_a_number_that_is_too_large_say_what_they_are() {
    assert!(errors("t/a.md", "---\n- a\n---\nx\n")[0].contains("the document is a list; expected a map"));
    let large = &errors("t/a.md", "---\nbudget: {rounds: 99999999999999999999}\n---\nx\n")[0];
    assert!(!large.contains("quotes"), "it has none: {large}");
}

#[test]
fn marks_that_others_write_are_refused_with_their_place_and_others_are_kept() {
    let manifest = |part: &str, key: &str| {
        format!(
            "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata:\n  name: x\n  {part}:\n    {key}: a:b\n\
             spec:\n  kind: freeform\n  payload: {{prompt: Hi}}\n"
        )
    };
    for (part, key, advice) in [
        ("annotations", crate::labels::QUEUE_UID, "only a queue writes it"),
        ("labels", crate::labels::QUEUE, "only a queue writes it"),
        ("annotations", "argocd.argoproj.io/tracking-id", "prune it"),
    ] {
        let errors = errors("tasks/x.yaml", manifest(part, key));
        assert_eq!(errors.len(), 1, "{errors:?}");
        for wanted in ["tasks/x.yaml:6", key, advice] {
            assert!(errors[0].contains(wanted), "{wanted} is not in {errors:?}");
        }
    }
    one("tasks/x.yaml", &manifest("labels", "app.kubernetes.io/instance"));
}
