//! The node agent: what runs on a machine that offers a model or a gate.
//!
//! The inner half is the coder loop: [`coder`] is a pure state machine, [`model`] talks to model
//! servers or replays recorded sessions, [`tools`] is what a model may do inside a work tree,
//! [`journal`] is what happened, in order, on disk.

pub mod budget;
pub mod coder;
pub mod journal;
pub mod model;
pub mod prompt;
pub mod tools;
