//! This test binary as another program: one that starts sandboxes and is killed, or runs inside one.
#![allow(unsafe_code)]

use sandbox::{Backend, Command, Output, Reason, Sandbox};

use crate::part::PART;
use crate::{backends, escapes, network, shell};

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
        "nested" => nested(Sandbox::detect().unwrap(), shell(argument)),
        "nested-input" => nested(Sandbox::detect().unwrap(), shell(argument).stdin("input")),
        "nested-old" => nested(Sandbox::detect().unwrap().with_landlock_at_most(5), shell(argument)),
        "share" => hold_shared_memory(argument.parse().unwrap()),
        "connect" => network::connect(argument),
        "attempt" => escapes::attempt::main(argument),
        other => panic!("unknown part {other}"),
    }
}

/// Runs a script until somebody kills this process.
fn parent(backend: Backend, script: &str) {
    let sandbox = Sandbox::with_backend(backend).unwrap();
    let outcome = sandbox.run_blocking(shell(script), Output::captured());
    panic!("the script ended: {outcome:?}");
}

/// Runs a command in a sandbox inside this one.
fn nested(sandbox: Sandbox, command: Command) {
    let outcome = sandbox.run_blocking(command, Output::captured());
    println!(
        "\nNESTED {} {} {}",
        sandbox.backend(),
        outcome.reason.name(),
        outcome.stdout.text()
    );
    if let Reason::StartError(why) = outcome.reason {
        println!("BECAUSE {why} of {}", outcome.enforced.backend);
    }
}

/// Takes memory that it could share with others, until somebody kills this process.
fn hold_shared_memory(bytes: usize) {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the memory is new, as long as is said, and nobody else's.
    let memory = unsafe {
        let place = mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::SHARED).unwrap();
        std::slice::from_raw_parts_mut(place.cast::<u8>(), bytes)
    };
    memory.fill(1);
    std::thread::sleep(std::time::Duration::from_secs(60));
}
