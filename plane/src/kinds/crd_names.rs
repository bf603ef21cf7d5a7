//! The names that a CustomResourceDefinition is given: those that no other one of its group has.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::builtin::BUILTINS;
use super::crd::condition;
use super::stamp::Stamp;
use crate::object::{map_mut, meta_str, time};

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
        for row in BUILTINS.iter().filter(|row| *group == row.group) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::crd::{compile, note_stored};
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
}
