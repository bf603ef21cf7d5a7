//! Protobuf bodies that `kubectl create namespace|configmap|secret|job` and
//! `kubectl auth can-i` send: typed clients write built-in kinds so, and do not fall back.
//!
//! Messages are read by tables of their fields. A field that is in no table makes the body
//! unreadable: nothing that was sent is dropped in silence.
//! Field numbers are those of the `generated.proto` files of the Kubernetes API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// The media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Messages are not nested deeper in any table.
const DEPTH: usize = 16;

#[derive(Clone, Copy)]
enum Type {
    Text,
    Texts,
    Bytes,
    Int,
    Bool,
    Time,
    Message(&'static [Field]),
    Messages(&'static [Field]),
    /// A map from strings.
    Entries(&'static Type),
    /// A quantity: a message of one string.
    Quantity,
}

type Field = (u64, &'static str, Type);

use Type::{Bool, Entries, Int, Message, Messages, Quantity, Text, Texts, Time};

const OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Bool),
    (7, "blockOwnerDeletion", Bool),
];

const META: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Int),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Int),
    (11, "labels", Entries(&Text)),
    (12, "annotations", Entries(&Text)),
    (13, "ownerReferences", Messages(OWNER)),
    (14, "finalizers", Texts),
];

const NAMESPACE: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "spec", Message(&[(1, "finalizers", Texts)])),
    (3, "status", Message(&[(1, "phase", Text)])),
];

const CONFIG_MAP: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "data", Entries(&Text)),
    (3, "binaryData", Entries(&Type::Bytes)),
    (4, "immutable", Bool),
];

const SECRET: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "data", Entries(&Type::Bytes)),
    (3, "type", Text),
    (4, "stringData", Entries(&Text)),
    (5, "immutable", Bool),
];

const CONTAINER: &[Field] = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", Texts),
    (4, "args", Texts),
    (5, "workingDir", Text),
    (7, "env", Messages(&[(1, "name", Text), (2, "value", Text)])),
    (
        8,
        "resources",
        Message(&[(1, "limits", Entries(&Quantity)), (2, "requests", Entries(&Quantity))]),
    ),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Bool),
    (17, "stdinOnce", Bool),
    (18, "tty", Bool),
    (20, "terminationMessagePolicy", Text),
];

const POD_SPEC: &[Field] = &[
    (2, "containers", Messages(CONTAINER)),
    (3, "restartPolicy", Text),
    (4, "terminationGracePeriodSeconds", Int),
    (5, "activeDeadlineSeconds", Int),
    (6, "dnsPolicy", Text),
    (7, "nodeSelector", Entries(&Text)),
    (8, "serviceAccountName", Text),
    (9, "serviceAccount", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Bool),
    (12, "hostPID", Bool),
    (13, "hostIPC", Bool),
    (14, "securityContext", Message(&[])),
    (16, "hostname", Text),
    (17, "subdomain", Text),
    (19, "schedulerName", Text),
    (20, "initContainers", Messages(CONTAINER)),
    (21, "automountServiceAccountToken", Bool),
    (24, "priorityClassName", Text),
];

const JOB: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "parallelism", Int),
            (2, "completions", Int),
            (3, "activeDeadlineSeconds", Int),
            (5, "manualSelector", Bool),
            (
                6,
                "template",
                Message(&[(1, "metadata", Message(META)), (2, "spec", Message(POD_SPEC))]),
            ),
            (7, "backoffLimit", Int),
            (8, "ttlSecondsAfterFinished", Int),
            (9, "completionMode", Text),
            (10, "suspend", Bool),
        ]),
    ),
    (
        3,
        "status",
        Message(&[
            (4, "active", Int),
            (5, "succeeded", Int),
            (6, "failed", Int),
            (7, "completedIndexes", Text),
        ]),
    ),
];

const ACCESS_REVIEW: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (
                1,
                "resourceAttributes",
                Message(&[
                    (1, "namespace", Text),
                    (2, "verb", Text),
                    (3, "group", Text),
                    (4, "version", Text),
                    (5, "resource", Text),
                    (6, "subresource", Text),
                    (7, "name", Text),
                ]),
            ),
            (
                2,
                "nonResourceAttributes",
                Message(&[(1, "path", Text), (2, "verb", Text)]),
            ),
        ]),
    ),
    (
        3,
        "status",
        Message(&[
            (1, "allowed", Bool),
            (2, "reason", Text),
            (3, "evaluationError", Text),
            (4, "denied", Bool),
        ]),
    ),
];

const RULES_REVIEW: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "spec", Message(&[(1, "namespace", Text)])),
    (
        3,
        "status",
        Message(&[(3, "incomplete", Bool), (4, "evaluationError", Text)]),
    ),
];

const SELF_REVIEW: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "status",
        Message(&[(1, "userInfo", Message(&[(1, "username", Text), (2, "uid", Text)]))]),
    ),
];

/// The kinds that are read.
const KINDS: [(&str, &str, &[Field]); 7] = [
    ("v1", "Namespace", NAMESPACE),
    ("v1", "ConfigMap", CONFIG_MAP),
    ("v1", "Secret", SECRET),
    ("batch/v1", "Job", JOB),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview", ACCESS_REVIEW),
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview", RULES_REVIEW),
    ("authentication.k8s.io/v1", "SelfSubjectReview", SELF_REVIEW),
];

/// What a body holds that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Something that is read as JSON only.
    Unknown,
    /// Something that is no message at all.
    Malformed,
}

/// Reads a body as the object that it would be in JSON.
pub fn parse(body: &[u8]) -> Result<Value, Unreadable> {
    const ENVELOPE: &[Field] = &[
        (1, "typeMeta", Message(&[(1, "apiVersion", Text), (2, "kind", Text)])),
        (2, "raw", Type::Bytes),
        (3, "contentEncoding", Text),
        (4, "contentType", Text),
    ];
    let envelope = body.strip_prefix(MAGIC).ok_or(Unreadable::Malformed)?;
    let mut raw: &[u8] = &[];
    let mut rest = envelope;
    while !rest.is_empty() {
        if let (2, Wire::Bytes(bytes)) = field(&mut rest)? {
            raw = bytes;
        }
    }
    let envelope = message(envelope, ENVELOPE, 0)?;
    let told = |name: &str| {
        envelope
            .get("typeMeta")
            .and_then(|meta| meta.get(name))
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let (api_version, kind) = (told("apiVersion"), told("kind"));
    let (.., fields) = KINDS
        .iter()
        .find(|row| row.0 == api_version && row.1 == kind)
        .ok_or(Unreadable::Unknown)?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    object.extend(message(raw, fields, 0)?);
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Unreadable::Malformed)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Unreadable::Malformed)
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Wire<'a>), Unreadable> {
    let tag = varint(rest)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| Unreadable::Malformed)?;
            let (bytes, after) = rest.split_at_checked(length).ok_or(Unreadable::Malformed)?;
            *rest = after;
            Wire::Bytes(bytes)
        }
        _ => return Err(Unreadable::Unknown),
    };
    Ok((tag >> 3, wire))
}

fn message(mut rest: &[u8], fields: &[Field], depth: usize) -> Result<Map<String, Value>, Unreadable> {
    if depth > DEPTH {
        return Err(Unreadable::Malformed);
    }
    let mut object = Map::new();
    while !rest.is_empty() {
        let (number, wire) = field(&mut rest)?;
        let (_, name, kind) = fields.iter().find(|row| row.0 == number).ok_or(Unreadable::Unknown)?;
        let many = match kind {
            Texts => Some(&Text),
            Messages(fields) => Some(&Message(fields)),
            _ => None,
        };
        match (kind, many, &wire) {
            (Entries(kind), _, Wire::Bytes(bytes)) => {
                let entries = object.entry(*name).or_insert_with(|| Value::Object(Map::new()));
                let (key, value) = entry(bytes, kind, depth)?;
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
            }
            (_, Some(kind), _) => {
                let value = one(kind, &wire, depth)?;
                let list = object.entry(*name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(value);
                }
            }
            (kind, ..) => {
                let value = one(kind, &wire, depth)?;
                // An empty string is what Go writes for a field that is not set.
                if !value.is_null() && value != "" {
                    object.insert((*name).to_owned(), value);
                }
            }
        }
    }
    Ok(object)
}

fn entry(mut rest: &[u8], kind: &Type, depth: usize) -> Result<(String, Value), Unreadable> {
    let mut key = String::new();
    let mut value = one(kind, &Wire::Bytes(&[]), depth)?;
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, wire) => value = one(kind, &wire, depth)?,
            _ => return Err(Unreadable::Unknown),
        }
    }
    Ok((key, value))
}

fn text(bytes: &[u8]) -> Result<String, Unreadable> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Unreadable::Malformed)
}

fn one(kind: &Type, wire: &Wire<'_>, depth: usize) -> Result<Value, Unreadable> {
    Ok(match (kind, wire) {
        (Text, Wire::Bytes(bytes)) => text(bytes)?.into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Message(fields), Wire::Bytes(bytes)) => Value::Object(message(bytes, fields, depth + 1)?),
        (Quantity, Wire::Bytes(bytes)) => message(bytes, &[(1, "string", Text)], depth + 1)?
            .remove("string")
            .unwrap_or_else(|| "0".into()),
        (Time, Wire::Bytes(bytes)) => {
            let time = message(bytes, &[(1, "seconds", Int), (2, "nanos", Int)], depth + 1)?;
            match time.get("seconds").and_then(Value::as_i64) {
                Some(seconds) => jiff::Timestamp::from_second(seconds)
                    .map_err(|_| Unreadable::Malformed)
                    .map(|time| crate::object::time(time).into())?,
                None => Value::Null,
            }
        }
        (Int, Wire::Number(number)) => number.cast_signed().into(),
        (Bool, Wire::Number(number)) => (*number != 0).into(),
        _ => return Err(Unreadable::Malformed),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [
            MAGIC.to_vec(),
            bytes(1, &meta),
            bytes(2, raw),
            bytes(3, b""),
            bytes(4, b""),
        ]
        .concat()
    }

    #[test]
    fn a_secret_is_read_as_it_would_be_in_json() {
        let entry = [bytes(1, b"token"), bytes(2, b"hunter2")].concat();
        let meta = [bytes(1, b"s"), bytes(3, b""), bytes(8, b"")].concat();
        let raw = [bytes(1, &meta), bytes(2, &entry), bytes(3, b"Opaque"), vec![5 << 3, 1]].concat();
        assert_eq!(
            parse(&envelope("v1", "Secret", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                "data": {"token": "aHVudGVyMg=="}, "type": "Opaque", "immutable": true})
        );
    }

    #[test]
    fn what_is_not_known_is_refused_and_not_dropped() {
        let unknown = bytes(15, b"x");
        assert_eq!(parse(&envelope("v1", "Secret", &unknown)), Err(Unreadable::Unknown));
        assert_eq!(parse(&envelope("v1", "Pod", b"")), Err(Unreadable::Unknown));
        assert_eq!(parse(b"{}"), Err(Unreadable::Malformed));
        let cut = [1 << 3 | 2, 200];
        assert_eq!(parse(&envelope("v1", "Secret", &cut)), Err(Unreadable::Malformed));
    }

    proptest::proptest! {
        #[test]
        fn no_body_breaks_the_reader(body: Vec<u8>, raw: Vec<u8>) {
            let _ = parse(&[MAGIC, &body].concat());
            if let Ok(length) = u8::try_from(raw.len()) && length < 100 {
                let _ = parse(&envelope("batch/v1", "Job", &raw));
            }
        }
    }
}
