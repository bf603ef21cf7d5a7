//! `meta.k8s.io/v1` tables, as kubectl prints them.

mod age;
mod builtin;
pub mod jsonpath;

pub use self::age::human_duration;

use serde_json::{Map, Value, json};

use self::age::between;
use self::jsonpath::JsonPath;
use super::gofmt;

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The object itself.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`; `None` when it is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<JsonPath>,
}

impl Column {
    fn new(name: &str, kind: &str, priority: i64, description: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: String::new(),
            description: description.to_owned(),
            priority,
            path: None,
        }
    }

    fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description, "priority": self.priority})
    }
}

/// Whose cells are drawn.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Builtin(String),
    Paths,
    /// Name and creation time.
    Plain,
}

/// The columns of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    columns: Vec<Column>,
    source: Source,
}

fn name_column() -> Column {
    Column {
        format: "name".to_owned(),
        ..Column::new("Name", "string", 0, "Name of the object, unique within its namespace.")
    }
}

impl Columns {
    /// Compiles `additionalPrinterColumns` of a CRD version (an array; null or an empty one for Name and Age).
    ///
    /// # Errors
    /// The JSON path that cannot be read.
    pub fn from_crd(columns: &Value) -> Result<Self, String> {
        let default = json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": "Time since the object was created."}]);
        let list = columns
            .as_array()
            .filter(|l| !l.is_empty())
            .or(default.as_array())
            .cloned()
            .unwrap_or_default();
        let mut out = vec![name_column()];
        for column in &list {
            let text = |key: &str| column.get(key).and_then(Value::as_str).unwrap_or_default();
            let path = text("jsonPath");
            let description = match text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                words => words.to_owned(),
            };
            out.push(Column {
                name: text("name").to_owned(),
                kind: text("type").to_owned(),
                format: text("format").to_owned(),
                description,
                priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
                path: Some(JsonPath::parse(path).map_err(|e| format!("column {:?}: {e}", text("name")))?),
            });
        }
        Ok(Self {
            columns: out,
            source: Source::Paths,
        })
    }

    /// Finds the columns of a built-in kind; any other kind gets Name and Created At.
    pub fn builtin(api_version: &str, kind: &str) -> Self {
        match builtin::columns(api_version, kind) {
            Some(columns) => Self {
                columns,
                source: Source::Builtin(kind.to_owned()),
            },
            None => Self {
                columns: vec![
                    name_column(),
                    Column::new("Created At", "date", 0, "When the object was created."),
                ],
                source: Source::Plain,
            },
        }
    }

    /// Renders a table.
    ///
    /// `metadata` is the list's (or for one object its) metadata, of which resourceVersion,
    /// continue and remainingItemCount are shown. `now` is an RFC 3339 time. In a watch only
    /// the first table has definitions.
    pub fn render(
        &self,
        objects: &[&Value],
        metadata: &Value,
        include: IncludeObject,
        with_definitions: bool,
        now: &str,
    ) -> Value {
        let rows: Vec<Value> = objects
            .iter()
            .map(|object| {
                let shown = match include {
                    IncludeObject::None => Value::Null,
                    IncludeObject::Metadata => {
                        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
                    }
                    IncludeObject::Object => (*object).clone(),
                };
                let mut row = json!({"cells": self.cells(object, now), "object": shown});
                if let Some(ended) = builtin::completion(object) {
                    row["conditions"] = json!([ended]);
                }
                row
            })
            .collect();
        let mut shown = Map::new();
        for key in ["resourceVersion", "continue", "remainingItemCount"] {
            if let Some(value) = metadata.get(key).filter(|v| !v.is_null() && *v != "") {
                shown.insert(key.to_owned(), value.clone());
            }
        }
        let definitions = if with_definitions {
            self.columns.iter().map(Column::definition).collect()
        } else {
            Value::Null
        };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": shown, "columnDefinitions": definitions, "rows": rows})
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        match &self.source {
            Source::Builtin(kind) => builtin::cells(kind, object, now),
            Source::Plain => vec![name(object), object["metadata"]["creationTimestamp"].clone()],
            Source::Paths => self
                .columns
                .iter()
                .map(|column| match &column.path {
                    None => name(object),
                    Some(path) => path
                        .find(object)
                        .first()
                        .map_or(Value::Null, |v| cell(&column.kind, v, now)),
                })
                .collect(),
        }
    }
}

/// Returns an object's name, empty for a bookmark, which has none.
fn name(object: &Value) -> Value {
    object["metadata"]["name"].as_str().unwrap_or_default().into()
}

/// Shows a value in a column of the type.
fn cell(kind: &str, value: &Value, now: &str) -> Value {
    match (kind, value) {
        ("string", Value::String(s)) => s.as_str().into(),
        ("string", Value::Array(_) | Value::Object(_)) => gofmt::json(value).into(),
        // As Go prints a path that leads to nothing.
        ("string", Value::Null) => "<no value>".into(),
        ("string", other) => gofmt::plain(other).into(),
        ("date", Value::String(time)) => between(time, now).into(),
        ("integer", Value::Number(n)) => n
            .as_i64()
            .or_else(|| n.as_f64().map(|f| f as i64))
            .map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::admission::schema::tests::any_json;
    use proptest::prelude::*;

    const NOW: &str = "2024-01-01T01:00:00Z";

    fn row(columns: &Columns, object: Value) -> Value {
        let table = columns.render(
            &[&object],
            &json!({"resourceVersion": "7"}),
            IncludeObject::None,
            true,
            NOW,
        );
        assert_eq!(table["metadata"], json!({"resourceVersion": "7"}));
        let cells = table["rows"][0]["cells"].clone();
        assert_eq!(
            cells.as_array().unwrap().len(),
            table["columnDefinitions"].as_array().unwrap().len()
        );
        cells
    }

    #[test]
    fn durations_are_worded_like_kubectl() {
        let table = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_520, "3h12m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (64_000_000, "2y10d"),
            (-5, "<invalid>"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn custom_columns_follow_their_paths() {
        let columns = Columns::from_crd(&json!([
            {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "N", "type": "integer", "jsonPath": ".spec.n", "priority": 1},
            {"name": "L", "type": "string", "jsonPath": ".spec.l"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
        ]))
        .unwrap();
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:55:00Z"}, "spec": {"n": 3, "l": ["x"]},
            "status": {"phase": "Done", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(row(&columns, object), json!(["a", "Done", "True", 3, "[\"x\"]", "5m"]));
        assert_eq!(
            row(&columns, json!({"metadata": {"name": "b"}})),
            json!(["b", null, null, null, null, null])
        );
        assert_eq!(
            row(
                &columns,
                json!({"metadata": {"name": "c"}, "spec": {"n": null, "l": null}})
            ),
            json!(["c", null, null, null, "<no value>", null])
        );
        let table = columns.render(&[], &json!({}), IncludeObject::Object, true, NOW);
        assert_eq!(table["columnDefinitions"][3]["priority"], 1);
        assert!(Columns::from_crd(&json!([{"name": "X", "type": "string", "jsonPath": ".a["}])).is_err());
        assert_eq!(
            row(
                &Columns::from_crd(&Value::Null).unwrap(),
                json!({"metadata": {"name": "c", "creationTimestamp": "2024-01-01T00:00:00Z"}})
            ),
            json!(["c", "60m"])
        );
    }

    #[test]
    fn built_in_kinds_are_shown_as_kubectl_shows_them() {
        let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T00:59:00Z"});
        let table = [
            (
                "v1",
                "ConfigMap",
                json!({"metadata": meta, "data": {"a": "", "b": ""}, "binaryData": {"c": ""}}),
                json!(["x", 3, "60s"]),
            ),
            (
                "v1",
                "Secret",
                json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}}),
                json!(["x", "Opaque", 1, "60s"]),
            ),
            (
                "v1",
                "Namespace",
                json!({"metadata": meta, "status": {"phase": "Active"}}),
                json!(["x", "Active", "60s"]),
            ),
            (
                "coordination.k8s.io/v1",
                "Lease",
                json!({"metadata": meta, "spec": {"holderIdentity": "me"}}),
                json!(["x", "me", "60s"]),
            ),
            (
                "batch/v1",
                "Job",
                json!({"metadata": meta, "spec": {"completions": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
                    "status": {"succeeded": 1, "startTime": "2024-01-01T00:59:00Z", "completionTime": "2024-01-01T00:59:05Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
                json!(["x", "Complete", "1/1", "5s", "60s", "c", "i", "a=b"]),
            ),
            (
                "v1",
                "Pod",
                json!({"metadata": meta, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Running", "podIP": "1.2.3.4", "containerStatuses": [
                    {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2024-01-01T00:59:30Z"}}},
                    {"name": "b", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}}),
                json!([
                    "x",
                    "1/2",
                    "ExitCode:3",
                    "2 (30s ago)",
                    "60s",
                    "1.2.3.4",
                    "<none>",
                    "<none>",
                    "<none>"
                ]),
            ),
            (
                "v1",
                "Pod",
                json!({"metadata": meta, "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}}),
                json!([
                    "x", "0/1", "Init:0/1", "0", "60s", "<none>", "<none>", "<none>", "<none>"
                ]),
            ),
            (
                "v1",
                "Event",
                json!({"metadata": meta, "type": "Normal", "reason": "R", "message": " m ", "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "c"},
                    "firstTimestamp": "2024-01-01T00:58:00Z", "lastTimestamp": "2024-01-01T00:59:59Z", "count": 4}),
                json!(["1s", "Normal", "R", "pod/p", "", "c", "m", "2m", 4, "x"]),
            ),
            (
                "events.k8s.io/v1",
                "Event",
                json!({"apiVersion": "events.k8s.io/v1", "metadata": meta, "type": "Normal", "reason": "R", "note": "m", "regarding": {"kind": "Pod", "name": "p"},
                    "reportingController": "c", "eventTime": "2024-01-01T00:58:00.000000Z", "series": {"count": 4, "lastObservedTime": "2024-01-01T00:59:59.000000Z"}}),
                json!(["1s", "Normal", "R", "pod/p", "", "c", "m", "2m", 4, "x"]),
            ),
            (
                "v1",
                "PersistentVolumeClaim",
                json!({"metadata": meta, "spec": {"volumeName": "v", "volumeMode": "Filesystem"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
                json!(["x", "Bound", "v", "1Gi", "RWO", "", "<unset>", "60s", "Filesystem"]),
            ),
            (
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                json!({"metadata": meta}),
                json!(["x", "2024-01-01T00:59:00Z"]),
            ),
        ];
        for (api_version, kind, object, expected) in table {
            assert_eq!(row(&Columns::builtin(api_version, kind), object), expected, "{kind}");
        }
    }

    #[test]
    fn rows_carry_what_was_asked_for() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}});
        let columns = Columns::builtin("v1", "ConfigMap");
        let with = |include| columns.render(&[&object], &json!({}), include, false, NOW);
        assert_eq!(with(IncludeObject::Object)["rows"][0]["object"], object);
        assert_eq!(
            with(IncludeObject::Metadata)["rows"][0]["object"],
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "x"}})
        );
        assert_eq!(with(IncludeObject::None)["rows"][0]["object"], Value::Null);
        assert_eq!(with(IncludeObject::None)["columnDefinitions"], Value::Null);
        assert_eq!(IncludeObject::parse("Everything"), None);
    }

    proptest! {
        #[test]
        fn no_object_breaks_a_table(object in any_json()) {
            for (api_version, kind) in [("v1", "Pod"), ("batch/v1", "Job"), ("v1", "Event"), ("v1", "PersistentVolumeClaim"), ("v1", "Secret")] {
                Columns::builtin(api_version, kind).render(&[&object], &object, IncludeObject::Metadata, true, NOW);
            }
        }
    }
}
