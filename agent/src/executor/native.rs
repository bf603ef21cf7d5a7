//! The native executor: Foreman's own loop, tools and gate.

use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::agent::{AgentRole, ExecutionMode};
use schemas::agentic_task::{FailureReason, TaskKind};
use schemas::{Agent, AgenticTask};

use super::{Executor, Run, coder, job, verifier};
use crate::outcome::Outcome;

/// Carries out tasks by their Agent's role.
pub struct Native;

impl Executor for Native {
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome> {
        async move {
            let mut outcome = match dispatch(run).await {
                Ok(outcome) | Err(outcome) => outcome,
            };
            outcome
                .result
                .entry("kind")
                .or_insert_with(|| serde_json::json!(run.task.spec.kind.as_str()));
            outcome
        }
        .boxed()
    }
}

async fn dispatch(run: &Run) -> Result<Outcome, Outcome> {
    let kind = run.task.spec.kind;
    if asks_for_nothing(&run.task, run.agent.as_ref()) {
        return Ok(Outcome {
            summary: format!(
                "node {} took the task; it names no repository and no coder, so that nothing was to be done",
                run.services.config.node_name
            ),
            ..Outcome::default()
        });
    }
    let Some(agent) = &run.agent else {
        return match kind {
            TaskKind::Verify => verifier::run(run).await,
            _ => Err(Outcome::failed(
                FailureReason::AgentNotFound,
                format!(
                    "a task of kind {} needs spec.agentRef on a native node; see `foreman get agents`",
                    kind.as_str()
                ),
            )),
        };
    };
    if agent.spec.is_deterministic() {
        let first = agent.spec.tools.iter().find(|tool| *tool != "submit_result");
        return match first.map(String::as_str) {
            Some("run_gate_job") => verifier::run(run).await,
            Some(tool) => Err(Outcome::failed(
                FailureReason::NotSupportedYet,
                format!("the deterministic tool {tool} is not supported yet; supported: run_gate_job"),
            )),
            None => Err(Outcome::failed(
                FailureReason::ToolFailed,
                "a deterministic Agent needs a tool other than submit_result, such as run_gate_job",
            )),
        };
    }
    match (agent.spec.role, kind) {
        (AgentRole::Coder, TaskKind::IssueFix | TaskKind::Freeform) => match &agent.spec.execution {
            Some(execution) if execution.mode == ExecutionMode::Job => job::run(run, agent, execution).await,
            _ => coder::run(run, agent).await,
        },
        (role, kind) => Err(Outcome::failed(
            FailureReason::NotSupportedYet,
            format!(
                "an Agent of role {} for a task of kind {} is not supported yet",
                role.as_str(),
                kind.as_str()
            ),
        )),
    }
}

/// Says whether a task only asks whether a node takes it, as the published smoke test of a verifier does.
fn asks_for_nothing(task: &AgenticTask, agent: Option<&Agent>) -> bool {
    let repo = task.spec.payload.repo.as_deref().unwrap_or_default();
    task.spec.kind == TaskKind::Freeform
        && repo.trim().is_empty()
        && agent.is_none_or(|agent| agent.spec.is_deterministic() && agent.spec.role != AgentRole::Coder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_freeform_task_without_repository_and_coder_asks_for_nothing() {
        let task = |kind: &str, payload: serde_json::Value| -> AgenticTask {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask", "metadata": { "name": "smoke" },
                "spec": { "kind": kind, "requiredCapability": { "roles": ["verifier"] }, "payload": payload },
            }))
            .unwrap()
        };
        let agent = |role: &str, provider: serde_json::Value| -> Agent {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": role },
                "spec": { "role": role, "tools": ["submit_result"], "providerConfig": provider },
            }))
            .unwrap()
        };
        let smoke = task("freeform", json!({ "prompt": "Say that you are there." }));
        assert!(asks_for_nothing(&smoke, None));
        assert!(asks_for_nothing(&smoke, Some(&agent("verifier", json!(null)))));
        let coder = agent("coder", json!({ "baseURL": "http://127.0.0.1:1/v1", "model": "m" }));
        assert!(
            !asks_for_nothing(&smoke, Some(&coder)),
            "a coder was named: its work cannot be left out"
        );
        assert!(
            !asks_for_nothing(&smoke, Some(&agent("coder", json!(null)))),
            "one that lacks its model"
        );
        assert!(!asks_for_nothing(&task("freeform", json!({ "repo": "/r" })), None));
        assert!(
            !asks_for_nothing(&task("verify", json!({})), None),
            "a gate was asked for"
        );
    }
}
