//! How deeply an object may be nested, so that everything that walks it comes back, and so that what is stored can be
//! read again: parsers of JSON stop at 127 levels, and `managedFields` tell of an object in more levels than it has.

use serde_json::Value;

/// The most levels of an object beside its `managedFields`.
pub const MOST: usize = 100;
/// The most levels of an object with its `managedFields`, which stand five levels deeper than what they tell of.
pub const MOST_WITH_MANAGERS: usize = MOST + 10;

/// Counts the levels of maps and lists in a value; none in a scalar.
pub fn of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(of).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(of).max().unwrap_or(0),
        _ => 0,
    }
}

/// Refuses an object that is nested too deeply.
///
/// # Errors
/// What is too deep, in words.
pub fn check(object: &Value) -> Result<(), String> {
    let said = |what: &str, most: usize| Err(format!("{what} nested deeper than {most} levels"));
    let below = |value: &Value, level: usize| level + of(value);
    for (key, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::Object(metadata) if key == "metadata" => {
                for (key, value) in metadata {
                    if key == "managedFields" && below(value, 2) > MOST_WITH_MANAGERS {
                        return said("metadata.managedFields is", MOST_WITH_MANAGERS);
                    }
                    if key != "managedFields" && below(value, 2) > MOST {
                        return said("the object is", MOST);
                    }
                }
            }
            value if below(value, 1) > MOST => return said("the object is", MOST),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn levels_are_counted_and_managers_may_have_a_few_more() {
        assert_eq!(of(&json!("x")), 0);
        assert_eq!(of(&json!({"a": [1, {"b": {}}], "c": 1})), 4);
        assert_eq!(check(&json!({"spec": nested(99)})), Ok(()));
        assert!(check(&json!({"spec": nested(100)})).is_err());
        assert_eq!(check(&json!({"metadata": {"managedFields": nested(108)}})), Ok(()));
        assert!(check(&json!({"metadata": {"managedFields": nested(109)}})).is_err());
        assert!(check(&json!({"metadata": {"labels": nested(99)}})).is_err());
    }
}
