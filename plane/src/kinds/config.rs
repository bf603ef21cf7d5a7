//! ConfigMaps, Secrets and Leases.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::object::map_mut;
use crate::admission::error::{ErrorKind, FieldError};

/// The most bytes of data that a ConfigMap or Secret may hold.
const LIMIT: usize = 1 << 20;

fn valid_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 253
        && key != "."
        && !key.starts_with("..")
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

const KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn immutable(new: &Value, old: Option<&Value>, fields: &[&str]) -> Vec<FieldError> {
    let Some(old) = old else {
        return Vec::new();
    };
    if old["immutable"] != Value::Bool(true) {
        return Vec::new();
    }
    let mut problems = Vec::new();
    if new["immutable"] != Value::Bool(true) {
        problems.push(FieldError::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for field in fields {
        if new.get(*field) != old.get(*field) {
            problems.push(FieldError::forbidden(
                *field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
    problems
}

fn too_long(path: &str) -> FieldError {
    FieldError {
        path: path.into(),
        kind: ErrorKind::TooLong,
        value: None,
        detail: format!("may not be more than {LIMIT} bytes"),
    }
}

/// Checks a ConfigMap.
pub fn validate_config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = immutable(new, old, &["data", "binaryData"]);
    let mut total = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in new[field].as_object().into_iter().flatten() {
            if !valid_key(key) {
                problems.push(FieldError::invalid(
                    format!("{field}[{key}]"),
                    key.as_str(),
                    KEY_RULE,
                ));
            }
            if field == "binaryData" && new["data"].get(key).is_some() {
                problems.push(FieldError::invalid(
                    format!("data[{key}]"),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                ));
            }
            total += value.as_str().map_or(0, str::len);
        }
    }
    if total > LIMIT {
        problems.push(too_long(""));
    }
    problems
}

/// Moves `stringData` into `data` and sets the type.
pub fn default_secret(secret: &mut Value) {
    if let Some(Value::Object(plain)) = secret
        .as_object_mut()
        .and_then(|map| map.remove("stringData"))
    {
        let data = map_mut(secret, "data");
        for (key, value) in plain {
            let text = value.as_str().unwrap_or("");
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            data.insert(key, encoded.into());
        }
    }
    if secret.get("type").and_then(Value::as_str).unwrap_or("").is_empty() {
        secret["type"] = json!("Opaque");
    }
}

/// Checks a Secret; values never appear in an error.
pub fn validate_secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = immutable(new, old, &["data"]);
    if let Some(old) = old
        && new["type"] != old["type"]
    {
        problems.push(FieldError::invalid(
            "type",
            new["type"].clone(),
            "field is immutable",
        ));
    }
    let mut total = 0;
    for (key, value) in new["data"].as_object().into_iter().flatten() {
        if !valid_key(key) {
            problems.push(FieldError::invalid(
                format!("data[{key}]"),
                key.as_str(),
                KEY_RULE,
            ));
        }
        total += value.as_str().map_or(0, str::len) / 4 * 3;
    }
    if total > LIMIT {
        problems.push(too_long("data"));
    }
    let required: &[&str] = match new["type"].as_str().unwrap_or("") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    for key in required {
        if new["data"].get(*key).is_none() {
            problems.push(FieldError::required(format!("data[{key}]"), ""));
        }
    }
    problems
}

/// Checks a Lease.
pub fn validate_lease(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let spec = &new["spec"];
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        problems.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec["leaseTransitions"].as_i64()
        && count < 0
    {
        problems.push(FieldError::invalid(
            "spec.leaseTransitions",
            count,
            "must be greater than or equal to 0",
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_of_a_secret_is_stored_encoded_and_wins_over_data() {
        let mut secret = json!({"stringData": {"a": "x"}, "data": {"a": "eQ==", "b": "eg=="}});
        default_secret(&mut secret);
        assert_eq!(
            secret,
            json!({"data": {"a": "eA==", "b": "eg=="}, "type": "Opaque"})
        );
    }

    #[test]
    fn what_was_made_immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}, "type": "Opaque"});
        let mut new = old.clone();
        assert_eq!(validate_secret(&new, Some(&old)), []);
        new["data"]["a"] = json!("2");
        assert_eq!(validate_secret(&new, Some(&old)).len(), 1);
        new["immutable"] = json!(false);
        assert_eq!(validate_config_map(&new, Some(&old)).len(), 2);
    }

    #[test]
    fn keys_must_be_file_names() {
        for bad in ["", "..", "a/b", "../x", "a b"] {
            assert!(!valid_key(bad), "{bad}");
        }
        assert!(valid_key(".dockerconfigjson"));
    }
}
