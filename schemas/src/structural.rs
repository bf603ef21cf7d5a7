//! Structural schemas: those of the kinds, and the strict check of a document against one.
//!
//! kube-apiserver prunes what a schema does not know. A file that a person wrote is checked more
//! strictly: an unknown key is an error, with the key that may have been meant.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::crds;
use crate::document::{Content, Entry, Node};
use crate::file_error::{FileError, closest, quote};

/// Returns the schema of a kind's `spec`, or nothing for a kind that is not ours.
pub fn spec_of(kind: &str) -> Option<&'static Value> {
    static SPECS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    let specs = SPECS.get_or_init(|| {
        crds::all()
            .iter()
            .filter_map(|crd| {
                let schema = crd
                    .spec
                    .versions
                    .first()?
                    .schema
                    .as_ref()?
                    .open_api_v3_schema
                    .as_ref()?;
                let spec = serde_json::to_value(schema.properties.as_ref()?.get("spec")?).ok()?;
                Some((crd.spec.names.kind.clone(), spec))
            })
            .collect()
    });
    specs.get(kind)
}

/// Makes the schema of a type that is no kind, such as a file's front matter.
pub fn of_type<T: JsonSchema>() -> Value {
    let generator = schemars::generate::SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    crds::tidy(&mut schema);
    schema
}

/// Writes what serde's enums and options become as the kinds' schemas write it: words as `enum`, no choice of null.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(simplify),
        Value::Object(map) => {
            map.values_mut().for_each(simplify);
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            for key in ["anyOf", "oneOf"] {
                let Some(Value::Array(mut choices)) = map.remove(key) else {
                    continue;
                };
                choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
                choices.retain(|choice| {
                    choice
                        .get("enum")
                        .is_none_or(|words| words != &serde_json::json!([null]))
                });
                let word = |choice: &Value| choice.get("const").or_else(|| choice.get("enum")?.get(0)).cloned();
                let words: Option<Vec<Value>> = choices
                    .iter()
                    .map(|choice| {
                        word(choice).filter(|_| {
                            choice
                                .get("enum")
                                .and_then(Value::as_array)
                                .is_none_or(|words| words.len() == 1)
                        })
                    })
                    .collect();
                match (words, choices.as_slice()) {
                    (_, [Value::Object(only)]) => {
                        let description = map.get("description").cloned();
                        map.extend(only.clone());
                        map.extend(description.map(|description| ("description".to_owned(), description)));
                    }
                    (Some(words), _) if !words.is_empty() => {
                        map.insert("type".to_owned(), "string".into());
                        map.insert("enum".to_owned(), words.into());
                    }
                    _ => {
                        map.insert(key.to_owned(), choices.into());
                    }
                }
            }
        }
        _ => {}
    }
}

/// Other words that people use for a key, with the key.
pub type Synonyms = &'static [(&'static str, &'static str)];

/// Checks documents of one file against schemas and collects what is wrong.
pub struct Checker<'a> {
    path: &'a str,
    synonyms: Synonyms,
    errors: Vec<FileError>,
}

impl<'a> Checker<'a> {
    /// Makes a checker for the file at `path`.
    pub fn new(path: &'a str, synonyms: Synonyms) -> Self {
        Self {
            path,
            synonyms,
            errors: Vec::new(),
        }
    }

    /// Returns what is wrong.
    pub fn into_errors(self) -> Vec<FileError> {
        self.errors
    }

    /// Returns how many things are wrong so far.
    pub fn count(&self) -> usize {
        self.errors.len()
    }

    /// Adds an error.
    pub fn push(&mut self, error: FileError) {
        self.errors.push(error);
    }

    /// Checks `node` against `schema` and returns its value without nulls, which count as absent.
    ///
    /// `what` is how the place is called in errors, such as `spec.payload`.
    pub fn check(&mut self, node: &Node, schema: &Value, what: &str) -> Value {
        if let Some(choices) = choices(schema) {
            return self.check_choice(node, choices, what);
        }
        if schema.get("type").is_none() && preserves(schema) {
            return node.to_value();
        }
        match (
            schema.get("type").and_then(Value::as_str).unwrap_or("object"),
            &node.content,
        ) {
            ("object", Content::Map(entries)) => return self.check_map(node, entries, schema, what),
            ("array", Content::List(items)) => return self.check_list(node, items, schema, what),
            (_, Content::Scalar(value)) if scalar_fits(value, schema) => self.check_scalar(node, value, schema, what),
            _ => {
                let mut error = FileError::new(self.path, node.at, format!("{} is {}", named(what), node.describe()))
                    .expected(expectation(schema));
                if let Some(advice) = advice(node, schema) {
                    error = error.suggestion(advice);
                }
                self.errors.push(error);
            }
        }
        node.to_value()
    }

    /// Checks a value that may have one of several types: the error names them all, or is that of the type it has.
    fn check_choice(&mut self, node: &Node, choices: &[Value], what: &str) -> Value {
        let type_of = |schema: &Value| schema.get("type").and_then(Value::as_str).map(str::to_owned);
        let fits = |schema: &&Value| match (&node.content, type_of(schema).as_deref()) {
            (Content::Map(_), Some("object")) | (Content::List(_), Some("array")) => true,
            (Content::Scalar(value), _) => scalar_fits(value, schema),
            _ => false,
        };
        if let Some(choice) = choices.iter().find(fits) {
            return self.check(node, choice, what);
        }
        let expected = choices.iter().map(expectation).collect::<Vec<_>>().join(", or ");
        let error =
            FileError::new(self.path, node.at, format!("{} is {}", named(what), node.describe())).expected(expected);
        self.errors.push(error);
        node.to_value()
    }

    fn check_map(&mut self, node: &Node, entries: &[Entry], schema: &Value, what: &str) -> Value {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let additional = schema.get("additionalProperties").filter(|value| value.is_object());
        let open = preserves(schema) || schema.get("additionalProperties") == Some(&Value::Bool(true));
        let mut map = Map::new();
        for entry in entries {
            let name = join(what, &entry.key);
            match properties.get(&entry.key).or(additional) {
                _ if entry.value.is_null() && !open => {
                    if !properties.contains_key(&entry.key) && additional.is_none() {
                        self.unknown(entry, properties, schema, what);
                    }
                }
                Some(schema) => {
                    map.insert(entry.key.clone(), self.check(&entry.value, schema, &name));
                }
                None if open => {
                    map.insert(entry.key.clone(), entry.value.to_value());
                }
                None => self.unknown(entry, properties, schema, what),
            }
        }
        for required in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !map.contains_key(required)
                && properties
                    .get(required)
                    .is_none_or(|schema| schema.get("default").is_none())
            {
                let expected = properties.get(required).map(expectation).unwrap_or_default();
                let message = format!("{} is missing", join(what, required));
                self.errors
                    .push(FileError::new(self.path, node.at, message).expected(expected));
            }
        }
        Value::Object(map)
    }

    fn unknown(&mut self, entry: &Entry, properties: &Map<String, Value>, schema: &Value, what: &str) {
        let place = if what.is_empty() {
            "here".to_owned()
        } else {
            format!("in {what}")
        };
        let mut error = FileError::new(
            self.path,
            entry.at,
            format!("unknown key {} {place}", quote(&entry.key)),
        );
        let synonym = self
            .synonyms
            .iter()
            .find(|(word, _)| *word == entry.key)
            .map(|(_, key)| *key);
        let known = properties.keys().map(String::as_str);
        if let Some(key) = synonym.filter(|key| properties.contains_key(*key)) {
            error = error.suggestion(format!("did you mean {key:?}?"));
        } else if let Some(advice) = synonym.filter(|advice| advice.contains(' ')) {
            error = error.suggestion(advice);
        } else if let Some(path) = elsewhere(&entry.key, schema, what, 0) {
            error = error.suggestion(format!("{:?} belongs at {path}", entry.key));
        } else if let Some(key) = closest(&entry.key, known) {
            error = error.suggestion(format!("did you mean {key:?}?"));
        } else if properties.len() <= 16 {
            let keys: Vec<&str> = properties.keys().map(String::as_str).collect();
            error = error.expected(format!("one of {}", keys.join(", ")));
        }
        self.errors.push(error);
    }

    fn check_list(&mut self, node: &Node, items: &[Node], schema: &Value, what: &str) -> Value {
        let limit = |key: &str| {
            schema
                .get(key)
                .and_then(Value::as_u64)
                .and_then(|limit| usize::try_from(limit).ok())
        };
        if limit("minItems").is_some_and(|least| items.len() < least)
            || limit("maxItems").is_some_and(|most| items.len() > most)
        {
            let message = format!("{what} has {} items", items.len());
            self.errors
                .push(FileError::new(self.path, node.at, message).expected(expectation(schema)));
        }
        let any = Value::Object(Map::from_iter([(
            "x-kubernetes-preserve-unknown-fields".to_owned(),
            Value::Bool(true),
        )]));
        let item_schema = schema.get("items").unwrap_or(&any);
        let check = |(at, item): (usize, &Node)| self.check(item, item_schema, &format!("{what}[{at}]"));
        Value::Array(items.iter().enumerate().map(check).collect())
    }

    fn check_scalar(&mut self, node: &Node, value: &Value, schema: &Value, what: &str) {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let length = |key: &str| schema.get(key).and_then(Value::as_u64);
        let good = match value {
            _ if schema
                .get("enum")
                .and_then(Value::as_array)
                .is_some_and(|allowed| !allowed.contains(value)) =>
            {
                false
            }
            Value::Number(found) => found.as_f64().is_some_and(|found| {
                number("minimum").is_none_or(|least| found >= least)
                    && number("maximum").is_none_or(|most| found <= most)
            }),
            Value::String(text) => {
                let characters = text.chars().count() as u64;
                length("minLength").is_none_or(|least| characters >= least)
                    && length("maxLength").is_none_or(|most| characters <= most)
                    && schema
                        .get("pattern")
                        .and_then(Value::as_str)
                        .is_none_or(|pattern| matches(pattern, text))
            }
            _ => true,
        };
        if good {
            return;
        }
        let mut error = FileError::new(self.path, node.at, format!("{} is {}", named(what), node.describe()))
            .expected(expectation(schema));
        let words = schema
            .get("enum")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        if let Some(word) = value.as_str().and_then(|found| closest(found, words)) {
            error = error.suggestion(format!("did you mean {word:?}?"));
        }
        self.errors.push(error);
    }
}

/// Returns the path of a value in words: at the top it has none.
fn named(what: &str) -> &str {
    if what.is_empty() { "the document" } else { what }
}

fn join(what: &str, key: &str) -> String {
    if what.is_empty() {
        key.to_owned()
    } else {
        format!("{what}.{key}")
    }
}

fn preserves(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

fn choices(schema: &Value) -> Option<&[Value]> {
    schema
        .get("anyOf")
        .or_else(|| schema.get("oneOf"))
        .and_then(Value::as_array)
        .map(Vec::as_slice)
}

fn matches(pattern: &str, text: &str) -> bool {
    // A pattern that cannot be read refuses: our own patterns are tested to be readable.
    Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

fn scalar_fits(value: &Value, schema: &Value) -> bool {
    match (schema.get("type").and_then(Value::as_str), value) {
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) | (Some("number"), Value::Number(_)) => {
            true
        }
        (Some("integer"), Value::Number(number)) => number.is_i64() || number.is_u64(),
        (None, _) => preserves(schema),
        _ => false,
    }
}

/// Says in words what a schema asks for.
pub fn expectation(schema: &Value) -> String {
    if let Some(choices) = choices(schema) {
        return choices.iter().map(expectation).collect::<Vec<_>>().join(", or ");
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        return format!("one of {}", words.join(", "));
    }
    // Limits of the kinds are floating-point numbers in the API's own type.
    #[allow(clippy::cast_possible_truncation)]
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64).map(|bound| bound as i64);
    let range = |least: Option<i64>, most: Option<i64>| match (least, most) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(" of at least {least}"),
        (None, Some(most)) => format!(" of at most {most}"),
        (None, None) => String::new(),
    };
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => match (
            schema.get("pattern").and_then(Value::as_str),
            bound("minLength"),
            bound("maxLength"),
        ) {
            (Some(pattern), ..) if pattern.contains("(ms|s|m|h)") => "a time span such as 90s, 30m or 1h30m".to_owned(),
            (Some(pattern), ..) => format!("a string that matches {pattern}"),
            (None, None, Some(most)) => format!("a string of at most {most} characters"),
            (None, Some(1), Some(most)) => format!("a string of 1 to {most} characters"),
            (None, Some(_), _) => "a string that is not empty".to_owned(),
            (None, None, None) => "a string".to_owned(),
        },
        Some("integer") => format!("a whole number{}", range(bound("minimum"), bound("maximum"))),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => {
            let items = schema
                .get("items")
                .filter(|items| items.get("type").is_some())
                .map(expectation);
            let least = bound("minItems")
                .map(|least| format!(" with at least {least} item"))
                .unwrap_or_default();
            format!(
                "a list{}{least}",
                items.map(|items| format!(" of {}", plural(&items))).unwrap_or_default()
            )
        }
        Some("object") => match schema.get("properties").and_then(Value::as_object) {
            Some(properties) if properties.len() <= 12 => {
                format!(
                    "a map with the keys {}",
                    properties.keys().cloned().collect::<Vec<_>>().join(", ")
                )
            }
            _ => "a map".to_owned(),
        },
        _ => "a value".to_owned(),
    }
}

fn plural(items: &str) -> String {
    match items.strip_prefix("a ") {
        Some(rest) if rest.starts_with("string") => {
            rest.replacen("string", "strings", 1).replace("that is", "that are")
        }
        Some(rest) if rest.starts_with("whole number") => rest.replacen("number", "numbers", 1),
        Some(rest) if rest.starts_with("map") => rest.replacen("map", "maps", 1),
        _ => items.to_owned(),
    }
}

/// Says how a value of the wrong type could be written right.
fn advice(node: &Node, schema: &Value) -> Option<String> {
    let Content::Scalar(value) = &node.content else {
        return None;
    };
    match (schema.get("type").and_then(Value::as_str)?, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => Some(format!("put it in quotes: \"{value}\"")),
        // A whole number that is too large for one is read as text as well, and had no quotes.
        ("integer", Value::String(text)) if text.parse::<i64>().is_ok() => Some("remove the quotes".to_owned()),
        ("number", Value::String(text)) if text.parse::<f64>().is_ok() => Some("remove the quotes".to_owned()),
        ("boolean", Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "true" => Some("write true".to_owned()),
            "no" | "off" | "n" | "false" => Some("write false".to_owned()),
            _ => None,
        },
        ("array", Value::String(text)) => Some(format!(
            "write it as a list: [{}]",
            crate::file_error::shorten(text, 40)
        )),
        _ => None,
    }
}

/// Finds a key below, where it is no key of this level.
fn elsewhere(key: &str, schema: &Value, what: &str, depth: usize) -> Option<String> {
    let properties = schema.get("properties")?.as_object()?;
    for (name, child) in properties {
        let below = child.get("properties").and_then(Value::as_object);
        if below.is_some_and(|below| below.contains_key(key)) {
            return Some(format!("{}.{key}", join(what, name)));
        }
        if depth < 2
            && let Some(found) = elsewhere(key, child, &join(what, name), depth + 1)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::document;
    use serde_json::json;

    fn check(kind: &str, text: &str) -> (Value, Vec<String>) {
        let (documents, errors) = document::read("f.yaml", text, 0);
        assert!(errors.is_empty(), "{errors:?}");
        let mut checker = Checker::new("f.yaml", &[]);
        let value = checker.check(&documents[0], spec_of(kind).unwrap(), "spec");
        (value, checker.into_errors().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_pattern_of_our_schemas_can_be_read() {
        fn walk(schema: &Value) {
            if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
                assert!(Regex::new(pattern).is_ok(), "{pattern}");
            }
            match schema {
                Value::Object(map) => map.values().for_each(walk),
                Value::Array(items) => items.iter().for_each(walk),
                _ => {}
            }
        }
        crds::all()
            .iter()
            .for_each(|crd| walk(&serde_json::to_value(crd).unwrap()));
    }

    #[test]
    fn a_good_spec_comes_back_without_nulls_and_without_defaults() {
        let (value, errors) = check(
            "AgenticTask",
            "kind: verify\npriority: null\npayload: {branch: b}\ndependsOn: [a, {name: b, namespace: c}]\n",
        );
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(
            value,
            json!({"kind": "verify", "payload": {"branch": "b"}, "dependsOn": ["a", {"name": "b", "namespace": "c"}]})
        );
    }

    #[test]
    fn all_errors_are_reported_each_with_place_expectation_and_advice() {
        let text = "kind: verfy\npayload:\n  isue: 4\n  issue: '5'\n  openPullRequest: yes\n  branch: 7\nprompt: x\npriority: [1]\ntimeoutSeconds: -1\n";
        let (_, errors) = check("AgenticTask", text);
        let expected = [
            "f.yaml:1:7: spec.kind is the string \"verfy\"; expected one of issue-fix, verify, review, freeform, integrate, reconcile; did you mean \"verify\"?",
            "f.yaml:3:3: unknown key \"isue\" in spec.payload; did you mean \"issue\"?",
            "f.yaml:4:10: spec.payload.issue is the string \"5\"; expected a whole number of at least 1; remove the quotes",
            "f.yaml:5:20: spec.payload.openPullRequest is the string \"yes\"; expected true or false; write true",
            "f.yaml:6:11: spec.payload.branch is the number 7; expected a string; put it in quotes: \"7\"",
            "f.yaml:7:1: unknown key \"prompt\" in spec; \"prompt\" belongs at spec.payload.prompt",
            "f.yaml:8:11: spec.priority is a list; expected a whole number",
            "f.yaml:9:17: spec.timeoutSeconds is the number -1; expected a whole number of at least 0",
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn what_is_missing_is_named_with_what_it_should_be() {
        let (_, errors) = check("Agent", "model: m\n");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].contains("spec.role is missing; expected one of coder"),
            "{errors:?}"
        );
        assert!(
            errors[1].contains("spec.tools is missing; expected a list of strings"),
            "{errors:?}"
        );
    }

    #[test]
    fn free_form_parts_are_left_alone() {
        let (value, errors) = check(
            "Agent",
            "role: coder\ntools: [bash]\nexecution: {resources: {limits: {cpu: 1, x: null}}}\nchatTemplateKwargs: {a: {b: [1]}}\n",
        );
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(
            value["execution"]["resources"],
            json!({"limits": {"cpu": 1, "x": null}})
        );
    }
}
