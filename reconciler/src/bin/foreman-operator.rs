//! The `foreman-operator` program.
fn main() {}
