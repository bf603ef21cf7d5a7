//! Reading what was sent: identity, types, fields that nobody knows or that came twice.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{FieldValidation, View};
use crate::admission::error::FieldError;
use crate::admission::{builtin, depth};
use crate::object::meta_str;
use crate::status::{ApiError, Named};

/// Reads an object that was sent: checks its identity and types, drops what the schema
/// does not know, and says what that was, after what the text gave `repeated`ly.
pub fn decode(
    view: View<'_>,
    mut object: Value,
    repeated: &[String],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let kind = view.kind;
    let api_version = view.api_version();
    if !object.is_object() {
        return Err(unreadable(view, "the body is no object"));
    }
    depth::check(&object).map_err(|error| unreadable(view, &error))?;
    for (at, wanted, words) in [
        ("apiVersion", api_version.as_str(), "API version"),
        ("kind", kind.kind.as_str(), "kind"),
    ] {
        match object.get(at).and_then(Value::as_str).unwrap_or("") {
            "" if kind.builtin().is_some() => object[at] = wanted.into(),
            "" => {
                let missing = if at == "kind" { "Kind" } else { "apiVersion" };
                return Err(ApiError::bad_request(format!(
                    "Object '{missing}' is missing in '{}'",
                    cut(&object.to_string())
                )));
            }
            found if at == "kind" && found != wanted => {
                return Err(wrong_kind(view, found, meta_str(&object, "name")));
            }
            found if found != wanted => {
                return Err(ApiError::bad_request(format!(
                    "the {words} in the data ({found}) does not match the expected {words} ({wanted})"
                )));
            }
            _ => {}
        }
    }
    let unknown = match (&view.served.schema, kind.builtin()) {
        (Some(schema), _) => {
            let unknown = schema.prune(&mut object);
            normalise_metadata(&mut object).map_err(|error| unreadable(view, &error))?;
            schema.default(&mut object);
            unknown
        }
        (None, Some(rules)) => match rules.normalise {
            Some(normalise) => {
                object = normalise(object).map_err(|error| unreadable(view, &error))?;
                Vec::new()
            }
            None => {
                let unknown = builtin::prune(&api_version, &kind.kind, &mut object);
                builtin::check_types(&api_version, &kind.kind, &object).map_err(ApiError::bad_request)?;
                builtin::default(&api_version, &kind.kind, &mut object);
                unknown
            }
        },
        (None, None) => Vec::new(),
    };
    report(view, repeated, &unknown, validation, warnings)?;
    Ok(object)
}

fn wrong_kind(view: View<'_>, found: &str, name: &str) -> ApiError {
    let kind = view.kind;
    if kind.builtin().is_some() {
        return ApiError::bad_request(format!(
            "{found} in version \"{}\" cannot be handled as a {}",
            view.served.name, kind.kind
        ));
    }
    let named = Named {
        kind: found,
        ..kind.named()
    };
    let error = FieldError::invalid("kind", found, format!("must be {}", kind.kind));
    ApiError::invalid(named, name, &[error])
}

/// Warns of fields that came twice or that the schema does not know, or refuses them.
fn report(
    view: View<'_>,
    repeated: &[String],
    unknown: &[String],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let builtin = view.kind.builtin().is_some();
    // A built-in kind's decoder does not look into what it does not know.
    let known = |said: &&String| !(builtin && unknown.iter().any(|path| **said == duplicate_field(path)));
    let repeated = repeated.iter().filter(known).cloned();
    let unknown = unknown.iter().map(|path| format!("unknown field \"{path}\""));
    let said: Vec<String> = repeated.chain(unknown).collect();
    match validation {
        FieldValidation::Warn => warnings.extend(said.iter().flat_map(|text| each_warning(text))),
        FieldValidation::Strict if !said.is_empty() => {
            return Err(unreadable(view, &format!("strict decoding error: {}", said.join(", "))));
        }
        FieldValidation::Ignore | FieldValidation::Strict => {}
    }
    Ok(())
}

/// Says that a field came twice.
pub fn duplicate_field(path: &str) -> String {
    format!("duplicate field \"{path}\"")
}

/// The head of what is said of keys that came twice in YAML; a line follows for each.
pub const REPEATED_IN_YAML: &str = "yaml: unmarshal errors:\n";

/// Splits what is wrong with a text into warnings, of which each has one line.
pub fn each_warning(text: &str) -> impl Iterator<Item = String> {
    let lines = text.strip_prefix(REPEATED_IN_YAML).unwrap_or(text).lines();
    lines.map(|line| line.trim().to_owned())
}

fn unreadable(view: View<'_>, error: &str) -> ApiError {
    let kind = &view.kind.kind;
    ApiError::bad_request(format!(
        "{kind} in version \"{}\" cannot be handled as a {kind}: {error}",
        view.served.name
    ))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(256) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn normalise_metadata(object: &mut Value) -> Result<(), String> {
    let metadata = match object.get_mut("metadata") {
        None | Some(Value::Null) => json!({}),
        Some(metadata) => metadata.take(),
    };
    builtin::check_metadata(&metadata)?;
    let typed: ObjectMeta = serde_json::from_value(metadata).map_err(|error| format!("metadata: {error}"))?;
    let mut metadata = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    if let Some(map) = metadata.as_object_mut() {
        // What is empty is not written; no managers at all is what a writer may ask for.
        for key in ["annotations", "finalizers", "labels", "ownerReferences"] {
            let empty = |value: &Value| *value == json!([]) || *value == json!({});
            if map.get(key).is_some_and(empty) {
                map.remove(key);
            }
        }
    }
    object["metadata"] = metadata;
    Ok(())
}
