//! What every side of Foreman needs of Git: list refs, fetch, read trees, check out, commit, push, notes.
//!
//! Reading goes through gix; pushing and text diffs go through git2, whose own network transports are left out: both
//! speak through the connections of this crate, so that credentials, certificates and time limits are one thing.
//! Calls block. [`Git`] offers the same calls to asynchronous code.

mod client;
mod connect;
mod credentials;
mod error;
mod list;
mod local;
mod marker;
mod mirror;
mod notes;
mod push;
mod repository;
mod settings;
mod url;
mod work_tree;

pub use client::Git;
pub use connect::Remotes;
pub use credentials::read_credentials;
pub use error::{Category, Error, Result};
/// An object id.
pub use gix::ObjectId as Oid;
pub use gix::bstr::{BStr, BString, ByteSlice};
pub use list::Ref;
pub use local::Local;
pub use marker::{Claim, EPOCH_TRAILER, Fencing, TASK_TRAILER, claim_of, compose_message, fence, trailers};
pub use mirror::{Fetch, Fetched, Mirror, Mirrors};
pub use notes::{NOTES_REF, NoteMode};
pub use push::{Expected, PushOutcome};
pub use repository::{
    Change, ChangeKind, CommitInfo, Diff, EntryKind, FileEdit, FileStat, Identity, Repository, TreeEntry,
};
pub use settings::{Credential, CredentialKind, HostKeys, Secret, Settings, Ssh, Timeouts};
pub use url::{RemoteUrl, Scheme, of_repository, redact};
pub use work_tree::{
    CommitLimits, Fitting, Ignores, LEFT_OUT, LeftOut, Tracked, Unfit, WorkTree, is_fit_name, remove_tree,
};

/// Locks a mutex; a thread that panicked while it held it left nothing half done that matters here.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
