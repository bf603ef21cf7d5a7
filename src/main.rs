//! The `foreman` command.
fn main() {}
