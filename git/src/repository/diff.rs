//! Textual differences between two commits.

use gix::bstr::BString;

use super::Repository;
use crate::{Oid, error::Result};

/// How much one file changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Path from the root.
    pub path: BString,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// The content is not text; lines are not counted.
    pub binary: bool,
}

/// What differs between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Per file, in the order of the paths.
    pub files: Vec<FileStat>,
    /// Lines added in all files.
    pub insertions: u64,
    /// Lines removed in all files.
    pub deletions: u64,
    /// The unified diff, cut at a line's end when it is longer than the cap.
    pub text: String,
    /// The text was cut.
    pub truncated: bool,
}

impl Repository {
    /// Compares two commits or trees (`None` is the empty tree). `max_text` bytes of unified diff are kept at most.
    /// Renames are shown as a removal and an addition.
    pub fn diff(&self, base: Option<Oid>, head: Oid, max_text: usize) -> Result<Diff> {
        let repo = self.git2()?;
        let fail = |e: git2::Error| self.fail_git2("compare commits of", &e);
        let tree = |oid: Oid| -> Result<git2::Tree<'_>> {
            let oid = self.tree_of(oid)?;
            git2::Oid::from_bytes(oid.as_slice())
                .and_then(|oid| repo.find_tree(oid))
                .map_err(fail)
        };
        let base = base.map(tree).transpose()?;
        let head = tree(head)?;
        let mut options = git2::DiffOptions::new();
        // A file of many megabytes is shown as binary: its diff would not be read by anybody.
        options
            .context_lines(3)
            .ignore_submodules(false)
            .max_size(16 * 1024 * 1024);
        let diff = repo
            .diff_tree_to_tree(base.as_ref(), Some(&head), Some(&mut options))
            .map_err(fail)?;

        let mut out = Diff::default();
        for at in 0..diff.deltas().len() {
            let Some(delta) = diff.get_delta(at) else {
                continue;
            };
            let path = delta
                .new_file()
                .path_bytes()
                .or_else(|| delta.old_file().path_bytes())
                .unwrap_or_default();
            let patch = git2::Patch::from_diff(&diff, at).map_err(fail)?;
            let binary = patch.as_ref().is_none_or(|p| p.delta().flags().is_binary());
            let (insertions, deletions) = match &patch {
                Some(patch) if !binary => {
                    let (_, added, removed) = patch.line_stats().map_err(fail)?;
                    (added as u64, removed as u64)
                }
                _ => (0, 0),
            };
            out.insertions += insertions;
            out.deletions += deletions;
            out.files.push(FileStat {
                path: path.into(),
                insertions,
                deletions,
                binary,
            });
            if let Some(mut patch) = patch
                && !out.truncated
            {
                append(&mut out, &mut patch, max_text).map_err(fail)?;
            }
        }
        Ok(out)
    }
}

fn append(out: &mut Diff, patch: &mut git2::Patch<'_>, max_text: usize) -> Result<(), git2::Error> {
    let mut full = false;
    let printed = patch.print(&mut |_, _, line| {
        let mut text = String::new();
        if matches!(line.origin(), '+' | '-' | ' ') {
            text.push(line.origin());
        }
        text.push_str(&String::from_utf8_lossy(line.content()));
        let room = max_text - out.text.len();
        if text.len() > room {
            // A file's header comes as several lines at once.
            let fits = text.as_bytes()[..room]
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |at| at + 1);
            out.text.push_str(&text[..fits]);
            full = true;
            return false;
        }
        out.text.push_str(&text);
        true
    });
    if full {
        out.truncated = true;
        return Ok(());
    }
    printed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use crate::{FileEdit, Identity, Repository};

    #[test]
    fn a_diff_counts_lines_and_is_capped_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        let who = Identity::test();
        let one = repo
            .commit_files(
                None,
                &[
                    FileEdit::write("a.txt", "1\n2\n3\n"),
                    FileEdit::write("bin", vec![0u8, 1, 2]),
                ],
                "one",
                &who,
            )
            .unwrap();
        let edits = [
            FileEdit::write("a.txt", "1\ntwo\n3\n4\n"),
            FileEdit::write("bin", vec![0u8, 9]),
            FileEdit::write("new", "n\n"),
        ];
        let two = repo.commit_files(Some(one), &edits, "two", &who).unwrap();
        let diff = repo.diff(Some(one), two, 1 << 20).unwrap();
        assert_eq!((diff.insertions, diff.deletions, diff.files.len()), (3, 1, 3));
        assert!(diff.files[1].binary && diff.files[1].path == "bin");
        assert!(diff.text.contains("\n-2\n+two\n 3\n+4\n"), "{}", diff.text);
        assert!(!diff.truncated);
        let applied = {
            let tree = dir.path().join("w");
            std::fs::create_dir(&tree).unwrap();
            std::fs::write(tree.join("a.txt"), "1\n2\n3\n").unwrap();
            std::fs::write(tree.join("p"), diff.text.split("diff --git a/bin").next().unwrap()).unwrap();
            std::process::Command::new("git")
                .current_dir(&tree)
                .args(["apply", "p"])
                .status()
                .unwrap()
        };
        assert!(applied.success());

        let cut = repo.diff(Some(one), two, 60).unwrap();
        assert!(cut.truncated && cut.text.len() <= 60 && cut.text.ends_with('\n'));
        assert_eq!(cut.insertions, 3, "the counts stay whole");
        assert_eq!(repo.diff(None, one, 1 << 20).unwrap().files.len(), 2);
    }
}
