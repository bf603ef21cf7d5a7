//! The tier of tests that need tools; a tool that is missing fails its test.

mod kubectl;
mod sshd;
