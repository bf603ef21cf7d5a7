//! Getting and listing objects.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::negotiate::{self, Form};
use super::{Call, bytes_response, streamed};
use crate::admission::error::FieldError;
use crate::admission::selector::{FieldSelector, LabelSelector};
use crate::admission::table::IncludeObject;
use crate::admit::View;
use crate::object::{Unreadable, meta_of, time};
use crate::status::{ApiError, unsupported};
use crate::storage::{Entry, Listing, Version};

/// Bodies larger than this are sent in pieces of about this size.
const CHUNK: usize = 64 << 10;

/// Which objects of a collection are meant.
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// Whether metadata is enough to decide.
    metadata_only: bool,
}

impl Selection {
    /// Reads the selectors of a request.
    pub fn of(call: &Call) -> Result<Selection, ApiError> {
        let labels =
            LabelSelector::parse(call.query.get("labelSelector").unwrap_or("")).map_err(ApiError::bad_request)?;
        let text = call.query.get("fieldSelector").unwrap_or("");
        let fields = FieldSelector::parse(text).map_err(ApiError::bad_request)?;
        let view = call.target.view();
        let selectable: Vec<&str> = view.served.selectable.iter().map(String::as_str).collect();
        fields
            .check(&view.kind.api_version(view.served), &view.kind.kind, &selectable)
            .map_err(ApiError::bad_request)?;
        let metadata_only = text.split(',').all(|term| {
            let field = term.trim();
            field.is_empty() || field.starts_with("metadata.")
        });
        Ok(Selection {
            labels,
            fields,
            metadata_only,
        })
    }

    /// Tells whether everything is meant.
    pub fn is_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Tells whether an object is meant.
    pub fn matches(&self, view: View<'_>, entry: &Entry) -> Result<bool, Unreadable> {
        if self.is_all() {
            return Ok(true);
        }
        let object = if self.metadata_only {
            let meta = meta_of(entry)?;
            json!({"metadata": {"name": meta.name, "namespace": meta.namespace, "labels": meta.labels}})
        } else {
            view.read(entry)?
        };
        Ok(self.labels.matches(&object) && self.fields.matches(&object))
    }
}

/// Returns an object's metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// Reads what a table's rows carry besides their cells.
pub fn include_object(call: &Call) -> Result<IncludeObject, ApiError> {
    let text = call.query.get("includeObject").unwrap_or("");
    IncludeObject::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {text:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))
    })
}

/// Answers with one object in the form that was asked for.
pub fn respond(call: &Call, code: StatusCode, entry: &Entry) -> Result<Response, ApiError> {
    let view = call.target.view();
    let bytes = match negotiate::form(call.accept())? {
        Form::Object => view.bytes(entry)?,
        Form::Partial => Bytes::from(partial(&view.read(entry)?).to_string()),
        Form::Table => {
            let object = view.read(entry)?;
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let table = view.served.columns.render(
                &[&object],
                &metadata,
                include_object(call)?,
                true,
                &time(Timestamp::now()),
            );
            Bytes::from(table.to_string())
        }
    };
    let mut response = bytes_response(code, bytes);
    deprecate(view, &mut response);
    Ok(response)
}

/// Warns of a deprecated version.
pub fn deprecate(view: View<'_>, response: &mut Response) {
    if let Some(warning) = &view.served.deprecation {
        let warned = super::warn(std::mem::take(response), std::slice::from_ref(warning));
        *response = warned;
    }
}

/// Answers a get.
pub fn get(call: &Call) -> Result<Response, ApiError> {
    let name = call.name.as_deref().unwrap_or("");
    if let Some(version) = call.query.version().map_err(ApiError::cannot_apply)? {
        refuse_future(version, call.server.store.version())?;
    }
    let entry = call.server.entry(call.kind(), &call.target.namespace, name)?;
    respond(call, StatusCode::OK, &entry)
}

/// Refuses a version that has not been reached.
pub fn refuse_future(asked: Version, current: Version) -> Result<(), ApiError> {
    if asked > current {
        let mut error = ApiError::timeout(format!(
            "Timeout: Too large resource version: {asked}, current: {current}"
        ));
        error.details = Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }));
        return Err(error);
    }
    Ok(())
}

/// Where a list goes on.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    rv: Version,
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    }

    fn decode(text: &str) -> Result<Continue, ApiError> {
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| {
                ApiError::bad_request(
                    "invalid continue token: continue key is not valid: it is none that this server gave",
                )
            })
    }
}

/// The objects of a collection that a request means, or the first of them.
pub struct Page {
    version: Version,
    /// The objects.
    pub entries: Vec<Arc<Entry>>,
    next: Option<String>,
    remaining: Option<usize>,
}

/// Answers a list.
pub fn list(call: &Call) -> Result<Response, ApiError> {
    let form = negotiate::form(call.accept())?;
    call.query.integer("timeoutSeconds")?;
    Page::of(call)?.show(call, form)
}

impl Page {
    /// Picks the objects that a request means.
    pub fn of(call: &Call) -> Result<Page, ApiError> {
        page(call, &Selection::of(call)?)
    }

    fn metadata(&self, call: &Call, form: Form) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), self.version.to_string().into());
        if let Some(next) = &self.next {
            metadata.insert("continue".into(), next.as_str().into());
        } else if call.kind().builtin().is_none() && form != Form::Partial {
            // Lists of custom kinds always have the field.
            metadata.insert("continue".into(), "".into());
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(metadata)
    }

    /// Answers with the objects in a form.
    pub fn show(self, call: &Call, form: Form) -> Result<Response, ApiError> {
        let metadata = self.metadata(call, form);
        let view = call.target.view();
        let mut response = match form {
            Form::Table => self.table(call, &metadata)?,
            Form::Object => self.objects(call, &metadata)?,
            Form::Partial => {
                let head = list_head("PartialObjectMetadataList", "meta.k8s.io/v1", &metadata);
                let target = call.target.clone();
                stream_list(head, self.entries, move |out, entry| {
                    let object = target.view().read(entry)?;
                    out.extend_from_slice(partial(&object).to_string().as_bytes());
                    Ok(())
                })?
            }
        };
        deprecate(view, &mut response);
        Ok(response)
    }

    fn table(&self, call: &Call, metadata: &Value) -> Result<Response, ApiError> {
        let view = call.target.view();
        let objects: Result<Vec<Value>, Unreadable> = self.entries.iter().map(|entry| view.read(entry)).collect();
        let objects = objects?;
        let objects: Vec<&Value> = objects.iter().collect();
        let include = include_object(call)?;
        let columns = &view.served.columns;
        let table = columns.render(&objects, metadata, include, true, &time(Timestamp::now()));
        Ok(super::json_response(&table))
    }

    fn objects(self, call: &Call, metadata: &Value) -> Result<Response, ApiError> {
        let view = call.target.view();
        let api_version = view.kind.api_version(view.served);
        let head = list_head(&view.kind.list_kind, &api_version, metadata);
        let target = call.target.clone();
        let streamed = if view.is_stored_form() {
            // The items of a built-in list do not repeat what they are.
            let told = match view.kind.builtin() {
                Some(_) => format!("{{\"apiVersion\":\"{api_version}\",\"kind\":\"{}\",", view.kind.kind),
                None => String::new(),
            };
            stream_list(head, self.entries, move |out, entry| {
                let bytes = target.view().bytes(entry)?;
                match bytes.strip_prefix(told.as_bytes()) {
                    Some(rest) if !told.is_empty() => {
                        out.extend_from_slice(b"{");
                        out.extend_from_slice(rest);
                    }
                    _ => out.extend_from_slice(&bytes),
                }
                Ok(())
            })
        } else {
            stream_list(head, self.entries, move |out, entry| {
                let view = target.view();
                let mut object = view.read(entry)?;
                if view.kind.builtin().is_some() {
                    without_type(&mut object);
                }
                out.extend_from_slice(object.to_string().as_bytes());
                Ok(())
            })
        };
        Ok(streamed?)
    }
}

/// Takes off an object what a list of built-in objects says of them all.
fn without_type(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
}

fn list_head(kind: &str, api_version: &str, metadata: &Value) -> String {
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[")
}

/// Sends a list: at once when it is small, in pieces when it is not. What cannot be read back in a later piece ends the
/// answer in its middle.
fn stream_list(
    head: String,
    items: Vec<Arc<Entry>>,
    show: impl Fn(&mut BytesMut, &Entry) -> Result<(), Unreadable> + Send + 'static,
) -> Result<Response, Unreadable> {
    let mut items = items.into_iter();
    let mut start = Some(head);
    let mut first = true;
    let mut chunk = move || -> Result<Option<Bytes>, Unreadable> {
        let Some(head) = start.take() else {
            return Ok(None);
        };
        let mut out = BytesMut::with_capacity(4096);
        out.extend_from_slice(head.as_bytes());
        loop {
            match items.next() {
                Some(item) => {
                    if !first {
                        out.extend_from_slice(b",");
                    }
                    first = false;
                    show(&mut out, &item)?;
                    if out.len() >= CHUNK {
                        start = Some(String::new());
                        return Ok(Some(out.freeze()));
                    }
                }
                None => {
                    out.extend_from_slice(b"]}");
                    return Ok(Some(out.freeze()));
                }
            }
        }
    };
    let first = chunk()?.unwrap_or_default();
    if first.len() < CHUNK {
        return Ok(bytes_response(StatusCode::OK, first));
    }
    let pieces = std::iter::once(Ok(first)).chain(std::iter::from_fn(move || chunk().transpose()));
    Ok(streamed("application/json", futures::stream::iter(pieces)))
}

/// Picks the objects of one page.
fn page(call: &Call, selection: &Selection) -> Result<Page, ApiError> {
    let limit = call.query.number("limit")?.unwrap_or(0);
    // Whoever takes any version is given it whole, out of memory.
    let any = call.query.get("resourceVersion") == Some("0");
    let limit = if any {
        0
    } else {
        usize::try_from(limit).unwrap_or(usize::MAX)
    };
    let listing = listing(call)?;
    let view = call.target.view();
    let mut entries = listing.entries;
    if !selection.is_all() {
        let mut chosen = Vec::new();
        for entry in entries {
            if selection.matches(view, &entry)? {
                chosen.push(entry);
            }
        }
        entries = chosen;
    }
    let total = entries.len();
    let mut next = None;
    let mut remaining = None;
    if limit > 0 && total > limit {
        entries.truncate(limit);
        next = entries.last().map(|last| {
            Continue {
                rv: listing.version,
                start: last.key.to_string(),
            }
            .encode()
        });
        if selection.is_all() {
            remaining = Some(total - limit);
        }
    }
    Ok(Page {
        version: listing.version,
        entries,
        next,
        remaining,
    })
}

fn listing(call: &Call) -> Result<Listing, ApiError> {
    let store = &call.server.store;
    let prefix = call.kind().prefix_of(call.namespace.as_deref());
    let rule = call.query.get("resourceVersionMatch");
    let wrong = wrong_options(call);
    if !wrong.is_empty() {
        return Err(ApiError::all_options("ListOptions", &wrong));
    }
    let asked = call
        .query
        .version()
        .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
    if let Some(token) = call.query.get("continue") {
        if asked.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let from = Continue::decode(token)?;
        if !from.start.starts_with(&prefix) {
            return Err(ApiError::bad_request("continue key is not valid"));
        }
        let listing = store
            .list(&prefix, Some(&from.start), Some(from.rv))
            .map_err(|_| {
                ApiError::expired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.")
            })?;
        return Ok(listing);
    }
    refuse_future(asked.unwrap_or(0), store.version())?;
    let at = asked.filter(|_| rule == Some("Exact"));
    Ok(store.list(&prefix, None, at)?)
}

/// Says what is wrong with the options of a list.
fn wrong_options(call: &Call) -> Vec<FieldError> {
    const MATCH: &str = "resourceVersionMatch";
    let query = &call.query;
    let version = query.get("resourceVersion");
    let mut wrong = Vec::new();
    if let Some(rule) = query.get(MATCH) {
        if version.is_none() {
            let words = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            wrong.push(FieldError::forbidden(MATCH, words));
        }
        if query.get("continue").is_some() {
            let words = "resourceVersionMatch is forbidden when continue is provided";
            wrong.push(FieldError::forbidden(MATCH, words));
        }
        if !matches!(rule, "Exact" | "NotOlderThan") {
            wrong.push(unsupported(MATCH, rule, &["Exact", "NotOlderThan", ""]));
        }
        if rule == "Exact" && version == Some("0") {
            let words = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            wrong.push(FieldError::forbidden(MATCH, words));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        let words = "sendInitialEvents is forbidden for list";
        wrong.push(FieldError::forbidden("sendInitialEvents", words));
    }
    wrong
}
