#![allow(clippy::unwrap_used, clippy::panic)]

mod pins;
mod pointers;
mod tracked;

use super::*;
use futures::future::BoxFuture;
use serde_json::json;
use std::path::Path;

struct Echo;

impl Shell for Echo {
    fn run<'a>(
        &'a self,
        command: &'a str,
        _limit: Duration,
        _cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<bash::ShellOutput, bash::ShellError>> {
        Box::pin(async move {
            Ok(bash::ShellOutput {
                exit: bash::ShellExit::Code(3),
                output: command.to_owned(),
                notes: vec!["weaker".into()],
            })
        })
    }
}

/// Takes the command for the new content of a file.
struct Rewriting(PathBuf);

impl Shell for Rewriting {
    fn run<'a>(
        &'a self,
        command: &'a str,
        limit: Duration,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<bash::ShellOutput, bash::ShellError>> {
        std::fs::write(&self.0, command).unwrap();
        Echo.run("", limit, cancel)
    }
}

fn toolbox(folder: &Path, shell: bool) -> Toolbox {
    let shell = shell.then(|| Arc::new(Echo) as Arc<dyn Shell>);
    keeping(folder, Pins::default(), Arc::default(), shell)
}

fn keeping(folder: &Path, pins: Pins, tracked: Arc<Tracked>, shell: Option<Arc<dyn Shell>>) -> Toolbox {
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("src")).unwrap();
    std::fs::create_dir_all(tree.join(".git")).unwrap();
    std::fs::write(tree.join(".git/config"), "needle").unwrap();
    std::fs::write(tree.join("src/a.rs"), "fn a() {\n    needle();\n}\n").unwrap();
    std::fs::write(tree.join("src/b.txt"), "Needle\r\nend\r\n").unwrap();
    std::fs::write(tree.join("image.bin"), [0u8, 1, 2]).unwrap();
    std::fs::write(tree.join(".gitignore"), "ignored\n").unwrap();
    std::fs::write(tree.join("ignored"), "needle").unwrap();
    Toolbox::keeping(
        pins,
        ToolboxSettings {
            work_tree: tree,
            tracked,
            kept_outputs: folder.join("kept"),
            tools: all_specs().iter().map(|spec| spec.name.to_owned()).collect(),
            protected: vec![".foreman/**".into()],
            shell,
            bash_timeout: Duration::from_secs(30),
            briefing: Briefing::default(),
            caps: Caps {
                answer_bytes: 2000,
                ..Caps::default()
            },
        },
    )
    .unwrap()
}

async fn run(toolbox: &Toolbox, tool: &str, arguments: Value) -> ToolResult {
    let spec = toolbox.specs().iter().find(|spec| spec.name == tool).unwrap();
    let arguments = spec.check(arguments.as_object().unwrap()).unwrap();
    toolbox
        .run(
            &Call {
                id: String::new(),
                tool: tool.into(),
                arguments,
            },
            &CancellationToken::new(),
        )
        .await
}

#[tokio::test]
async fn files_are_read_changed_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let read = run(
        &toolbox,
        "read_file",
        json!({"path": "src/a.rs", "offset": 2, "limit": 1}),
    )
    .await;
    assert!(
        read.content.contains("     2|     needle();") && !read.content.contains("fn a"),
        "{}",
        read.content
    );
    let changed = run(
        &toolbox,
        "str_replace",
        json!({"path": "src/b.txt", "old_string": "Needle\nend", "new_string": "One\ntwo"}),
    )
    .await;
    assert!(changed.mutated, "{}", changed.content);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("tree/src/b.txt")).unwrap(),
        "One\r\ntwo\r\n",
        "line ends stay as they are"
    );
    let made = run(&toolbox, "write_file", json!({"path": "new/c.txt", "content": "c"})).await;
    assert_eq!((made.outcome, made.mutated), (Outcome::Done, true));
    let same = run(&toolbox, "write_file", json!({"path": "new/c.txt", "content": "c"})).await;
    assert_eq!((same.outcome, same.mutated), (Outcome::Done, false));
    let binary = run(&toolbox, "read_file", json!({"path": "image.bin"})).await;
    assert!(binary.content.contains("binary file of 3 bytes"));
    let missing = run(&toolbox, "read_file", json!({"path": "src/z.rs"})).await;
    assert!(
        missing.outcome == Outcome::Refused && missing.content.contains("a.rs"),
        "{}",
        missing.content
    );
    let protected = run(
        &toolbox,
        "write_file",
        json!({"path": ".foreman/gate.yaml", "content": ""}),
    )
    .await;
    assert_eq!(
        (protected.outcome, protected.protected.as_deref()),
        (Outcome::Refused, Some(".foreman/gate.yaml"))
    );
}

#[tokio::test]
async fn line_ends_and_a_byte_order_mark_outlive_every_edit() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let file = folder.path().join("tree/src/b.txt");
    let marked = "\u{feff}Needle\r\nend\r\n";
    let patches = [
        "--- a/src/b.txt\n+++ b/src/b.txt\n@@ -1 +1 @@\n-Needle\n+One\n",
        "*** Update File: src/b.txt\n@@ Needle\n-Needle\n+One\n",
    ];
    for (before, tool, arguments, after) in [
        (
            "Needle\r\nend\r\n",
            "write_file",
            json!({"content": "One\ntwo\n"}),
            "One\r\ntwo\r\n",
        ),
        (marked, "write_file", json!({"content": "One\n"}), "\u{feff}One\r\n"),
        (marked, "write_file", json!({"content": "\u{feff}One"}), "\u{feff}One"),
        // What says itself how its lines end is written as it is.
        (
            "Needle\r\n",
            "write_file",
            json!({"content": "One\r\ntwo\n"}),
            "One\r\ntwo\n",
        ),
        ("Needle\r\nend\n", "write_file", json!({"content": "One\n"}), "One\n"),
        (
            marked,
            "str_replace",
            json!({"old_string": "Needle\nend\n", "new_string": "One\n"}),
            "\u{feff}One\r\n",
        ),
        (
            marked,
            "apply_patch",
            json!({"patch": patches[0]}),
            "\u{feff}One\r\nend\r\n",
        ),
        (
            marked,
            "apply_patch",
            json!({"patch": patches[1]}),
            "\u{feff}One\r\nend\r\n",
        ),
    ] {
        std::fs::write(&file, before).unwrap();
        let mut arguments = arguments;
        if tool != "apply_patch" {
            arguments["path"] = json!("src/b.txt");
        }
        let result = run(&toolbox, tool, arguments.clone()).await;
        assert!(result.mutated, "{arguments}: {}", result.content);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), after, "{arguments}");
    }
    std::fs::write(&file, marked).unwrap();
    let read = run(&toolbox, "read_file", json!({"path": "src/b.txt"})).await;
    assert!(read.content.contains("     1| Needle\n"), "{}", read.content);
    let same = run(
        &toolbox,
        "write_file",
        json!({"path": "src/b.txt", "content": "Needle\nend\n"}),
    )
    .await;
    assert_eq!((same.outcome, same.mutated), (Outcome::Done, false), "{}", same.content);
}

#[tokio::test]
async fn searches_see_the_tree_and_nothing_that_is_not_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    std::os::unix::fs::symlink("/etc", folder.path().join("tree/etc")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("tree/ignored"), folder.path().join("tree/link")).unwrap();
    let found = run(&toolbox, "grep", json!({"pattern": "(?i)needle"})).await;
    assert_eq!(found.content, "src/a.rs:2:     needle();\nsrc/b.txt:1: Needle");
    let one = run(&toolbox, "grep", json!({"pattern": "(?i)needle", "max": 1})).await;
    assert!(one.content.starts_with("src/a.rs:2:") && one.content.contains("stopped at 1 lines"));
    let file = run(&toolbox, "grep", json!({"pattern": "end", "path": "src/b.txt"})).await;
    assert_eq!(file.content, "src/b.txt:2: end");
    assert!(
        run(&toolbox, "grep", json!({"pattern": "("}))
            .await
            .content
            .contains("backslash")
    );
    for path in ["..", "/etc", "etc", ".git"] {
        assert_eq!(
            run(&toolbox, "grep", json!({"pattern": "root", "path": path}))
                .await
                .outcome,
            Outcome::Refused,
            "{path}"
        );
        assert_eq!(
            run(&toolbox, "glob", json!({"pattern": "*", "path": path}))
                .await
                .outcome,
            Outcome::Refused,
            "{path}"
        );
    }
    assert_eq!(
        run(&toolbox, "glob", json!({"pattern": "*.rs"})).await.content,
        "src/a.rs"
    );
    assert_eq!(
        run(&toolbox, "glob", json!({"pattern": "*.txt", "path": "src"}))
            .await
            .content,
        "src/b.txt"
    );
    assert_eq!(
        run(&toolbox, "glob", json!({"pattern": "src/*"})).await.content,
        "src/a.rs\nsrc/b.txt"
    );
    assert_eq!(
        run(&toolbox, "glob", json!({"pattern": "*.nothing"})).await.content,
        "no file matches"
    );
}

#[tokio::test]
async fn an_ignore_file_that_never_ends_or_never_opens_stops_no_search() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let tree = folder.path().join("tree");
    let before = toolbox.fingerprint().await;
    std::fs::write(tree.join("ignored"), "needle, longer").unwrap();
    assert_eq!(toolbox.fingerprint().await, before, "ignored files do not count");
    std::fs::remove_file(tree.join(".gitignore")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", tree.join(".gitignore")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    for name in [".ignore", "src/.gitignore"] {
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, tree.join(name), kind, mode, 0).unwrap();
    }
    assert_ne!(toolbox.fingerprint().await, before);
    let found = run(&toolbox, "grep", json!({"pattern": "needle"})).await;
    assert_eq!(found.content, "ignored:1: needle, longer\nsrc/a.rs:2:     needle();");
    assert_eq!(
        run(&toolbox, "glob", json!({"pattern": "*"})).await.content,
        "ignored\nimage.bin\nsrc/a.rs\nsrc/b.txt"
    );
}

#[tokio::test]
async fn patches_apply_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let text = |name: &str| std::fs::read_to_string(folder.path().join("tree").join(name)).unwrap();
    let half = "*** Begin Patch\n*** Update File: src/a.rs\n@@\n-    needle();\n+    thread();\n*** Update File: src/b.txt\n@@\n-absent\n+x\n*** End Patch";
    let refused = run(&toolbox, "apply_patch", json!({"patch": half})).await;
    assert!(
        refused.outcome == Outcome::Refused && refused.content.contains("Nothing was changed"),
        "{}",
        refused.content
    );
    assert!(text("src/a.rs").contains("needle"));
    let escaping = "--- /dev/null\n+++ b/../evil\n@@ -0,0 +1 @@\n+x\n";
    assert_eq!(
        run(&toolbox, "apply_patch", json!({"patch": escaping})).await.outcome,
        Outcome::Refused
    );
    assert!(!folder.path().join("evil").exists());
    let guarded = "*** Update File: src/a.rs\n@@\n-    needle();\n+    x();\n*** Add File: .foreman/gate.yaml\n+x\n";
    assert!(
        run(&toolbox, "apply_patch", json!({"patch": guarded}))
            .await
            .protected
            .is_some()
    );
    assert!(
        text("src/a.rs").contains("needle"),
        "a protected part refuses the whole"
    );
    let whole = "*** Update File: src/a.rs\n@@\n-    needle();\n+    thread();\n*** Add File: d.txt\n+d\n*** Delete File: ignored\n";
    assert!(run(&toolbox, "apply_patch", json!({"patch": whole})).await.mutated);
    assert_eq!(
        (text("src/a.rs").as_str(), text("d.txt").as_str()),
        ("fn a() {\n    thread();\n}\n", "d\n")
    );
    assert!(!folder.path().join("tree/ignored").exists());
}

#[tokio::test]
async fn parts_of_a_patch_for_one_file_build_on_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let text = |name: &str| std::fs::read_to_string(folder.path().join("tree").join(name)).unwrap();
    let twice = "*** Update File: src/a.rs\n@@\n-fn a() {\n+fn b() {\n*** Update File: ./src//a.rs\n@@\n-    needle();\n+    thread();\n";
    let result = run(&toolbox, "apply_patch", json!({"patch": twice})).await;
    assert!(result.mutated, "{}", result.content);
    assert_eq!(text("src/a.rs"), "fn b() {\n    thread();\n}\n");
    let chain = "*** Update File: src/b.txt\n*** Move to: c.txt\n@@\n-end\n+END\n*** Update File: c.txt\n@@\n-Needle\n+Pin\n*** Add File: new\n+x\n*** Delete File: new\n*** Delete File: ignored\n*** Add File: ignored\n+again\n";
    let result = run(&toolbox, "apply_patch", json!({"patch": chain})).await;
    assert!(result.mutated, "{}", result.content);
    assert_eq!(
        (text("c.txt").as_str(), text("ignored").as_str()),
        ("Pin\r\nEND\r\n", "again\n")
    );
    for gone in ["src/b.txt", "new"] {
        assert!(!folder.path().join("tree").join(gone).exists(), "{gone}");
    }
    for (patch, reason) in [
        (
            "*** Delete File: c.txt\n*** Update File: c.txt\n@@\n-Pin\n+P\n",
            "an earlier part",
        ),
        ("*** Delete File: c.txt\n*** Delete File: c.txt\n", "no such file"),
        ("*** Add File: n\n+1\n*** Add File: n\n+2\n", "it exists"),
    ] {
        let result = run(&toolbox, "apply_patch", json!({"patch": patch})).await;
        assert_eq!((result.outcome, result.mutated), (Outcome::Refused, false), "{patch}");
        assert!(result.content.contains(reason), "{}", result.content);
    }
    assert_eq!(text("c.txt"), "Pin\r\nEND\r\n");
    assert!(!folder.path().join("tree/n").exists());
}

#[tokio::test]
async fn a_move_never_loses_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let text = |name: &str| std::fs::read_to_string(folder.path().join("tree").join(name)).unwrap();
    let onto = "*** Update File: src/a.rs\n*** Move to: src/b.txt\n@@\n-    needle();\n+    thread();\n";
    let result = run(&toolbox, "apply_patch", json!({"patch": onto})).await;
    assert!(
        result.outcome == Outcome::Refused && result.content.contains("\"src/b.txt\": it exists"),
        "{}",
        result.content
    );
    assert_eq!(
        (text("src/a.rs").contains("needle"), text("src/b.txt").as_str()),
        (true, "Needle\r\nend\r\n")
    );
    let own = onto.replace("src/b.txt", "./src/a.rs");
    let result = run(&toolbox, "apply_patch", json!({"patch": own})).await;
    assert!(result.mutated, "{}", result.content);
    assert_eq!(text("src/a.rs"), "fn a() {\n    thread();\n}\n");
}

#[tokio::test]
async fn commands_report_their_end_and_long_output_can_be_paged() {
    let folder = tempfile::tempdir().unwrap();
    let with_shell = toolbox(folder.path(), true);
    let long: String = (0..2000).map(|n| format!("{n}\n")).collect();
    let result = run(&with_shell, "bash", json!({"command": long})).await;
    assert!(
        result.content.starts_with("0\n") && result.content.ends_with("1999\n[exit code 3]\n[weaker]"),
        "{}",
        result.content
    );
    assert!(result.content.len() < 2400 && result.content.contains("tool-output/1") && !result.mutated);
    let page = run(
        &with_shell,
        "read_file",
        json!({"path": "tool-output/1", "offset": 1000, "limit": 2}),
    )
    .await;
    assert!(page.content.contains("  1000| 999\n  1001| 1000\n"), "{}", page.content);
    let without = toolbox(folder.path(), false);
    assert_eq!(
        run(&without, "bash", json!({"command": "ls"})).await.outcome,
        Outcome::Failed
    );
}

#[test]
fn an_unknown_tool_of_an_agent_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |tools: Vec<String>| ToolboxSettings {
        work_tree: folder.path().to_owned(),
        tracked: Arc::default(),
        kept_outputs: folder.path().join("kept"),
        tools,
        protected: vec![],
        shell: None,
        bash_timeout: Duration::from_secs(30),
        briefing: Briefing::default(),
        caps: Caps::default(),
    };
    let Err(error) = Toolbox::new(settings(vec!["teleport".into()])) else {
        panic!("accepted")
    };
    assert!(
        error.to_string().contains("teleport") && error.to_string().contains("str_replace"),
        "{error}"
    );
    let toolbox = Toolbox::new(settings(vec!["run_gate_job".into(), "mcp__x__y".into(), "grep".into()])).unwrap();
    assert_eq!(
        toolbox.specs().iter().map(|spec| spec.name).collect::<Vec<_>>(),
        ["grep", "submit_result"]
    );
}

#[test]
fn every_tool_of_a_coder_and_no_deterministic_one_is_in_the_box() {
    let in_box: Vec<&str> = all_specs().iter().map(|spec| spec.name).collect();
    for tool in schemas::tools::CODER {
        assert!(in_box.contains(&tool), "{tool}");
    }
    for tool in DETERMINISTIC {
        assert!(!in_box.contains(&tool), "{tool}");
    }
}
