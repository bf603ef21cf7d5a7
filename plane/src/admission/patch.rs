//! JSON patch, merge patch, strategic merge patch.

mod error;
mod json;
mod strategic;

pub use self::error::PatchError;
pub use self::json::json_patch;
pub use self::strategic::strategic_merge_patch;

use serde_json::{Map, Value};

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
