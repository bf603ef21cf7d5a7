//! CustomResourceDefinitions: their own rules, and the kinds that they define; their names are in [`super::crd_names`].

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::stamp::Stamp;
use super::{Keeping, Kind, Origin, Schema, Served, Types, version_rank};
use crate::admission::error::FieldError;
use crate::admission::table::Columns;
use crate::admission::types::TypeInfo;
use crate::object::{map_mut, meta_str, time};
use crate::status::unsupported;

/// The keys of stored CRDs start with this.
pub const PREFIX: &str = "apiextensions.k8s.io/customresourcedefinitions/";
/// The finalizer that keeps a CRD until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Notes in which versions objects may be stored.
pub fn note_stored(crd: &mut Value, _: &Stamp) {
    let storage: Vec<Value> = versions(crd)
        .filter(|version| version["storage"] == Value::Bool(true))
        .map(|version| version["name"].clone())
        .collect();
    let status = map_mut(crd, "status");
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

/// Sets a condition of a definition.
pub(super) fn condition(
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
        Some(known) if known["status"] == says => {
            known["reason"] = reason.into();
            known["message"] = message.into();
        }
        Some(known) => *known = new,
        None => list.push(new),
    }
}

fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    crd["spec"]["versions"].as_array().into_iter().flatten()
}

/// Checks what is particular to this server: protected groups, and no conversion webhooks.
pub fn validate(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    const APPROVAL: &str = "api-approved.kubernetes.io";
    let mut problems = Vec::new();
    let spec = &new["spec"];
    let group = spec["group"].as_str().unwrap_or("");
    let protected = [".k8s.io", ".kubernetes.io"];
    let approved = new["metadata"]["annotations"][APPROVAL].as_str().unwrap_or("");
    if protected.iter().any(|end| group.ends_with(end)) && approved.is_empty() {
        problems.push(FieldError::required(
            format!("metadata.annotations[{APPROVAL}]"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ));
    }
    let strategy = spec["conversion"]["strategy"].as_str().unwrap_or("None");
    // Here webhooks cannot be called; what is no strategy anywhere is refused in kube-apiserver's words.
    let known: &[&str] = if strategy == "Webhook" {
        &["None"]
    } else {
        &["None", "Webhook"]
    };
    if strategy != "None" {
        problems.push(unsupported("spec.conversion.strategy", strategy, known));
    }
    problems
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
    kind_of(crd)
}

/// Builds the kind of a CRD, established or not.
pub fn kind_of(crd: &Value) -> Option<Kind> {
    let spec = &crd["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().filter_map(text).collect() };
    let group = text(&spec["group"])?;
    let kind = text(&names["kind"])?;
    let plural = text(&names["plural"])?;
    let mut current: Vec<&str> = versions(crd)
        .filter(|version| version["served"] == Value::Bool(true) && version["deprecated"] != Value::Bool(true))
        .filter_map(|version| version["name"].as_str())
        .collect();
    current.sort_by_key(|name| std::cmp::Reverse(version_rank(name)));
    let mut schemas = Vec::new();
    let mut served = Vec::new();
    for version in versions(crd) {
        let Some(schema) = Schema::of(&group, version) else {
            continue;
        };
        if version["served"] == Value::Bool(true) {
            served.extend(build_version(&group, &kind, version, &schema, &current));
        }
        schemas.push(schema);
    }
    served.sort_by_key(|version| std::cmp::Reverse(version_rank(&version.name)));
    let version = meta_str(crd, "resourceVersion").parse().unwrap_or(0);
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
        keeping: Keeping::new(schemas, version),
        origin: Origin::Custom {
            crd: meta_str(crd, "name").to_owned(),
            uid: meta_str(crd, "uid").to_owned(),
            terminating: !meta_str(crd, "deletionTimestamp").is_empty(),
            version,
        },
        group,
        kind,
        plural,
    })
}

/// Builds one version; `current` are the names of those that are not deprecated, the preferred one first.
fn build_version(group: &str, kind: &str, version: &Value, schema: &Schema, current: &[&str]) -> Option<Served> {
    let name = version["name"].as_str()?.to_owned();
    let compiled = schema.compiled.as_ref()?;
    let status = !version["subresources"]["status"].is_null();
    let deprecation = (version["deprecated"] == Value::Bool(true)).then(|| {
        version["deprecationWarning"].as_str().map_or_else(
            || {
                let words = format!("{group}/{name} {kind} is deprecated");
                match current.iter().find(|other| version_rank(other) > version_rank(&name)) {
                    Some(newer) => format!("{words}; use {group}/{newer} {kind}"),
                    None => words,
                }
            },
            str::to_owned,
        )
    });
    Some(Served {
        status,
        types: Types::Custom(Arc::new(TypeInfo::from_structural(compiled, status))),
        schema: Some(Arc::clone(compiled)),
        raw_schema: Some(Arc::clone(&schema.raw)),
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

    #[test]
    fn protected_groups_and_webhooks_are_refused() {
        let mut crd = json!({ "spec": { "group": "example.com" } });
        assert_eq!(validate(&crd, None), []);
        crd["spec"]["group"] = json!("batch.k8s.io");
        crd["spec"]["conversion"] = json!({"strategy": "Webhook"});
        assert_eq!(validate(&crd, None).len(), 2);
    }
}
