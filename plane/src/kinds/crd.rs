//! CustomResourceDefinitions: their own rules, and the kinds that they define.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::builtin::Stamp;
use super::{Kind, Origin, Served, Types, version_rank};
use crate::admission::error::FieldError;
use crate::admission::schema::Structural;
use crate::admission::table::Columns;
use crate::admission::types::TypeInfo;
use crate::object::{map_mut, meta_str, time};
use crate::status::unsupported;

/// The keys of stored CRDs start with this.
pub const PREFIX: &str = "apiextensions.k8s.io/customresourcedefinitions/";
/// The finalizer that keeps a CRD until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

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
        ("InitialNamesAccepted", "the initial names have been accepted"),
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

fn condition(status: &mut Map<String, Value>, (kind, holds): (&str, bool), (reason, message): (&str, &str), now: &str) {
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
    if strategy != "None" {
        problems.push(unsupported("spec.conversion.strategy", strategy, &["None"]));
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
    let spec = &crd["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().filter_map(text).collect() };
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
        version["deprecationWarning"]
            .as_str()
            .map_or_else(|| format!("{group}/{name} {kind} is deprecated"), str::to_owned)
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
                "names": {"plural": "things", "kind": "Thing", "singular": "thing", "listKind": "ThingList"},
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
    fn protected_groups_and_webhooks_are_refused() {
        let mut crd = crd();
        assert_eq!(validate(&crd, None), []);
        crd["spec"]["group"] = json!("batch.k8s.io");
        crd["spec"]["conversion"] = json!({"strategy": "Webhook"});
        assert_eq!(validate(&crd, None).len(), 2);
    }
}
