//! What of a Workload nothing acts on yet, what of that keeps it from starting, and whether it may start. Pure.

use schemas::dependencies::{WorkloadDependencyState, workload_dependency_state};
use schemas::unsupported;

use super::observe::Observed;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// Fields that are set and that nothing acts on yet.
    pub unsupported: Vec<String>,
    /// Why no task may be made of it at all; nothing is dispatched while this is said.
    pub held: Option<String>,
    /// Whether the Workloads that it depends on let it start.
    pub upstream: WorkloadDependencyState,
}

/// Looks at a Workload.
pub fn validate(observed: &Observed) -> Valid {
    let spec = &observed.workload.spec;
    let explicit = spec.pipeline.as_ref().is_some_and(|steps| !steps.is_empty());
    let issues = spec.issues.as_ref().is_some_and(|issues| !issues.is_empty());
    let held = match (explicit, issues) {
        (true, _) => None,
        // Without the text of its issue a coder would do something else than what was asked.
        (false, true) => Some(
            "spec.issues is not supported yet (no forge is asked for an issue's text); \
             write the steps out in spec.pipeline",
        ),
        (false, false) => Some(
            "spec.intent alone is not supported yet (no planner takes it apart); \
             write the steps out in spec.pipeline",
        ),
    };
    let upstream = workload_dependency_state(observed.upstream.iter().map(|(name, phase)| (name.as_str(), *phase)));
    Valid {
        unsupported: unsupported::of_workload(spec),
        held: held.map(str::to_owned),
        upstream,
    }
}
