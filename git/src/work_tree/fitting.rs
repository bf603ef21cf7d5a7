//! What a commit of a work tree may hold, and what is left out of one.

use std::fmt;

use gix::bstr::{BStr, BString};
use gix::validate::path::component;

use crate::Oid;

/// What a commit of a work tree may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitLimits {
    /// The largest file in bytes.
    pub file_bytes: u64,
    /// The most bytes of all new and changed files together.
    pub total_bytes: u64,
    /// The most files, ignored ones not counted.
    pub files: usize,
    /// The deepest folder.
    pub depth: usize,
}

impl Default for CommitLimits {
    fn default() -> Self {
        // 100 MiB is what forges take.
        CommitLimits {
            file_bytes: 100 * 1024 * 1024,
            // Half of what they take in one push.
            total_bytes: 1024 * 1024 * 1024,
            files: 1_000_000,
            depth: 256,
        }
    }
}

/// What was committed of a work tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitting {
    /// The commit; `None` if its tree would be the one of its parent.
    pub commit: Option<Oid>,
    /// What no commit may hold, the first [`LEFT_OUT`] of it: new files are missing, files of the base are as they were.
    pub left_out: Vec<LeftOut>,
    /// How many were left out in all.
    pub left_out_count: usize,
}

/// Most paths that are named of what was left out.
pub const LEFT_OUT: usize = 100;

/// A path that was left out of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The path from the root of the work tree.
    pub path: BString,
    /// Why no commit may hold it.
    pub why: Unfit,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

/// Why something of a work tree cannot be committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The file is larger than a commit may hold.
    #[error("it has {found} bytes, at most {limit} are committed")]
    TooLarge {
        /// Its size in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The change would be larger than a commit may be.
    #[error("with its {found} bytes the change would have more than {limit}")]
    TooMuch {
        /// Its size in bytes.
        found: u64,
        /// The limit of the change in bytes.
        limit: u64,
    },
    /// There are more files than a commit may hold.
    #[error("the work tree has more than {limit} files to commit")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The folder lies too deep.
    #[error("it is nested deeper than {limit} folders")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Its name is one that Git takes for its own folder on some systems, or that may not be a link.
    #[error("its name stands for Git's own files on some systems, and Git servers refuse it")]
    Name,
    /// Its mode forbids to read it.
    #[error("its mode forbids to read it")]
    Unreadable,
    /// The folder stands for a commit of another repository.
    #[error("it is a submodule, and what was put into its folder belongs to another repository")]
    Submodule,
}

/// Says whether a file or folder of this name, no path, may be committed: Git takes some names for its own folder on file
/// systems other than this one, and follows no `.gitmodules` that is a link.
pub fn is_fit_name(name: &BStr, is_link: bool) -> bool {
    let options = component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    let mode = is_link.then_some(component::Mode::Symlink);
    gix::validate::path::component(name, mode, options).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_gits_own_on_other_systems_are_no_names_of_files() {
        for name in [
            ".git",
            ".GIT",
            "git~1",
            "GIT~1",
            ".git.",
            ".git ",
            ".g\u{200c}it",
            ".git::$INDEX_ALLOCATION",
        ] {
            assert!(!is_fit_name(name.into(), false), "{name:?}");
        }
        for name in [
            ".gitignore",
            ".gitmodules",
            ".github",
            "git",
            "git~2x",
            "a\\b",
            "con",
            "x.git",
            "\u{e9}",
        ] {
            assert!(is_fit_name(name.into(), false), "{name:?}");
        }
        assert!(!is_fit_name(".gitmodules".into(), true) && is_fit_name("a".into(), true));
    }
}
