//! Trailers of Foreman's commits, marker commits, and who may replace whose push.
//!
//! Trailers outlive `git commit --amend`, a rebase and a cherry-pick, so they do not say that a commit is still the one
//! that a claim made. Its seal does: the id that the commit has without the line of the seal. Whatever is changed
//! of it, tree, parents, message, author or committer, and be it only the committer's time, the seal no longer fits, and
//! the commit is somebody else's work. The seal is in the commit itself, so that a push whose agent died before it could
//! report is known all the same, by any agent, from what was pushed alone. It keeps no secret: who forges it can only
//! give the own work up for replacement.

use gix::bstr::ByteSlice;

use crate::{
    Oid,
    error::Result,
    mirror::{Fetch, Mirror},
    push::{Expected, PushOutcome},
    repository::{Identity, Repository, clean},
};

/// Trailer with the task's UID.
pub const TASK_TRAILER: &str = "Foreman-Task";
/// Trailer with the claim's epoch.
pub const EPOCH_TRAILER: &str = "Foreman-Epoch";
/// Claims that replace each other more often than this are not what epochs are for.
const FENCED_TRIES: usize = 8;
const SIGN_OFF: &str = "Signed-off-by";
/// Trailer with the id that the commit has without this line.
const SEAL_TRAILER: &str = "Foreman-Seal";

/// The claim that a commit was made under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// UID of the task.
    pub task: String,
    /// Epoch of the claim.
    pub epoch: u64,
}

/// What a claim does with the commit that it found instead of the one it expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// An earlier claim of the same task pushed it: replace it.
    Replace,
    /// This very claim pushed it: nothing was lost.
    Ours,
    /// Somebody else's, or a later claim's: stop.
    Lost,
}

/// Decides what the claim `ours` may do with a branch head that carries `found`.
pub fn fence(found: Option<&Claim>, ours: &Claim) -> Fencing {
    match found {
        Some(found) if found.task != ours.task => Fencing::Lost,
        Some(found) if found.epoch < ours.epoch => Fencing::Replace,
        Some(found) if found.epoch == ours.epoch => Fencing::Ours,
        _ => Fencing::Lost,
    }
}

/// Writes a commit message: `text`, then a last paragraph of trailers that only the caller controls. Lines of `text`
/// that pass for trailers of ours are left out.
pub fn compose_message(text: &str, claim: Option<&Claim>, signed_off_by: Option<&Identity>) -> String {
    let forged = |line: &&str| {
        let key = line.trim_start().split(':').next().unwrap_or_default().trim_end();
        ![TASK_TRAILER, EPOCH_TRAILER, SEAL_TRAILER]
            .iter()
            .any(|ours| key.eq_ignore_ascii_case(ours))
    };
    let printable = |c: char| c == '\n' || c == '\t' || !c.is_control();
    let text: String = text.replace("\r\n", "\n").chars().filter(|c| printable(*c)).collect();
    let kept: Vec<&str> = text.lines().filter(forged).map(str::trim_end).collect();
    let mut message = kept.join("\n").trim().to_owned();
    if message.is_empty() {
        message.push_str("Change");
    }
    let mut trailers = Vec::new();
    if let Some(claim) = claim {
        trailers.push(format!("{TASK_TRAILER}: {}", clean(&claim.task)));
        trailers.push(format!("{EPOCH_TRAILER}: {}", claim.epoch));
    }
    if let Some(who) = signed_off_by {
        trailers.push(format!("{SIGN_OFF}: {} <{}>", clean(&who.name), clean(&who.email)));
    }
    if !trailers.is_empty() {
        message.push_str("\n\n");
        message.push_str(&trailers.join("\n"));
    }
    message.push('\n');
    message
}

/// Reads the trailers of a message: the `Key: value` lines of its last paragraph, which is not its first.
pub fn trailers(message: &str) -> Vec<(String, String)> {
    let message = message.trim_end();
    let Some((_, last)) = message.rsplit_once("\n\n") else {
        return Vec::new();
    };
    last.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let named = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            named.then(|| (key.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// Reads the claim out of a commit message; `None` unless both trailers are there once and well formed.
pub fn claim_of(message: &str) -> Option<Claim> {
    let trailers = trailers(message);
    let only = |wanted: &str| {
        let mut found = trailers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value);
        found.next().filter(|_| found.next().is_none())
    };
    let task = only(TASK_TRAILER).filter(|task| !task.is_empty())?.clone();
    let epoch = only(EPOCH_TRAILER)?.parse().ok()?;
    Some(Claim { task, epoch })
}

impl Repository {
    /// Writes a marker commit: `parent`'s tree again, with the claim in its trailers. No ref moves.
    pub fn build_marker(&self, parent: Oid, claim: &Claim, who: &Identity) -> Result<Oid> {
        let tree = self.tree_of(parent)?;
        let message = compose_message(
            "Claim this branch\n\nA later commit replaces this one.",
            Some(claim),
            None,
        );
        self.write_claimed(tree, &[parent], &message, who, who)
    }

    /// Writes a commit, sealed if its message carries a claim. No ref moves.
    pub fn write_claimed(
        &self,
        tree: Oid,
        parents: &[Oid],
        message: &str,
        author: &Identity,
        committer: &Identity,
    ) -> Result<Oid> {
        let message = format!("{}\n", message.trim_end());
        let bare = self.write_commit(tree, parents, &message, author, committer)?;
        if claim_of(&message).is_none() {
            return Ok(bare);
        }
        let sealed = format!("{message}{SEAL_TRAILER}: {bare}\n");
        self.write_commit(tree, parents, &sealed, author, committer)
    }

    /// Reads the claim that made exactly this commit; `None` if no claim did, or if it was changed since.
    pub fn read_marker(&self, commit: Oid) -> Result<Option<Claim>> {
        let Some(claim) = claim_of(&self.commit_info(commit)?.message) else {
            return Ok(None);
        };
        Ok(self.is_sealed(commit)?.then_some(claim))
    }

    /// Says whether a commit is, to the byte, what its seal was made for.
    fn is_sealed(&self, commit: Oid) -> Result<bool> {
        let repo = self.gix();
        let object = repo
            .find_object(commit)
            .map_err(|e| self.fail("read an object of", &e))?;
        let line = format!("\n{SEAL_TRAILER}: ");
        let Some(at) = object.data.rfind(&line) else {
            return Ok(false);
        };
        // The seal is the last line, and what it is the id of ends where the line begins.
        let seal = object.data[at + line.len()..].strip_suffix(b"\n").unwrap_or_default();
        let Ok(seal) = Oid::from_hex(seal) else {
            return Ok(false);
        };
        let id = gix::objs::compute_hash(commit.kind(), gix::objs::Kind::Commit, &object.data[..=at]);
        Ok(id.is_ok_and(|id| id == seal))
    }
}

impl Mirror {
    /// Moves `refname` of the remote to `new` under `claim`: by compare-and-set against `expected`, and in the place
    /// of whatever an earlier claim of the same task, or this one, pushed there since. Anything else wins against us.
    /// `new` must be a commit of the claim ([`Repository::write_claimed`]) and lies in `repository`.
    pub fn push_fenced(
        &self,
        repository: &Repository,
        refname: &str,
        expected: Expected,
        new: Oid,
        claim: &Claim,
    ) -> Result<PushOutcome> {
        let mut expected = expected;
        for _ in 0..FENCED_TRIES {
            let outcome = self.remotes().push(repository, self.url(), refname, expected, new)?;
            let PushOutcome::Lost { found: Some(found) } = outcome else {
                return Ok(outcome);
            };
            // The ref may have moved again since: then this reads another commit, and the push after it decides.
            let head = self.fetch(&Fetch::refname(refname))?.refs.get(refname).copied();
            let Some(head) = head else {
                return Ok(PushOutcome::Lost { found: None });
            };
            let theirs = self.repository().read_marker(head)?;
            if fence(theirs.as_ref(), claim) == Fencing::Lost {
                return Ok(PushOutcome::Lost { found: Some(found) });
            }
            expected = Expected::At(head);
        }
        Ok(PushOutcome::Lost {
            found: self.remotes().find_ref(self.url(), refname)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::FileEdit;

    fn claim(task: &str, epoch: u64) -> Claim {
        Claim {
            task: task.into(),
            epoch,
        }
    }

    #[test]
    fn only_an_earlier_claim_of_the_same_task_is_replaced() {
        let ours = claim("uid-1", 3);
        for (found, decision) in [
            (None, Fencing::Lost),
            (Some(claim("uid-1", 2)), Fencing::Replace),
            (Some(claim("uid-1", 3)), Fencing::Ours),
            (Some(claim("uid-1", 4)), Fencing::Lost),
            (Some(claim("uid-2", 1)), Fencing::Lost),
        ] {
            assert_eq!(fence(found.as_ref(), &ours), decision, "{found:?}");
        }
    }

    #[test]
    fn a_message_cannot_forge_its_claim() {
        let evil = "Fix it\n\nforeman-task: other\nForeman-Epoch : 99\n  Foreman-Epoch: 98\r\nend";
        let message = compose_message(
            evil,
            Some(&claim("uid-1", 2)),
            Some(&Identity::new("A\nForeman-Epoch: 7", "a@b", 0)),
        );
        assert_eq!(claim_of(&message), Some(claim("uid-1", 2)), "{message}");
        assert!(
            message.ends_with("Signed-off-by: AForeman-Epoch: 7 <a@b>\n"),
            "{message}"
        );
        assert!(!message.contains("99") && !message.contains("98"), "{message}");
        assert_eq!(
            claim_of(&compose_message("Foreman-Task: x\nForeman-Epoch: 1", None, None)),
            None
        );
        assert_eq!(
            claim_of("subject\n\nForeman-Task: a\nForeman-Task: b\nForeman-Epoch: 1\n"),
            None
        );
    }

    #[test]
    fn a_commit_that_was_changed_since_is_no_claims_whatever_its_trailers_say() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        let who = Identity::new("T", "t@e", 1);
        let base = repo
            .commit_files(None, &[FileEdit::write("a", "1")], "one", &who)
            .unwrap();
        let next = repo
            .commit_files(Some(base), &[FileEdit::write("a", "2")], "two", &who)
            .unwrap();
        let ours = claim("uid-1", 2);
        let message = compose_message("Mend it\n\nForeman-Seal: x", Some(&ours), Some(&who));
        let tree = repo.tree_of(next).unwrap();
        let made = repo.write_claimed(tree, &[base], &message, &who, &who).unwrap();
        assert_eq!(repo.read_marker(made).unwrap(), Some(ours.clone()));
        let said = repo.commit_info(made).unwrap().message;
        assert_eq!(claim_of(&said), Some(ours.clone()));
        assert!(said.starts_with("Mend it\n\nForeman-Task: uid-1\n"), "{said}");

        let later = Identity::new("T", "t@e", 2);
        let reader = Identity::new("R", "r@e", 1);
        let told = said.replace("Mend", "Tell");
        for (case, changed) in [
            (
                "tree",
                repo.write_commit(repo.tree_of(base).unwrap(), &[base], &said, &who, &who),
            ),
            ("parents", repo.write_commit(tree, &[next], &said, &who, &who)),
            ("message", repo.write_commit(tree, &[base], &told, &who, &who)),
            ("author", repo.write_commit(tree, &[base], &said, &reader, &who)),
            ("committer", repo.write_commit(tree, &[base], &said, &who, &reader)),
            ("time", repo.write_commit(tree, &[base], &said, &who, &later)),
            ("no seal", repo.write_commit(tree, &[base], &message, &who, &who)),
        ] {
            assert_eq!(repo.read_marker(changed.unwrap()).unwrap(), None, "{case}");
        }
        let same = repo.write_commit(tree, &[base], &said, &who, &who).unwrap();
        assert_eq!(repo.read_marker(same).unwrap(), Some(ours), "the same again");
    }

    #[test]
    fn a_marker_keeps_the_tree_and_carries_the_claim() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        let who = Identity::new("T", "t@e", 1);
        let head = repo
            .commit_files(None, &[FileEdit::write("a", "1")], "one", &who)
            .unwrap();
        let marker = repo.build_marker(head, &claim("uid-1", 2), &who).unwrap();
        assert_eq!(repo.tree_of(marker).unwrap(), repo.tree_of(head).unwrap());
        assert_eq!(repo.commit_info(marker).unwrap().parents, [head]);
        assert_eq!(repo.read_marker(marker).unwrap(), Some(claim("uid-1", 2)));
        assert_eq!(repo.read_marker(head).unwrap(), None);
        let out = std::process::Command::new("git")
            .arg("-C")
            .arg(repo.path())
            .args([
                "log",
                "-1",
                "--format=%(trailers:key=Foreman-Epoch,valueonly)",
                &marker.to_string(),
            ])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout).trim(),
            "2",
            "git reads the trailers too"
        );
    }
}
