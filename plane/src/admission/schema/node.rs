//! One node of a structural schema.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::rule::Rule;

/// Deepest nesting of a schema that is read.
pub(super) const MAX_DEPTH: usize = 128;

/// How the entries of a list are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Entries are unique scalars.
    Set,
    /// Entries are maps, told apart by these keys.
    Map(Vec<String>),
}

/// What stands under keys that `properties` does not name.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing may.
    #[default]
    None,
    /// Nothing may, said so (`additionalProperties: false`).
    Forbidden,
    /// Anything may (`additionalProperties: true`).
    Any,
    /// Values of this schema.
    Node(Box<Node>),
}

impl Additional {
    /// Returns the schema of additional values, if there is one.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            _ => None,
        }
    }
}

/// A pattern, compiled where it can be.
#[derive(Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// Compiled; `None` when this machine's engine cannot read it.
    pub regex: Option<Regex>,
}

/// A number that bounds others.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The bound.
    pub limit: f64,
    /// Whether the bound itself is outside.
    pub exclusive: bool,
}

/// One node of a schema: its structure and what values must satisfy.
#[derive(Debug, Default)]
pub struct Node {
    /// JSON type; empty where any may stand.
    pub kind: String,
    /// Whether null may stand here.
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// Known keys.
    pub properties: BTreeMap<String, Node>,
    /// Other keys.
    pub additional: Additional,
    /// Entries of a list.
    pub items: Option<Box<Node>>,
    /// Topology of a list.
    pub list_type: ListType,
    /// Whether a map is one value.
    pub map_atomic: bool,
    /// Default value.
    pub default: Option<Value>,
    /// Format, where it is one that is checked.
    pub format: String,
    /// Allowed values.
    pub options: Vec<Value>,
    /// Pattern of strings.
    pub pattern: Option<Pattern>,
    /// Upper bound.
    pub maximum: Option<Bound>,
    /// Lower bound.
    pub minimum: Option<Bound>,
    /// Factor.
    pub multiple_of: Option<f64>,
    /// Longest string, in characters.
    pub max_length: Option<u64>,
    /// Shortest string, in characters.
    pub min_length: Option<u64>,
    /// Longest list.
    pub max_items: Option<u64>,
    /// Shortest list.
    pub min_items: Option<u64>,
    /// Largest map.
    pub max_properties: Option<u64>,
    /// Smallest map.
    pub min_properties: Option<u64>,
    /// Keys that must be there.
    pub required: Vec<String>,
    /// All must hold.
    pub all_of: Vec<Node>,
    /// One must hold.
    pub any_of: Vec<Node>,
    /// Exactly one must hold.
    pub one_of: Vec<Node>,
    /// Must not hold.
    pub not: Option<Box<Node>>,
    /// CEL rules.
    pub rules: Vec<Rule>,
}

impl Node {
    /// Returns the schema under a key of a map.
    pub fn child(&self, key: &str) -> Option<&Node> {
        self.properties.get(key).or_else(|| self.additional.node())
    }

    /// Names the types that may stand here, as messages do.
    pub fn type_words(&self) -> &str {
        if self.int_or_string {
            "integer,string"
        } else {
            &self.kind
        }
    }

    /// Says whether `word` is a type that may stand here.
    pub fn allows(&self, word: &str) -> bool {
        if self.int_or_string {
            matches!(word, "integer" | "string")
        } else {
            self.kind == word
        }
    }

    /// Says whether a rule stands at this node or below.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
            || self.items.as_deref().is_some_and(Node::has_rules)
            || self.additional.node().is_some_and(Node::has_rules)
            || self.properties.values().any(Node::has_rules)
            || self.all_of.iter().any(Node::has_rules)
    }
}
