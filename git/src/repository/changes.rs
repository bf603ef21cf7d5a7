//! Which paths differ between two trees, reading only folders that differ.

use gix::{bstr::BString, objs::tree::EntryMode};

use super::{
    EntryKind, Repository,
    read::{join, mode_of},
};
use crate::{
    Oid,
    error::{Error, Result},
};

/// How a path differs between two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The path is new.
    Added,
    /// The content or the mode differs.
    Modified,
    /// The path is gone.
    Deleted,
}

/// One path that differs between two trees. Folders are not listed, what is in them is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Path from the root of the repository.
    pub path: BString,
    /// How it differs.
    pub kind: ChangeKind,
    /// The entry's kind and object before.
    pub old: Option<(EntryKind, Oid)>,
    /// The entry's kind and object after.
    pub new: Option<(EntryKind, Oid)>,
}

/// What one of two trees has at a path.
type Side = Option<(EntryMode, Oid)>;

impl Repository {
    /// Lists the paths that differ between two commits or trees, below the folder `under` (`""` is everything).
    /// `None` stands for an empty tree. Only folders that differ are read.
    pub fn changed_paths(&self, old: Option<Oid>, new: Option<Oid>, under: &str) -> Result<Vec<Change>> {
        let side = |treeish: Option<Oid>| -> Result<Side> {
            let Some(treeish) = treeish else {
                return Ok(None);
            };
            let root = self.tree_of(treeish)?;
            if under.trim_matches('/').is_empty() {
                return Ok(Some((gix::objs::tree::EntryKind::Tree.into(), root)));
            }
            Ok(self.find_in(root, under)?.map(|entry| (mode_of(entry.kind), entry.oid)))
        };
        let mut out = Vec::new();
        let repo = self.gix();
        // No call for each folder: how deep they lie is for the other side to say.
        let mut pending = vec![(BString::from(under.trim_matches('/')), side(old)?, side(new)?)];
        while let Some((path, old, new)) = pending.pop() {
            self.compare(&repo, path, old, new, &mut out, &mut pending)?;
        }
        out.sort_by(|a: &Change, b: &Change| a.path.cmp(&b.path));
        Ok(out)
    }

    /// Compares what stands at one path; `pending` gets what is to be compared below it.
    fn compare(
        &self,
        repo: &gix::Repository,
        path: BString,
        old: Side,
        new: Side,
        out: &mut Vec<Change>,
        pending: &mut Vec<(BString, Side, Side)>,
    ) -> Result<()> {
        if old == new {
            return Ok(());
        }
        let tree = |side: Side| side.filter(|(mode, _)| mode.is_tree()).map(|(_, oid)| oid);
        let leaf = |side: Side| {
            side.filter(|(mode, _)| !mode.is_tree())
                .map(|(mode, oid)| (EntryKind::from_mode(mode), oid))
        };
        let (old_leaf, new_leaf) = (leaf(old), leaf(new));
        let kind = match (old_leaf, new_leaf) {
            (None, None) => None,
            (None, Some(_)) => Some(ChangeKind::Added),
            (Some(_), None) => Some(ChangeKind::Deleted),
            (Some(_), Some(_)) => Some(ChangeKind::Modified),
        };
        if let Some(kind) = kind {
            out.push(Change {
                path: path.clone(),
                kind,
                old: old_leaf,
                new: new_leaf,
            });
        }
        let (old_tree, new_tree) = (tree(old), tree(new));
        if old_tree.is_none() && new_tree.is_none() {
            return Ok(());
        }
        let read = |tree: Option<Oid>| tree.map_or(Ok(Vec::new()), |oid| self.entries(repo, oid));
        let mut sides: std::collections::BTreeMap<BString, [Side; 2]> = Default::default();
        for (at, entries) in [read(old_tree)?, read(new_tree)?].into_iter().enumerate() {
            for (name, mode, oid) in entries {
                let place = &mut sides.entry(name.clone()).or_default()[at];
                if place.replace((mode, oid)).is_some() {
                    // Git makes no such tree, but servers take one: whoever reads it may take either for the one.
                    return Err(Error::Invalid {
                        action: "compare two trees",
                        reason: format!("{} stands twice in its folder", join(path.as_ref(), name.as_ref())),
                    });
                }
            }
        }
        let differing = sides.into_iter().filter(|(_, [old, new])| old != new);
        pending.extend(differing.map(|(name, [old, new])| (join(path.as_ref(), name.as_ref()), old, new)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use crate::{ChangeKind, FileEdit, Identity, Oid, Repository};

    fn fixture() -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        (dir, repo)
    }

    fn commit(repo: &Repository, parent: Option<Oid>, edits: &[FileEdit]) -> Oid {
        repo.commit_files(parent, edits, "message", &Identity::test()).unwrap()
    }

    #[test]
    fn changed_paths_name_what_differs_below_a_folder() {
        let (_dir, repo) = fixture();
        let one = commit(
            &repo,
            None,
            &[
                FileEdit::write("tasks/same.md", "s"),
                FileEdit::write("tasks/edit.md", "1"),
                FileEdit::write("tasks/gone/a.md", "g"),
                FileEdit::write("tasks/mode.sh", "m"),
                FileEdit::write("tasks/swap", "file"),
                FileEdit::write("elsewhere", "1"),
            ],
        );
        let two = commit(
            &repo,
            Some(one),
            &[
                FileEdit::write("tasks/edit.md", "2"),
                FileEdit::remove("tasks/gone/a.md"),
                FileEdit::write("tasks/mode.sh", "m").executable(),
                FileEdit::write("tasks/new.md", "n"),
                FileEdit::remove("tasks/swap"),
                FileEdit::write("tasks/swap/inner", "folder"),
                FileEdit::write("elsewhere", "2"),
            ],
        );
        let changes = repo.changed_paths(Some(one), Some(two), "tasks").unwrap();
        let found: Vec<_> = changes.iter().map(|c| (c.path.to_string(), c.kind)).collect();
        assert_eq!(
            found,
            [
                ("tasks/edit.md".to_string(), ChangeKind::Modified),
                ("tasks/gone/a.md".to_string(), ChangeKind::Deleted),
                ("tasks/mode.sh".to_string(), ChangeKind::Modified),
                ("tasks/new.md".to_string(), ChangeKind::Added),
                ("tasks/swap".to_string(), ChangeKind::Deleted),
                ("tasks/swap/inner".to_string(), ChangeKind::Added),
            ]
        );
        assert_eq!(repo.changed_paths(None, Some(one), "tasks").unwrap().len(), 5);
        assert!(repo.changed_paths(Some(one), Some(one), "").unwrap().is_empty());
    }

    #[test]
    fn folders_as_deep_as_somebody_likes_are_compared() {
        let (_dir, repo) = fixture();
        let base = commit(&repo, None, &[FileEdit::write("a", "1")]);
        let mut tree = repo.tree_of(base).unwrap();
        for _ in 0..500 {
            let entries = vec![("d".into(), gix::objs::tree::EntryKind::Tree.into(), tree)];
            tree = repo.write_tree(&repo.gix(), entries).unwrap();
        }
        // So small a stack holds no call for each folder.
        let compare = move || repo.changed_paths(None, Some(tree), "").unwrap();
        let thread = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(compare)
            .unwrap();
        let found = thread.join().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, format!("{}a", "d/".repeat(500)));
    }

    #[test]
    fn a_folder_that_stands_twice_hides_nothing() {
        let (_dir, repo) = fixture();
        let edits = |name: &str| [FileEdit::write(format!("ci/{name}"), "1")];
        let base = commit(&repo, None, &edits("one"));
        let folder = |commit| repo.entry_at(commit, "ci").unwrap().unwrap().oid;
        let more = folder(commit(&repo, None, &edits("two")));
        for trees in [[more, folder(base)], [folder(base), more]] {
            let entry = |oid| gix::objs::tree::Entry {
                mode: gix::objs::tree::EntryKind::Tree.into(),
                filename: "ci".into(),
                oid,
            };
            let entries = trees.map(entry).to_vec();
            let tree = repo.gix().write_object(&gix::objs::Tree { entries }).unwrap().detach();
            let found = repo.changed_paths(Some(base), Some(tree), "");
            assert!(found.unwrap_err().to_string().contains("ci stands twice"), "{trees:?}");
        }
    }
}
