//! The tier of tests that need tools; a tool that is missing fails its test.

mod disk_full;
mod kubectl;
mod presets;
mod sshd;
mod static_gate;
