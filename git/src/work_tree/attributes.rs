//! Attributes of one tree for the files of another.

use std::path::{Path, PathBuf};

use gix::attrs::search::MetadataCollection;
use gix::bstr::{BStr, ByteSlice};
use gix::index::entry::Mode;
use gix::worktree::stack::state::{Attributes, attributes::Source};

use crate::{
    error::{Error, Result},
    repository::Repository,
};

const FILE: &str = ".gitattributes";
/// Largest file of attributes; Git reads no larger one either.
const MAX: u64 = 100 << 20;

/// Reads the attributes that the files of `index` state, so that they hold wherever they are used.
pub(super) fn of(source: &Repository, index: &gix::index::State) -> Result<Attributes> {
    let mut paths: Vec<_> = index
        .entries()
        .iter()
        .filter(|entry| counts(entry.mode, entry.path(index)))
        .map(|entry| (entry.path(index).to_owned(), entry.id))
        .collect();
    // Of two lists the later one decides: that of the deeper folder.
    paths.sort_by_key(|(path, _)| path.find_iter(b"/").count());
    let mut collection = MetadataCollection::default();
    let fail = |e: std::io::Error| Error::io("read the attributes of", source.path(), e);
    let none = std::iter::empty::<PathBuf>();
    let mut all = gix::attrs::Search::new_globals(none, &mut Vec::new(), &mut collection).map_err(fail)?;
    for (path, id) in paths {
        let patterns = source.read_blob(id, MAX)?;
        let at_root = !path.contains(&b'/');
        let path = gix::path::from_bstr(path.as_bstr()).map_err(|e| fail(std::io::Error::other(e.to_string())))?;
        all.add_patterns_buffer(
            &patterns,
            path.into_owned(),
            Some(Path::new("")),
            &mut collection,
            at_root,
        )
        .map_err(fail)?;
    }
    let of_repository = Some(source.path().join("info/attributes"));
    Ok(Attributes::new(all, of_repository, Source::IdMapping, collection))
}

/// Says whether Git reads an entry as attributes.
fn counts(mode: Mode, path: &BStr) -> bool {
    mode == Mode::FILE && (path == FILE || path.ends_with(b"/.gitattributes"))
}

/// Moves the entries that would be read as attributes into an index of their own.
pub(super) fn take_out(index: &mut gix::index::State) -> gix::index::State {
    let mut own = index.clone();
    own.remove_entries(|_, path, entry| !counts(entry.mode, path));
    index.remove_entries(|_, path, entry| counts(entry.mode, path));
    own
}

/// Makes entries that would be read as attributes into such as are not: only plain files are. Whoever writes them
/// leaves the executable bit out.
pub(super) fn veil(own: &mut gix::index::State) {
    for entry in own.entries_mut() {
        entry.mode = Mode::FILE_EXECUTABLE;
    }
}

/// Takes back what [`veil`] did.
pub(super) fn unveil(own: &mut gix::index::State) {
    for entry in own.entries_mut() {
        entry.mode = Mode::FILE;
    }
}

/// Puts the entries back that [`take_out`] took.
pub(super) fn put_back(index: &mut gix::index::State, own: &gix::index::State) {
    for entry in own.entries() {
        index.dangerously_push_entry(entry.stat, entry.id, entry.flags, entry.mode, entry.path(own));
    }
    index.sort_entries();
}
