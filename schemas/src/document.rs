//! YAML documents as trees that know where each part stands in its file.
//!
//! Scalars are read by the core schema of YAML 1.2, as JSON knows them. Depth and size are bounded, so
//! that neither nesting nor aliases can exhaust memory or stack.

mod reader;
mod scalar;

use serde_json::{Map, Value};

use self::reader::Reader;
use crate::file_error::{FileError, MAX_ERRORS, Place, quote};

/// Deepest nesting of a document.
pub const MAX_DEPTH: usize = 64;
/// Most values of a file, aliases written out.
pub const MAX_NODES: usize = 50_000;

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
    let mut reader = Reader::new(path, lines_before);
    reader.read(text);
    reader.errors.truncate(MAX_ERRORS);
    (reader.documents, reader.errors)
}

/// Returns line and text of each key of a YAML text that its map has already, as far as the text can be read.
pub fn repeated_keys(text: &str) -> Vec<(usize, String)> {
    let mut reader = Reader::new("", 0);
    reader.read(text);
    reader.repeated
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
    fn keys_given_again_are_listed_with_their_lines() {
        let keys = repeated_keys("a: 1\nb: {c: 1,\n  c: 2}\na: 3\na: 4\n");
        let keys: Vec<(usize, &str)> = keys.iter().map(|(line, key)| (*line, key.as_str())).collect();
        assert_eq!(keys, [(3, "c"), (4, "a"), (5, "a")]);
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
