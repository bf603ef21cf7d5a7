//! The `foreman-gate` program.
fn main() {}
