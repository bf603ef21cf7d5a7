//! From the parser's events to trees.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, Span};
use serde_json::Value;

use super::scalar::scalar;
use super::{Content, Entry, MAX_DEPTH, MAX_NODES, Node};
use crate::file_error::{FileError, Place, quote};

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

pub(super) struct Reader<'a> {
    path: &'a str,
    lines_before: usize,
    /// The documents that were read.
    pub(super) documents: Vec<Node>,
    /// What is wrong.
    pub(super) errors: Vec<FileError>,
    /// Line and text of each key that its map has already.
    pub(super) repeated: Vec<(usize, String)>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    /// Makes a reader of a text that stands `lines_before` lines down in the file `path`.
    pub(super) fn new(path: &'a str, lines_before: usize) -> Reader<'a> {
        Reader {
            path,
            lines_before,
            documents: Vec::new(),
            errors: Vec::new(),
            repeated: Vec::new(),
            open: Vec::new(),
            anchors: BTreeMap::new(),
            nodes: 0,
        }
    }

    /// Reads a text up to the first error that cannot be passed.
    pub(super) fn read(&mut self, text: &str) {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let read = match event {
                Ok((event, span)) => self.event(event, span),
                Err(error) => {
                    let at = self.place(error.marker().line(), error.marker().col());
                    Err(FileError::new(
                        self.path,
                        at,
                        format!("the YAML cannot be read: {}", error.info()),
                    ))
                }
            };
            if let Err(error) = read {
                self.errors.push(error);
                break;
            }
        }
    }

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
                    self.repeated.push((key_at.line, key));
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
