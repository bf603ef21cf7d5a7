//! Sets of fields: what a manager owns, and their `FieldsV1` form.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::admission::gofmt;
use crate::admission::types::Type;

/// A scalar that takes part in a path.
#[derive(Clone, Debug)]
pub(super) struct Scalar(pub(super) Value);

impl Scalar {
    fn rank(&self) -> u8 {
        match self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| match (&self.0, &other.0) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a
                    .as_f64()
                    .unwrap_or_default()
                    .total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (a, b) => gofmt::json(a).cmp(&gofmt::json(b)),
        })
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scalar {}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::String(s) => f.write_str(&gofmt::quote(s)),
            other => f.write_str(&gofmt::plain(other)),
        }
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A field of a map.
    Field(String),
    /// The entry of a list map with these keys.
    Key(Vec<(String, Scalar)>),
    /// The entry of a set with this value.
    Value(Scalar),
    /// The entry of a list at this place.
    Index(i64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let parts: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", parts.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(i) => write!(f, "[{i}]"),
        }
    }
}

impl Step {
    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let map: Map<String, Value> = keys.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
                format!("k:{}", gofmt::json(&Value::Object(map)))
            }
            Self::Value(value) => format!("v:{}", gofmt::json(&value.0)),
            Self::Index(i) => format!("i:{i}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "v" => serde_json::from_str(rest).ok().map(|v| Self::Value(Scalar(v))),
            "i" => rest.parse().ok().map(Self::Index),
            "k" => {
                let map: Map<String, Value> = serde_json::from_str(rest).ok()?;
                let mut keys: Vec<(String, Scalar)> = map.into_iter().map(|(k, v)| (k, Scalar(v))).collect();
                keys.sort();
                Some(Self::Key(keys))
            }
            _ => None,
        }
    }
}

/// Writes a path as messages show it.
pub(super) fn path_text(path: &[Step]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    members: BTreeSet<Step>,
    children: BTreeMap<Step, FieldSet>,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(FieldSet::is_empty)
    }

    pub(super) fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn has(&self, step: &Step) -> bool {
        self.members.contains(step)
    }

    pub(super) fn below(&self, step: &Step) -> Option<&FieldSet> {
        self.children.get(step).filter(|c| !c.is_empty())
    }

    pub(super) fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (step, set) in &other.children {
            let merged = match out.children.get(step) {
                Some(mine) => mine.union(set),
                None => set.clone(),
            };
            out.children.insert(step.clone(), merged);
        }
        out
    }

    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let children = self.children.iter().filter_map(|(step, set)| {
            let both = set.intersection(other.children.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        });
        FieldSet {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: children.collect(),
        }
    }

    pub(super) fn difference(&self, other: &FieldSet) -> FieldSet {
        let children = self.children.iter().filter_map(|(step, set)| {
            let rest = match other.children.get(step) {
                Some(theirs) => set.difference(theirs),
                None => set.clone(),
            };
            (!rest.is_empty()).then(|| (step.clone(), rest))
        });
        FieldSet {
            members: self.members.difference(&other.members).cloned().collect(),
            children: children.collect(),
        }
    }

    /// Keeps only what stands at or below one of `steps`.
    pub(super) fn only(&self, steps: &[&str]) -> FieldSet {
        let keep = |step: &Step| matches!(step, Step::Field(name) if steps.contains(&name.as_str()));
        FieldSet {
            members: self.members.iter().filter(|s| keep(s)).cloned().collect(),
            children: self
                .children
                .iter()
                .filter(|(s, _)| keep(s))
                .map(|(s, c)| (s.clone(), c.clone()))
                .collect(),
        }
    }

    /// Drops what stands at or below a path of fields.
    pub(super) fn without(&self, path: &[&str]) -> FieldSet {
        let mut out = self.clone();
        if let [first, rest @ ..] = path {
            let step = Step::Field((*first).to_owned());
            if rest.is_empty() {
                out.members.remove(&step);
                out.children.remove(&step);
            } else if let Some(child) = out.children.get(&step) {
                let child = child.without(rest);
                if child.is_empty() {
                    out.children.remove(&step);
                } else {
                    out.children.insert(step, child);
                }
            }
        }
        out
    }

    /// Adds the declared fields of structures on the way to members.
    pub(super) fn with_named_fields(&self, of: &Type) -> FieldSet {
        let mut members = self.members.clone();
        let mut children = BTreeMap::new();
        for (step, set) in &self.children {
            if let Step::Field(name) = step
                && of.declares(name)
            {
                members.insert(step.clone());
            }
            let below = match step {
                Step::Field(name) => of.field(name),
                _ => of.element(),
            };
            children.insert(step.clone(), set.with_named_fields(below));
        }
        FieldSet { members, children }
    }

    /// Calls `each` with every path, parents first.
    pub(super) fn each(&self, each: &mut impl FnMut(&[Step])) {
        self.walk(&mut Vec::new(), each);
    }

    fn walk(&self, prefix: &mut Vec<Step>, each: &mut impl FnMut(&[Step])) {
        for member in &self.members {
            prefix.push(member.clone());
            each(prefix);
            prefix.pop();
        }
        for (step, set) in &self.children {
            prefix.push(step.clone());
            set.walk(prefix, each);
            prefix.pop();
        }
    }

    /// Writes the set as `FieldsV1`.
    pub(super) fn encode(&self) -> Value {
        let mut map = Map::new();
        let steps: BTreeSet<&Step> = self.members.iter().chain(self.children.keys()).collect();
        for step in steps {
            let child = self.children.get(step).filter(|c| !c.is_empty());
            let member = self.members.contains(step);
            let value = match child {
                None if member => Value::Object(Map::new()),
                None => continue,
                Some(child) => {
                    let mut below = Map::new();
                    if member {
                        below.insert(".".to_owned(), Value::Object(Map::new()));
                    }
                    if let Value::Object(inner) = child.encode() {
                        below.extend(inner);
                    }
                    Value::Object(below)
                }
            };
            map.insert(step.encode(), value);
        }
        Value::Object(map)
    }

    /// Reads `FieldsV1`; `None` when it is not.
    pub(super) fn decode(value: &Value) -> Option<FieldSet> {
        Self::decode_at(value, 0).map(|(set, _)| set)
    }

    /// Returns the set and whether the node itself is a member.
    fn decode_at(value: &Value, depth: usize) -> Option<(FieldSet, bool)> {
        let map = value.as_object()?;
        if depth > 256 {
            return None;
        }
        let mut set = FieldSet::default();
        let mut member = map.is_empty();
        for (key, below) in map {
            if key == "." {
                member = true;
                continue;
            }
            let step = Step::decode(key)?;
            let (child, is_member) = Self::decode_at(below, depth + 1)?;
            if is_member {
                set.members.insert(step.clone());
            }
            if !child.is_empty() {
                set.children.insert(step, child);
            }
        }
        Some((set, member))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_read_and_written_alike() {
        let fields = json!({
            "f:data": {".": {}, "f:a.b": {}},
            "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}}, "f:set": {"v:\"q\"": {}, "v:3": {}}, "f:l": {"i:2": {}}}
        });
        let set = FieldSet::decode(&fields).unwrap();
        assert_eq!(set.encode(), fields);
        let mut paths = Vec::new();
        set.each(&mut |p| paths.push(path_text(p)));
        assert!(paths.contains(&".spec.containers[name=\"x\"].image".to_owned()));
        assert!(paths.contains(&".spec.ports[containerPort=80,protocol=\"TCP\"]".to_owned()));
        assert!(paths.contains(&".spec.set[=3]".to_owned()));
        assert_eq!(FieldSet::decode(&json!({"x": {}})), None);
    }

    #[test]
    fn sets_combine() {
        let a = FieldSet::decode(&json!({"f:a": {"f:b": {}, "f:c": {}}})).unwrap();
        let b = FieldSet::decode(&json!({"f:a": {"f:c": {}}, "f:d": {}})).unwrap();
        assert_eq!(a.union(&b).encode(), json!({"f:a": {"f:b": {}, "f:c": {}}, "f:d": {}}));
        assert_eq!(a.intersection(&b).encode(), json!({"f:a": {"f:c": {}}}));
        assert_eq!(a.difference(&b).encode(), json!({"f:a": {"f:b": {}}}));
        assert!(a.difference(&a).is_empty());
        assert_eq!(a.without(&["a", "b"]).encode(), json!({"f:a": {"f:c": {}}}));
    }
}
