//! What a schema asks for, and how a value would be right, in words. Pure.

use serde_json::Value;

use super::{choices, join};
use crate::document::{Content, Node};

/// Says in words what a schema asks for.
pub(super) fn expectation(schema: &Value) -> String {
    if let Some(choices) = choices(schema) {
        return choices.iter().map(expectation).collect::<Vec<_>>().join(", or ");
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        return format!("one of {}", words.join(", "));
    }
    // Limits of the kinds are floating-point numbers in the API's own type.
    #[allow(clippy::cast_possible_truncation)]
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64).map(|bound| bound as i64);
    let range = |least: Option<i64>, most: Option<i64>| match (least, most) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(" of at least {least}"),
        (None, Some(most)) => format!(" of at most {most}"),
        (None, None) => String::new(),
    };
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => match (
            schema.get("pattern").and_then(Value::as_str),
            bound("minLength"),
            bound("maxLength"),
        ) {
            (Some(pattern), ..) if pattern.contains("(ms|s|m|h)") => "a time span such as 90s, 30m or 1h30m".to_owned(),
            (Some(pattern), ..) => format!("a string that matches {pattern}"),
            (None, None, Some(most)) => format!("a string of at most {most} characters"),
            (None, Some(1), Some(most)) => format!("a string of 1 to {most} characters"),
            (None, Some(_), _) => "a string that is not empty".to_owned(),
            (None, None, None) => "a string".to_owned(),
        },
        Some("integer") => format!("a whole number{}", range(bound("minimum"), bound("maximum"))),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => {
            let items = schema
                .get("items")
                .filter(|items| items.get("type").is_some())
                .map(expectation);
            let least = bound("minItems")
                .map(|least| format!(" with at least {least} item"))
                .unwrap_or_default();
            format!(
                "a list{}{least}",
                items.map(|items| format!(" of {}", plural(&items))).unwrap_or_default()
            )
        }
        Some("object") => match schema.get("properties").and_then(Value::as_object) {
            Some(properties) if properties.len() <= 12 => {
                format!(
                    "a map with the keys {}",
                    properties.keys().cloned().collect::<Vec<_>>().join(", ")
                )
            }
            _ => "a map".to_owned(),
        },
        _ => "a value".to_owned(),
    }
}

fn plural(items: &str) -> String {
    match items.strip_prefix("a ") {
        Some(rest) if rest.starts_with("string") => {
            rest.replacen("string", "strings", 1).replace("that is", "that are")
        }
        Some(rest) if rest.starts_with("whole number") => rest.replacen("number", "numbers", 1),
        Some(rest) if rest.starts_with("map") => rest.replacen("map", "maps", 1),
        _ => items.to_owned(),
    }
}

/// Says how a value of the wrong type could be written right.
pub(super) fn advice(node: &Node, schema: &Value) -> Option<String> {
    let Content::Scalar(value) = &node.content else {
        return None;
    };
    match (schema.get("type").and_then(Value::as_str)?, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => Some(format!("put it in quotes: \"{value}\"")),
        // A whole number that is too large for one is read as text as well, and had no quotes.
        ("integer", Value::String(text)) if text.parse::<i64>().is_ok() => Some("remove the quotes".to_owned()),
        ("number", Value::String(text)) if text.parse::<f64>().is_ok() => Some("remove the quotes".to_owned()),
        ("boolean", Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "true" => Some("write true".to_owned()),
            "no" | "off" | "n" | "false" => Some("write false".to_owned()),
            _ => None,
        },
        ("array", Value::String(text)) => Some(format!(
            "write it as a list: [{}]",
            crate::file_error::shorten(text, 40)
        )),
        _ => None,
    }
}

/// Finds a key below, where it is no key of this level.
pub(super) fn elsewhere(key: &str, schema: &Value, what: &str, depth: usize) -> Option<String> {
    let properties = schema.get("properties")?.as_object()?;
    for (name, child) in properties {
        let below = child.get("properties").and_then(Value::as_object);
        if below.is_some_and(|below| below.contains_key(key)) {
            return Some(format!("{}.{key}", join(what, name)));
        }
        if depth < 2
            && let Some(found) = elsewhere(key, child, &join(what, name), depth + 1)
        {
            return Some(found);
        }
    }
    None
}
