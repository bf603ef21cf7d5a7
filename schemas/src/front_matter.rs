//! The front matter of a Markdown task file.

use std::sync::OnceLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration;
use crate::shared::{Budget, GateCommands, GateLanguage, GateProfile, TestLayout};
use crate::structural::{self, Synonyms};

/// What stands between the `---` lines at the head of a Markdown task file; the body is the prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrontMatter {
    /// Title, for people; unset means the first heading, then the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub title: Option<String>,
    /// Target repository: `owner/name` or a URL; unset means the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub repo: Option<String>,
    /// Branch that the work branch is cut from and the gate compares with; unset means the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base: Option<String>,
    /// Work branch; unset means one named after the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub branch: Option<String>,
    /// Name of the Agent that writes the change; unset means the queue's coder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub agent: Option<String>,
    /// Name of the Agent that runs the gate; unset means the queue's verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub verifier: Option<String>,
    /// Names of the Agents that read the change; unset means the queue's reviewers, an empty list means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewers: Option<OneOrMany>,
    /// Work of higher priority starts first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Paths of task files of the same queue that must be done first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends: Option<OneOrMany>,
    /// What the work may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What the gate runs: the name of a preset, or commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// How long one step may take, as a duration such as `45m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    pub timeout: Option<String>,
    /// Whether a pull request is opened; unset means the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_pull_request: Option<bool>,
    /// Number of the issue that the work is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub issue: Option<i64>,
}

/// Words that people write for keys of the front matter, with the key or a piece of advice.
pub const SYNONYMS: Synonyms = &[
    ("agentRef", "agent"),
    ("coder", "agent"),
    ("coderAgentRef", "agent"),
    ("baseBranch", "base"),
    ("base_branch", "base"),
    ("repository", "repo"),
    ("url", "repo"),
    ("dependsOn", "depends"),
    ("depends_on", "depends"),
    ("dependencies", "depends"),
    ("after", "depends"),
    ("gateProfile", "gate"),
    ("verifierAgentRef", "verifier"),
    ("reviewer", "reviewers"),
    ("reviewerAgentRefs", "reviewers"),
    ("timeoutSeconds", "timeout"),
    ("name", "title"),
    (
        "prompt",
        "write the prompt below the front matter, as the body of the file",
    ),
    (
        "intent",
        "write the prompt below the front matter, as the body of the file",
    ),
    (
        "description",
        "write the prompt below the front matter, as the body of the file",
    ),
    ("rounds", "write it as budget: {rounds: …}"),
    ("turns", "write it as budget: {turns: …}"),
    ("tokens", "write it as budget: {tokens: …}"),
    ("seconds", "write it as budget: {seconds: …}"),
    ("model", "the Agent names the model; choose one with agent: …"),
];

impl FrontMatter {
    /// Returns the schema that front matter is checked against.
    pub fn schema() -> &'static Value {
        static SCHEMA: OnceLock<Value> = OnceLock::new();
        SCHEMA.get_or_init(structural::of_type::<Self>)
    }

    /// Returns the timeout in whole seconds, rounded up.
    pub fn timeout_seconds(&self) -> Option<i64> {
        let timeout = duration::parse(self.timeout.as_deref()?).ok()?;
        i64::try_from(timeout.as_millis().div_ceil(1000)).ok()
    }
}

/// One text or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, or none.
    Many(Vec<String>),
}

impl OneOrMany {
    /// Returns the texts.
    pub fn items(&self) -> Vec<&str> {
        match self {
            Self::One(item) => vec![item],
            Self::Many(items) => items.iter().map(String::as_str).collect(),
        }
    }
}

impl JsonSchema for OneOrMany {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMany".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "items": { "type": "string", "minLength": 1 } }
            ]
        })
    }
}

/// A gate as front matter says it: a preset's name, or commands beside the fields of a profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Gate {
    /// Name of a preset.
    Preset(GateLanguage),
    /// Commands and settings.
    Profile(Box<GateFields>),
}

/// The fields of a gate profile with the commands beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateFields {
    /// Command that checks the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Command that lints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lint: Option<String>,
    /// Command that builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Command that tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// Command that checks generated files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codegen_check: Option<String>,
    /// The same commands under one key, as a manifest writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<GateCommands>,
    /// Image in which the steps run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Preset that the commands replace parts of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<GateLanguage>,
    /// File name extensions that count as source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_extensions: Option<Vec<String>>,
    /// Where tests lie relative to the code that they cover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_layout: Option<TestLayout>,
}

impl JsonSchema for Gate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Gate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let preset = GateLanguage::json_schema(generator);
        let fields = GateFields::json_schema(generator);
        json_schema!({ "anyOf": [preset, fields] })
    }
}

impl Gate {
    /// Returns the profile that the gate means.
    pub fn profile(&self) -> GateProfile {
        match self {
            Self::Preset(language) => GateProfile {
                language: Some(*language),
                ..Default::default()
            },
            Self::Profile(fields) => fields.profile(),
        }
    }
}

impl GateFields {
    fn profile(&self) -> GateProfile {
        let inner = self.commands.clone().unwrap_or_default();
        let commands = GateCommands {
            format: self.format.clone().or(inner.format),
            lint: self.lint.clone().or(inner.lint),
            build: self.build.clone().or(inner.build),
            test: self.test.clone().or(inner.test),
            codegen_check: self.codegen_check.clone().or(inner.codegen_check),
        };
        GateProfile {
            commands: Some(commands).filter(|commands| *commands != GateCommands::default()),
            image: self.image.clone(),
            language: self.language,
            source_extensions: self.source_extensions.clone(),
            test_layout: self.test_layout.clone(),
        }
    }
}

/// A Markdown text, split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// Front matter without its `---` lines; empty where there is none.
    pub front: &'a str,
    /// Lines of the file before the front matter.
    pub front_line: usize,
    /// Body.
    pub body: &'a str,
    /// Lines of the file before the body.
    pub body_line: usize,
}

/// Splits a Markdown text into front matter and body; `None` where the front matter does not end.
pub fn split(text: &str) -> Option<Split<'_>> {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    if first.trim_end() != "---" {
        return Some(Split {
            front: "",
            front_line: 0,
            body: text,
            body_line: 0,
        });
    }
    let start = first.len();
    let mut end = start;
    for (at, line) in lines.enumerate() {
        if matches!(line.trim_end(), "---" | "...") {
            let body = &text[end + line.len()..];
            return Some(Split {
                front: &text[start..end],
                front_line: 1,
                body,
                body_line: at + 2,
            });
        }
        end += line.len();
    }
    None
}

/// Returns the text of the first heading of a Markdown body, outside of fenced code.
pub fn first_heading(body: &str) -> Option<String> {
    let mut fenced = false;
    for line in body.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            fenced = !fenced;
            continue;
        }
        let text = trimmed.trim_start_matches('#');
        let level = trimmed.len() - text.len();
        if !fenced && (1..=6).contains(&level) && text.starts_with([' ', '\t']) {
            let heading = text.trim().trim_end_matches('#').trim();
            if !heading.is_empty() {
                return Some(heading.to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn front_matter_and_body_are_split_with_their_lines() {
        let parts = split("---\ntitle: x\n---\nbody\n").unwrap();
        assert_eq!(
            parts,
            Split {
                front: "title: x\n",
                front_line: 1,
                body: "body\n",
                body_line: 3
            }
        );
        assert_eq!(split("---\r\na: 1\r\n---\r\nb").unwrap().body, "b");
        assert_eq!(split("just text\n---\n").unwrap().front, "");
        assert_eq!(split("---\n---\nx").unwrap().front, "");
        assert_eq!(split("---\ntitle: x\nbody"), None);
    }

    #[test]
    fn the_first_heading_outside_of_code_is_found() {
        assert_eq!(
            first_heading("text\n```\n# no\n```\n## Fix the parser ##\n").as_deref(),
            Some("Fix the parser")
        );
        assert_eq!(first_heading("#hashtag\nno heading"), None);
    }

    #[test]
    fn a_gate_is_a_preset_or_commands_in_either_place() {
        let read = |text: &str| {
            serde_json::from_value::<Gate>(crate::yaml::parse_value(text).unwrap())
                .unwrap()
                .profile()
        };
        assert_eq!(read("rust").language, Some(GateLanguage::Rust));
        let flat = read("{test: make test, image: x}");
        assert_eq!(flat, read("{commands: {test: make test}, image: x}"));
        assert_eq!(flat.commands.unwrap().test.as_deref(), Some("make test"));
        assert_eq!(read("{image: x}").commands, None);
    }
}
