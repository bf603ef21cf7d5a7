//! CustomResourceDefinitions: defaults and validation.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::admission::error::FieldError;
use crate::admission::names;
use crate::admission::schema::{SCHEMA_PATH, Structural};
use crate::admission::table::jsonpath::JsonPath;

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
    if !plural.is_empty() && !group.is_empty() && name != format!("{plural}.{group}") {
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
    check_names(names, &mut errors);
    check_versions(spec, &mut errors);
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
    for (i, short) in names
        .get("shortNames")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let short = short.as_str().unwrap_or_default();
        let wrong = names::dns1035_label(short);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(
                format!("spec.names.shortNames[{i}]"),
                short,
                wrong.join(","),
            ));
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
        for (j, field) in version
            .get("selectableFields")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let json_path = text(field, "jsonPath");
            if json_path.is_empty() {
                errors.push(FieldError::required(
                    format!("{path}.selectableFields[{j}].jsonPath"),
                    "",
                ));
            } else if let Err(wrong) = JsonPath::parse(json_path) {
                errors.push(FieldError::invalid(
                    format!("{path}.selectableFields[{j}].jsonPath"),
                    json_path,
                    wrong,
                ));
            }
        }
    }
    if storage != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            Value::from(list.to_vec()),
            "must have exactly one version marked as storage version",
        ));
    }
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
    match text(column, "jsonPath") {
        "" => errors.push(FieldError::required(format!("{path}.JSONPath"), "")),
        json_path => {
            if let Err(wrong) = JsonPath::parse(json_path) {
                errors.push(FieldError::invalid(format!("{path}.jsonPath"), json_path, wrong));
            }
        }
    }
}
