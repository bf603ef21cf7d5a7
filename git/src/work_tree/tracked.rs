//! The files that a work tree was checked out with: no `.gitignore` hides what is committed.

use gix::bstr::{BStr, BString, ByteSlice};

use super::WorkTree;
use crate::error::Result;

/// The paths of the files that a work tree was checked out with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Sorted by byte, so that what lies in a folder stands together.
    paths: Vec<BString>,
}

impl Tracked {
    /// Takes paths from the root of the work tree, in any order.
    pub fn new(paths: impl IntoIterator<Item = BString>) -> Self {
        let mut paths: Vec<BString> = paths.into_iter().collect();
        paths.sort();
        paths.dedup();
        Tracked { paths }
    }

    /// Says whether there is such a file.
    pub fn has_file(&self, path: &BStr) -> bool {
        self.paths
            .binary_search_by(|known| known.as_bytes().cmp(path.as_bytes()))
            .is_ok()
    }

    /// Says whether any of the files lies in `folder`, which has no trailing slash.
    pub fn has_folder(&self, folder: &BStr) -> bool {
        let mut start = folder.to_owned();
        start.push(b'/');
        let first = self.paths.partition_point(|known| *known < start);
        self.paths.get(first).is_some_and(|known| known.starts_with(&start))
    }
}

impl WorkTree {
    /// Returns the files that were checked out, as the index outside of the work tree remembers them.
    pub fn tracked(&self) -> Result<Tracked> {
        let index = self.index()?;
        let paths = index.entries().iter().map(|entry| entry.path(&index).to_owned());
        Ok(Tracked::new(paths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_what_lies_in_it_and_not_by_what_is_named_like_it() {
        let tracked = Tracked::new(["a/b/c", "a-b", "a.b", "b0", "b/c"].map(BString::from));
        for folder in ["a", "a/b", "b"] {
            assert!(tracked.has_folder(folder.into()), "{folder}");
            assert!(!tracked.has_file(folder.into()), "{folder}");
        }
        for folder in ["", "a-", "a/b/c", "a-b", "b0", "c"] {
            assert!(!tracked.has_folder(folder.into()), "{folder}");
        }
        assert!(tracked.has_file("a/b/c".into()) && tracked.has_file("a-b".into()));
        assert!(!Tracked::default().has_folder("a".into()));
    }
}
