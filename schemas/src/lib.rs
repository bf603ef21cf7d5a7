//! The vocabulary of Foreman: API kinds, the task-file format, names and state machines.
//!
//! Nothing here does I/O and nothing is async. Every other room depends on this one and it depends
//! on none of them.

pub mod agent;
pub mod agent_release;
pub mod agentic_task;
pub mod conditions;
pub mod config;
pub mod crds;
pub mod dependencies;
pub mod document;
pub mod duration;
pub mod file_error;
pub mod fleet_node;
pub mod forge;
pub mod front_matter;
pub mod gate_definition;
pub mod generated;
pub mod graph;
pub mod inert;
pub mod json_schema;
pub mod labels;
pub mod lease;
pub mod manifest;
pub mod model_profile;
pub mod names;
pub mod phase;
pub mod pipeline;
pub mod quantity;
pub mod queue_set;
pub mod rounds;
pub mod shared;
pub mod structural;
pub mod task_file;
pub mod task_queue;
pub mod tools;
pub mod unsupported;
pub mod workload;
pub mod yaml;

pub use agent::{Agent, AgentSpec, AgentStatus};
pub use agent_release::{AgentRelease, AgentReleaseSpec, AgentReleaseStatus};
pub use agentic_task::{AgenticTask, AgenticTaskSpec, AgenticTaskStatus};
pub use fleet_node::{FleetNode, FleetNodeSpec, FleetNodeStatus};
pub use forge::{Forge, ForgeSpec, ForgeStatus};
pub use gate_definition::GateDefinition;
pub use model_profile::{ModelProfile, ModelProfileSpec, ModelProfileStatus};
pub use task_queue::{TaskQueue, TaskQueueSpec, TaskQueueStatus};
pub use workload::{Workload, WorkloadSpec, WorkloadStatus};

/// The API group of every kind.
pub const GROUP: &str = "foreman.llmkube.dev";
/// The API version of every kind.
pub const VERSION: &str = "v1alpha1";
