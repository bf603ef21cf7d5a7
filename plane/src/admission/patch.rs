//! JSON patch, merge patch, strategic merge patch.

mod json;
mod strategic;

pub use self::json::json_patch;
pub use self::strategic::strategic_merge_patch;

use serde_json::{Map, Value};

/// Why a patch cannot be applied, in kube-apiserver's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself cannot be read: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the object: 422 Invalid.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch has too many operations: 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// The patch makes the server fail: 500, without a reason.
    #[error("{0}")]
    Internal(String),
}

impl PatchError {
    /// Returns the HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Unprocessable(_) => 422,
            Self::TooLarge(_) => 413,
            Self::Internal(_) => 500,
        }
    }

    /// Builds the `Status` object that answers the request.
    ///
    /// What exactly did not fit a 422 is not said there: kube-apiserver says the same to
    /// every client; [`std::fmt::Display`] has it.
    pub fn status(&self) -> Value {
        let (message, reason) = match self {
            Self::BadRequest(m) => (m.clone(), "BadRequest"),
            Self::Unprocessable(_) => (
                "the server rejected our request due to an error in our request".to_owned(),
                "Invalid",
            ),
            Self::TooLarge(m) => (format!("Request entity too large: {m}"), "RequestEntityTooLarge"),
            Self::Internal(m) => (m.clone(), ""),
        };
        let mut status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        });
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        if matches!(self, Self::Unprocessable(_)) {
            status["details"] = serde_json::json!({});
        }
        status["code"] = self.code().into();
        status
    }
}

/// Applies an RFC 7386 patch.
pub fn merge_patch(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut out = match target {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            out.shift_remove(key);
        } else {
            let before = out.get(key).unwrap_or(&Value::Null);
            let merged = merge_patch(before, value);
            out.insert(key.clone(), merged);
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::admission::schema::tests::any_json;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn merge_patches_follow_the_rfc() {
        let table = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!(["a"]),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        ];
        for (target, patch, expected) in table {
            assert_eq!(merge_patch(&target, &patch), expected, "{target} + {patch}");
        }
    }

    proptest! {
        #[test]
        fn a_merge_patch_applied_twice_is_applied_once(target in any_json(), patch in any_json()) {
            let once = merge_patch(&target, &patch);
            prop_assert_eq!(merge_patch(&once, &patch), once);
        }

        #[test]
        fn an_empty_merge_patch_changes_no_object(target in any_json()) {
            if target.is_object() {
                prop_assert_eq!(merge_patch(&target, &json!({})), target);
            }
        }
    }
}
