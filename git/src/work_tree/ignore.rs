//! `.gitignore` files of a work tree, read from open folders, never by path.

use std::path::Path;

use gix::bstr::{BStr, BString, ByteSlice};
use gix::glob::pattern::Case;

/// The patterns of the folders from the root down to the one that is being read. It opens nothing by itself.
#[derive(Default)]
pub struct Ignores {
    search: gix::ignore::Search,
}

/// Stands for the work tree's root: patterns are matched as text, nothing is opened.
const ROOT: &str = "/work-tree";

impl Ignores {
    /// Adds the patterns of the `.gitignore` in `folder`, a path from the root without a trailing slash.
    pub fn enter(&mut self, folder: &BString, patterns: &[u8]) {
        let folder = gix::path::from_bstr(folder.as_bstr()).unwrap_or_else(|_| Path::new("").into());
        let source = Path::new(ROOT).join(&folder).join(".gitignore");
        // It fails only for a source outside of the root, which this one is not.
        let _ = self.search.add_patterns_buffer(
            patterns,
            source,
            Some(Path::new(ROOT)),
            gix::ignore::search::Ignore::default(),
        );
    }

    /// Takes the patterns of the last folder away again.
    pub fn leave(&mut self) {
        self.search.patterns.pop();
    }

    /// Says whether the path is ignored; the last matching pattern of the deepest folder decides.
    pub fn matches(&self, path: &BStr, is_dir: bool) -> bool {
        let found = self
            .search
            .pattern_matching_relative_path(path, Some(is_dir), Case::Sensitive);
        found.is_some_and(|found| !found.pattern.is_negative())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeper_patterns_win_and_leave_with_their_folder() {
        let mut ignores = Ignores::default();
        ignores.enter(&"".into(), b"*.log\n/target\n!keep.log\nbuild/\n");
        assert!(ignores.matches("a.log".into(), false));
        assert!(ignores.matches("deep/a.log".into(), false));
        assert!(!ignores.matches("keep.log".into(), false));
        assert!(ignores.matches("target".into(), true));
        assert!(!ignores.matches("sub/target".into(), true));
        assert!(ignores.matches("sub/build".into(), true));
        assert!(!ignores.matches("sub/build".into(), false));
        ignores.enter(&"deep".into(), b"!a.log\n/only\n");
        assert!(!ignores.matches("deep/a.log".into(), false));
        assert!(ignores.matches("deep/only".into(), false));
        assert!(!ignores.matches("only".into(), false));
        ignores.leave();
        assert!(ignores.matches("deep/a.log".into(), false));
    }
}
