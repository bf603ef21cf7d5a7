//! What is wrong with an Agent, and what of it nothing acts on yet. Pure.

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use schemas::agent::{AgentRole, Execution, ExecutionMode, ModelProvider};
use schemas::{Agent, tools};
use serde_json::Value;

/// Tools that are built, besides those of every coder.
const BUILT: [&str; 2] = ["run_gate_job", "fetch_issue"];

/// Tools that are known by name and not built yet.
const LATER: [&str; 3] = ["fetch_pull_request", "run_integrate", "run_reconcile"];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Why the Agent cannot work.
    pub problems: Vec<String>,
    /// Fields that nothing acts on yet.
    pub unsupported: Vec<String>,
}

/// Looks at an Agent; `has_profile` says whether a ModelProfile exists.
pub fn validate(agent: &Agent, has_profile: &dyn Fn(&str) -> bool) -> Found {
    let spec = &agent.spec;
    let mut found = Found::default();
    for tool in spec.tools.iter().filter(|tool| !tool.starts_with("mcp__")) {
        if LATER.contains(&tool.as_str()) {
            found.unsupported.push(format!("spec.tools {tool:?}"));
        } else if !is_built(tool) {
            found.problems.push(format!(
                "spec.tools names {tool:?}, which is no tool{}",
                suggestion(tool)
            ));
        }
    }
    let first = spec.tools.iter().find(|tool| *tool != "submit_result");
    if spec.is_deterministic() {
        match first {
            None => found.problems.push(
                "an Agent without a model needs a tool that runs without one, such as \"run_gate_job\"; or set spec.providerConfig".into(),
            ),
            Some(tool) if !tools::DETERMINISTIC.contains(&tool.as_str()) && is_built(tool) => {
                found.problems.push(format!(
                    "an Agent without a model runs its first tool directly, and {tool:?} cannot run without one; name \"run_gate_job\" first, or set spec.providerConfig"
                ));
            }
            Some(_) => {}
        }
    } else if spec
        .provider_config
        .as_ref()
        .is_some_and(|config| config.base_url.is_none())
        && (spec.provider == ModelProvider::CloudProxy
            || spec
                .inference_service_ref
                .as_ref()
                .and_then(|service| service.named())
                .is_none())
    {
        found
            .problems
            .push("spec.providerConfig has no baseURL; expected one such as http://127.0.0.1:8080/v1".into());
    }
    if let Some(profile) = spec.model_profile_ref.as_deref().filter(|name| !name.is_empty())
        && !has_profile(profile)
    {
        found.problems.push(format!(
            "spec.modelProfileRef names ModelProfile {profile:?}, which does not exist"
        ));
    }
    if spec.role == AgentRole::Planner {
        found.unsupported.push("spec.role planner".into());
    }
    if spec
        .execution
        .as_ref()
        .is_some_and(|execution| execution.mode == ExecutionMode::Job)
        && spec.role != AgentRole::Coder
    {
        // A gate is a Job already, and nobody else's work is built yet.
        found
            .unsupported
            .push(format!("spec.execution.mode Job for role {}", spec.role.as_str()));
    }
    if let Some(execution) = spec.execution.as_ref().filter(|it| it.mode == ExecutionMode::Job) {
        found.problems.extend(job_problems(execution));
    }
    if let Some(mcp) = &spec.mcp
        && (mcp.enabled == Some(true) || mcp.servers.as_ref().is_some_and(|servers| !servers.is_empty()))
    {
        found.unsupported.push("spec.mcp".into());
    }
    if spec.vision.as_ref().is_some_and(|vision| vision.enabled == Some(true)) {
        found.unsupported.push("spec.vision".into());
    }
    if spec.max_envtest_iterations.is_some_and(|iterations| iterations > 0) {
        found.unsupported.push("spec.maxEnvtestIterations".into());
    }
    found
}

/// Says what no Job can be made of.
fn job_problems(execution: &Execution) -> Vec<String> {
    let mut problems = Vec::new();
    let seconds = execution.active_deadline_seconds;
    if seconds < 1 {
        problems.push(format!(
            "spec.execution.activeDeadlineSeconds is {seconds}; expected 1 or more"
        ));
    }
    let resources = Value::Object(execution.resources.clone().unwrap_or_default());
    match serde_json::from_value::<ResourceRequirements>(resources) {
        Ok(resources) if resources.claims.is_some() => {
            problems.push("spec.execution.resources has claims; expected requests and limits".into());
        }
        Ok(_) => {}
        Err(error) => problems.push(format!(
            "spec.execution.resources cannot be read: {error}; expected requests and limits, as in a container"
        )),
    }
    let tolerations = execution
        .tolerations
        .iter()
        .flatten()
        .cloned()
        .map(Value::Object)
        .collect();
    if let Err(error) = serde_json::from_value::<Vec<Toleration>>(Value::Array(tolerations)) {
        problems.push(format!(
            "spec.execution.tolerations cannot be read: {error}; expected tolerations, as in a Pod"
        ));
    }
    problems
}

fn built() -> impl Iterator<Item = &'static str> {
    tools::CODER.into_iter().chain(BUILT)
}

fn is_built(tool: &str) -> bool {
    built().any(|built| built == tool)
}

/// Suggests the tool whose name is nearest, where one is near.
fn suggestion(name: &str) -> String {
    let known = built().chain(LATER);
    let nearest = known.map(|tool| (strsim::levenshtein(name, tool), tool)).min();
    match nearest {
        Some((distance, tool)) if distance <= 1 + name.chars().count() / 3 => format!("; did you mean {tool:?}?"),
        _ => format!("; known are {}", built().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn found(spec: serde_json::Value) -> Found {
        let agent: Agent = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": "a" }, "spec": spec
        }))
        .unwrap();
        validate(&agent, &|name| name == "known")
    }

    #[test]
    fn what_no_job_can_be_made_of_is_named() {
        let found = |mode: &str| {
            found(json!({
                "role": "coder", "tools": ["read_file"], "providerConfig": { "baseURL": "http://h/v1" },
                "execution": {
                    "mode": mode, "activeDeadlineSeconds": 0,
                    "resources": { "limits": { "nvidia.com/gpu": [1] } }, "tolerations": [{ "key": 7 }],
                },
            }))
        };
        let problems = found("Job").problems;
        let named = [
            "activeDeadlineSeconds is 0",
            "execution.resources",
            "execution.tolerations",
        ];
        assert_eq!(problems.len(), named.len(), "{problems:?}");
        for (problem, name) in problems.iter().zip(named) {
            assert!(problem.contains(name), "{problem}");
        }
        assert_eq!(
            found("InProcess").problems,
            Vec::<String>::new(),
            "nothing is made of it"
        );
    }

    #[test]
    fn an_unknown_tool_is_named_with_a_suggestion() {
        let found = found(
            json!({ "role": "coder", "tools": ["read_fil", "mcp__x__y"], "providerConfig": { "baseURL": "http://h/v1" } }),
        );
        assert_eq!(
            found.problems,
            ["spec.tools names \"read_fil\", which is no tool; did you mean \"read_file\"?"]
        );
        let far = super::suggestion("kubectl_apply");
        assert!(far.contains("known are"), "{far}");
    }

    #[test]
    fn a_deterministic_agent_needs_a_first_tool_that_runs_without_a_model() {
        assert_eq!(
            found(json!({ "role": "verifier", "tools": ["submit_result", "run_gate_job"] })),
            Found::default()
        );
        let coder = found(json!({ "role": "coder", "tools": ["read_file", "run_gate_job"] }));
        assert!(
            coder.problems[0].contains("\"read_file\" cannot run without one"),
            "{coder:?}"
        );
        assert!(found(json!({ "role": "verifier", "tools": ["submit_result"] })).problems[0].contains("run_gate_job"));
    }

    #[test]
    fn a_proxy_to_a_cloud_is_named_by_its_address() {
        let with = |provider: &str| {
            found(json!({
                "role": "coder", "tools": ["read_file"], "provider": provider,
                "inferenceServiceRef": { "name": "s" }, "providerConfig": { "model": "m" }
            }))
            .problems
        };
        assert_eq!(with("local"), Vec::<String>::new());
        assert!(with("cloud-proxy")[0].contains("baseURL"), "{:?}", with("cloud-proxy"));
    }

    #[test]
    fn what_is_not_built_is_named_and_does_not_make_the_agent_invalid() {
        let found = found(json!({
            "role": "planner", "tools": ["read_file", "fetch_issue", "fetch_pull_request"], "inferenceServiceRef": { "name": "s" },
            "execution": { "mode": "Job" }, "mcp": { "enabled": true }, "vision": { "enabled": true }
        }));
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(
            found.unsupported,
            [
                "spec.tools \"fetch_pull_request\"",
                "spec.role planner",
                "spec.execution.mode Job for role planner",
                "spec.mcp",
                "spec.vision"
            ]
        );
    }

    #[test]
    fn a_missing_profile_is_named() {
        let with = |name: &str| {
            found(json!({ "role": "coder", "tools": ["bash"], "inferenceServiceRef": { "name": "s" }, "modelProfileRef": name })).problems
        };
        assert!(with("known").is_empty());
        assert!(with("other")[0].contains("ModelProfile \"other\""));
    }
}
