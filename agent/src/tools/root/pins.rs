//! Parts of manifests that a run must leave as the base has them: the gate's steps go by them.
//!
//! Whoever hands work in is told by the same comparison ([`gate::touched`]); here it is told while there is still time
//! to put a part back.

use std::sync::{Arc, OnceLock};

use gate::pinned::{MANIFEST_MAX, Pinned};
use gate::touched::manifest_at;
use git::{Oid, Repository};

use super::{Found, Root, RootError};

/// Manifests that are looked at after a command, the ones nearest to the root first.
const LOOKED_AT: usize = 256;
/// Stands for the content of a link, of a folder and of a file that is too large to be read: no manifest has it.
const NO_MANIFEST: &[u8] = b"\0";

/// Parts of manifests and what the base has of them. Without any, nothing is pinned.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    of_base: Option<Arc<OfBase>>,
}

#[derive(Debug)]
struct OfBase {
    pinned: Vec<Pinned>,
    repository: Repository,
    base: Oid,
    /// Paths of the manifests that are looked at, once they are known.
    paths: OnceLock<Vec<String>>,
}

impl Pins {
    /// Keeps the parts that `pinned` names as they are at the commit `base`.
    pub fn new(pinned: Vec<Pinned>, repository: Repository, base: Oid) -> Self {
        let paths = OnceLock::new();
        let of_base = (!pinned.is_empty()).then(|| {
            Arc::new(OfBase {
                pinned,
                repository,
                base,
                paths,
            })
        });
        Self { of_base }
    }

    /// Tells whether the file at `path` may have pinned parts.
    fn cover(&self, path: &str) -> bool {
        let of_base = self.of_base.iter();
        of_base
            .flat_map(|of_base| &of_base.pinned)
            .any(|pinned| pinned.covers(path))
    }

    /// Returns in which pinned parts the manifest at `path`, with the content `now` or none, differs from the base, as
    /// `path (part)`. Blocks. What cannot be read of the base is for the end of the run to tell.
    fn changed(&self, path: &str, now: Option<&[u8]>) -> Vec<String> {
        let Some(of_base) = self.of_base.as_ref().filter(|_| self.cover(path)) else {
            return Vec::new();
        };
        let Ok(before) = of_base.read(path) else {
            return Vec::new();
        };
        let covering = of_base.pinned.iter().filter(|pinned| pinned.covers(path));
        covering
            .flat_map(|pinned| pinned.changed(path, before.as_deref(), now))
            .collect()
    }

    /// Returns the paths of the manifests that have pinned parts. Blocks.
    fn paths(&self) -> &[String] {
        self.of_base
            .as_ref()
            .map(|of_base| of_base.paths.get_or_init(|| of_base.list()).as_slice())
            .unwrap_or_default()
    }
}

impl OfBase {
    fn read(&self, path: &str) -> git::Result<Option<Vec<u8>>> {
        let entry = self.repository.entry_at(self.base, path)?;
        let read = |blob| self.repository.read_blob(blob, MANIFEST_MAX as u64);
        manifest_at(entry.map(|entry| (entry.kind, entry.oid)), &read)
    }

    fn list(&self) -> Vec<String> {
        let at_root = |pinned: &Pinned| pinned.file.strip_prefix('/').map(str::to_owned);
        let mut paths: Vec<String> = self.pinned.iter().filter_map(at_root).collect();
        if paths.len() < self.pinned.len() {
            let entries = self.repository.tree_entries(self.base, "", true).ok().flatten();
            let entries = entries
                .unwrap_or_default()
                .into_iter()
                .map(|entry| entry.path.to_string());
            paths.extend(entries.filter(|path| self.pinned.iter().any(|pinned| pinned.covers(path))));
        }
        paths.sort_by_key(|path| (path.matches('/').count(), path.clone()));
        paths.dedup();
        paths.truncate(LOOKED_AT);
        paths
    }
}

/// A changed path that may not stay as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What was changed: the path, or `path (part)` of each pinned part of a manifest.
    pub what: String,
    /// Why it must be left alone and how to put it back, as a sentence for the model without its end.
    pub remedy: String,
}

impl Held {
    fn by_rule(path: &str, rule: &str) -> Self {
        let remedy = format!(
            "it is protected by {rule:?}; put the whole file back (`git show HEAD:{path}` shows it), or remove it if it is new"
        );
        let what = path.to_owned();
        Self { what, remedy }
    }

    /// `parts` are those that differ, as `path (part)`; `names` are all that are pinned; `base` is the commit that has the
    /// file, if it does.
    fn by_parts(path: &str, parts: &[String], names: &[&str], base: Option<Oid>) -> Self {
        let what = parts.join(", ");
        let Some(base) = base else {
            let remedy = "the gate's steps would go by it, and the base has no such file; take that out of it again, the rest of it is free";
            let remedy = remedy.to_owned();
            return Self { what, remedy };
        };
        let base = base.to_string();
        let shown = format!("`git show {}:{path}` shows it", &base[..12]);
        let part = |part: &String| {
            let part = part.strip_prefix(path)?.strip_prefix(" (")?.strip_suffix(')')?;
            Some(part.to_owned())
        };
        let differ: Vec<String> = parts.iter().filter_map(part).collect();
        let remedy = if differ.iter().all(|part| names.contains(&part.as_str())) {
            format!(
                "the gate's steps go by {0}: put {0} back as it is at the base ({shown}) and keep the rest of your change, which is free",
                differ.join(" and ")
            )
        } else {
            format!(
                "it cannot be read any more, and the gate's steps go by {}: make it a valid file again, with that as it is at the base ({shown})",
                names.join(" and ")
            )
        };
        Self { what, remedy }
    }
}

impl Root {
    /// Keeps parts of manifests from being written too.
    pub fn keeping(mut self, pins: Pins) -> Self {
        self.pins = pins;
        self
    }

    /// Says why a changed path may not stay as it is on disk now, if so: a rule protects it, or pinned parts of it differ
    /// from the base.
    pub fn refusal(&self, path: &str) -> Option<Held> {
        if let Some(rule) = self.protected.covers(path) {
            return Some(Held::by_rule(path, rule));
        }
        let parts = self.pinned_changes_of(path);
        let of_base = self.pins.of_base.as_ref().filter(|_| !parts.is_empty())?;
        let pinned = of_base.pinned.iter().filter(|pinned| pinned.covers(path));
        let names: Vec<&str> = pinned.flat_map(|pinned| &pinned.parts).map(String::as_str).collect();
        let in_base = !matches!(of_base.read(path), Ok(None));
        let base = in_base.then_some(of_base.base);
        Some(Held::by_parts(path, &parts, &names, base))
    }

    /// Returns the pinned parts of manifests that differ from the base on disk now, as `path (part)`.
    pub fn pinned_changes(&self) -> Vec<String> {
        let paths = self.pins.paths().iter();
        paths.flat_map(|path| self.pinned_changes_of(path)).collect()
    }

    /// Refuses a content of the file at `path`, or its removal, that would change pinned parts of it.
    pub(super) fn check_pins(&self, path: &str, after: Option<&[u8]>) -> Result<(), RootError> {
        let parts = self.pins.changed(path, after);
        if parts.is_empty() {
            return Ok(());
        }
        let path = path.to_owned();
        Err(RootError::Pinned { path, parts })
    }

    fn pinned_changes_of(&self, path: &str) -> Vec<String> {
        if !self.pins.cover(path) {
            return Vec::new();
        }
        let now = match self.read(path, MANIFEST_MAX as u64) {
            Ok(Found::File(content)) => Some(content),
            Err(RootError::Missing { .. }) => None,
            _ => Some(NO_MANIFEST.to_vec()),
        };
        self.pins.changed(path, now.as_deref())
    }
}
