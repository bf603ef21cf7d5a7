//! YAML documents as trees that know where each part stands in its file.
//!
//! Scalars are read by the core schema of YAML 1.2, as JSON knows them. Depth and size are bounded, so
//! that neither nesting nor aliases can exhaust memory or stack.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use crate::file_error::{FileError, MAX_ERRORS, quote};

/// Deepest nesting of a document.
pub const MAX_DEPTH: usize = 64;
/// Most values of a file, aliases written out.
pub const MAX_NODES: usize = 50_000;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

/// The beginning of a file.
pub const START: Place = Place { line: 1, column: 1 };

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Place,
    /// What it is.
    pub content: Content,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A null, boolean, number or string.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Where the key begins.
    pub at: Place,
    /// Value.
    pub value: Node,
}

impl Node {
    /// Returns the entry of a key, where the node is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Returns the value of a key, where the node is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Returns the text, where the node is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Says whether the node is null.
    pub fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    /// Returns the place of a path of keys and indices, or of the last part of it that exists.
    pub fn locate(&self, path: &[&str]) -> Place {
        let mut node = self;
        for part in path {
            let next = match &node.content {
                Content::List(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)),
                _ => node.get(part),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.at
    }

    /// Names the type and, of a scalar, the value that was found.
    pub fn describe(&self) -> String {
        match &self.content {
            Content::Scalar(Value::Null) => "nothing".to_owned(),
            Content::Scalar(Value::String(text)) => format!("the string {}", quote(text)),
            Content::Scalar(Value::Bool(value)) => format!("the boolean {value}"),
            Content::Scalar(value) => format!("the number {value}"),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a map".to_owned(),
        }
    }

    /// Returns the node as a JSON value.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Content::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    map.insert(entry.key.clone(), entry.value.to_value());
                }
                Value::Object(map)
            }
        }
    }

    fn count(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 1,
            Content::List(items) => 1 + items.iter().map(Node::count).sum::<usize>(),
            Content::Map(entries) => 1 + entries.iter().map(|entry| entry.value.count()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 1,
            Content::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Content::Map(entries) => 1 + entries.iter().map(|entry| entry.value.depth()).max().unwrap_or(0),
        }
    }
}

/// Reads every document of a YAML text that stands `lines_before` lines down in its file.
///
/// Returns the documents that could be read and everything that is wrong; documents without content are left out.
pub fn read(path: &str, text: &str, lines_before: usize) -> (Vec<Node>, Vec<FileError>) {
    let mut reader = Reader {
        path,
        lines_before,
        documents: Vec::new(),
        errors: Vec::new(),
        open: Vec::new(),
        anchors: BTreeMap::new(),
        nodes: 0,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let read = match event {
            Ok((event, span)) => reader.event(event, span),
            Err(error) => {
                let at = reader.place(error.marker().line(), error.marker().col());
                Err(FileError::new(
                    path,
                    at,
                    format!("the YAML cannot be read: {}", error.info()),
                ))
            }
        };
        if let Err(error) = read {
            reader.errors.push(error);
            break;
        }
    }
    reader.errors.truncate(MAX_ERRORS);
    (reader.documents, reader.errors)
}

/// A list or map that is being read.
struct Open {
    at: Place,
    anchor: usize,
    items: Vec<Node>,
    entries: Vec<Entry>,
    /// Line of each key.
    seen: HashMap<String, usize>,
    /// `None` for a list, `Some(None)` for a map that expects a key, `Some(Some(_))` for one that expects a value.
    key: Option<Option<(String, Place)>>,
}

struct Reader<'a> {
    path: &'a str,
    lines_before: usize,
    documents: Vec<Node>,
    errors: Vec<FileError>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl Reader<'_> {
    fn place(&self, line: usize, column: usize) -> Place {
        Place {
            line: line.max(1) + self.lines_before,
            column: column + 1,
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), FileError> {
        let at = self.place(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref()).ok_or_else(|| self.bad_tag(at))?;
                self.value(
                    Node {
                        at,
                        content: Content::Scalar(value),
                    },
                    anchor,
                    Some(&text),
                    1,
                )
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if self.open.len() >= MAX_DEPTH => {
                Err(self.too_deep(at))
            }
            Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag)) if !tag.is_yaml_core_schema() => {
                Err(self.bad_tag(at))
            }
            Event::SequenceStart(anchor, _) => {
                self.open(at, anchor, None);
                Ok(())
            }
            Event::MappingStart(anchor, _) => {
                self.open(at, anchor, Some(None));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let content = if open.key.is_some() {
                        Content::Map(open.entries)
                    } else {
                        Content::List(open.items)
                    };
                    self.value(Node { at: open.at, content }, open.anchor, None, 1)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Node { at, ..node.clone() };
                    if self.open.len() + node.depth() > MAX_DEPTH {
                        return Err(self.too_deep(at));
                    }
                    let key = match &node.content {
                        Content::Scalar(Value::String(text)) => Some(text.clone()),
                        _ => None,
                    };
                    let size = node.count();
                    self.value(node, 0, key.as_deref(), size)
                }
                None => Err(FileError::new(self.path, at, "an alias inside its own anchor").expected("a value")),
            },
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, at: Place, anchor: usize, key: Option<Option<(String, Place)>>) {
        self.open.push(Open {
            at,
            anchor,
            items: Vec::new(),
            entries: Vec::new(),
            seen: HashMap::new(),
            key,
        });
    }

    fn too_deep(&self, at: Place) -> FileError {
        FileError::new(self.path, at, "the YAML is nested too deeply").expected(format!("at most {MAX_DEPTH} levels"))
    }

    fn bad_tag(&self, at: Place) -> FileError {
        FileError::new(self.path, at, "a value with a tag that does not fit it")
            .expected("plain YAML")
            .suggestion("remove the tag")
    }

    /// Takes a finished value: as a document, a list's item, a map's key or a key's value. An alias counts with all
    /// that it stands for (`size`).
    fn value(&mut self, node: Node, anchor: usize, key_text: Option<&str>, size: usize) -> Result<(), FileError> {
        self.nodes += size;
        if self.nodes > MAX_NODES {
            return Err(FileError::new(self.path, node.at, "the YAML has too many values")
                .expected(format!("at most {MAX_NODES}, aliases written out")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let at = node.at;
        let Some(open) = self.open.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut open.key {
            None => open.items.push(node),
            Some(slot @ None) => {
                let Some(key) = key_text else {
                    return Err(FileError::new(self.path, at, format!("{} as a key", node.describe()))
                        .expected("a string as the key"));
                };
                *slot = Some((key.to_owned(), at));
            }
            Some(slot) => {
                let Some((key, key_at)) = slot.take() else {
                    return Ok(());
                };
                if let Some(first) = open.seen.get(&key) {
                    let message = format!("the key {} occurs twice", quote(&key));
                    let advice = format!("it is first given on line {first}; remove one of them");
                    self.errors
                        .push(FileError::new(self.path, key_at, message).suggestion(advice));
                } else {
                    open.seen.insert(key.clone(), key_at.line);
                    open.entries.push(Entry {
                        key,
                        at: key_at,
                        value: node,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Reads a scalar; `None` where a tag does not fit it.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let plain = if style == ScalarStyle::Plain {
        resolve(text)
    } else {
        Value::String(text.to_owned())
    };
    let Some(tag) = tag else { return Some(plain) };
    if tag.handle == "!" && tag.suffix.is_empty() {
        return Some(Value::String(text.to_owned()));
    }
    if !tag.is_yaml_core_schema() {
        return None;
    }
    match (tag.suffix.as_str(), resolve(text)) {
        ("str", _) => Some(Value::String(text.to_owned())),
        ("null", Value::Null) => Some(Value::Null),
        ("bool", value @ Value::Bool(_)) => Some(value),
        ("int", Value::Number(number)) if !number.is_f64() => Some(Value::Number(number)),
        ("float", value @ Value::Number(_)) => Some(value),
        _ => None,
    }
}

/// Reads a plain scalar by the core schema of YAML 1.2. Digits after a leading zero stay text, as they are no number
/// in JSON.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().map(Number::from);
    let number = if let Some(digits) = text.strip_prefix("0x") {
        radix(digits, 16)
    } else if let Some(digits) = text.strip_prefix("0o") {
        radix(digits, 8)
    } else if unsigned.starts_with('0') && unsigned[1..].starts_with(|c: char| c.is_ascii_digit()) {
        None
    } else if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = text.strip_prefix('+').unwrap_or(text);
        digits
            .parse::<i64>()
            .map(Number::from)
            .or_else(|_| digits.parse::<u64>().map(Number::from))
            .ok()
    } else {
        decimal(unsigned)
            .then(|| text.parse::<f64>().ok())
            .flatten()
            .and_then(Number::from_f64)
    };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// Says whether a text is a decimal with a point or an exponent: `1.5`, `.5`, `1e3`.
fn decimal(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let mantissa_fits =
        (digits(whole) && (fraction.is_empty() || digits(fraction))) || (whole.is_empty() && digits(fraction));
    mantissa_fits && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn one(text: &str) -> Node {
        let (mut documents, errors) = read("f.yaml", text, 0);
        assert!(errors.is_empty(), "{errors:?}");
        documents.remove(0)
    }

    fn error(text: &str) -> FileError {
        let (_, mut errors) = read("f.yaml", text, 0);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    #[test]
    fn scalars_are_what_json_knows() {
        let text = "[1, -2, 1.5, .5, 1e3, 0x10, 0o17, 007, true, False, yes, null, ~, '1', \"a\\tb\", 12:30, .inf, 1.2.3, 18446744073709551615, !!str 5]";
        let expected = json!([
            1,
            -2,
            1.5,
            0.5,
            1000.0,
            16,
            15,
            "007",
            true,
            false,
            "yes",
            null,
            null,
            "1",
            "a\tb",
            "12:30",
            ".inf",
            "1.2.3",
            18_446_744_073_709_551_615u64,
            "5"
        ]);
        assert_eq!(one(text).to_value(), expected);
    }

    #[test]
    fn every_value_knows_its_line_and_column() {
        let node = one("# note\nspec:\n  list:\n    - a: 1\n    - b: {c: x}\n");
        assert_eq!(
            node.locate(&["spec", "list", "1", "b", "c"]),
            Place { line: 5, column: 14 }
        );
        assert_eq!(node.locate(&["spec", "missing"]), Place { line: 3, column: 3 });
        assert_eq!(
            node.get("spec").unwrap().entry("list").unwrap().at,
            Place { line: 3, column: 3 }
        );
    }

    #[test]
    fn a_syntax_error_says_where_it_is() {
        let error = error("a: 1\nb: [1, 2\nc: 3\n");
        assert!(error.line >= 2, "{error}");
        assert!(error.message.contains("cannot be read"), "{error}");
    }

    #[test]
    fn a_key_given_twice_is_an_error_at_the_second() {
        let error = error("a: 1\nb: 2\na: 3\n");
        assert_eq!((error.line, error.column), (3, 1));
        assert!(error.to_string().contains("first given on line 1"), "{error}");
    }

    #[test]
    fn documents_before_a_broken_one_are_kept() {
        let (documents, errors) = read("f.yaml", "a: 1\n---\nb: [\n", 0);
        assert_eq!((documents.len(), errors.len()), (1, 1));
        assert!(read("f.yaml", "---\n# nothing\n---\n", 0).0.is_empty());
    }

    #[test]
    fn nesting_and_aliases_are_bounded() {
        assert!(
            error(&format!("{}{}", "[".repeat(100), "]".repeat(100)))
                .message
                .contains("too deeply")
        );
        assert!(!read("f.yaml", &"[".repeat(5000), 0).1.is_empty());
        assert!(!read("f.yaml", &"- ".repeat(5000), 0).1.is_empty());
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, earlier) in "bcdefghij".chars().zip("abcdefghi".chars()) {
            bomb.push_str(&format!(
                "{name}: &{name} [{}]\n",
                vec![format!("*{earlier}"); 9].join(", ")
            ));
        }
        assert!(error(&bomb).message.contains("too many values"));
    }

    #[test]
    fn aliases_are_written_out() {
        assert_eq!(
            one("a: &x {b: 1}\nc: *x\n").to_value(),
            json!({"a": {"b": 1}, "c": {"b": 1}})
        );
    }

    #[test]
    fn keys_that_are_lists_and_foreign_tags_are_refused() {
        assert!(error("[a]: 1\n").message.contains("as a key"));
        assert!(error("a: !secret x\n").message.contains("tag"));
        assert!(error("a: !!int x\n").message.contains("tag"));
    }

    proptest! {
        #[test]
        fn what_json_writes_reads_back(text in ".{0,60}", number in any::<i64>(), flag in any::<bool>()) {
            let value = json!({"text": text, "list": [number, flag, null]});
            let (documents, errors) = read("f", &crate::yaml::to_string(&value).unwrap(), 0);
            prop_assert!(errors.is_empty(), "{:?}", errors);
            prop_assert_eq!(documents[0].to_value(), value);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%@`?, \n\t0-9.\u{0}\u{85}\u{feff}]{0,80}") {
            let _ = read("f", &text, 0);
        }

        #[test]
        fn both_yaml_readers_agree_on_plain_scalars(text in "[-+0-9a-zA-Z._]{1,8}") {
            let theirs = crate::yaml::parse_value(&format!("a: {text}"));
            let (documents, _) = read("f", &format!("a: {text}"), 0);
            if let (Ok(theirs), Some(ours)) = (theirs, documents.first()) {
                let special = text.to_ascii_lowercase().contains("nan") || text.to_ascii_lowercase().contains("inf");
                prop_assume!(!special && !text.contains("0b") && !text.contains("0x") && !text.contains("0o"));
                prop_assert_eq!(ours.to_value(), theirs);
            }
        }
    }
}
