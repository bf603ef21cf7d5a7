//! Keys that a text gives more than once. The last one counts; kube-apiserver tells of the
//! others, or refuses them, as the request's `fieldValidation` says.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::admit::{REPEATED_IN_YAML, duplicate_field};

/// Most fields that are told of.
const MOST: usize = 100;

/// Names the fields that JSON gives more than once, each one time, in their order.
pub fn in_json(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = String::new();
    let place = Place {
        path: &mut path,
        found: &mut found,
    };
    // A text that is no JSON was refused before.
    let _ = place.deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    found.iter().map(|path| duplicate_field(path)).collect()
}

/// Names the keys that YAML gives more than once, in one text of several lines.
pub fn in_yaml(bytes: &[u8]) -> Vec<String> {
    if in_json(bytes).is_empty() && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = schemas::document::repeated_keys(&text)
        .into_iter()
        .take(MOST)
        .map(|(line, key)| format!("  line {line}: key {key:?} already set in map"))
        .collect();
    if lines.is_empty() {
        return Vec::new();
    }
    vec![format!("{REPEATED_IN_YAML}{}", lines.join("\n"))]
}

/// A value and what was found so far.
struct Place<'a> {
    path: &'a mut String,
    found: &'a mut Vec<String>,
}

impl Place<'_> {
    /// Looks at a value that stands at `step` below this place.
    fn below<E>(&mut self, step: &str, look: impl FnOnce(Place<'_>) -> Result<(), E>) -> Result<(), E> {
        let length = self.path.len();
        self.path.push_str(step);
        let seen = look(Place {
            path: self.path,
            found: self.found,
        });
        self.path.truncate(length);
        seen
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A seed for a value that stands at a step below a place.
struct Below<'a, 'b> {
    place: &'a mut Place<'b>,
    step: String,
}

impl<'de> DeserializeSeed<'de> for Below<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.place
            .below(&self.step, |place| deserializer.deserialize_any(place))
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut at = 0usize;
        loop {
            let seed = Below {
                step: format!("[{at}]"),
                place: &mut self,
            };
            if items.next_element_seed(seed)?.is_none() {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let step = if self.path.is_empty() {
                key.clone()
            } else {
                format!(".{key}")
            };
            if seen.contains(&key) {
                let path = format!("{}{step}", self.path);
                if self.found.len() < MOST && !self.found.contains(&path) {
                    self.found.push(path);
                }
            } else {
                seen.insert(key);
            }
            entries.next_value_seed(Below { step, place: &mut self })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_come_twice_are_named_by_their_path_once() {
        let text =
            br#"{"a": 1, "spec": {"x": 1, "list": [{}, {"y": 1, "y": {"z": 1, "z": 2}}], "x": 2, "x": 3}, "a": null}"#;
        let words = |paths: &[&str]| -> Vec<String> { paths.iter().map(|path| duplicate_field(path)).collect() };
        assert_eq!(
            in_json(text),
            words(&["spec.list[1].y", "spec.list[1].y.z", "spec.x", "a"])
        );
        assert!(in_json(br#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}"#).is_empty());
    }

    #[test]
    fn keys_that_come_twice_in_yaml_are_named_with_their_lines() {
        let text = b"a: 1\nspec:\n  x: 1\n  \"x\": 2\na: 2\n";
        let told =
            "yaml: unmarshal errors:\n  line 4: key \"x\" already set in map\n  line 5: key \"a\" already set in map";
        assert_eq!(in_yaml(text), [told.to_owned()]);
        assert!(in_yaml(b"a: 1\nb: {a: 1}\n").is_empty());
        assert_eq!(in_yaml(br#"{"a": 1, "a": 2}"#).len(), 1);
    }
}
