//! This test binary as another program: one that starts sandboxes and is killed, or runs inside one.

use sandbox::{Backend, Output, Sandbox};

use crate::{backends, shell};

/// Names the part that this process plays.
const PART: &str = "FOREMAN_FIXTURE";

/// Returns the command line (after the program) and environment of a part.
pub fn part(name: &str) -> ([&'static str; 3], (&'static str, String)) {
    let args = ["--exact", "fixture::plays_its_part", "--nocapture"];
    (args, (PART, name.to_owned()))
}

#[test]
fn plays_its_part() {
    let Ok(part) = std::env::var(PART) else {
        // Not asked for a part: what the parts rest on holds.
        assert!(!backends().is_empty());
        return;
    };
    let (name, argument) = part.split_once(' ').unwrap();
    match name {
        "parent-namespaces" => parent(Backend::Namespaces, argument),
        "parent-landlock" => parent(Backend::Landlock, argument),
        "nested" => nested(argument),
        other => panic!("unknown part {other}"),
    }
}

/// Runs a script until somebody kills this process.
fn parent(backend: Backend, script: &str) {
    let sandbox = Sandbox::with_backend(backend).unwrap();
    let outcome = sandbox.run_blocking(shell(script), Output::captured());
    panic!("the script ended: {outcome:?}");
}

/// Runs a script in the best sandbox that works inside this one.
fn nested(script: &str) {
    let sandbox = Sandbox::detect().unwrap();
    let outcome = sandbox.run_blocking(shell(script), Output::captured());
    println!(
        "\nNESTED {} {} {}",
        sandbox.backend(),
        outcome.reason.name(),
        outcome.stdout.text()
    );
}
