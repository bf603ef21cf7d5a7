//! How large an object may be: what works here must not fail on a cluster for its size.

use serde_json::Value;

use crate::kinds::Kind;
use crate::status::ApiError;

/// What etcd takes in one request, as it is set up everywhere.
const LIMIT: usize = 1536 << 10;

/// Refuses an object that a cluster's store would refuse, in its words.
pub fn check(kind: &Kind, object: &Value, document: &[u8]) -> Result<(), ApiError> {
    // Custom objects are stored there as the JSON that they are here, built-in ones in a form in which hardly more
    // than their texts counts.
    let size = match kind.builtin() {
        None => document.len(),
        Some(_) if document.len() <= LIMIT => 0,
        Some(_) => weigh(object),
    };
    if size > LIMIT {
        return Err(ApiError::cannot_apply("etcdserver: request is too large"));
    }
    Ok(())
}

/// Returns at most what an object takes as protobuf: its texts, and of bytes what their base64 stands for.
fn weigh(object: &Value) -> usize {
    let bytes = match object["kind"].as_str() {
        Some("Secret") => texts(&object["data"]),
        Some("ConfigMap") => texts(&object["binaryData"]),
        _ => 0,
    };
    texts(object) - bytes.div_ceil(4)
}

fn texts(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(texts).sum(),
        Value::Object(map) => map.values().map(texts).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_count_as_what_they_stand_for() {
        let text = "x".repeat(400);
        assert_eq!(weigh(&json!({"kind": "Pod", "spec": {"a": [text, 1]}})), 403);
        assert_eq!(weigh(&json!({"kind": "Secret", "data": {"k": text}})), 306);
        assert_eq!(weigh(&json!({"kind": "ConfigMap", "data": {"k": text}})), 409);
        assert_eq!(weigh(&json!({"kind": "ConfigMap", "binaryData": {"k": text}})), 309);
    }
}
