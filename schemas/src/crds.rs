//! The CustomResourceDefinitions of every kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Returns the CustomResourceDefinitions of every kind, in a stable order.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        crate::Agent::crd(),
        crate::AgentRelease::crd(),
        crate::AgenticTask::crd(),
        crate::FleetNode::crd(),
        crate::Forge::crd(),
        crate::ModelProfile::crd(),
        crate::TaskQueue::crd(),
        crate::Workload::crd(),
    ]
}
