//! Admission: the pure half of the API server.
//!
//! Functions over [`serde_json::Value`] and nothing else: no I/O, no clock, no
//! randomness. What a request means (defaults, pruning, validation, patches,
//! apply, selection, printing) is decided here, for custom resources and
//! built-in kinds alike; storing and serving the result is somebody else's.

pub mod apply;
pub mod builtin;
pub mod depth;
pub mod error;
pub mod gofmt;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod schema;
pub mod selector;
pub mod table;
pub mod types;
