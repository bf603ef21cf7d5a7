//! Files that are committed though a `.gitignore` names them.

use super::*;

#[tokio::test]
async fn a_committed_file_is_found_and_its_change_noticed_though_an_ignore_file_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    for (committed, seen) in [(vec![], false), (vec!["ignored", "dist/deep/kept.js"], true)] {
        let tracked = Tracked::new(committed.into_iter().map(git::BString::from));
        let shell = Arc::new(Rewriting(tree.join("dist/deep/kept.js")));
        let toolbox = keeping(folder.path(), Pins::default(), Arc::new(tracked), Some(shell));
        std::fs::write(tree.join(".gitignore"), "ignored\ndist\n").unwrap();
        std::fs::create_dir_all(tree.join("dist/deep")).unwrap();
        std::fs::write(tree.join("dist/deep/kept.js"), "needle").unwrap();
        std::fs::write(tree.join("dist/deep/new.js"), "needle").unwrap();
        let grepped = run(&toolbox, "grep", json!({"pattern": "needle"})).await.content;
        let globbed = run(&toolbox, "glob", json!({"pattern": "**"})).await.content;
        for found in [grepped, globbed] {
            assert_eq!(found.contains("dist/deep/kept.js"), seen, "{found}");
            assert_eq!(found.lines().any(|line| line.starts_with("ignored")), seen, "{found}");
            assert!(!found.contains("new.js"), "{found}");
        }
        let below = run(&toolbox, "glob", json!({"pattern": "*.js", "path": "dist"})).await;
        assert!(
            below.content.contains("dist/deep/kept.js"),
            "where the folder itself is asked for: {}",
            below.content
        );
        let ran = run(&toolbox, "bash", json!({"command": "a longer text"})).await;
        assert_eq!(ran.mutated, seen);
    }
}
