//! Structural schemas: those of the kinds, and the strict check of a document against one.
//!
//! kube-apiserver prunes what a schema does not know. A file that a person wrote is checked more
//! strictly: an unknown key is an error, with the key that may have been meant.

mod words;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::crds;
use crate::document::{Content, Entry, Node};
use crate::file_error::{FileError, closest, quote};
use words::{advice, elsewhere, expectation};

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

#[cfg(test)]
mod tests;
