//! Moving a ref of a remote by compare-and-set.

mod advertised;
mod subtransport;

use std::{cell::RefCell, fmt, time::Duration};

use crate::{
    Oid,
    connect::{Remotes, Session},
    error::{Category, Error, Result, one_line, says_disk_full},
    repository::{Repository, check_refname},
    url::RemoteUrl,
};

/// What a ref must be for a push to move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is no such ref.
    Absent,
    /// It points at this object.
    At(Oid),
}

impl Expected {
    /// Expects what was found: an object or nothing.
    pub fn found(oid: Option<Oid>) -> Self {
        oid.map_or(Expected::Absent, Expected::At)
    }

    fn oid(self) -> Option<Oid> {
        match self {
            Expected::Absent => None,
            Expected::At(oid) => Some(oid),
        }
    }
}

/// How a push ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushOutcome {
    /// The ref is what was asked for, and the server said so.
    Won,
    /// The ref was not what was expected; nothing moved.
    Lost {
        /// Where the ref points instead; `None` if it does not exist.
        found: Option<Oid>,
    },
    /// The server said no: a hook, a protected branch, a rule.
    Refused(String),
}

impl fmt::Display for PushOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushOutcome::Won => f.write_str("won"),
            PushOutcome::Lost { found: Some(oid) } => write!(f, "lost to {oid}"),
            PushOutcome::Lost { found: None } => f.write_str("lost: the ref is gone"),
            PushOutcome::Refused(message) => write!(f, "refused: {message}"),
        }
    }
}

/// How often a ref that is being updated by others is tried.
const TRIES: usize = 6;

/// One try to move a ref.
enum Attempt {
    /// It is decided.
    Ended(PushOutcome),
    /// The server could not take its own lock on the ref, which still is what was expected.
    Busy(String),
}

/// What the exchange itself showed.
#[derive(Default)]
struct Seen {
    /// The ref was not as expected when the server listed it.
    lost: Option<Option<Oid>>,
    /// The update was sent, so that its fate is the server's.
    negotiated: bool,
    /// The status that the server gave the ref: `Ok` or its reason.
    status: Option<std::result::Result<(), String>>,
    /// What hooks printed.
    messages: Vec<u8>,
}

impl Remotes {
    /// Moves `refname` of `url` to `new`, whose objects lie in `repository`, if it is what `expected` says. Whether
    /// `new` descends from the old object does not matter.
    pub fn push(
        &self,
        repository: &Repository,
        url: &RemoteUrl,
        refname: &str,
        expected: Expected,
        new: Oid,
    ) -> Result<PushOutcome> {
        if !repository.has(new) {
            return Err(repository.missing("push", format!("commit {new}")));
        }
        self.update_ref(repository, url, refname, expected, Some(new))
    }

    /// Removes `refname` of `url` if it points at `expected`.
    pub fn delete_ref(
        &self,
        repository: &Repository,
        url: &RemoteUrl,
        refname: &str,
        expected: Oid,
    ) -> Result<PushOutcome> {
        self.update_ref(repository, url, refname, Expected::At(expected), None)
    }

    fn update_ref(
        &self,
        repository: &Repository,
        url: &RemoteUrl,
        refname: &str,
        expected: Expected,
        new: Option<Oid>,
    ) -> Result<PushOutcome> {
        check_refname(refname)?;
        let mut pause = Duration::from_millis(20);
        for _ in 1..TRIES {
            match self.try_update(repository, url, refname, expected, new)? {
                Attempt::Ended(outcome) => return Ok(outcome),
                Attempt::Busy(_) => std::thread::sleep(pause),
            }
            pause *= 2;
        }
        match self.try_update(repository, url, refname, expected, new)? {
            Attempt::Ended(outcome) => Ok(outcome),
            Attempt::Busy(message) => Ok(PushOutcome::Refused(message)),
        }
    }

    fn try_update(
        &self,
        repository: &Repository,
        url: &RemoteUrl,
        refname: &str,
        expected: Expected,
        new: Option<Oid>,
    ) -> Result<Attempt> {
        let timeouts = &self.settings().timeouts;
        let session = Session::new(url, "push to", timeouts.push, timeouts.idle);
        let seen = RefCell::new(Seen::default());
        let result = self.exchange(repository, &session, refname, expected, new, &seen);
        let seen = seen.into_inner();
        if let Some(found) = seen.lost {
            return Ok(Attempt::Ended(if found == new {
                PushOutcome::Won
            } else {
                PushOutcome::Lost { found }
            }));
        }
        let error = match (result, &seen.status) {
            (Ok(()), Some(Ok(()))) => return Ok(Attempt::Ended(PushOutcome::Won)),
            (Err(error), _) if !seen.negotiated => return Err(error),
            (Err(error), None) => Some(error),
            (_, _) => None,
        };
        // The server refused the ref, said nothing of it, or the connection broke after the update was sent. Only the
        // ref itself tells which it was.
        let found = match self.find_ref(url, refname) {
            Ok(found) => found,
            Err(reading) => return Err(error.unwrap_or(reading)),
        };
        if found == new {
            return Ok(Attempt::Ended(PushOutcome::Won));
        }
        if found != expected.oid() {
            return Ok(Attempt::Ended(PushOutcome::Lost { found }));
        }
        let said = match (seen.status, error) {
            (_, Some(error)) if error.category() != Category::Refused => return Err(error),
            (Some(Err(reason)), _) => {
                let message = refusal(&reason, &seen.messages);
                if says_disk_full(&message) {
                    return Err(Error::DiskFull {
                        action: "push to",
                        path: url.to_string().into(),
                    });
                }
                // Another update of the ref is under way, or was a moment ago: who won will show.
                let busy = ["failed to update ref", "lock", "transaction"];
                if busy.iter().any(|needle| reason.contains(needle)) {
                    return Ok(Attempt::Busy(message));
                }
                message
            }
            (_, Some(error)) => refusal(&error.to_string(), &seen.messages),
            _ => refusal("the server did not say what became of the ref", &seen.messages),
        };
        Ok(Attempt::Ended(PushOutcome::Refused(said)))
    }

    fn exchange(
        &self,
        repository: &Repository,
        session: &std::sync::Arc<Session>,
        refname: &str,
        expected: Expected,
        new: Option<Oid>,
        seen: &RefCell<Seen>,
    ) -> Result<()> {
        let local = repository.git2()?;
        let endpoint = subtransport::Endpoint::open(self, session)?;
        let mut remote = local
            .remote_anonymous(&endpoint.url())
            .map_err(|e| repository.fail_git2("push from", &e))?;

        let mut callbacks = git2::RemoteCallbacks::new();
        callbacks.push_negotiation(|updates| {
            let Some(update) = updates.iter().find(|u| u.dst_refname_bytes() == refname.as_bytes()) else {
                return Err(git2::Error::from_str("the update is missing"));
            };
            let found = Some(update.src())
                .filter(|oid| !oid.is_zero())
                .and_then(|oid| Oid::try_from(oid.as_bytes()).ok());
            let mut seen = seen.borrow_mut();
            if found != expected.oid() {
                seen.lost = Some(found);
                return Err(git2::Error::from_str("the ref is not what was expected"));
            }
            seen.negotiated = true;
            Ok(())
        });
        callbacks.push_update_reference(|name, status| {
            if name == refname {
                seen.borrow_mut().status = Some(status.map_or(Ok(()), |reason| Err(reason.to_owned())));
            }
            Ok(())
        });
        callbacks.sideband_progress(|text| {
            let messages = &mut seen.borrow_mut().messages;
            let room = 8192usize.saturating_sub(messages.len());
            messages.extend_from_slice(&text[..text.len().min(room)]);
            true
        });
        let mut options = git2::PushOptions::new();
        options.remote_callbacks(callbacks);
        // The plus keeps libgit2 from its own ancestry rule: the expected object is the rule here.
        let refspec = match new {
            Some(new) => format!("+{new}:{refname}"),
            None => format!(":{refname}"),
        };
        let pushed = remote.push(&[refspec.as_str()], Some(&mut options));
        drop(options);
        pushed.map_err(|e| self.push_error(repository, session, &e))
    }

    fn push_error(&self, repository: &Repository, session: &Session, error: &git2::Error) -> Error {
        use git2::ErrorClass;
        if session.failed() {
            return session.error(error.message());
        }
        match error.class() {
            ErrorClass::Odb | ErrorClass::Object | ErrorClass::Zlib | ErrorClass::Tree | ErrorClass::Os => {
                repository.fail_git2("push from", error)
            }
            _ => session.error(error.message()),
        }
    }
}

/// Joins the status of a ref with what the server's hooks printed.
fn refusal(reason: &str, messages: &[u8]) -> String {
    let printed = one_line(&String::from_utf8_lossy(messages));
    let reason = one_line(reason);
    if printed.is_empty() {
        reason
    } else {
        format!("{reason}: {printed}")
    }
}
