//! How a coder's session is set: what its Agent and model profile say, and what the task may spend.

use std::time::Duration;

use kube::api::Api;
use schemas::Agent;
use schemas::agent::AgentSpec;
use schemas::agentic_task::FailureReason;

use super::ground::Ground;
use crate::budget::Budget;
use crate::coder::{AgentSettings, Role, StuckLoop};
use crate::executor::{Run, endpoint};
use crate::outcome::Outcome;

pub(super) async fn settings(run: &Run, agent: &Agent, asked: &endpoint::Asked) -> Result<AgentSettings, Outcome> {
    let spec = &agent.spec;
    let defaults = AgentSettings::default();
    let profile = match spec.model_profile_ref.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let api: Api<schemas::ModelProfile> = Api::all(run.services.client.clone());
            run.read(&api, name).await.map_err(|error| {
                Outcome::failed(
                    FailureReason::InfrastructureError,
                    format!("failed to read ModelProfile {name}: {error}"),
                )
            })?
        }
        None => None,
    };
    let said = spec
        .stuck_loop_detection
        .clone()
        .or_else(|| profile.as_ref()?.spec.stuck_loop_detection.clone())
        .unwrap_or_default();
    let base = StuckLoop::default();
    let small =
        |value: Option<i64>, default: u32| value.map_or(default, |value| value.clamp(0, i64::from(u32::MAX)) as u32);
    let window = small(
        spec.context_window_tokens.filter(|n| *n > 0),
        defaults.context_window_tokens,
    );
    let window = match asked.window {
        Some(served) if spec.context_window_tokens.is_none() => served,
        Some(served) => window.min(served),
        None => window,
    };
    Ok(AgentSettings {
        role: Role::Coder,
        system_prompt: spec.system_prompt.clone().unwrap_or_default(),
        system_prompt_addendum: profile
            .and_then(|profile| profile.spec.system_prompt_addendum)
            .unwrap_or_default(),
        protocol: asked.protocol,
        context_window_tokens: window,
        max_output_tokens: small(spec.max_output_tokens.filter(|n| *n > 0), defaults.max_output_tokens)
            .min(window / 2)
            .max(256),
        observation_window_turns: match spec.context_strategy {
            schemas::agent::ContextStrategy::Window => {
                small(spec.observation_window_turns, defaults.observation_window_turns)
            }
            schemas::agent::ContextStrategy::Session => 0,
        },
        working_set_tokens: defaults.working_set_tokens,
        stuck: StuckLoop {
            repeated_tool_threshold: small(said.repeated_tool_threshold, base.repeated_tool_threshold),
            edit_free_turns_limit: small(said.edit_free_turns_limit, base.edit_free_turns_limit),
            context_soft_cap: said.context_soft_cap.map_or(base.context_soft_cap, |n| n.max(0) as u64),
            context_hard_cap: said.context_hard_cap.map_or(base.context_hard_cap, |n| n.max(0) as u64),
        },
        temperature: spec.temperature.as_deref().and_then(|text| text.parse().ok()),
        chat_template_kwargs: spec.chat_template_kwargs.clone().unwrap_or_default(),
    })
}

pub(super) fn budget(run: &Run, agent: &Agent, ground: &Ground) -> Budget {
    let said = run.task.spec.budget.clone().unwrap_or_default();
    let turns = said
        .turns
        .map_or(agent.spec.max_turns, |turns| turns.min(agent.spec.max_turns));
    let used = ground
        .workload
        .as_ref()
        .and_then(|w| w.status.as_ref()?.usage.clone())
        .unwrap_or_default();
    let spent = used.prompt_tokens + used.completion_tokens;
    Budget {
        turns: turns.clamp(1, 500) as u32,
        tokens: said.tokens.map(|tokens| (tokens - spent).max(1) as u64),
        wall: run.limit,
        idle: Some(silence(&agent.spec)),
    }
}

/// Returns how long a run may go without a sign of life: no request and no command may take longer.
fn silence(spec: &AgentSpec) -> Duration {
    let seconds = spec.request_timeout_seconds.max(spec.bash_timeout_seconds).max(1);
    Duration::from_secs(seconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_request_or_command_says_how_long_a_run_may_be_silent() {
        for (request, bash, seconds) in [(3600, 30, 3600), (10, 600, 600), (-1, 0, 1)] {
            let spec = AgentSpec {
                request_timeout_seconds: request,
                bash_timeout_seconds: bash,
                ..AgentSpec::default()
            };
            assert_eq!(silence(&spec), Duration::from_secs(seconds));
        }
    }
}
