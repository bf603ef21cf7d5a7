//! CustomResourceDefinitions: defaults and validation.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::admission::error::FieldError;
use crate::admission::names;
use crate::admission::schema::{SCHEMA_PATH, Structural};
use crate::admission::table::jsonpath::JsonPath;

/// Formats that a printer column may have.
const FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn versions(spec: &Value) -> &[Value] {
    spec.get("versions")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Fills in names and the conversion strategy.
pub(super) fn default(root: &mut Map<String, Value>) {
    let Some(spec) = root.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if spec.get("conversion").is_none() {
        spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
    }
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !kind.is_empty() {
            names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
            names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
        }
    }
    let versions = spec.get("versions").and_then(Value::as_array);
    let stored = versions
        .into_iter()
        .flatten()
        .find(|v| v.get("storage").is_some_and(|s| s == true));
    let stored: Vec<Value> = stored.and_then(|v| v.get("name").cloned()).into_iter().collect();
    let status = root.entry("status").or_insert_with(|| json!({}));
    if let Some(status) = status.as_object_mut() {
        status.entry("storedVersions").or_insert_with(|| stored.into());
        status
            .entry("acceptedNames")
            .or_insert_with(|| json!({"plural": "", "kind": ""}));
        status.entry("conditions").or_insert(Value::Null);
    }
}

/// Returns the path at which errors in a version's schema are shown.
pub fn schema_path(spec: &Value, index: usize) -> String {
    // With one schema for all versions kube-apiserver shows it in its older place.
    let schemas: Vec<Option<&Value>> = versions(spec)
        .iter()
        .map(|v| v.pointer("/schema/openAPIV3Schema"))
        .collect();
    if schemas.iter().all(|s| *s == schemas[0]) {
        SCHEMA_PATH.to_owned()
    } else {
        format!("spec.versions[{index}].schema.openAPIV3Schema")
    }
}

/// Validates a CustomResourceDefinition.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    let (group, names) = (text(spec, "group"), &spec["names"]);
    let plural = text(names, "plural");
    let name = text(&new["metadata"], "name");
    // A definition keeps its name, and with it its plural.
    if old.is_none() && !plural.is_empty() && !group.is_empty() && name != format!("{plural}.{group}") {
        errors.push(FieldError::invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        let wrong = names::dns1123_subdomain(group);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid("spec.group", group, wrong.join(",")));
        } else if !group.contains('.') {
            errors.push(FieldError::invalid(
                "spec.group",
                group,
                "should be a domain with at least one dot",
            ));
        }
    }
    let scopes = ["Cluster", "Namespaced"].map(str::to_owned);
    match text(spec, "scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        scope if !scopes.iter().any(|s| s == scope) => {
            errors.push(FieldError::not_supported("spec.scope", scope, &scopes))
        }
        _ => {}
    }
    let keeps_all = |spec: &Value| spec["preserveUnknownFields"] == true;
    if keeps_all(spec) && !old.is_some_and(|old| keeps_all(&old["spec"])) {
        errors.push(FieldError::invalid(
            "spec.preserveUnknownFields",
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    check_names(names, &mut errors);
    check_versions(spec, &mut errors);
    check_scale(spec, &mut errors);
    if new["status"]["storedVersions"].as_array().is_some_and(Vec::is_empty) {
        let words = "must have at least one stored version";
        errors.push(FieldError::invalid("status.storedVersions", Value::Null, words));
    }
    if let Some(old) = old {
        for (path, at) in [("spec.group", "/spec/group"), ("spec.scope", "/spec/scope")] {
            if new.pointer(at) != old.pointer(at) {
                errors.push(FieldError::invalid(
                    path,
                    new.pointer(at).cloned().unwrap_or_default(),
                    "field is immutable",
                ));
            }
        }
        for key in ["plural", "kind"] {
            if names.get(key) != old["spec"]["names"].get(key) && (key == "plural" || established(old)) {
                errors.push(FieldError::invalid(
                    format!("spec.names.{key}"),
                    text(names, key),
                    "field is immutable",
                ));
            }
        }
        let stored = new["status"]["storedVersions"]
            .as_array()
            .or(old["status"]["storedVersions"].as_array());
        for (i, version) in stored.into_iter().flatten().enumerate() {
            if !versions(spec).iter().any(|v| v.get("name") == Some(version)) {
                errors.push(FieldError::invalid(
                    format!("status.storedVersions[{i}]"),
                    version.clone(),
                    "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"
                        .replace("v1", version.as_str().unwrap_or_default()),
                ));
            }
        }
    }
    errors
}

fn established(crd: &Value) -> bool {
    let list = crd["status"]["conditions"].as_array().into_iter().flatten();
    list.into_iter()
        .any(|known| known["type"] == "Established" && known["status"] == "True")
}

fn check_names(names: &Value, errors: &mut Vec<FieldError>) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = text(names, key);
        let path = format!("spec.names.{key}");
        if value.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let lower = value.to_lowercase();
        let wrong = names::dns1035_label(&lower);
        if !wrong.is_empty() {
            let words = wrong.join(",");
            errors.push(if key.to_lowercase().ends_with("kind") {
                FieldError::invalid(
                    path,
                    value,
                    format!("may have mixed case, but should otherwise match: {words}"),
                )
            } else {
                FieldError::invalid(path, value, words)
            });
        } else if !key.to_lowercase().ends_with("kind") && lower != value {
            errors.push(FieldError::invalid(path, value, names::dns1035_label(value).join(",")));
        }
    }
    let (kind, list) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list {
        errors.push(FieldError::invalid(
            "spec.names.listKind",
            list,
            "kind and listKind may not be the same",
        ));
    }
    for key in ["shortNames", "categories"] {
        let list = names.get(key).and_then(Value::as_array);
        for (i, name) in list.into_iter().flatten().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let wrong = names::dns1035_label(name);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(
                    format!("spec.names.{key}[{i}]"),
                    name,
                    wrong.join(","),
                ));
            }
        }
    }
}

fn check_versions(spec: &Value, errors: &mut Vec<FieldError>) {
    let list = versions(spec);
    let mut seen = HashSet::new();
    let mut storage = 0;
    // Columns that all versions share are shown in their older place, too.
    let columns = |v: &Value| v.get("additionalPrinterColumns").cloned();
    let hoisted = list.windows(2).all(|pair| columns(&pair[0]) == columns(&pair[1]));
    for (i, version) in list.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = text(version, "name");
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.name"), name, wrong.join(",")));
            if i == 0 {
                // The first version has an older place, too.
                errors.push(FieldError::invalid("spec.version", name, wrong.join(",")));
            }
        }
        if !seen.insert(name) {
            errors.push(FieldError::invalid(
                "spec.versions",
                Value::from(list.to_vec()),
                "must contain unique version names",
            ));
        }
        storage += usize::from(version["storage"] == true);
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), "")),
            Some(schema) => {
                let at = schema_path(spec, i);
                check_root(schema, &at, errors);
                if let Err(wrong) = Structural::from_openapi_at(schema, &at) {
                    errors.extend(wrong.into_iter().filter(|e| !errors.contains(e)).collect::<Vec<_>>());
                }
            }
        }
        for (j, column) in version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let at = if hoisted { "spec" } else { path.as_str() };
            check_column(column, &format!("{at}.additionalPrinterColumns[{j}]"), errors);
        }
        if version.get("deprecationWarning").is_some() && version["deprecated"] != true {
            errors.push(FieldError::invalid(
                format!("{path}.deprecationWarning"),
                version["deprecationWarning"].clone(),
                "can only be set for deprecated versions",
            ));
        }
        let fields = |v: &Value| v.get("selectableFields").cloned();
        let hoisted = list.windows(2).all(|pair| fields(&pair[0]) == fields(&pair[1]));
        let at = if hoisted { "spec" } else { path.as_str() };
        check_selectable(version, at, errors);
    }
    if storage != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            Value::from(list.to_vec()),
            "must have exactly one version marked as storage version",
        ));
    }
}

/// Checks the paths of the scale subresource, which is not served.
fn check_scale(spec: &Value, errors: &mut Vec<FieldError>) {
    let list = versions(spec);
    let below = |v: &Value| v.get("subresources").cloned();
    let hoisted = list.windows(2).all(|pair| below(&pair[0]) == below(&pair[1]));
    for (i, version) in list.iter().enumerate() {
        let at = if hoisted {
            "spec".to_owned()
        } else {
            format!("spec.versions[{i}]")
        };
        for key in ["specReplicasPath", "statusReplicasPath", "labelSelectorPath"] {
            let path = text(&version["subresources"]["scale"], key);
            if !path.is_empty() && !path.starts_with('.') {
                let words = "must be a simple json path starting with .";
                let at = format!("{at}.subresources.scale.{key}");
                push_new(errors, FieldError::invalid(at, path, words));
            }
        }
    }
}

/// Checks what a schema says of the fields that every object has.
fn check_root(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let properties = &schema["properties"];
    for field in ["apiVersion", "kind"] {
        let kind = properties[field]["type"].as_str();
        if kind.is_some_and(|kind| kind != "string") {
            let at = format!("{path}.properties[{field}].type");
            push_new(
                errors,
                FieldError::invalid(at, text(&properties[field], "type"), "must be string"),
            );
        }
    }
    let known = ["name", "generateName"];
    let named = properties["metadata"]["properties"].as_object();
    if named.is_some_and(|named| named.keys().any(|name| !known.contains(&name.as_str()))) {
        let words = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        let at = format!("{path}.properties[metadata]");
        push_new(errors, FieldError::forbidden(at, words));
    }
}

/// Adds an error unless it is told already, of another version with the same schema.
fn push_new(errors: &mut Vec<FieldError>, error: FieldError) {
    if !errors.contains(&error) {
        errors.push(error);
    }
}

/// Checks that each selectable field is one of the version's schema.
fn check_selectable(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
    let fields = version.get("selectableFields").and_then(Value::as_array);
    for (i, field) in fields.into_iter().flatten().enumerate() {
        let at = format!("{path}.selectableFields[{i}].jsonPath");
        match text(field, "jsonPath") {
            "" => errors.push(FieldError::required(at, "")),
            json_path => {
                if let Some(why) = wrong_selectable(json_path, schema) {
                    errors.push(FieldError::invalid(at, json_path, why));
                }
            }
        }
    }
}

/// Says why a path is none of a selectable field, if it is none.
fn wrong_selectable(json_path: &str, schema: &Value) -> Option<String> {
    let invalid = |why: String| Some(format!("is an invalid path: {why}"));
    if json_path.contains('[') {
        return invalid("array notation is not allowed".to_owned());
    }
    let Some(names) = json_path.strip_prefix('.') else {
        return invalid(format!("expected [ or . but got: {json_path}"));
    };
    let below = |at, name| {
        let at: &Value = at;
        let named = at.get("properties").and_then(|properties| properties.get(name));
        named.or_else(|| at.get("additionalProperties").filter(|open| open.is_object()))
    };
    let Some(field) = names.split('.').try_fold(schema, below) else {
        return invalid("does not refer to a valid field".to_owned());
    };
    let fits = matches!(text(field, "type"), "string" | "boolean" | "integer");
    (!fits).then(|| {
        "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            .to_owned()
    })
}

fn check_column(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let types = ["boolean", "date", "integer", "number", "string"].map(str::to_owned);
    match text(column, "type") {
        "" => errors.push(FieldError::required(
            format!("{path}.type"),
            "must be one of boolean,date,integer,number,string",
        )),
        kind if !types.iter().any(|t| t == kind) => {
            errors.push(FieldError::invalid(
                format!("{path}.type"),
                kind,
                "must be one of boolean,date,integer,number,string",
            ));
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let words = format!("must be one of {}", FORMATS.join(","));
        errors.push(FieldError::invalid(format!("{path}.format"), format, words));
    }
    match text(column, "jsonPath") {
        "" => errors.push(FieldError::required(format!("{path}.JSONPath"), "")),
        json_path if !json_path.starts_with('.') => errors.push(FieldError::invalid(
            format!("{path}.JSONPath"),
            json_path,
            "must be a simple json path starting with .",
        )),
        json_path => {
            if let Err(wrong) = JsonPath::parse(json_path) {
                errors.push(FieldError::invalid(format!("{path}.jsonPath"), json_path, wrong));
            }
        }
    }
}
