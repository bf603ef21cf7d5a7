//! What of an object is set and nothing acts on yet: accepted, and said by the condition NotSupportedYet and by
//! `foreman validate`, never ignored in silence.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use crate::agentic_task::{AgenticTaskSpec, BranchStrategy};
use crate::conditions::{self, Said};
use crate::model_profile::ModelProfileSpec;
use crate::shared::GateProfile;
use crate::task_queue::TaskQueueSpec;
use crate::workload::WorkloadSpec;

/// Type and reason of the condition.
pub const CONDITION: &str = "NotSupportedYet";

/// Sets or clears the condition by what was found.
pub fn tell(conditions: &mut Vec<Condition>, found: &[String], generation: Option<i64>, now: Timestamp) {
    let said = (!found.is_empty()).then(|| {
        let message = format!("nothing acts on this yet: {}", found.join(", "));
        Said::new(CONDITION, true, CONDITION, message)
    });
    conditions::set_or_clear(conditions, CONDITION, said, generation, now);
}

/// The fields that were found.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn add(&mut self, set: bool, field: &str) {
        if set {
            self.0.push(field.to_owned());
        }
    }

    fn add_gate(&mut self, gate: Option<&GateProfile>) {
        let Some(gate) = gate else { return };
        self.add(is_some(&gate.source_extensions), "spec.gateProfile.sourceExtensions");
        self.add(gate.test_layout.is_some(), "spec.gateProfile.testLayout");
    }
}

fn is_some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// Looks at a Workload.
pub fn of_workload(spec: &WorkloadSpec) -> Vec<String> {
    let mut fields = Fields::default();
    let escalation = spec.escalation_coder_agent_ref.as_ref();
    fields.add(
        escalation.is_some_and(|agent| agent.named().is_some()),
        "spec.escalationCoderAgentRef",
    );
    fields.add(spec.escalate_on_failure == Some(true), "spec.escalateOnFailure");
    fields.add(
        is_some(&spec.escalation_reviewer_agent_refs),
        "spec.escalationReviewerAgentRefs",
    );
    fields.add(spec.allow_cloud_reviewers == Some(false), "spec.allowCloudReviewers");
    let planner = spec.planner_model.as_ref();
    fields.add(planner.is_some_and(|model| !model.is_empty()), "spec.plannerModel");
    fields.add(spec.mcp_enabled == Some(true), "spec.mcpEnabled");
    fields.add(spec.open_pull_request == Some(true), "spec.openPullRequest");
    fields.add(spec.verdict_policy.is_some(), "spec.verdictPolicy");
    fields.add_gate(spec.gate_profile.as_ref());
    fields.0
}

/// Looks at an AgenticTask.
pub fn of_task(spec: &AgenticTaskSpec) -> Vec<String> {
    let mut fields = Fields::default();
    let payload = &spec.payload;
    fields.add(spec.mcp_enabled == Some(true), "spec.mcpEnabled");
    fields.add(spec.verdict_policy.is_some(), "spec.verdictPolicy");
    fields.add_gate(spec.gate_profile.as_ref());
    fields.add(
        payload.branch_strategy != BranchStrategy::default(),
        "spec.payload.branchStrategy",
    );
    fields.add(payload.contract.is_some(), "spec.payload.contract");
    fields.add(is_some(&payload.images), "spec.payload.images");
    fields.add(is_some(&payload.shared_identifiers), "spec.payload.sharedIdentifiers");
    fields.add(is_some(&payload.slices), "spec.payload.slices");
    fields.0
}

/// Looks at a TaskQueue.
pub fn of_queue(spec: &TaskQueueSpec) -> Vec<String> {
    let mut fields = Fields::default();
    fields.add(spec.issues.is_some(), "spec.issues");
    fields.0
}

/// Looks at a ModelProfile.
pub fn of_profile(spec: &ModelProfileSpec) -> Vec<String> {
    let mut fields = Fields::default();
    fields.add(
        spec.restrict_reads_in_forcing_phase == Some(true),
        "spec.restrictReadsInForcingPhase",
    );
    fields.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_set_and_not_acted_on_is_named_and_nothing_else() {
        let plain: WorkloadSpec = read(json!({ "intent": "x", "gateProfile": { "language": "go" } }));
        assert_eq!(of_workload(&plain), Vec::<String>::new());
        let spec: WorkloadSpec = read(json!({
            "intent": "x", "mcpEnabled": true, "allowCloudReviewers": true, "verdictPolicy": { "selfGO": ["docs"] },
            "gateProfile": { "sourceExtensions": [".go"], "testLayout": {} }, "escalationCoderAgentRef": { "name": "" },
        }));
        assert_eq!(
            of_workload(&spec),
            [
                "spec.mcpEnabled",
                "spec.verdictPolicy",
                "spec.gateProfile.sourceExtensions",
                "spec.gateProfile.testLayout"
            ]
        );
        let plain: AgenticTaskSpec = read(json!({ "kind": "freeform", "payload": { "prompt": "x", "images": [] } }));
        assert_eq!(of_task(&plain), Vec::<String>::new());
        let spec: AgenticTaskSpec =
            read(json!({ "kind": "freeform", "mcpEnabled": true, "payload": { "contract": "c", "images": ["i"] } }));
        assert_eq!(
            of_task(&spec),
            ["spec.mcpEnabled", "spec.payload.contract", "spec.payload.images"]
        );
        let spec: ModelProfileSpec = read(json!({ "restrictReadsInForcingPhase": true }));
        assert_eq!(of_profile(&spec), ["spec.restrictReadsInForcingPhase"]);
        assert!(of_profile(&ModelProfileSpec::default()).is_empty());
    }

    #[test]
    fn the_condition_comes_and_goes_with_what_it_names() {
        let mut conditions = Vec::new();
        let now = Timestamp::UNIX_EPOCH;
        tell(&mut conditions, &["spec.mcpEnabled".to_owned()], Some(1), now);
        assert_eq!(conditions[0].type_, CONDITION);
        assert!(conditions[0].message.contains("spec.mcpEnabled"));
        tell(&mut conditions, &[], Some(2), now);
        assert!(conditions.is_empty());
    }
}
