//! What a command sees of the file system, its environment and its input.

use sandbox::{Command, Output, Reason, Toolchain};

use crate::{backends, shell};

#[test]
fn nothing_of_the_callers_environment_is_inherited() {
    for sandbox in backends() {
        let command = Command::new("env")
            .toolchain(&Toolchain::default())
            .env("PATH", "/usr/bin:/bin");
        let mut command = command.env("ONLY", "this");
        command.mounts = Toolchain::host().mounts;
        let outcome = sandbox.run_blocking(command, Output::captured());
        let text = outcome.stdout.text();
        let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let expected: &[&str] = match sandbox.backend() {
            sandbox::Backend::Namespaces => &["ONLY", "PATH"],
            _ => &["ONLY", "PATH", "TMPDIR"],
        };
        assert_eq!(names, expected, "{outcome:?}");
    }
}

#[test]
fn bound_folders_are_written_and_read_only_ones_are_not() {
    for sandbox in backends() {
        let (tree, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(data.path().join("input"), "given\n").unwrap();
        let script = "cat /data/input > /workspace/out; echo x > /data/new; echo y > /data/input; \
                      echo z > /tmp/t && cat /tmp/t; echo h > $HOME/h && cat $HOME/h; pwd";
        let command = shell(script)
            .rw(tree.path(), "/workspace")
            .ro(data.path(), "/data")
            .cwd("/workspace");
        let outcome = sandbox.run_blocking(command, Output::captured());
        let text = outcome.stdout.text();
        assert!(
            text.starts_with("z\nh\n"),
            "{outcome:?} {text} {}",
            outcome.stderr.text()
        );
        assert_eq!(std::fs::read_to_string(tree.path().join("out")).unwrap(), "given\n");
        assert_eq!(std::fs::read_to_string(data.path().join("input")).unwrap(), "given\n");
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1);
        let real = tree.path().canonicalize().unwrap();
        let seen = if sandbox.backend() == sandbox::Backend::Namespaces {
            "/workspace"
        } else {
            real.to_str().unwrap()
        };
        assert_eq!(text.lines().last(), Some(seen));
    }
}

#[test]
fn masked_files_are_hidden() {
    for sandbox in backends() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("folder")).unwrap();
        std::fs::write(data.path().join("folder/key"), "hidden").unwrap();
        std::fs::write(data.path().join("token"), "hidden").unwrap();
        std::fs::write(data.path().join("plain"), "shown\n").unwrap();
        let command = shell("cat /data/plain /data/token /data/folder/key; true")
            .ro(data.path(), "/data")
            .mask("/data/token")
            .mask("/data/folder")
            .mask("/data/not-there");
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(outcome.stdout.text(), "shown\n", "{outcome:?}");
    }
}

#[test]
fn input_bytes_are_read_to_their_end() {
    let bytes: Vec<u8> = (0..300_000).map(|number| (number % 251) as u8).collect();
    for sandbox in backends() {
        let outcome = sandbox.run_blocking(shell("cksum; cat").stdin(bytes.clone()), Output::captured());
        let first = outcome.stdout.text();
        assert!(first.lines().next().unwrap().ends_with(" 300000"), "{first}");
        let nothing = sandbox.run_blocking(shell("wc -c"), Output::captured());
        assert_eq!(nothing.stdout.text().trim(), "0");
    }
}

#[test]
fn input_bytes_cannot_be_written_over() {
    let script = "(echo more >&0) 2>/dev/null && echo wrote; (: > /proc/self/fd/0) 2>/dev/null && echo emptied; \
                  (echo more >> /proc/self/fd/0) 2>/dev/null && echo added; cat";
    for sandbox in backends() {
        let outcome = sandbox.run_blocking(shell(script).stdin("given\n"), Output::captured());
        assert_eq!(outcome.stdout.text(), "given\n", "{outcome:?}");
    }
}

#[test]
fn a_mount_through_a_planted_link_is_refused() {
    let sandbox = backends()
        .into_iter()
        .find(|sandbox| sandbox.backend() == sandbox::Backend::Namespaces);
    let Some(sandbox) = sandbox else {
        // Landlock mounts nothing; `backends` has made sure that it was there to be tested elsewhere.
        return;
    };
    let (tree, data, aim) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    std::os::unix::fs::symlink(aim.path(), tree.path().join("cache")).unwrap();
    let command = shell("true")
        .rw(tree.path(), "/workspace")
        .ro(data.path(), "/workspace/cache/inner");
    let outcome = sandbox.run_blocking(command, Output::captured());
    assert!(
        matches!(&outcome.reason, Reason::StartError(why) if why.contains("symbolic link")),
        "{outcome:?}"
    );
    assert_eq!(std::fs::read_dir(aim.path()).unwrap().count(), 0);
}

#[test]
fn a_link_in_a_source_that_is_to_be_exact_keeps_the_command_from_starting() {
    let (tree, aim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tree = tree.path().canonicalize().unwrap();
    let (folder, link) = (tree.join("folder"), tree.join("link"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "inside\n").unwrap();
    std::os::unix::fs::symlink(aim.path(), &link).unwrap();
    for sandbox in backends() {
        let run = |source: &std::path::Path| {
            let mut command = shell("ls /workspace").rw(source, "/workspace");
            command.exact.insert(source.to_owned());
            sandbox.run_blocking(command, Output::captured())
        };
        assert_eq!(run(&folder).stdout.text(), "file\n");
        let refused = run(&link);
        assert!(matches!(&refused.reason, Reason::StartError(_)), "{refused:?}");
    }
}

#[test]
fn a_cargo_project_builds_and_tests_offline() {
    for sandbox in backends() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("src")).unwrap();
        std::fs::write(
            tree.path().join("Cargo.toml"),
            "[package]\nname = \"sample\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
        )
        .unwrap();
        let code = "#[test]\nfn adds() {\n    assert_eq!(1 + 1, 2);\n}\n";
        std::fs::write(tree.path().join("src/lib.rs"), code).unwrap();
        let command = Command::new("cargo")
            .args(["test", "--offline", "--lib"])
            .toolchain(&Toolchain::host())
            .rw(tree.path(), "/workspace")
            .cwd("/workspace");
        let outcome = sandbox.run_blocking(command, Output::captured_together());
        assert!(outcome.success(), "{}: {}", sandbox.backend(), outcome.stdout.text());
        assert!(outcome.stdout.text().contains("1 passed"));
    }
}

#[test]
fn files_move_and_are_linked_between_writable_folders_of_one_bind() {
    for sandbox in backends() {
        let tree = tempfile::tempdir().unwrap();
        let script = "mkdir -p a/c b && echo x > a/f && ln a/f b/g && ln a/f a/c/h && mv -T a/c b/d && ls b/d";
        let command = shell(script).rw(tree.path(), "/workspace").cwd("/workspace");
        let outcome = sandbox.run_blocking(command, Output::captured());
        assert_eq!(outcome.stdout.text(), "h\n", "{:?} {outcome:?}", sandbox.backend());
    }
}

#[test]
fn what_makes_namespaces_of_its_own_uncovers_and_writes_nothing() {
    for sandbox in backends() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("folder")).unwrap();
        std::fs::write(data.path().join("folder/key"), "hidden").unwrap();
        std::fs::write(data.path().join("token"), "hidden").unwrap();
        let inner = "mount -t tmpfs tmpfs /tmp/x && echo mounted && umount /tmp/x; \
                     for place in /data/token /data/folder /data /proc/sys /; do \
                       umount $place; umount -l $place; \
                       mount -o remount,bind,rw $place; mount --bind $place /tmp/x; mount --rbind $place /tmp/y; \
                     done; \
                     cat /data/token /data/folder/key /tmp/?/data/token /tmp/?/token /tmp/?/folder/key; \
                     echo new > /data/new; echo new > /tmp/x/new; echo new > /tmp/y/data/new; \
                     echo '|/tmp/x' > /proc/sys/kernel/core_pattern && echo set the core pattern; \
                     mount -t proc proc /tmp/x && echo '|/tmp/x' > /tmp/x/sys/kernel/core_pattern && echo set it";
        let script = format!(
            "mkdir /tmp/x /tmp/y; unshare --user --map-root-user --mount sh -c '{}' 2>/dev/null; \
             cat /data/token /data/folder/key; echo end",
            inner.replace('\'', "'\\''")
        );
        let command = shell(&script)
            .ro(data.path(), "/data")
            .mask("/data/token")
            .mask("/data/folder")
            .nesting(true)
            .wall(std::time::Duration::from_secs(20));
        let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let outcome = sandbox.run_blocking(command, Output::captured());
        // That it can mount at all shows that the rest was tried. A Landlock domain forbids it.
        let expected = match sandbox.backend() {
            sandbox::Backend::Namespaces => "mounted\nend\n",
            _ => "end\n",
        };
        assert_eq!(outcome.stdout.text(), expected, "{} {outcome:?}", sandbox.backend());
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 2);
        let after = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        assert_eq!(before, after);
    }
}
