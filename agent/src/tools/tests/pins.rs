//! Parts of manifests that a run must leave as the base has them.

use super::*;

const MANIFEST: &str = "{\n  \"scripts\": {\n    \"test\": \"node t\"\n  },\n  \"dependencies\": {}\n}\n";

/// Makes tools in a work tree with a manifest, of which the script is pinned.
fn with_manifest(folder: &Path) -> Toolbox {
    let repository = git::Repository::init_bare(&folder.join("r.git"), "main").unwrap();
    let who = git::Identity::new("T", "t@example.org", 1);
    let edits = [git::FileEdit::write("package.json", MANIFEST)];
    let base = repository.commit_files(None, &edits, "one", &who).unwrap();
    let pinned = |file: &str, part: &str| gate::pinned::Pinned {
        file: file.into(),
        parts: vec![part.into()],
    };
    let pinned = vec![
        pinned("package.json", "scripts.test"),
        pinned("/setup.cfg", "tool:pytest"),
    ];
    let manifest = folder.join("tree/package.json");
    let shell = Arc::new(Rewriting(manifest.clone()));
    let toolbox = keeping(folder, Pins::new(pinned, repository, base), Arc::default(), Some(shell));
    std::fs::write(manifest, MANIFEST).unwrap();
    toolbox
}

#[tokio::test]
async fn pinned_parts_of_a_manifest_are_kept_and_its_rest_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = with_manifest(folder.path());
    let manifest = || std::fs::read_to_string(folder.path().join("tree/package.json")).unwrap();
    let patch = "*** Begin Patch\n*** Add File: new\n+x\n*** Update File: package.json\n@@\n-    \"test\": \"node t\"\n+    \"test\": \"exit 0\"\n*** End Patch";
    let gone = "*** Begin Patch\n*** Delete File: package.json\n*** End Patch";
    for (tool, arguments) in [
        (
            "write_file",
            json!({"path": "package.json", "content": MANIFEST.replace("node t", "exit 0")}),
        ),
        (
            "str_replace",
            json!({"path": "./package.json", "old_string": "node t", "new_string": "exit 0"}),
        ),
        ("apply_patch", json!({"patch": patch})),
        ("apply_patch", json!({"patch": gone})),
    ] {
        let result = run(&toolbox, tool, arguments).await;
        assert_eq!(result.outcome, Outcome::Refused, "{tool}: {}", result.content);
        assert_eq!(result.protected.as_deref(), Some("package.json (scripts.test)"));
        assert!(
            result.content.contains("package.json (scripts.test)"),
            "{}",
            result.content
        );
    }
    assert_eq!(manifest(), MANIFEST);
    assert!(
        !folder.path().join("tree/new").exists(),
        "a patch is applied whole or not at all"
    );
    let section = json!({"path": "setup.cfg", "content": "[tool:pytest]\naddopts = -k nothing\n"});
    assert_eq!(run(&toolbox, "write_file", section).await.outcome, Outcome::Refused);
    let free = json!({"path": "package.json", "old_string": "{}", "new_string": "{\"a\": \"1\"}"});
    assert_eq!(run(&toolbox, "str_replace", free).await.outcome, Outcome::Done);
    let elsewhere = json!({"path": "new/package.json", "content": "{\"scripts\": {\"test\": \"x\"}}"});
    assert_eq!(run(&toolbox, "write_file", elsewhere).await.outcome, Outcome::Done);
    assert_eq!(toolbox.protected().covers("package.json"), None);
}

#[tokio::test]
async fn a_command_that_changed_a_pinned_part_is_told_so_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = with_manifest(folder.path());
    let free = MANIFEST.replace("{}", "{\"a\": \"1\"}");
    let result = run(&toolbox, "bash", json!({"command": free})).await;
    assert!(
        result.mutated && !result.content.contains("scripts.test"),
        "{}",
        result.content
    );
    assert_eq!(toolbox.protected().covers("package.json"), None);
    let result = run(&toolbox, "bash", json!({"command": free.replace("node t", "exit 0")})).await;
    let told = "package.json (scripts.test) is not as it is at the base";
    assert!(result.content.contains(told), "{}", result.content);
    let held = toolbox.protected().covers("package.json").unwrap();
    assert_eq!(held.what, "package.json (scripts.test)");
}

#[tokio::test]
async fn a_part_that_must_be_put_back_is_named_with_where_its_old_form_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = with_manifest(folder.path());
    let path = folder.path().join("tree/package.json");
    std::fs::write(&path, MANIFEST.replace("node t", "exit 0")).unwrap();
    let held = toolbox.protected().covers("package.json").unwrap();
    assert_eq!(held.what, "package.json (scripts.test)");
    assert!(
        held.remedy.contains("put scripts.test back as it is at the base") && held.remedy.contains("`git show "),
        "{held:?}"
    );
    std::fs::write(&path, "{").unwrap();
    let held = toolbox.protected().covers("package.json").unwrap();
    assert_eq!(held.what, "package.json (cannot be read)");
    assert!(
        held.remedy.contains("make it a valid file again") && held.remedy.contains("scripts.test"),
        "{held:?}"
    );
    std::fs::write(
        folder.path().join("tree/setup.cfg"),
        "[tool:pytest]\naddopts = -k nothing\n",
    )
    .unwrap();
    let held = toolbox.protected().covers("setup.cfg").unwrap();
    assert_eq!(held.what, "setup.cfg (tool:pytest)");
    assert!(
        held.remedy.contains("the base has no such file") && !held.remedy.contains("git show"),
        "{held:?}"
    );
    let held = toolbox.protected().covers(".foreman/gate.yaml").unwrap();
    assert_eq!(held.what, ".foreman/gate.yaml");
    assert!(held.remedy.contains("protected by \".foreman/**\""), "{held:?}");
}
