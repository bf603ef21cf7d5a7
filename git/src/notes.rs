//! Git notes: what is said about a commit where there is no forge.

use gix::{bstr::BString, objs::tree::EntryKind as Kind};

use crate::{
    Oid,
    error::{Error, Result},
    mirror::{Fetch, Mirror},
    push::{Expected, PushOutcome},
    repository::{EntryKind, Identity, Repository},
};

/// Where Foreman's notes are kept.
pub const NOTES_REF: &str = "refs/notes/foreman";

/// Notes larger than this are not read.
const NOTE_LIMIT: u64 = 1024 * 1024;
/// Others write notes too: so many lost races are tried again.
const TRIES: usize = 8;

/// What becomes of a note that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteMode {
    /// The new text follows the old after an empty line; a text that is in it already is not repeated.
    Append,
    /// The new text takes its place.
    Replace,
}

impl Repository {
    /// Reads the note about `object` from a commit of a notes ref, whichever way its folders are cut.
    pub fn note_at(&self, notes: Oid, object: Oid) -> Result<Option<String>> {
        match self.find_note(notes, object)? {
            Some((_, oid)) => Ok(Some(
                String::from_utf8_lossy(&self.read_blob(oid, NOTE_LIMIT)?).into_owned(),
            )),
            None => Ok(None),
        }
    }

    fn find_note(&self, notes: Oid, object: Oid) -> Result<Option<(BString, Oid)>> {
        let repo = self.gix();
        let hex = object.to_string();
        let mut rest = hex.as_str();
        let mut path = String::new();
        let mut tree = self.tree_of(notes)?;
        // Git cuts the id into folders of two digits, as deep as there are many notes.
        loop {
            let entries = self.entries(&repo, tree)?;
            if let Some((name, mode, oid)) = entries.iter().find(|(name, ..)| name == rest)
                && EntryKind::from_mode(*mode) != EntryKind::Tree
            {
                return Ok(Some((format!("{path}{name}").into(), *oid)));
            }
            let Some((folder, below)) = rest.split_at_checked(2).filter(|(_, below)| !below.is_empty()) else {
                return Ok(None);
            };
            let Some((_, _, oid)) = entries.iter().find(|(name, mode, _)| name == folder && mode.is_tree()) else {
                return Ok(None);
            };
            path.push_str(folder);
            path.push('/');
            (tree, rest) = (*oid, below);
        }
    }

    /// Writes a commit of notes on top of `notes` in which `object` has `text`. No ref moves.
    fn commit_note(&self, notes: Option<Oid>, object: Oid, text: &str, who: &Identity) -> Result<Oid> {
        let found = notes.map(|notes| self.find_note(notes, object)).transpose()?.flatten();
        let hex = object.to_string();
        let path = found.map_or_else(|| format!("{}/{}", &hex[..2], &hex[2..]).into(), |(path, _)| path);
        let blob = self.write_blob(text.as_bytes())?;
        let base = notes.map(|notes| self.tree_of(notes)).transpose()?;
        let tree = self.edit_tree(base, vec![(path, Some((Kind::Blob.into(), blob)))])?;
        self.write_commit(tree, notes.as_slice(), "Notes added by Foreman", who, who)
    }
}

impl Mirror {
    /// Reads the note about `object` from the remote's `notes_ref`.
    pub fn read_note(&self, notes_ref: &str, object: Oid) -> Result<Option<String>> {
        match self.notes_tip(notes_ref)? {
            Some(tip) => self.repository().note_at(tip, object),
            None => Ok(None),
        }
    }

    /// Writes a note about `object` to the remote's `notes_ref`. Where somebody else wrote notes meanwhile, theirs
    /// are kept and it is tried again. [`PushOutcome::Lost`] comes back only after many such races.
    pub fn write_note(
        &self,
        notes_ref: &str,
        object: Oid,
        text: &str,
        mode: NoteMode,
        who: &Identity,
    ) -> Result<PushOutcome> {
        let text = text.trim_end();
        let mut last = None;
        for _ in 0..TRIES {
            let tip = self.notes_tip(notes_ref)?;
            let repository = self.repository();
            let old = tip.map(|tip| repository.note_at(tip, object)).transpose()?.flatten();
            let whole = match (&old, mode) {
                (Some(old), NoteMode::Append) if contains_paragraph(old, text) => {
                    return Ok(PushOutcome::Won);
                }
                (Some(old), NoteMode::Append) => format!("{}\n\n{text}\n", old.trim_end()),
                _ => format!("{text}\n"),
            };
            if old.as_deref() == Some(whole.as_str()) {
                return Ok(PushOutcome::Won);
            }
            if whole.len() as u64 > NOTE_LIMIT {
                return Err(Error::TooLarge {
                    action: "write",
                    what: format!("the note of {object}"),
                    found: whole.len() as u64,
                    limit: NOTE_LIMIT,
                });
            }
            let commit = repository.commit_note(tip, object, &whole, who)?;
            match self
                .remotes()
                .push(&repository, self.url(), notes_ref, Expected::found(tip), commit)?
            {
                PushOutcome::Lost { found } => last = Some(found),
                other => return Ok(other),
            }
        }
        Ok(PushOutcome::Lost { found: last.flatten() })
    }

    fn notes_tip(&self, notes_ref: &str) -> Result<Option<Oid>> {
        Ok(self
            .fetch(&Fetch::refname(notes_ref).shallow())?
            .refs
            .get(notes_ref)
            .copied())
    }
}

fn contains_paragraph(note: &str, text: &str) -> bool {
    format!("\n\n{}\n\n", note.trim_end()).contains(&format!("\n\n{text}\n\n"))
}
