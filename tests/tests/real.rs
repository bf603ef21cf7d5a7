//! The tier of tests that need real servers and programs; what is missing fails its test.
//!
//! `cargo xtask test --real` starts the servers and says by variables where everything is.

mod chart;
