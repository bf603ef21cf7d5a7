//! CustomResourceDefinitions: their own rules, and the kinds that they define.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::builtin::Stamp;
use super::{Kind, Origin, Served, Types, version_rank};
use crate::admission::error::{ErrorKind, FieldError};
use crate::admission::names::{dns1123_label, dns1123_subdomain};
use crate::admission::schema::Structural;
use crate::admission::table::Columns;
use crate::admission::types::TypeInfo;
use crate::object::{map_mut, meta_str, time};
use crate::status::unsupported;

/// The keys of stored CRDs start with this.
pub const PREFIX: &str = "apiextensions.k8s.io/customresourcedefinitions/";
/// The finalizer that keeps a CRD until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Sets defaults.
pub fn default(crd: &mut Value) {
    let spec = map_mut(crd, "spec");
    if spec.get("conversion").is_none_or(Value::is_null) {
        spec.insert("conversion".into(), json!({"strategy": "None"}));
    }
    spec.remove("preserveUnknownFields");
    let names = map_mut(&mut crd["spec"], "names");
    let kind = names
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    let mut set = |field: &str, value: String| {
        if names.get(field).and_then(Value::as_str).unwrap_or("").is_empty() {
            names.insert(field.into(), value.into());
        }
    };
    set("singular", kind.to_lowercase());
    set("listKind", format!("{kind}List"));
}

/// Accepts the names and establishes the kind, at once.
pub fn settle(crd: &mut Value, stamp: &Stamp) {
    let now = time(stamp.now);
    let names = crd["spec"]["names"].clone();
    let storage: Vec<Value> = versions(crd)
        .filter(|version| version["storage"] == Value::Bool(true))
        .map(|version| version["name"].clone())
        .collect();
    let status = map_mut(crd, "status");
    status.insert("acceptedNames".into(), names);
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Value::Array(stored) = stored {
        for name in storage {
            if !stored.contains(&name) {
                stored.push(name);
            }
        }
    } else {
        *stored = Value::Array(storage);
    }
    condition(
        status,
        ("NamesAccepted", true),
        ("NoConflicts", "no conflicts found"),
        &now,
    );
    condition(
        status,
        ("Established", true),
        (
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
        &now,
    );
}

/// Notes that the CRD is being deleted.
pub fn terminating(crd: &mut Value, stamp: &Stamp) {
    condition(
        map_mut(crd, "status"),
        ("Terminating", true),
        (
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        ),
        &time(stamp.now),
    );
}

fn condition(
    status: &mut Map<String, Value>,
    (kind, holds): (&str, bool),
    (reason, message): (&str, &str),
    now: &str,
) {
    let says = if holds { "True" } else { "False" };
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else {
        return;
    };
    let new = json!({"type": kind, "status": says, "lastTransitionTime": now, "reason": reason, "message": message});
    match list.iter_mut().find(|known| known["type"] == kind) {
        Some(known) if known["status"] == says => {}
        Some(known) => *known = new,
        None => list.push(new),
    }
}

fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    crd["spec"]["versions"].as_array().into_iter().flatten()
}

/// Checks a CRD.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let spec = &new["spec"];
    let group = spec["group"].as_str().unwrap_or("");
    if group.is_empty() {
        problems.push(FieldError::required("spec.group", ""));
    } else if let Some(detail) = dns1123_subdomain(group).into_iter().next() {
        problems.push(FieldError::invalid("spec.group", group, detail));
    } else if !group.contains('.') {
        problems.push(FieldError::invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        ));
    }
    const APPROVAL: &str = "api-approved.kubernetes.io";
    let protected = [".k8s.io", ".kubernetes.io"];
    if protected.iter().any(|end| group.ends_with(end))
        && new["metadata"]["annotations"][APPROVAL].as_str().unwrap_or("").is_empty()
    {
        problems.push(FieldError::required(
            format!("metadata.annotations[{APPROVAL}]"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ));
    }
    check_names(spec, &mut problems);
    let plural = spec["names"]["plural"].as_str().unwrap_or("");
    let wanted = format!("{plural}.{group}");
    let name = meta_str(new, "name");
    if name != wanted {
        problems.push(FieldError::invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    match spec["scope"].as_str().unwrap_or("") {
        "Namespaced" | "Cluster" => {}
        "" => problems.push(FieldError::required("spec.scope", "")),
        other => problems.push(unsupported(
            "spec.scope",
            other,
            &["Cluster", "Namespaced"],
        )),
    }
    match spec["conversion"]["strategy"].as_str().unwrap_or("") {
        "None" => {}
        other => problems.push(unsupported(
            "spec.conversion.strategy",
            other,
            &["None"],
        )),
    }
    check_versions(new, &mut problems);
    if let Some(old) = old {
        for at in ["scope", "group"] {
            if old["spec"][at] != spec[at] {
                problems.push(FieldError::invalid(
                    format!("spec.{at}"),
                    spec[at].clone(),
                    "field is immutable",
                ));
            }
        }
        for stored in new["status"]["storedVersions"].as_array().into_iter().flatten() {
            if !versions(new).any(|version| version["name"] == *stored) {
                problems.push(FieldError::invalid(
                    "status.storedVersions",
                    stored.clone(),
                    "must appear in spec.versions",
                ));
            }
        }
    }
    problems
}

fn check_names(spec: &Value, problems: &mut Vec<FieldError>) {
    for (at, lower) in [
        ("plural", false),
        ("singular", false),
        ("kind", true),
        ("listKind", true),
    ] {
        let name = spec["names"][at].as_str().unwrap_or("");
        let path = format!("spec.names.{at}");
        if name.is_empty() {
            problems.push(FieldError::required(path, ""));
            continue;
        }
        let checked = if lower {
            name.to_lowercase()
        } else {
            name.to_owned()
        };
        if let Some(detail) = dns1123_label(&checked).into_iter().next() {
            problems.push(FieldError::invalid(path, name, detail));
        }
    }
    if spec["names"]["kind"].is_string() && spec["names"]["kind"] == spec["names"]["listKind"] {
        problems.push(FieldError::invalid(
            "spec.names.listKind",
            spec["names"]["listKind"].clone(),
            "kind and listKind may not be the same",
        ));
    }
}

fn check_versions(crd: &Value, problems: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    let mut storage = 0;
    let mut count = 0;
    for (index, version) in versions(crd).enumerate() {
        count += 1;
        let at = format!("spec.versions[{index}]");
        let name = version["name"].as_str().unwrap_or("");
        if let Some(detail) = dns1123_label(name).into_iter().next() {
            problems.push(FieldError::invalid(format!("{at}.name"), name, detail));
        }
        if !names.insert(name) {
            problems.push(FieldError::new(
                format!("{at}.name"),
                ErrorKind::Duplicate,
                Some(name.into()),
                "",
            ));
        }
        storage += usize::from(version["storage"] == Value::Bool(true));
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            problems.push(FieldError::required(
                format!("{at}.schema.openAPIV3Schema"),
                "schemas are required",
            ));
        } else {
            // One version's schema is told where the API's first form had it.
            let one = versions(crd).nth(1).is_none();
            let compiled = if one {
                Structural::from_openapi(schema)
            } else {
                Structural::from_openapi_at(schema, &format!("{at}.schema.openAPIV3Schema"))
            };
            problems.extend(compiled.err().into_iter().flatten());
        }
        if let Err(detail) = Columns::from_crd(&version["additionalPrinterColumns"]) {
            problems.push(FieldError::invalid(
                format!("{at}.additionalPrinterColumns"),
                version["additionalPrinterColumns"].clone(),
                detail,
            ));
        }
    }
    if count == 0 {
        problems.push(FieldError::required(
            "spec.versions",
            "must have at least one version",
        ));
    } else if storage != 1 {
        problems.push(FieldError::invalid(
            "spec.versions",
            crd["spec"]["versions"].clone(),
            "must have exactly one version marked as storage version",
        ));
    }
}

/// Builds the kind that an established CRD defines.
pub fn compile(crd: &Value) -> Option<Kind> {
    let established = crd["status"]["conditions"]
        .as_array()?
        .iter()
        .any(|known| known["type"] == "Established" && known["status"] == "True");
    if !established {
        return None;
    }
    let spec = &crd["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(text)
            .collect()
    };
    let group = text(&spec["group"])?;
    let kind = text(&names["kind"])?;
    let plural = text(&names["plural"])?;
    let mut served: Vec<Served> = versions(crd)
        .filter(|version| version["served"] == Value::Bool(true))
        .filter_map(|version| build_version(&group, &kind, version))
        .collect();
    served.sort_by_key(|version| std::cmp::Reverse(version_rank(&version.name)));
    let storage = versions(crd).find(|version| version["storage"] == Value::Bool(true))?;
    Some(Kind {
        list_kind: text(&names["listKind"]).unwrap_or_else(|| format!("{kind}List")),
        singular: text(&names["singular"]).unwrap_or_else(|| kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        versions: served,
        stored: super::api_version(&group, storage["name"].as_str()?),
        prefix: format!("{group}/{plural}/"),
        origin: Origin::Custom {
            crd: meta_str(crd, "name").to_owned(),
            uid: meta_str(crd, "uid").to_owned(),
            terminating: !meta_str(crd, "deletionTimestamp").is_empty(),
        },
        group,
        kind,
        plural,
    })
}

fn build_version(group: &str, kind: &str, version: &Value) -> Option<Served> {
    let name = version["name"].as_str()?.to_owned();
    let raw = &version["schema"]["openAPIV3Schema"];
    let schema = match Structural::from_openapi(raw) {
        Ok(schema) => schema,
        Err(errors) => {
            tracing::error!(%group, %kind, %name, ?errors, "a stored CRD's schema does not compile; the version is not served");
            return None;
        }
    };
    let status = !version["subresources"]["status"].is_null();
    let deprecation = (version["deprecated"] == Value::Bool(true)).then(|| {
        version["deprecationWarning"].as_str().map_or_else(
            || format!("{group}/{name} {kind} is deprecated"),
            str::to_owned,
        )
    });
    Some(Served {
        status,
        types: Types::Custom(Arc::new(TypeInfo::from_structural(&schema, status))),
        schema: Some(Arc::new(schema)),
        raw_schema: Some(Arc::new(raw.clone())),
        columns: Columns::from_crd(&version["additionalPrinterColumns"]).ok()?,
        selectable: version["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|field| field["jsonPath"].as_str())
            .map(|path| path.trim_start_matches('.').to_owned())
            .collect(),
        deprecation,
        name,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            now: jiff::Timestamp::UNIX_EPOCH,
            uid: "u".into(),
        }
    }

    fn crd() -> Value {
        json!({
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "things", "kind": "Thing"},
                "versions": [
                    {"name": "v1alpha1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                    {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}}},
                    {"name": "v2", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}
                ]
            }
        })
    }

    #[test]
    fn an_accepted_definition_serves_its_versions_at_once() {
        let mut crd = crd();
        default(&mut crd);
        assert_eq!(validate(&crd, None), []);
        assert!(compile(&crd).is_none(), "not established yet");
        settle(&mut crd, &stamp());
        let kind = compile(&crd).unwrap();
        assert_eq!(kind.singular, "thing");
        assert_eq!(kind.list_kind, "ThingList");
        assert_eq!(kind.stored, "example.com/v1");
        let names: Vec<&str> = kind.versions.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["v1", "v1alpha1"]);
        assert!(kind.versions[0].status && !kind.versions[1].status);
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_told_by_field() {
        let mut crd = crd();
        crd["metadata"]["name"] = json!("other.example.com");
        crd["spec"]["scope"] = json!("Galaxy");
        crd["spec"]["versions"][0]["storage"] = json!(true);
        crd["spec"]["versions"][2]["name"] = json!("v1");
        default(&mut crd);
        let paths: Vec<String> = validate(&crd, None).into_iter().map(|p| p.path).collect();
        assert_eq!(
            paths,
            [
                "metadata.name",
                "spec.scope",
                "spec.versions[2].name",
                "spec.versions"
            ]
        );
    }
}
