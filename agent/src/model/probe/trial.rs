//! The trial of a probe: the model is asked for one call in each protocol, and what comes is judged.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::asker::Asker;
use super::{Ability, ProbeReport};
use crate::coder::recover;
use crate::model::openai::{Endpoint, OpenAi};
use crate::model::{Finish, Message, ModelError, Protocol, Provider, Reply, Request, Speaker};
use crate::tools::output::one_line;
use crate::tools::schema::{Kind, Param, ToolSpec};

/// The protocols from the best to the last.
const ORDER: [Protocol; 3] = [Protocol::Native, Protocol::Text, Protocol::JsonSchema];
/// Longest reply of a trial, in tokens: a model that thinks first needs room for that.
const REPLY_TOKENS: u32 = 4096;

/// Says what one trial came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trial {
    /// The call came.
    Works,
    /// The model, or its server, does not do it.
    Fails(String),
    /// The server failed in a way that may lie in the protocol, and may not: another protocol that works tells.
    Broken(String),
    /// What came says nothing about the protocol.
    Unclear(String),
    /// The server is too slow: more questions help nobody.
    Slow(String),
    /// The server is not there now, or loads its model: it may answer soon.
    Away(String),
}

impl Asker<'_> {
    /// Asks the model for one call in each protocol until one works; returns what a person should know.
    pub(super) async fn try_protocols(
        &self,
        report: &mut ProbeReport,
        model: &str,
        limit: Duration,
    ) -> Result<Vec<String>, ModelError> {
        let mut endpoint = Endpoint::new(self.base.as_str(), model);
        endpoint.api_key = self.settings.api_key.clone();
        endpoint.ca_bundle = self.settings.ca_bundle.clone();
        endpoint.turn_timeout = limit;
        endpoint.max_retries = 1;
        let provider = OpenAi::new(endpoint)?;
        let room = report.window.as_ref().filter(|window| window.certain);
        let max_tokens = room.map_or(REPLY_TOKENS, |window| REPLY_TOKENS.min(window.tokens / 2).max(1));
        let until = Instant::now() + limit;
        let mut trials = Vec::new();
        for protocol in ORDER {
            let request = self.question(protocol, max_tokens);
            let trial = match timeout_at(until, provider.complete(&request, &|| {})).await {
                Err(_) => Trial::Slow(format!("no whole reply came within {} s", limit.as_secs())),
                Ok(Ok(reply)) => judge(protocol, &reply),
                Ok(Err(error)) => blame(error)?,
            };
            let over = matches!(trial, Trial::Works | Trial::Slow(_) | Trial::Away(_));
            trials.push((protocol, trial));
            if over {
                break;
            }
        }
        Ok(conclude(report, trials))
    }

    fn question(&self, protocol: Protocol, max_tokens: u32) -> Request {
        let tools = vec![tool()];
        let settings = crate::coder::AgentSettings::default();
        let system = crate::prompt::system(&settings, protocol, &tools);
        Request {
            messages: vec![
                Message::text(Speaker::System, system),
                Message::text(Speaker::User, "Call the tool `report` once, with the word ready."),
            ],
            tools,
            protocol,
            max_tokens,
            temperature: Some(0.0),
            chat_template_kwargs: self.settings.chat_template_kwargs.clone(),
        }
    }
}

fn tool() -> ToolSpec {
    ToolSpec {
        name: "report",
        description: "Reports one word.",
        params: vec![Param::required("word", Kind::Text, "the word")],
    }
}

/// Judges what came in place of the call that was asked for.
fn judge(protocol: Protocol, reply: &Reply) -> Trial {
    let called = match (protocol, reply.calls.first()) {
        (Protocol::Native, None) => None,
        (Protocol::Native, Some(call)) => Some((call.name.clone(), recover::read_json(&call.arguments))),
        _ => recover::find_calls(&reply.content, &[tool()])
            .into_iter()
            .next()
            .map(|found| (found.name, Some(Value::Object(found.arguments)))),
    };
    match called {
        Some((name, Some(arguments))) if name == "report" && arguments.get("word").is_some() => Trial::Works,
        _ if reply.finish == Finish::Length => Trial::Unclear(format!(
            "the reply was cut after {} tokens, before a call came",
            reply.usage.completion
        )),
        Some((name, _)) => Trial::Fails(format!(
            "a call of {:?} came, but not with the argument asked for",
            one_line(&name, 40)
        )),
        None => Trial::Fails(format!("no call came, but {:?}", one_line(&reply.content, 80))),
    }
}

/// Says what an error tells about the protocol; those that no protocol would mend come back.
fn blame(error: ModelError) -> Result<Trial, ModelError> {
    let words = one_line(&error.to_string(), 200);
    if error.is_away() {
        return Ok(Trial::Away(words));
    }
    Ok(match error {
        // 404 is also how a server says that it has not got the model yet.
        ModelError::Status { status, .. } => match status {
            404 | 408 | 425 => Trial::Unclear(words),
            // Some servers answer like this where a template knows no tools.
            500 | 501 => Trial::Broken(words),
            505.. => Trial::Unclear(words),
            _ => Trial::Fails(words),
        },
        ModelError::Malformed { .. } | ModelError::TooManyCalls { .. } => Trial::Fails(words),
        ModelError::TooLarge { .. } | ModelError::ContextOverflow { .. } => Trial::Unclear(words),
        ModelError::Unreachable { .. }
        | ModelError::Cut { .. }
        | ModelError::TurnTimeout { .. }
        | ModelError::Idle { .. } => Trial::Slow(words),
        other => return Err(other),
    })
}

/// Writes into the report what the trials came to; returns what a person should know.
fn conclude(report: &mut ProbeReport, trials: Vec<(Protocol, Trial)>) -> Vec<String> {
    let working = trials.iter().find(|(_, trial)| *trial == Trial::Works);
    let working = working.map(|(protocol, _)| *protocol);
    report.is_away = matches!(trials.last(), Some((_, Trial::Away(_))));
    let mut warnings = Vec::new();
    for (protocol, trial) in trials {
        let ability = match trial {
            Trial::Works => Ability::Works,
            Trial::Fails(words) => Ability::Fails(words),
            Trial::Broken(words) if working.is_some() => Ability::Fails(words),
            Trial::Broken(words) | Trial::Unclear(words) | Trial::Slow(words) | Trial::Away(words) => {
                warnings.push(format!("whether {} works is not known: {words}", calls(protocol)));
                Ability::NotTried
            }
        };
        match protocol {
            Protocol::Native => report.native_tools = ability,
            Protocol::Text => report.text = ability,
            Protocol::JsonSchema => report.json_schema = ability,
        }
    }
    report.protocol = match working {
        Some(protocol) => protocol,
        // Most models have native calls: only one that was seen without them is asked in text.
        None if report.native_tools == Ability::NotTried => Protocol::Native,
        None => Protocol::Text,
    };
    if warnings.is_empty() && working.is_none() {
        warnings.push(
            "the model brought no tool call in any protocol; plain text is used, and runs will probably fail".into(),
        );
    }
    warnings
}

fn calls(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Native => "calling tools natively",
        Protocol::Text => "calling tools in text",
        Protocol::JsonSchema => "calling tools as JSON",
    }
}

#[cfg(test)]
mod tests;
