//! The coder loop: a model, its tools, and the rules by which a run goes on or ends.
//!
//! [`machine`] is the rules: a pure function of state and event. [`run()`] is the I/O around it. Everything else
//! here is a part of the rules: what the model sees ([`conversation`]), what it asked for ([`extract`],
//! [`recover`]), and whether it goes round in circles ([`circles`]).

pub mod circles;
pub mod conversation;
pub mod extract;
pub mod machine;
pub mod recover;
pub mod run;
pub mod worktree;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::{Protocol, Usage};

pub use machine::{Action, Event, State};
pub use run::{Session, run};

/// Smallest served window with which a run is worth starting, in tokens.
pub const CONTEXT_FLOOR: u32 = 8192;

/// Names what the model is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Changes the work tree.
    #[default]
    Coder,
    /// Judges a change.
    Reviewer,
}

/// Holds what an Agent says about its model and its rules, with the published defaults.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// What the model is there for.
    pub role: Role,
    /// `systemPrompt` of the Agent.
    pub system_prompt: String,
    /// `systemPromptAddendum` of the ModelProfile.
    pub system_prompt_addendum: String,
    /// How calls travel, as the probe found it.
    pub protocol: Protocol,
    /// The window that is really served, in tokens.
    pub context_window_tokens: u32,
    /// Longest reply, in tokens.
    pub max_output_tokens: u32,
    /// Turns whose tool outputs stay whole when older ones are replaced; 0 keeps all while they fit.
    pub observation_window_turns: u32,
    /// Prompt size at which older outputs are replaced, even where the window is larger, in tokens.
    pub working_set_tokens: u64,
    /// When a run counts as stuck.
    pub stuck: StuckLoop,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Extra variables of the chat template.
    pub chat_template_kwargs: Map<String, Value>,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            role: Role::Coder,
            system_prompt: String::new(),
            system_prompt_addendum: String::new(),
            protocol: Protocol::Native,
            context_window_tokens: 32_768,
            max_output_tokens: 8192,
            observation_window_turns: 3,
            working_set_tokens: 20_000,
            stuck: StuckLoop::default(),
            temperature: None,
            chat_template_kwargs: Map::new(),
        }
    }
}

/// Holds `stuckLoopDetection`; 0 turns a rule off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StuckLoop {
    /// The same call with the same result, so many times in a row.
    pub repeated_tool_threshold: u32,
    /// So many turns without a change of the work tree.
    pub edit_free_turns_limit: u32,
    /// Prompt size at which older outputs are replaced, in tokens.
    pub context_soft_cap: u64,
    /// Prompt size that is never sent, in tokens.
    pub context_hard_cap: u64,
}

impl Default for StuckLoop {
    fn default() -> Self {
        Self {
            repeated_tool_threshold: 5,
            edit_free_turns_limit: 15,
            context_soft_cap: 90_000,
            context_hard_cap: 140_000,
        }
    }
}

/// Holds the task as the model is told it.
#[derive(Clone, Debug, Default)]
pub struct TaskText {
    /// The stem of the task's file, or its name where there is no file.
    pub stem: String,
    /// The round of the Workload, from 1.
    pub round: u32,
    /// What goes before the task (`promptPrefix`).
    pub prefix: String,
    /// The task.
    pub text: String,
    /// What the last round's gate or reviewer said.
    pub feedback: Option<Feedback>,
    /// What is known about the repository.
    pub facts: Facts,
}

/// Holds what sent the work back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The gate failed.
    Gate {
        /// The first step that failed.
        step: String,
        /// The tail of its log.
        log_tail: String,
    },
    /// A reviewer said no.
    Review {
        /// What the reviewer found.
        findings: String,
    },
}

/// Holds what is known about the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its name or URL, without credentials.
    pub repository: String,
    /// The branch that the work is cut from.
    pub base_branch: String,
    /// Its main language.
    pub language: String,
    /// Names at the top of the work tree.
    pub top_level: Vec<String>,
    /// The commands by which the gate judges.
    pub checks: Vec<String>,
    /// Patterns of paths that may not be changed.
    pub protected: Vec<String>,
    /// What the repository itself asks of contributors (AGENTS.md).
    pub guidelines: String,
}

/// Names the outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Done, or good.
    #[serde(rename = "GO")]
    Go,
    /// Declined, or not good enough.
    #[serde(rename = "NO-GO")]
    NoGo,
    /// Ended before a verdict.
    #[serde(rename = "INCOMPLETE")]
    Incomplete,
}

impl Verdict {
    /// Returns the published word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Go => "GO",
            Self::NoGo => "NO-GO",
            Self::Incomplete => "INCOMPLETE",
        }
    }
}

/// Names why a run could not come to an outcome, in the published words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// No model answers.
    InferenceServiceUnavailable,
    /// The key is missing or wrong, or what it may spend is used up.
    AuthUnavailable,
    /// The model does not keep to the protocol, or goes round in circles.
    ModelMisunderstood,
    /// The tools themselves fail.
    ToolFailed,
    /// The turns or tokens are spent.
    MaxTurnsExhausted,
    /// A protected path was changed.
    ConstraintViolated,
    /// The time is over.
    Timeout,
    /// The node fails.
    InfrastructureError,
    /// The model says that it cannot be done.
    ModelReportedError,
}

impl FailureReason {
    /// Returns the published word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InferenceServiceUnavailable => "InferenceServiceUnavailable",
            Self::AuthUnavailable => "AuthUnavailable",
            Self::ModelMisunderstood => "ModelMisunderstood",
            Self::ToolFailed => "ToolFailed",
            Self::MaxTurnsExhausted => "MaxTurnsExhausted",
            Self::ConstraintViolated => "ConstraintViolated",
            Self::Timeout => "Timeout",
            Self::InfrastructureError => "InfrastructureError",
            Self::ModelReportedError => "ModelReportedError",
        }
    }
}

/// Names how a run ended, finer than verdict and failure reason; it goes to `result.extra.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Ending {
    /// The model handed in a result.
    Submitted,
    /// The model said GO and had changed nothing, twice.
    EmptyDiff,
    /// The change touches a protected path, or the task needs one.
    ProtectedPath,
    /// Three replies in a row held no call that could be run.
    FormatErrors,
    /// Three replies in a row held text only.
    NoToolCall,
    /// Three replies in a row were empty.
    EmptyReplies,
    /// Three replies in a row held thoughts only.
    ReasoningOnly,
    /// Three replies in a row were cut at the limit of output tokens, or had no end.
    RepliesCut,
    /// The same calls brought the same results again and again.
    StuckLoop,
    /// Too many turns changed nothing.
    NoEdits,
    /// The conversation does not fit the window, whatever is left out.
    ContextExhausted,
    /// The turns are spent.
    TurnsExhausted,
    /// The tokens are spent.
    TokensExhausted,
    /// The time is over.
    WallTimeExhausted,
    /// Nothing happened for too long.
    IdleTimeExhausted,
    /// The tools failed three times in a row.
    ToolsFailed,
    /// The model server fails.
    ModelUnavailable,
    /// The model server does not answer in time.
    ModelTimeout,
    /// The model server refuses our key, or that it spends any more.
    ModelAuth,
    /// The recorded session is missing or over.
    RecordingExhausted,
    /// The change could not be looked at, or the journal not be written.
    Infrastructure,
    /// The run was cancelled.
    Cancelled,
}

/// Holds how a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The outcome.
    pub verdict: Verdict,
    /// Why there is none, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<FailureReason>,
    /// How it ended, by its finer name.
    pub ending: Ending,
    /// One printable line of at most 280 characters.
    pub summary: String,
    /// The message of the commit; empty where the model gave none.
    #[serde(default)]
    pub commit_message: String,
    /// What was spent.
    pub usage: Usage,
    /// Replies asked for.
    pub turns: u32,
    /// Tool calls run.
    pub tool_calls: u32,
    /// True where the model's words were played from a recording.
    pub replay: bool,
    /// Paths that differ from the start, as far as the run looked.
    #[serde(default)]
    pub changed: Vec<String>,
    /// What the model added, and counts of the run.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl End {
    /// Tells whether the run was given up from outside and says nothing about the work.
    pub fn is_cancelled(&self) -> bool {
        self.ending == Ending::Cancelled
    }
}
