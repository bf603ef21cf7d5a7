//! What pending tasks have in common, and where they stand.

use schemas::shared::RequiredCapability;

/// What tasks have in common that stand in one queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// What nodes they ask for. It comes first, so that queues that the same nodes fit lie beside each other.
    pub demand: Demand,
    /// Target repository.
    pub repo: String,
}

/// What tasks have in common when the same nodes fit them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Demand {
    /// Namespace.
    pub namespace: String,
    /// Agent, where one is named.
    pub agent: Option<String>,
    /// Requirement in canonical JSON, where no Agent says it.
    pub required: String,
    /// Model that replaces the Agent's.
    pub model: Option<String>,
    /// Whether the work is a verifier's, which waits for a gate Job and holds no model slot.
    pub verifies: bool,
}

/// What a demand asks of a node, as Agents and profiles are now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Requirement.
    pub required: RequiredCapability,
    /// Model that the work uses; `None` for deterministic agents.
    pub model: Option<String>,
    /// Whether the work holds a model slot.
    pub holds_slot: bool,
    /// Tasks of the Agent that may run at once.
    pub agent_limit: Option<usize>,
}

/// Where a pending task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// In the queue of its class, at this virtual start time.
    Queued(Class, i64),
    /// Held back, for this reason.
    Held(String),
}
