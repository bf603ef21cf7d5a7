//! Recorded exchanges with a real kube-apiserver: their file format, and what of an
//! answer counts.
//!
//! A file holds exchanges in the order in which they were made, because later ones rest
//! on what earlier ones wrote:
//!
//! ```json
//! {"about": "…", "exchanges": [{
//!   "name": "…",
//!   "request": {"method": "PATCH", "path": "/api/v1/…?fieldManager=x", "contentType": "…", "accept": "…", "body": {}},
//!   "response": {"code": 200, "warnings": ["unknown field \"spec.x\""], "body": {}}
//! }]}
//! ```
//!
//! `setup` marks requests that only prepare (their answers are not compared), `settle` a path
//! that must answer 200 before the next request is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A file of exchanges.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// What the exchanges are about.
    pub about: String,
    /// The exchanges, in order.
    pub exchanges: Vec<Exchange>,
}

/// A request and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// What the request shows.
    pub name: String,
    /// Whether the request only prepares others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub setup: bool,
    /// Path that must answer before the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<String>,
    /// The request.
    pub request: Request,
    /// The answer; absent before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Content type of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Accepted content types, where they matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<String>,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// An answer, normalised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// HTTP status.
    pub code: u16,
    /// Texts of `Warning` headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The body.
    pub body: Value,
}

/// Replaces what differs from run to run (identities, versions, times) and puts in order what
/// has none (causes of an error, managers whose times are equal).
pub fn normalise(response: Response) -> Response {
    let mut body = response.body;
    walk(&mut body, "");
    if body["kind"] == "Table" {
        table(&mut body);
    }
    if body["kind"] == "Status" {
        status(&mut body);
    }
    let mut warnings = response.warnings;
    warnings.sort();
    Response {
        code: response.code,
        warnings,
        body: sorted(body),
    }
}

fn walk(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => {
            if key == "metadata" {
                for (field, shown) in [
                    ("uid", "<uid>"),
                    ("resourceVersion", "<version>"),
                    ("creationTimestamp", "<time>"),
                    ("deletionTimestamp", "<time>"),
                ] {
                    if map
                        .get(field)
                        .is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty()))
                    {
                        map.insert(field.to_owned(), shown.into());
                    }
                }
                if let Some(managers) = map.get_mut("managedFields").and_then(Value::as_array_mut) {
                    for manager in managers.iter_mut() {
                        if manager.get("time").is_some() {
                            manager["time"] = "<time>".into();
                        }
                    }
                    managers.sort_by_key(|m| {
                        ["operation", "manager", "apiVersion", "subresource"]
                            .map(|k| m[k].as_str().unwrap_or_default().to_owned())
                    });
                }
            }
            for (key, item) in map.iter_mut() {
                walk(item, key);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|i| walk(i, "")),
        Value::String(text) => *text = without_uids(text),
        _ => {}
    }
}

fn without_uids(text: &str) -> String {
    let is_uid = |t: &str| {
        t.len() == 36
            && t.char_indices().all(|(i, c)| {
                if matches!(i, 8 | 13 | 18 | 23) {
                    c == '-'
                } else {
                    c.is_ascii_hexdigit()
                }
            })
    };
    let mut out = String::new();
    let mut at = 0;
    while at < text.len() {
        if let Some(window) = text.get(at..at + 36)
            && is_uid(window)
        {
            out.push_str("<uid>");
            at += 36;
        } else {
            let c = text[at..].chars().next().unwrap_or_default();
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// Descriptions of columns are each server's own; ages grow.
fn table(body: &mut Value) {
    let mut ages = Vec::new();
    for (i, column) in body["columnDefinitions"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if let Some(column) = column.as_object_mut() {
            column.remove("description");
            if column.get("name").is_some_and(|n| n == "Age") {
                ages.push(i);
            }
        }
    }
    for row in body["rows"].as_array_mut().into_iter().flatten() {
        for i in &ages {
            row["cells"][*i] = "<age>".into();
        }
    }
}

/// kube-apiserver walks maps in no order: several causes are compared as a set, and the
/// message that lists them only up to its list.
fn status(body: &mut Value) {
    let Some(causes) = body.pointer_mut("/details/causes").and_then(Value::as_array_mut) else {
        return;
    };
    for cause in causes.iter_mut() {
        if cause["field"] == "patch"
            && let Some(message) = cause["message"].as_str()
        {
            cause["message"] = without_patched(message).into();
        }
    }
    causes.sort_by_key(ToString::to_string);
    causes.dedup();
    let one_patch = matches!(causes.as_slice(), [one] if one["field"] == "patch");
    if let Some(message) = body["message"].as_str().filter(|_| one_patch) {
        body["message"] = without_patched(message).into();
        return;
    }
    let Some(causes) = body.pointer_mut("/details/causes").and_then(Value::as_array_mut) else {
        return;
    };
    if causes.len() > 1
        && body["reason"] == "Invalid"
        && let Some(message) = body["message"].as_str()
        && let Some((head, _)) = message.split_once(" is invalid: ")
    {
        body["message"] = format!("{head} is invalid: <causes>").into();
    }
}

/// Drops the patched object, which holds identities and times, from a message.
fn without_patched(message: &str) -> String {
    let Some((head, value)) = message.split_once("Invalid value: \"") else {
        return message.to_owned();
    };
    let mut escaped = false;
    for (i, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return format!("{head}Invalid value: <patched>{}", &value[i + 1..]),
            _ => {}
        }
    }
    message.to_owned()
}

/// Sorts keys, so that files differ only where answers do.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(ordered.into_iter().collect::<Map<_, _>>())
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// Reads the text of a `Warning` header: `299 - "text"`.
pub fn warning_text(header: &str) -> String {
    let quoted = header.split_once('"').map_or(header, |(_, rest)| rest);
    let text = quoted.rsplit_once('"').map_or(quoted, |(text, _)| text);
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Reads a body; text that is no JSON stands as a string.
pub fn read_body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(bytes).trim()))
}
