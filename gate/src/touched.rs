//! What a change touches and must leave alone: protected paths, and pinned parts of manifests.
//!
//! The coder asks before it pushes and the gate before it runs, so that both refuse the same.

use git::{Change, EntryKind, Oid};

use crate::pinned::Pinned;
use crate::protected::{ChangedPath, Protected};
use crate::tail;

/// Reads a blob; of one with more than [`crate::pinned::MANIFEST_MAX`] bytes the error says so.
pub type ReadBlob<'a> = &'a dyn Fn(Oid) -> git::Result<Vec<u8>>;

/// One thing that a change touches and must leave alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Path, or `path (part)` of a manifest; printable.
    pub what: String,
    /// Why it must be left alone, as the rest of a sentence.
    pub why: String,
}

/// Returns what the changes from base to head touch of what is protected or pinned.
pub fn touched(
    changes: &[Change],
    protected: &Protected,
    pinned: &[Pinned],
    read: ReadBlob<'_>,
) -> git::Result<Vec<Touched>> {
    let changed: Vec<ChangedPath> = changes.iter().map(ChangedPath::from).collect();
    let of_rule = protected.violations(&changed).into_iter().map(|violation| Touched {
        what: violation.path,
        why: format!("is protected by {}", violation.rule),
    });
    let mut found: Vec<Touched> = of_rule.collect();
    for change in changes {
        let path = change.path.to_string();
        for pinned in pinned.iter().filter(|pinned| pinned.covers(&path)) {
            let side = |side| manifest_at(side, read);
            let parts = pinned.changed(&path, side(change.old)?.as_deref(), side(change.new)?.as_deref());
            found.extend(parts.into_iter().map(|part| Touched {
                what: tail::line(&part, 300),
                why: "stays as it is at the base, as the steps go by it".to_owned(),
            }));
        }
    }
    Ok(found)
}

/// Reads one side of a manifest. What is no file of a bounded size has a content that no manifest has.
pub fn manifest_at(side: Option<(EntryKind, Oid)>, read: ReadBlob<'_>) -> git::Result<Option<Vec<u8>>> {
    match side {
        None | Some((EntryKind::Tree, _)) => Ok(None),
        Some((EntryKind::File | EntryKind::Exec, blob)) => match read(blob) {
            Err(git::Error::TooLarge { .. }) => Ok(Some(no_manifest(blob))),
            read => read.map(Some),
        },
        Some((_, object)) => Ok(Some(no_manifest(object))),
    }
}

/// A control character begins neither JSON nor a table.
fn no_manifest(object: Oid) -> Vec<u8> {
    format!("\0[{object}").into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use git::ChangeKind;

    fn oid(digit: char) -> Oid {
        digit.to_string().repeat(40).parse().unwrap()
    }

    #[test]
    fn protected_paths_and_pinned_parts_are_named_and_what_cannot_be_read_is_an_error() {
        let blob = |kind, digit| Some((kind, oid(digit)));
        let change = |path: &str, old, new| Change {
            path: path.into(),
            kind: ChangeKind::Modified,
            old,
            new,
        };
        let read = |blob: Oid| match blob {
            one if one == oid('1') => Ok(br#"{"scripts":{"test":"a"}}"#.to_vec()),
            one if one == oid('2') => Ok(br#"{"scripts":{"test":"b"}}"#.to_vec()),
            _ => Err(git::Error::Stopped("unreadable".into())),
        };
        let protected = Protected::new(["ci/**"]).unwrap();
        let pinned = [Pinned {
            file: "package.json".into(),
            parts: vec!["scripts.test".into()],
        }];
        let found = |changes: &[Change]| touched(changes, &protected, &pinned, &read);
        let names = |changes: &[Change]| -> Vec<String> {
            let found = found(changes).unwrap();
            found.into_iter().map(|touched| touched.what).collect()
        };
        let (one, two) = (blob(EntryKind::File, '1'), blob(EntryKind::Exec, '2'));
        assert_eq!(
            names(&[change("a/package.json", one, two), change("ci/run", None, two)]),
            ["ci/run", "a/package.json (scripts.test)"]
        );
        assert!(names(&[change("a/package.json", one, one), change("src", one, two)]).is_empty());
        assert_eq!(
            names(&[change("package.json", one, blob(EntryKind::Symlink, '1'))]),
            ["package.json (cannot be read)"]
        );
        assert!(found(&[change("package.json", one, blob(EntryKind::File, '3'))]).is_err());
    }
}
