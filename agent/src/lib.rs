//! The node agent: what runs on a machine that offers a model or a gate.
//!
//! [`daemon`] registers the node, claims tasks and says what came of them; [`executor`] carries them out.
//! The inner half is the coder loop: [`coder`] is a pure state machine, [`model`] talks to model
//! servers or replays recorded sessions, [`tools`] is what a model may do inside a work tree,
//! [`journal`] is what happened, in order, on disk.

pub mod budget;
pub mod capability;
pub mod coder;
pub mod config;
pub mod daemon;
pub mod evidence;
pub mod executor;
pub mod journal;
pub mod metrics;
pub mod model;
pub mod outcome;
pub mod patience;
pub mod probes;
pub mod prompt;
pub mod tools;
