//! Paths that a change must not touch.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::tail;

/// What is protected whatever a gate says.
pub const ALWAYS: &str = ".foreman/**";

/// A path that differs between base and head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedPath {
    /// Path from the root of the tree, as Git has it.
    pub path: Vec<u8>,
    /// What stands there in the head.
    pub now: EntryNow,
}

impl From<&git::Change> for ChangedPath {
    fn from(change: &git::Change) -> Self {
        let now = match &change.new {
            None => EntryNow::Gone,
            Some((git::EntryKind::Symlink, _)) => EntryNow::Symlink,
            Some((git::EntryKind::Submodule, _)) => EntryNow::Submodule,
            Some(_) => EntryNow::File,
        };
        Self {
            path: change.path.to_vec(),
            now,
        }
    }
}

/// What stands at a changed path in the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryNow {
    /// Nothing: it was removed, or it is the old side of a rename.
    Gone,
    /// A file.
    File,
    /// A symbolic link.
    Symlink,
    /// A commit of another repository.
    Submodule,
}

/// A protected path that a change touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path, printable.
    pub path: String,
    /// Rule that protects it.
    pub rule: String,
}

/// A rule that is not a glob.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the protected path {rule:?}: {reason}; expected a glob such as \"ci/**\" or \"Makefile\"")]
pub struct RuleError {
    /// Rule as it was written.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Rules that say which paths are protected.
///
/// A rule without a slash holds at any depth, one with a slash from the root; a rule that names a
/// folder holds for all below it. Letters' case and characters that some file systems ignore make no
/// difference.
#[derive(Debug)]
pub struct Protected {
    set: GlobSet,
    /// Rule of each glob of `set`.
    owners: Vec<String>,
    /// Folders that lead to something protected, with the rule: a link put there would redirect it.
    gateways: Vec<(String, String)>,
}

impl Protected {
    /// Compiles rules; [`ALWAYS`] is among them whether it is given or not.
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, RuleError> {
        let mut builder = GlobSetBuilder::new();
        let mut owners = Vec::new();
        let mut gateways = Vec::new();
        for rule in std::iter::once(ALWAYS).chain(rules) {
            let fail = |reason: String| RuleError {
                rule: rule.to_owned(),
                reason,
            };
            let trimmed = rule.trim();
            let anchored = trimmed.strip_prefix("./").unwrap_or(trimmed);
            let body = anchored.trim_start_matches('/').trim_end_matches('/');
            if body.is_empty() {
                return Err(fail("it is empty".to_owned()));
            }
            let parts: Vec<&str> = body.split('/').collect();
            if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
                return Err(fail("it holds an empty, \".\" or \"..\" part".to_owned()));
            }
            let rooted = anchored.starts_with('/') || body.contains('/');
            let folder = body.strip_suffix("/**").unwrap_or(body);
            let base = if rooted {
                folder.to_owned()
            } else {
                format!("**/{folder}")
            };
            for pattern in [base.clone(), format!("{base}/**")] {
                let glob = GlobBuilder::new(&normal(&pattern))
                    .literal_separator(true)
                    .case_insensitive(true)
                    .backslash_escape(true)
                    .build()
                    .map_err(|error| fail(error.to_string()))?;
                builder.add(glob);
                owners.push(rule.to_owned());
            }
            let mut prefix = String::new();
            for part in parts.iter().take(parts.len() - 1) {
                if part.contains(['*', '?', '[', '{', '\\']) {
                    break;
                }
                if !prefix.is_empty() {
                    prefix.push('/');
                }
                prefix.push_str(&normal(part).to_lowercase());
                gateways.push((prefix.clone(), rule.to_owned()));
            }
        }
        let set = builder.build().map_err(|error| RuleError {
            rule: "(all)".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { set, owners, gateways })
    }

    /// Returns which of the changed paths are protected, in their order, each once.
    pub fn violations<'a>(&self, changed: impl IntoIterator<Item = &'a ChangedPath>) -> Vec<Violation> {
        let mut found: Vec<Violation> = Vec::new();
        for change in changed {
            let raw = String::from_utf8_lossy(&change.path);
            let Some(rule) = self.rule_for(&raw, change.now) else {
                continue;
            };
            let path = tail::line(&raw, 300);
            if found.last().is_none_or(|last| last.path != path) {
                found.push(Violation {
                    path,
                    rule: rule.to_owned(),
                });
            }
        }
        found
    }

    /// Returns the rule that protects a file's path, if one does.
    pub fn covers(&self, path: &str) -> Option<&str> {
        self.rule_for(path, EntryNow::File)
    }

    fn rule_for(&self, raw: &str, now: EntryNow) -> Option<&str> {
        let path = normal(raw);
        if let Some(index) = self.set.matches(Path::new(&path)).first() {
            return self.owners.get(*index).map(String::as_str);
        }
        if let Some(index) = self.set.matches(Path::new(raw)).first() {
            return self.owners.get(*index).map(String::as_str);
        }
        // A file, link or submodule where a protected folder would be takes its place.
        if now == EntryNow::Gone {
            return None;
        }
        let path = path.to_lowercase();
        self.gateways
            .iter()
            .find(|(folder, _)| *folder == path)
            .map(|(_, rule)| rule.as_str())
    }
}

/// Takes out what file systems ignore: invisible characters, dots and spaces at the end of a part.
fn normal(path: &str) -> String {
    let visible: String = path.chars().filter(|c| !schemas::inert::is_invisible(*c)).collect();
    let parts: Vec<&str> = visible
        .split('/')
        .map(|part| match part {
            "." | ".." => part,
            part => part.trim_end_matches(['.', ' ']),
        })
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changed(path: &str, now: EntryNow) -> ChangedPath {
        ChangedPath {
            path: path.as_bytes().to_vec(),
            now,
        }
    }

    fn touched(rules: &[&str], path: &str, now: EntryNow) -> bool {
        let protected = Protected::new(rules.iter().copied()).unwrap();
        !protected.violations([&changed(path, now)]).is_empty()
    }

    #[test]
    fn the_gate_is_protected_without_any_rule() {
        for path in [
            ".foreman/gate.yaml",
            ".foreman",
            ".Foreman/Gate.yaml",
            ".foreman./gate.yaml",
            ".fore\u{200c}man/gate.yaml",
            ".foreman/tasks/a.md",
        ] {
            assert!(touched(&[], path, EntryNow::File), "{path} is not protected");
        }
        assert!(touched(&[], ".foreman", EntryNow::Symlink));
        assert!(touched(&[], ".foreman/gate.yaml", EntryNow::Gone));
        for path in [
            "src/lib.rs",
            "foreman/gate.yaml",
            "docs/.foreman.md",
            "sub/.foreman-notes",
        ] {
            assert!(!touched(&[], path, EntryNow::File), "{path} is protected");
        }
    }

    #[test]
    fn rules_hold_for_files_folders_and_names() {
        assert!(touched(&["ci/"], "ci/run.sh", EntryNow::File));
        assert!(touched(&["ci/**"], "CI/run.sh", EntryNow::File));
        assert!(touched(&["Makefile"], "sub/Makefile", EntryNow::File));
        assert!(!touched(&["/Makefile"], "sub/Makefile", EntryNow::File));
        assert!(touched(&["/Makefile"], "Makefile", EntryNow::File));
        assert!(touched(&["tests/*.rs"], "tests/a.rs", EntryNow::Gone));
        assert!(!touched(&["tests/*.rs"], "tests/deep/a.rs", EntryNow::File));
        assert!(touched(&["*.lock"], "a/b/Cargo.lock", EntryNow::File));
    }

    #[test]
    fn a_link_in_place_of_a_folder_on_the_way_is_a_violation() {
        assert!(touched(&["ci/scripts/**"], "ci", EntryNow::Symlink));
        assert!(touched(&["ci/scripts/**"], "CI", EntryNow::Submodule));
        assert!(touched(&["ci/scripts/**"], "ci/scripts", EntryNow::Symlink));
        assert!(!touched(&["ci/scripts/**"], "ci", EntryNow::Gone));
        assert!(!touched(&["ci/scripts/**"], "ci/other", EntryNow::File));
    }

    #[test]
    fn both_sides_of_a_rename_count() {
        let protected = Protected::new(["tests/**"]).unwrap();
        let moved_away = [
            changed("tests/a.rs", EntryNow::Gone),
            changed("old/a.rs", EntryNow::File),
        ];
        let moved_in = [
            changed("old/a.rs", EntryNow::Gone),
            changed("tests/a.rs", EntryNow::File),
        ];
        assert_eq!(protected.violations(&moved_away).len(), 1);
        assert_eq!(protected.violations(&moved_in).len(), 1);
        assert_eq!(protected.violations(&moved_in)[0].rule, "tests/**");
    }

    #[test]
    fn a_broken_rule_is_named() {
        for rule in ["", "/", "a/../b", "[", "a//b"] {
            let error = Protected::new([rule]).unwrap_err().to_string();
            assert!(error.contains(&format!("{rule:?}")), "{error}");
        }
    }
}
