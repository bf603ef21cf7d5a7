//! Managers of an object and what they own: `metadata.managedFields`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fieldset::FieldSet;
use crate::admission::gofmt;

/// Number of managers by update that an object keeps apart.
const MAX_UPDATERS: usize = 10;
/// Manager into whom the oldest updaters are merged.
const ANCIENT: &str = "ancient-changes";

/// Who owns fields: appliers by name, updaters by name and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) apply: bool,
    /// Empty for appliers.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Manager {
    pub(super) fn new(name: &str, apply: bool, api_version: &str, subresource: &str) -> Self {
        Self {
            name: if name.is_empty() {
                "unknown".to_owned()
            } else {
                name.to_owned()
            },
            apply,
            api_version: if apply { String::new() } else { api_version.to_owned() },
            subresource: subresource.to_owned(),
        }
    }

    /// Describes the manager as conflicts do.
    pub(super) fn describe(&self) -> String {
        let mut text = gofmt::quote(&self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", gofmt::quote(&self.subresource)));
        }
        if !self.apply {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) set: FieldSet,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(pub(super) BTreeMap<Manager, Owned>);

impl Managers {
    /// Reads the managers of an object; `None` when they cannot be read.
    pub(super) fn decode(object: &Value) -> Option<Managers> {
        let mut managers = BTreeMap::new();
        let list = match &object["metadata"]["managedFields"] {
            Value::Null => return Some(Managers::default()),
            Value::Array(list) => list,
            _ => return None,
        };
        for entry in list {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let apply = match text("operation") {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            };
            if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
                return None;
            }
            let set = match entry.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::default(),
                Some(fields) => FieldSet::decode(fields)?,
            };
            // An absent name is absent, not "unknown": the entry is somebody's own.
            let manager = Manager {
                name: text("manager").to_owned(),
                apply,
                api_version: if apply {
                    String::new()
                } else {
                    text("apiVersion").to_owned()
                },
                subresource: text("subresource").to_owned(),
            };
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            managers.insert(
                manager,
                Owned {
                    set,
                    api_version: text("apiVersion").to_owned(),
                    time,
                },
            );
        }
        Some(Managers(managers))
    }

    /// Writes the managers, or nothing when there are none.
    pub(super) fn encode(&self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let mut list: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        list.sort_by(|(m, a), (n, b)| {
            let seconds = |o: &Owned| o.time.as_deref().map(seconds).unwrap_or_default();
            n.apply
                .cmp(&m.apply)
                .then_with(|| seconds(a).cmp(&seconds(b)))
                .then_with(|| m.name.cmp(&n.name))
                .then_with(|| a.api_version.cmp(&b.api_version))
                .then_with(|| m.subresource.cmp(&n.subresource))
        });
        let entries = list.into_iter().map(|(manager, owned)| {
            let mut entry = Map::new();
            if !manager.name.is_empty() {
                entry.insert("manager".to_owned(), json!(manager.name));
            }
            entry.insert(
                "operation".to_owned(),
                json!(if manager.apply { "Apply" } else { "Update" }),
            );
            entry.insert("apiVersion".to_owned(), json!(owned.api_version));
            if let Some(time) = &owned.time {
                entry.insert("time".to_owned(), json!(time));
            }
            entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
            entry.insert("fieldsV1".to_owned(), owned.set.encode());
            if !manager.subresource.is_empty() {
                entry.insert("subresource".to_owned(), json!(manager.subresource));
            }
            Value::Object(entry)
        });
        Some(entries.collect())
    }

    /// Removes from a manager what nobody owns: identity and what the server sets.
    pub(super) fn strip(&mut self, manager: &Manager) {
        const TOP: [&[&str]; 3] = [&["apiVersion"], &["kind"], &["metadata"]];
        const META: [&str; 9] = [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ];
        let Some(owned) = self.0.get_mut(manager) else {
            return;
        };
        let mut gone = FieldSet::default();
        for path in TOP {
            gone.insert(&steps(path));
        }
        for name in META {
            gone.insert(&steps(&["metadata", name]));
        }
        owned.set = owned.set.difference(&gone);
        if owned.set.is_empty() {
            self.0.remove(manager);
        }
    }

    /// Merges the oldest updaters of a version into one once there are too many.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(i64, Manager)> = self
            .0
            .iter()
            .filter(|(m, _)| !m.apply)
            .map(|(m, o)| (o.time.as_deref().map(seconds).unwrap_or_default(), m.clone()))
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATERS {
            return;
        }
        updaters.sort();
        let mut first: BTreeMap<String, Manager> = BTreeMap::new();
        for (_, manager) in updaters {
            if count <= MAX_UPDATERS {
                break;
            }
            let Some(owned) = self.0.get(&manager).cloned() else {
                continue;
            };
            let version = owned.api_version.clone();
            let Some(oldest) = first.get(&version) else {
                first.insert(version, manager);
                continue;
            };
            let bucket = Manager::new(ANCIENT, false, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(moved) = self.0.remove(oldest)
            {
                self.0.insert(bucket.clone(), moved);
            }
            let before = self.0.get(&bucket).map(|o| o.set.clone()).unwrap_or_default();
            self.0.remove(&manager);
            let merged = Owned {
                set: owned.set.union(&before),
                api_version: version,
                time: owned.time,
            };
            self.0.insert(bucket, merged);
            count -= 1;
        }
    }
}

fn steps(path: &[&str]) -> Vec<super::fieldset::Step> {
    path.iter()
        .map(|p| super::fieldset::Step::Field((*p).to_owned()))
        .collect()
}

fn seconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_second)
        .unwrap_or_default()
}
