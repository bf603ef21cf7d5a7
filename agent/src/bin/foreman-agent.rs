//! The `foreman-agent` program.
fn main() {}
