//! What a tool takes: one description from which the JSON Schema, the text documentation and the check all come.

use serde_json::{Map, Value, json};

/// Names what an argument holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text of one line: a path, a pattern, a command.
    Text,
    /// Text of any length: code, a patch. In the text protocol it stands outside JSON.
    Body,
    /// A whole number, not below the minimum.
    Integer {
        /// The minimum.
        min: i64,
    },
    /// One of several words.
    Word(&'static [&'static str]),
    /// A JSON object of any shape.
    Object,
}

/// Describes one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What it means.
    pub about: &'static str,
    /// Other names that models give it.
    pub aliases: &'static [&'static str],
}

impl Param {
    /// Describes an argument that must be there.
    pub const fn required(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self {
            name,
            kind,
            required: true,
            about,
            aliases: &[],
        }
    }

    /// Describes an argument that may be left out.
    pub const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self {
            name,
            kind,
            required: false,
            about,
            aliases: &[],
        }
    }

    /// Adds other names that models give this argument.
    pub const fn also(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// Describes one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSpec {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub description: &'static str,
    /// What it takes.
    pub params: Vec<Param>,
}

/// Holds arguments that fit their tool.
pub type Arguments = Map<String, Value>;

impl ToolSpec {
    /// Returns the JSON Schema of the arguments.
    pub fn json_schema(&self) -> Value {
        let mut properties = Map::new();
        for param in &self.params {
            let mut schema = match &param.kind {
                Kind::Text | Kind::Body => json!({"type": "string"}),
                Kind::Integer { min } => json!({"type": "integer", "minimum": min}),
                Kind::Word(words) => json!({"type": "string", "enum": words}),
                Kind::Object => json!({"type": "object"}),
            };
            schema["description"] = json!(param.about);
            properties.insert(param.name.to_owned(), schema);
        }
        let required: Vec<&str> = self
            .params
            .iter()
            .filter(|param| param.required)
            .map(|param| param.name)
            .collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    /// Returns the documentation of the text protocol: a call as it is to be written, then what the arguments mean.
    pub fn text_doc(&self) -> String {
        let mut doc = format!(
            "### {}\n{}\n\n<call tool=\"{}\">\n",
            self.name, self.description, self.name
        );
        for param in &self.params {
            let optional = if param.required { "" } else { "optional: " };
            match &param.kind {
                Kind::Body => doc.push_str(&format!("<{0}>\n{optional}{1}\n</{0}>\n", param.name, param.about)),
                Kind::Word(words) => {
                    doc.push_str(&format!("<{0}>{optional}{1}</{0}>\n", param.name, words.join(" | ")))
                }
                _ => doc.push_str(&format!("<{0}>{optional}{1}</{0}>\n", param.name, param.about)),
            }
        }
        doc.push_str("</call>\n");
        doc
    }

    /// Returns the signature in one line, as errors show it.
    pub fn signature(&self) -> String {
        let params: Vec<String> = self
            .params
            .iter()
            .map(|param| format!("{}{}", param.name, if param.required { "" } else { "?" }))
            .collect();
        format!("{}({})", self.name, params.join(", "))
    }

    /// Checks arguments as a model gave them. Numbers and objects written as text are read; every problem is named by its field.
    pub fn check(&self, given: &Map<String, Value>) -> Result<Arguments, Vec<String>> {
        let mut arguments = Arguments::new();
        let mut problems = Vec::new();
        for param in &self.params {
            let names = std::iter::once(param.name).chain(param.aliases.iter().copied());
            let value = names.filter_map(|name| given.get(name)).find(|value| !value.is_null());
            match value.map(|value| read(param, value)) {
                Some(Ok(value)) => {
                    arguments.insert(param.name.to_owned(), value);
                }
                Some(Err(problem)) => problems.push(format!("`{}`: {problem}", param.name)),
                None if param.required => {
                    problems.push(format!("`{}`: missing; expected {}", param.name, expected(&param.kind)))
                }
                None => {}
            }
        }
        if !problems.is_empty() {
            let known = |name: &&String| {
                !self
                    .params
                    .iter()
                    .any(|param| param.name == name.as_str() || param.aliases.contains(&name.as_str()))
            };
            problems.extend(given.keys().filter(known).map(|name| {
                format!(
                    "`{}`: not an argument of {}",
                    crate::tools::output::one_line(name, 40),
                    self.name
                )
            }));
            return Err(problems);
        }
        Ok(arguments)
    }
}

fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::Body => "a string".into(),
        Kind::Integer { min } => format!("a whole number of at least {min}"),
        Kind::Word(words) => format!("one of {}", words.join(", ")),
        Kind::Object => "an object".into(),
    }
}

fn read(param: &Param, value: &Value) -> Result<Value, String> {
    let wrong = || {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "a boolean".into(),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) => format!("{:?}", crate::tools::output::one_line(text, 40)),
            Value::Array(_) => "a list".into(),
            Value::Object(_) => "an object".into(),
        };
        format!("expected {}, found {found}", expected(&param.kind))
    };
    match (&param.kind, value) {
        (Kind::Text | Kind::Body, Value::String(_)) => Ok(value.clone()),
        (Kind::Text | Kind::Body, Value::Number(number)) => Ok(json!(number.to_string())),
        (Kind::Integer { min }, Value::Number(number)) => {
            let whole = number.as_i64().or_else(|| {
                number
                    .as_f64()
                    .filter(|n| n.fract() == 0.0 && n.abs() < 1e15)
                    .map(|n| n as i64)
            });
            whole.filter(|n| n >= min).map(|n| json!(n)).ok_or_else(wrong)
        }
        (Kind::Integer { min }, Value::String(text)) => text
            .trim()
            .parse::<i64>()
            .ok()
            .filter(|n| n >= min)
            .map(|n| json!(n))
            .ok_or_else(wrong),
        (Kind::Word(words), Value::String(text)) => {
            let same = |word: &&&str| {
                word.eq_ignore_ascii_case(text.trim()) || word.replace('-', "_").eq_ignore_ascii_case(text.trim())
            };
            words.iter().find(same).map(|word| json!(word)).ok_or_else(wrong)
        }
        (Kind::Object, Value::Object(_)) => Ok(value.clone()),
        (Kind::Object, Value::String(text)) => serde_json::from_str::<Map<String, Value>>(text)
            .map(Value::Object)
            .map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// Returns the schema of one call to any of the tools, for servers that force replies into a schema.
pub fn any_call_schema(tools: &[ToolSpec]) -> Value {
    let calls: Vec<Value> = tools
        .iter()
        .map(|tool| {
            json!({
                "type": "object",
                "properties": {"thought": {"type": "string"}, "tool": {"const": tool.name}, "arguments": tool.json_schema()},
                "required": ["tool", "arguments"],
                "additionalProperties": false,
            })
        })
        .collect();
    json!({"anyOf": calls})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn spec() -> ToolSpec {
        ToolSpec {
            name: "sample",
            description: "Does things.",
            params: vec![
                Param::required("path", Kind::Text, "the file").also(&["file_path"]),
                Param::optional("limit", Kind::Integer { min: 1 }, "lines"),
                Param::optional("verdict", Kind::Word(&["GO", "NO-GO"]), "the end"),
                Param::optional("extra", Kind::Object, "more"),
            ],
        }
    }

    fn check(given: Value) -> Result<Value, String> {
        spec()
            .check(given.as_object().unwrap())
            .map(Value::Object)
            .map_err(|problems| problems.join("; "))
    }

    #[test]
    fn arguments_are_read_leniently_and_refused_by_field() {
        assert_eq!(
            check(json!({"file_path": "a", "limit": "3", "verdict": "no_go", "extra": "{\"a\":1}", "thought": "x"}))
                .unwrap(),
            json!({"path": "a", "limit": 3, "verdict": "NO-GO", "extra": {"a": 1}})
        );
        assert_eq!(
            check(json!({"path": "a", "limit": 2.0, "extra": null})).unwrap(),
            json!({"path": "a", "limit": 2})
        );
        let error = check(json!({"file": "a", "limit": 0})).unwrap_err();
        assert_eq!(
            error,
            "`path`: missing; expected a string; `limit`: expected a whole number of at least 1, found the number 0; `file`: not an argument of sample"
        );
        assert!(check(json!({"path": ["a"]})).unwrap_err().contains("found a list"));
    }

    #[test]
    fn schema_and_documentation_name_the_same_arguments() {
        let schema = spec().json_schema();
        let doc = spec().text_doc();
        for param in spec().params {
            assert!(schema["properties"].get(param.name).is_some());
            assert!(doc.contains(&format!("<{}>", param.name)));
        }
        assert_eq!(schema["required"], json!(["path"]));
    }
}
