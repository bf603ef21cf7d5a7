//! Trailers of Foreman's commits, marker commits, and who may replace whose push.

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
        ![TASK_TRAILER, EPOCH_TRAILER]
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
        self.write_commit(tree, &[parent], &message, who, who)
    }

    /// Reads the claim that a commit carries, if any.
    pub fn read_marker(&self, commit: Oid) -> Result<Option<Claim>> {
        Ok(claim_of(&self.commit_info(commit)?.message))
    }
}

impl Mirror {
    /// Moves `refname` of the remote to `new` under `claim`: by compare-and-set against `expected`, and in the place
    /// of whatever an earlier claim of the same task, or this one, pushed there since. Anything else wins against us.
    /// `new` must carry the claim's trailers and lies in `repository`.
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
