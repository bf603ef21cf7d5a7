#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

struct Place {
    _folder: tempfile::TempDir,
    outside: PathBuf,
    root: Root,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let outside = folder.path().join("outside");
    std::fs::create_dir_all(tree.join("src")).unwrap();
    std::fs::create_dir_all(tree.join(".git")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::write(tree.join(".git/config"), "[core]").unwrap();
    std::fs::write(tree.join("src/a.rs"), "fn a() {}\n").unwrap();
    let protected = Protected::new(["tests/gate.rs", "ci/", "Makefile"]).unwrap();
    let root = Root::open(&tree, protected).unwrap();
    Place {
        _folder: folder,
        outside,
        root,
    }
}

#[test]
fn no_path_leads_out_of_the_work_tree() {
    let Place { _folder, outside, root } = place();
    let tree = root.path().to_owned();
    symlink(&outside, tree.join("out")).unwrap();
    symlink(outside.join("secret"), tree.join("leak")).unwrap();
    symlink("../../outside/secret", tree.join("src/rel")).unwrap();
    symlink(".git", tree.join("dotgit")).unwrap();
    symlink(outside.join("new"), tree.join("dangling")).unwrap();
    let absolute = outside.join("secret").display().to_string();
    let escapes = [
        "../outside/secret",
        "src/../../outside/secret",
        absolute.as_str(),
        "out/secret",
        "leak",
        "src/rel",
        "dotgit/config",
        "dangling",
        ".git/config",
        "src/.GIT/config",
        "~/.ssh/id",
        "a\0b",
        "/workspace/../etc/passwd",
    ];
    for path in escapes {
        assert!(
            matches!(root.read(path, 1 << 20), Err(RootError::Refused { .. })),
            "read {path:?}"
        );
        assert!(
            matches!(root.write(path, b"x"), Err(RootError::Refused { .. })),
            "write {path:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert!(!outside.join("new").exists());
    assert!(root.read("leak", 9).unwrap_err().to_string().contains("symbolic link"));
}

#[test]
fn a_folder_swapped_for_a_link_between_two_writes_leads_nowhere() {
    let Place { _folder, outside, root } = place();
    root.write("deep/er/file", b"1").unwrap();
    let tree = root.path().to_owned();
    std::fs::rename(tree.join("deep"), tree.join("moved")).unwrap();
    symlink(&outside, tree.join("deep")).unwrap();
    std::fs::create_dir_all(outside.join("er")).unwrap();
    assert!(root.write("deep/er/file", b"2").is_err());
    assert!(!outside.join("er/file").exists());
}

#[test]
fn writing_makes_folders_keeps_the_mode_and_breaks_hard_links() {
    let Place { _folder, outside, root } = place();
    let tree = root.path().to_owned();
    assert!(!root.write("new/dir/run.sh", b"one").unwrap());
    std::fs::set_permissions(tree.join("new/dir/run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(root.write("./new//dir/run.sh", b"two").unwrap());
    assert_eq!(
        std::fs::metadata(tree.join("new/dir/run.sh"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
    std::fs::hard_link(outside.join("secret"), tree.join("hard")).unwrap();
    root.write("hard", b"mine").unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    let left: Vec<_> = std::fs::read_dir(&tree)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains(".tmp"))
        .collect();
    assert!(left.is_empty());
    assert!(
        root.write("src", b"x").is_err() && root.write("src/a.rs/b", b"x").is_err() && root.write("x/", b"x").is_err()
    );
}

#[test]
fn protected_paths_are_refused_with_the_pattern_that_protects_them() {
    let Place { _folder, root, .. } = place();
    for path in [
        ".foreman/gate.yaml",
        "./.foreman//x/y",
        ".Foreman/gate.yaml",
        "tests/gate.rs",
        "ci/run",
        "ci",
        "src/makefile",
    ] {
        let error = root.write(path, b"x").unwrap_err();
        assert!(matches!(error, RootError::Protected { .. }), "{path}: {error}");
    }
    assert!(
        root.write(".foreman/gate.yaml", b"x")
            .unwrap_err()
            .to_string()
            .contains(".foreman/**")
    );
    assert!(root.write("tests/other.rs", b"x").is_ok());
    assert!(matches!(root.remove("tests/gate.rs"), Err(RootError::Protected { .. })));
}

#[test]
fn special_files_and_large_files_are_refused_without_being_read() {
    let Place { _folder, root, .. } = place();
    let tree = root.path().to_owned();
    let made = std::process::Command::new("mkfifo")
        .arg(tree.join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    assert!(matches!(root.read("pipe", 9), Err(RootError::Refused { .. })));
    assert!(matches!(root.write("pipe", b"x"), Err(RootError::Refused { .. })));
    assert!(matches!(
        root.read("src/a.rs", 3),
        Err(RootError::TooLarge { size: 10, .. })
    ));
    let Found::Folder(names) = root.read(".", 9).unwrap() else {
        panic!("not a folder")
    };
    assert_eq!(names, ["pipe", "src/"]);
}

#[test]
fn the_trees_own_absolute_path_is_understood() {
    let Place { _folder, root, .. } = place();
    let path = root.path().join("src/a.rs").display().to_string();
    assert!(matches!(root.read(&path, 99), Ok(Found::File(_))));
    assert!(matches!(root.read("/workspace/src/a.rs", 99), Ok(Found::File(_))));
}

#[test]
fn new_files_get_no_names_that_mislead_and_old_ones_keep_theirs() {
    let Place { _folder, root, .. } = place();
    for (path, why) in [
        ("src\\b.rs", "a backslash"),
        ("src/a\nb.rs", "control or invisible"),
        ("src/a\u{202e}sr.b", "control or invisible"),
        ("src/a\u{1b}[2J", "control or invisible"),
        ("src/.g\u{200c}it/config", "control or invisible"),
        ("git~1/config", "stands for `.git`"),
        ("src/.git./config", "stands for `.git`"),
    ] {
        let error = root.write(path, b"x").unwrap_err().to_string();
        assert!(
            error.contains(why) && !error.contains(['\u{1b}', '\n']),
            "{path:?}: {error}"
        );
        if !path.contains('/') || path.starts_with("src/a") || path.starts_with("src\\") {
            std::fs::write(root.path().join(path), "old").unwrap();
            assert!(root.write(path, b"x").unwrap(), "{path:?} was there");
        }
    }
    // A new file in a folder that has such a name.
    std::fs::create_dir(root.path().join("src/\u{645}\u{6cc}\u{200c}\u{634}")).unwrap();
    assert!(!root.write("src/\u{645}\u{6cc}\u{200c}\u{634}/x.md", b"x").unwrap());
    for path in ["src/\u{e9}t\u{e9} \u{65e5}.rs", ".github/x", "src/a b"] {
        assert!(!root.write(path, b"x").unwrap(), "{path:?}");
    }
}
