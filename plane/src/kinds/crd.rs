//! CustomResourceDefinitions: their own rules, and the kinds that they define.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::builtin;
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

/// The names that the built-in kinds and the other definitions of a group were given.
#[derive(Debug, Default)]
pub struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// Collects the names of built-in kinds, and the accepted ones of `others`, in the group of `crd`.
    pub fn of(crd: &Value, others: impl Iterator<Item = Value>) -> Taken {
        let mut taken = Taken::default();
        let group = &crd["spec"]["group"];
        for row in builtin::BUILTINS.iter().filter(|row| *group == row.group) {
            let short = row.short_names.iter().map(|name| (*name).to_owned());
            taken.resources.extend(short);
            taken.resources.extend([row.plural.to_owned(), row.kind.to_lowercase()]);
            taken.kinds.extend([row.kind.to_owned(), format!("{}List", row.kind)]);
        }
        for other in others {
            if other["spec"]["group"] != crd["spec"]["group"] || meta_str(&other, "name") == meta_str(crd, "name") {
                continue;
            }
            let names = &other["status"]["acceptedNames"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            taken.resources.extend(text(&names["plural"]));
            taken.resources.extend(text(&names["singular"]));
            let short = names["shortNames"].as_array().into_iter().flatten();
            taken.resources.extend(short.filter_map(text));
            taken.kinds.extend(text(&names["kind"]));
            taken.kinds.extend(text(&names["listKind"]));
        }
        taken
    }
}

/// Accepts the names that no other definition has, and establishes the kind when it has all of them.
pub fn settle(crd: &mut Value, taken: &Taken, stamp: &Stamp) {
    let now = time(stamp.now);
    let asked = crd["spec"]["names"].clone();
    let status = map_mut(crd, "status");
    let before = status.get("acceptedNames").cloned().unwrap_or_default();
    let mut given = before.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let used = |name: &Value, set: &BTreeSet<String>| {
        let name = name.as_str().unwrap_or_default();
        set.contains(name).then(|| format!("{name:?} is already in use"))
    };
    let rows = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (field, reason, set) in rows {
        let (new, old) = (&asked[field], &before[field]);
        let wrong: Vec<String> = if new == old {
            Vec::new()
        } else if let Some(list) = new.as_array() {
            let own = |name: &Value| old.as_array().is_some_and(|old| old.contains(name));
            list.iter()
                .filter(|name| !own(name))
                .filter_map(|name| used(name, set))
                .collect()
        } else {
            used(new, set).into_iter().collect()
        };
        match wrong.as_slice() {
            [] if new.is_null() => {
                given.remove(field);
            }
            [] => {
                given.insert(field.to_owned(), new.clone());
            }
            [one] => conflict = Some((reason, one.clone())),
            several => conflict = Some((reason, format!("[{}]", several.join(", ")))),
        }
    }
    for field in ["plural", "kind"] {
        given.entry(field).or_insert_with(|| "".into());
    }
    match asked.get("categories") {
        Some(categories) => given.insert("categories".into(), categories.clone()),
        None => given.remove("categories"),
    };
    status.insert("acceptedNames".into(), Value::Object(given));
    let accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or_else(|| ("NoConflicts", "no conflicts found".to_owned()));
    condition(status, ("NamesAccepted", accepted), (reason, &message), &now);
    if accepted {
        condition(
            status,
            ("Established", true),
            ("InitialNamesAccepted", "the initial names have been accepted"),
            &now,
        );
    } else if !has_condition(status, "Established") {
        condition(
            status,
            ("Established", false),
            ("NotAccepted", "not all names are accepted"),
            &now,
        );
    }
}

fn has_condition(status: &Map<String, Value>, kind: &str) -> bool {
    let list = status.get("conditions").and_then(Value::as_array);
    list.is_some_and(|list| list.iter().any(|known| known["type"] == kind))
}

/// Tells whether a definition waits for a name that another one has.
pub fn waits_for_names(crd: &Value) -> bool {
    let list = crd["status"]["conditions"].as_array().into_iter().flatten();
    list.into_iter()
        .any(|known| known["type"] == "NamesAccepted" && known["status"] == "False")
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
        note_stored(&mut crd, &stamp());
        settle(&mut crd, &Taken::default(), &stamp());
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
    fn a_name_that_another_definition_has_is_not_accepted_until_it_is_free() {
        let mut first = crd();
        settle(&mut first, &Taken::default(), &stamp());
        let mut second = crd();
        second["metadata"]["name"] = json!("others.example.com");
        second["spec"]["names"] =
            json!({"plural": "others", "kind": "Thing", "singular": "other", "listKind": "OtherList"});
        let taken = Taken::of(&second, [first].into_iter());
        settle(&mut second, &taken, &stamp());
        assert!(waits_for_names(&second) && compile(&second).is_none());
        let condition = &second["status"]["conditions"][0];
        assert_eq!(condition["reason"], "KindConflict");
        assert_eq!(condition["message"], "\"Thing\" is already in use");
        assert_eq!(second["status"]["acceptedNames"]["kind"], "");
        settle(&mut second, &Taken::default(), &stamp());
        assert!(!waits_for_names(&second) && compile(&second).is_some());
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
