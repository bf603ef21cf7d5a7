//! Where package caches lie and what they are keyed by.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::definition::{BaseTree, ResolvedGate};

/// Names of manifests, lock files and settings by which package managers choose what to download. At any depth: those of
/// members and of folders that a command changes into count as those at the root do.
const MANIFESTS: &[&str] = &[
    ".npmrc",
    ".nvmrc",
    ".python-version",
    ".tool-versions",
    ".yarnrc",
    ".yarnrc.yml",
    "Cargo.lock",
    "Cargo.toml",
    "Gemfile",
    "Gemfile.lock",
    "Pipfile",
    "Pipfile.lock",
    "build.gradle",
    "build.gradle.kts",
    "bun.lock",
    "composer.json",
    "composer.lock",
    "deno.json",
    "deno.lock",
    "go.mod",
    "go.sum",
    "go.work",
    "go.work.sum",
    "gradle.lockfile",
    "gradle.properties",
    "libs.versions.toml",
    "mix.exs",
    "mix.lock",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "package.json",
    "pdm.lock",
    "pip.conf",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "poetry.lock",
    "pom.xml",
    "pylock.toml",
    "pyproject.toml",
    "rust-toolchain",
    "rust-toolchain.toml",
    "settings.gradle",
    "settings.gradle.kts",
    "setup.cfg",
    "setup.py",
    "uv.lock",
    "yarn.lock",
];
/// Folders in which every file counts.
const FOLDERS: &[&str] = &[".cargo", "requirements", "reqs"];
/// Largest file that is read for the files that it names.
const REQUIREMENTS_MAX: usize = 1 << 20;

/// A file of the base tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFile {
    /// Path from the root of the tree.
    pub path: String,
    /// What tells its content from any other, such as the id of its blob.
    pub content: String,
}

/// Folder of one cache, below the cache volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheKey {
    /// Folder of the repository's base branch: 16 hex digits.
    pub repository: String,
    /// Folder of the cache within it: 32 hex digits.
    pub key: String,
}

impl CacheKey {
    /// Returns the folder below the cache volume.
    pub fn folder(&self) -> String {
        format!("{}/{}", self.repository, self.key)
    }
}

/// Computes the key of the cache that `gate` needs, or `None` where it prepares nothing.
///
/// Whoever prepares may write all caches of one folder, and prepares as the base says. So every base branch has a folder
/// of its own: what a task with another base fills is used by tasks with that base alone. The key within it covers image,
/// command and, of the `files` of the base tree, those that the gate names, or else all that package managers read, and
/// those that the command names.
pub fn cache_key(
    gate: &ResolvedGate,
    repository: &str,
    base_branch: &str,
    tree: &dyn BaseTree,
    files: &[BaseFile],
) -> Option<CacheKey> {
    let prepare = gate.prepare.as_ref()?;
    let mut folder = Sha256::new();
    field(&mut folder, repository.trim_end_matches('/').as_bytes());
    field(&mut folder, base_branch.as_bytes());
    let mut keyed: BTreeSet<String> = if prepare.cache_key.is_empty() {
        let read = files.iter().filter(|file| is_read(&file.path));
        read.map(|file| file.path.clone()).collect()
    } else {
        prepare.cache_key.iter().cloned().collect()
    };
    let there: BTreeMap<&str, &str> = files
        .iter()
        .map(|file| (file.path.as_str(), file.content.as_str()))
        .collect();
    let named = words(&prepare.command).filter_map(|word| below("", word));
    keyed.extend(named.filter(|path| there.contains_key(path.as_str())));
    add_included(&mut keyed, tree);
    let mut key = Sha256::new();
    field(&mut key, crate::FORMAT.as_bytes());
    field(&mut key, gate.image.as_bytes());
    field(&mut key, prepare.command.as_bytes());
    for path in &keyed {
        field(&mut key, path.as_bytes());
        match there.get(path.as_str()) {
            Some(content) => field(&mut key, content.as_bytes()),
            None => key.update(b"\0absent"),
        }
    }
    Some(CacheKey {
        repository: hex::encode(&folder.finalize()[..8]),
        key: hex::encode(&key.finalize()[..16]),
    })
}

/// Tells whether a package manager may read the file at `path` to choose what to download.
fn is_read(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    MANIFESTS.contains(&name) || is_requirements(name) || parts.iter().any(|folder| FOLDERS.contains(folder))
}

/// Tells whether a file lists packages for pip, by its name.
fn is_requirements(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    (name.contains("requirements") || name.contains("constraints")) && (name.ends_with(".txt") || name.ends_with(".in"))
}

/// Adds the files that lists of packages take in by `-r` and `-c`, whatever their names.
fn add_included(keyed: &mut BTreeSet<String>, tree: &dyn BaseTree) {
    let is_list = |path: &String| path.ends_with(".txt") || path.ends_with(".in");
    let mut lists: Vec<String> = keyed.iter().filter(|path| is_list(path)).cloned().collect();
    while let Some(list) = lists.pop() {
        let Some(content) = tree.read(&list, REQUIREMENTS_MAX) else {
            continue;
        };
        let folder = list.rsplit_once('/').map_or("", |(folder, _)| folder);
        for line in String::from_utf8_lossy(&content).lines().map(str::trim) {
            let options = ["--requirement", "--constraint", "-r", "-c"];
            let Some(rest) = options.iter().find_map(|option| line.strip_prefix(option)) else {
                continue;
            };
            let name = rest.trim_start_matches(['=', ' ', '\t']);
            let name = name.split_whitespace().next().unwrap_or_default();
            if let Some(path) = below(folder, name)
                && tree.exists(&path)
                && keyed.insert(path.clone())
            {
                lists.push(path);
            }
        }
    }
}

/// Returns the words of a command, as far as they can be told without a shell.
fn words(command: &str) -> impl Iterator<Item = &str> {
    command.split(|c: char| c.is_whitespace() || "\"'`=:;&|<>()".contains(c))
}

/// Returns the path that `name` means in `folder`, where it stays in the tree.
fn below(folder: &str, name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::definition::{GateError, resolve};

    #[derive(Clone, Default)]
    struct Tree(Vec<(String, String)>);

    impl Tree {
        fn of(files: &[(&str, &str)]) -> Self {
            let owned = |&(path, text): &(&str, &str)| (path.to_owned(), text.to_owned());
            Self(files.iter().map(owned).collect())
        }

        fn with(&self, path: &str, text: &str) -> Self {
            let mut tree = self.clone();
            tree.0.retain(|(one, _)| one != path);
            tree.0.push((path.to_owned(), text.to_owned()));
            tree.0.sort();
            tree
        }

        fn key(&self, gate: &ResolvedGate, repository: &str, branch: &str) -> CacheKey {
            let file = |(path, content): &(String, String)| BaseFile {
                path: path.clone(),
                content: content.clone(),
            };
            let files: Vec<BaseFile> = self.0.iter().map(file).collect();
            cache_key(gate, repository, branch, self, &files).unwrap()
        }
    }

    impl BaseTree for Tree {
        fn exists(&self, path: &str) -> bool {
            self.0.iter().any(|(one, _)| one == path)
        }

        fn read(&self, path: &str, _: usize) -> Option<Vec<u8>> {
            let (_, text) = self.0.iter().find(|(one, _)| one == path)?;
            Some(text.clone().into_bytes())
        }
    }

    fn gate(tree: &Tree) -> ResolvedGate {
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| error.to_string());
        resolve(None, tree, &parse, &[])
            .map_err(|error: GateError| error.to_string())
            .unwrap()
    }

    const URL: &str = "https://git.example/a";

    #[test]
    fn whatever_prepare_reads_changes_the_key_and_nothing_else_does() {
        let python = Tree::of(&[
            ("app.py", "1"),
            ("docs/notes.txt", "1"),
            ("lists/base.list", "1"),
            ("lists/more.txt", "-r base.list\n-c ../pins.txt # all\n"),
            ("pins.txt", "1"),
            (
                "requirements.txt",
                "-r reqs/base.txt\n--requirement=lists/more.txt\npytest\n",
            ),
            ("reqs/base.txt", "1"),
        ]);
        let rust = Tree::of(&[
            (".cargo/config.toml", "1"),
            ("Cargo.lock", "source = 1"),
            ("Cargo.toml", "[workspace]"),
            ("member/Cargo.toml", "1"),
            ("src/lib.rs", "1"),
        ]);
        let node = Tree::of(&[
            ("package.json", r#"{"workspaces":["p/*"]}"#),
            ("p/a/package.json", "{}"),
            ("p/a/index.js", "1"),
        ]);
        let file = r#"{"steps":[{"name":"a","command":"true"}],"prepare":{"command":"sh ./ci/fill.sh"}}"#;
        let script = Tree::of(&[(".foreman/gate.yaml", file), ("ci/fill.sh", "1"), ("ci/other.sh", "1")]);
        let named = file.replace(r#"fill.sh""#, r#"fill.sh","cacheKey":["versions"]"#);
        let named = Tree::of(&[
            (".foreman/gate.yaml", &named),
            ("ci/fill.sh", "1"),
            ("go.mod", "1"),
            ("versions", "1"),
        ]);
        for (tree, counts, free) in [
            (
                &python,
                &[
                    "reqs/base.txt",
                    "lists/more.txt",
                    "lists/base.list",
                    "pins.txt",
                    "sub/dev-requirements.txt",
                ][..],
                &["app.py", "docs/notes.txt"][..],
            ),
            (
                &rust,
                &[
                    ".cargo/config.toml",
                    "Cargo.lock",
                    "member/Cargo.toml",
                    "new/Cargo.toml",
                    "rust-toolchain",
                ],
                &["src/lib.rs"],
            ),
            (
                &node,
                &["p/a/package.json", "p/b/package.json", ".npmrc"],
                &["p/a/index.js"],
            ),
            (&script, &["ci/fill.sh", "go.mod"], &["ci/other.sh"]),
            (&named, &["versions", "ci/fill.sh"], &["go.mod"]),
        ] {
            let gate = gate(tree);
            let key = tree.key(&gate, URL, "main");
            for path in counts {
                assert_ne!(tree.with(path, "2").key(&gate, URL, "main").key, key.key, "{path}");
            }
            for path in free {
                assert_eq!(tree.with(path, "2").key(&gate, URL, "main"), key, "{path}");
            }
        }
    }

    #[test]
    fn every_base_branch_of_a_repository_has_a_folder_of_its_own() {
        let tree = Tree::of(&[("Cargo.lock", "source = 1"), ("Cargo.toml", "")]);
        let gate = gate(&tree);
        let key = tree.key(&gate, URL, "main");
        assert_eq!(tree.key(&gate, "https://git.example/a/", "main"), key);
        assert_ne!(
            tree.key(&gate, "https://git.example/b", "main").repository,
            key.repository
        );
        let other = tree.key(&gate, URL, "somebody/else");
        assert_ne!(other.repository, key.repository);
        assert_eq!(other.key, key.key);
        let mut changed = gate.clone();
        changed.prepare.as_mut().unwrap().command.push('x');
        assert_ne!(tree.key(&changed, URL, "main").key, key.key);
        let mut without = gate.clone();
        without.prepare = None;
        assert_eq!(cache_key(&without, URL, "main", &tree, &[]), None);
    }
}
