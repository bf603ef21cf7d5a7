//! Watches: changes as they are committed, from memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::negotiate::{self, Form};
use super::read::{Selection, deprecate, include_object, partial};
use super::{Call, streamed};
use crate::admission::error::FieldError;
use crate::admission::table::IncludeObject;
use crate::admit::View;
use crate::kinds::Origin;
use crate::object::{Unreadable, time};
use crate::server::Server;
use crate::server::write::Target;
use crate::status::{ApiError, unsupported};
use crate::storage::{Change, Entry, Version};

/// A watch that names no end is ended after this long, at least.
const LIFETIME: Duration = Duration::from_secs(1800);
/// The events of this many objects are sent together at most.
const BATCH: usize = 256;

/// Where a watch begins.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// With what there is now, then what changes; `mark` ends the first part with a bookmark.
    Now { mark: bool },
    /// With what changed after a version.
    After(Version),
}

struct Watch {
    server: Arc<Server>,
    target: Target,
    prefix: String,
    selection: Selection,
    form: Form,
    include: IncludeObject,
    bookmarks: bool,
    latest: Receiver<Version>,
    stopping: CancellationToken,
    seen: Version,
    deadline: Instant,
    bookmark_at: Instant,
    waiting: VecDeque<Bytes>,
    columns_sent: bool,
    ended: bool,
}

/// Answers a watch.
pub fn watch(call: Call) -> Result<Response, ApiError> {
    let form = negotiate::form(call.accept())?;
    let selection = Selection::of(&call)?;
    let prefix = call.kind().prefix_of(call.namespace.as_deref());
    let start = start(&call)?;
    let include = include_object(&call)?;
    let lifetime = match call.query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(86_400)),
        _ => LIFETIME + Duration::from_secs(rand::rng().random_range(0..1800)),
    };
    let store = &call.server.store;
    let latest = store.subscribe();
    let now = Instant::now();
    let mut watch = Watch {
        bookmarks: call.query.flag("allowWatchBookmarks"),
        stopping: call.server.stopping.clone(),
        bookmark_at: now + call.server.bookmark_every,
        deadline: now + lifetime,
        target: call.target.clone(),
        server: Arc::clone(&call.server),
        prefix,
        selection,
        form,
        include,
        latest,
        seen: 0,
        waiting: VecDeque::new(),
        columns_sent: false,
        ended: false,
    };
    match start {
        Start::After(version) => {
            super::read::refuse_future(version, store.version())?;
            watch.seen = version;
        }
        Start::Now { mark } => watch.send_current(mark)?,
    }
    let target = call.target.clone();
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), watch))
    });
    let mut response = streamed("application/json", stream);
    deprecate(target.view(), &mut response);
    Ok(response)
}

fn start(call: &Call) -> Result<Start, ApiError> {
    let query = &call.query;
    let rule = query.get("resourceVersionMatch");
    let initial = query.get("sendInitialEvents").is_some();
    let mut wrong = Vec::new();
    if initial && rule != Some("NotOlderThan") {
        let words = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        wrong.push(FieldError::forbidden("resourceVersionMatch", words));
    }
    if !initial && rule.is_some() {
        let words = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        wrong.push(FieldError::forbidden("resourceVersionMatch", words));
    }
    if let Some(rule) = rule.filter(|rule| *rule != "NotOlderThan") {
        wrong.push(unsupported("resourceVersionMatch", rule, &["NotOlderThan"]));
    }
    if !wrong.is_empty() {
        return Err(ApiError::all_options("ListOptions", &wrong));
    }
    let version = query.version().map_err(ApiError::cannot_apply)?;
    if !initial {
        return Ok(match version {
            // Initial events are meant, though nothing says so.
            None | Some(0) => Start::Now {
                mark: query.flag("allowWatchBookmarks"),
            },
            Some(version) => Start::After(version),
        });
    }
    if query.flag("sendInitialEvents") {
        super::read::refuse_future(version.unwrap_or(0), call.server.store.version())?;
        return Ok(Start::Now {
            mark: query.flag("allowWatchBookmarks"),
        });
    }
    Ok(match version {
        None | Some(0) => Start::After(call.server.store.version()),
        Some(version) => Start::After(version),
    })
}

impl Watch {
    fn view(&self) -> View<'_> {
        self.target.view()
    }

    fn meant(&self, entry: &Entry) -> Result<bool, Unreadable> {
        self.selection.matches(self.view(), entry)
    }

    /// Queues everything that there is as added.
    fn send_current(&mut self, mark: bool) -> Result<(), ApiError> {
        let listing = self.server.store.list(&self.prefix, None, None)?;
        self.seen = listing.version;
        let mut batch = BytesMut::new();
        let mut count = 0;
        for entry in &listing.entries {
            if !self.meant(entry)? {
                continue;
            }
            self.event(&mut batch, "ADDED", entry, None)?;
            count += 1;
            if count % BATCH == 0 {
                self.waiting.push_back(batch.split().freeze());
            }
        }
        if mark {
            let object = self.bookmark(&json!({"k8s.io/initial-events-end": "true"}));
            self.value_event(&mut batch, "BOOKMARK", &object);
        }
        if !batch.is_empty() {
            self.waiting.push_back(batch.freeze());
        }
        Ok(())
    }

    /// Returns an object that says only how far the watch has come, in the form of the others.
    fn bookmark(&mut self, annotations: &Value) -> Value {
        let view = self.view();
        let mut metadata = json!({"resourceVersion": self.seen.to_string()});
        if !annotations.is_null() {
            metadata["annotations"] = annotations.clone();
        }
        let object =
            json!({"kind": view.kind.kind, "apiVersion": view.kind.api_version(view.served), "metadata": metadata});
        match self.form {
            Form::Object => object,
            Form::Partial => partial(&object),
            Form::Table => self.table(&object),
        }
    }

    /// Returns an object as a table of one row; the first of a watch tells of the columns too.
    fn table(&mut self, object: &Value) -> Value {
        let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
        let first = !std::mem::replace(&mut self.columns_sent, true);
        let columns = &self.target.view().served.columns;
        columns.render(&[object], &metadata, self.include, first, &time(Timestamp::now()))
    }

    fn value_event(&self, batch: &mut BytesMut, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object});
        batch.extend_from_slice(line.to_string().as_bytes());
        batch.extend_from_slice(b"\n");
    }

    /// Tells of an object, or of one that was `removed` by a change.
    fn event(
        &mut self,
        batch: &mut BytesMut,
        kind: &str,
        entry: &Entry,
        removed: Option<Version>,
    ) -> Result<(), Unreadable> {
        let view = self.target.view();
        let read = || match removed {
            Some(version) => view.last(entry, version),
            None => view.read(entry),
        };
        let object = match (self.form, removed) {
            (Form::Object, Some(version)) => view.last_bytes(entry, version)?,
            (Form::Object, None) => view.bytes(entry)?,
            (Form::Partial, _) => Bytes::from(partial(&read()?).to_string()),
            (Form::Table, _) => {
                let object = read()?;
                Bytes::from(self.table(&object).to_string())
            }
        };
        batch.extend_from_slice(b"{\"type\":\"");
        batch.extend_from_slice(kind.as_bytes());
        batch.extend_from_slice(b"\",\"object\":");
        batch.extend_from_slice(&object);
        batch.extend_from_slice(b"}\n");
        Ok(())
    }

    /// Words one change as the watcher sees it, if it sees it at all.
    fn change(&mut self, batch: &mut BytesMut, change: &Change) -> Result<(), Unreadable> {
        let meant = |entry: &Option<Arc<Entry>>| match entry {
            Some(entry) => Ok(self.meant(entry)?.then(|| Arc::clone(entry))),
            None => Ok(None),
        };
        let before = meant(&change.before)?;
        let after = meant(&change.after)?;
        match (before, after) {
            (None, Some(after)) => self.event(batch, "ADDED", &after, None),
            (Some(_), Some(after)) => self.event(batch, "MODIFIED", &after, None),
            (Some(before), None) => self.event(batch, "DELETED", &before, Some(change.version)),
            (None, None) => Ok(()),
        }
    }

    /// Tells whether the kind is still served as it was when the watch began.
    fn still_served(&self) -> bool {
        let kind = &self.target.kind;
        let Origin::Custom { uid, .. } = &kind.origin else {
            return true;
        };
        let kinds = self.server.catalog.kinds();
        kinds.resource(&kind.group, &kind.plural).is_some_and(|now| {
            matches!(&now.origin, Origin::Custom { uid: known, .. } if known == uid) && now.keeps_as(kind)
        })
    }

    /// Returns the next bytes to send, or nothing when the watch has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.waiting.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            self.latest.borrow_and_update();
            if let Some(bytes) = self.collect() {
                return Some(bytes);
            }
            if !self.still_served() {
                return None;
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => {
                    // The last word lets the client go on from here.
                    self.ended = true;
                    if self.bookmarks {
                        return Some(self.bookmark_line());
                    }
                    return None;
                }
                () = tokio::time::sleep_until(self.bookmark_at), if self.bookmarks => {
                    self.bookmark_at = Instant::now() + self.server.bookmark_every;
                    return Some(self.bookmark_line());
                }
                changed = self.latest.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
            }
        }
    }

    fn bookmark_line(&mut self) -> Bytes {
        let mut batch = BytesMut::new();
        let object = self.bookmark(&Value::Null);
        self.value_event(&mut batch, "BOOKMARK", &object);
        batch.freeze()
    }

    /// Collects what was committed since the last time.
    fn collect(&mut self) -> Option<Bytes> {
        match self.server.store.changes_since(&self.prefix, self.seen) {
            Ok((changes, version)) => {
                let mut batch = BytesMut::new();
                for change in &changes {
                    if let Err(error) = self.change(&mut batch, change) {
                        return Some(self.end_with(batch, error));
                    }
                }
                self.seen = version;
                (!batch.is_empty()).then(|| batch.freeze())
            }
            Err(expired) => Some(self.end_with(BytesMut::new(), expired)),
        }
    }

    /// Ends the watch after what is in the batch, and says why.
    fn end_with(&mut self, mut batch: BytesMut, error: impl Into<ApiError>) -> Bytes {
        self.ended = true;
        let status = error.into().to_status();
        self.value_event(&mut batch, "ERROR", &status);
        batch.freeze()
    }
}
