//! Tests that need more than one room: they start the `foreman` command as a person does, see `tests/runner.rs`.
