//! What a person repeats while working on Foreman.
fn main() {}
