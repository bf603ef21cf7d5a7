//! The table of escapes, on every backend that works here.

use sandbox::{Sandbox, escapes};

use crate::backends;

#[test]
fn every_backend_holds_the_table_of_escapes() {
    for sandbox in backends() {
        let findings = escapes::run(&sandbox).unwrap();
        println!("{findings}");
        assert!(findings.findings.len() >= 40, "{} ran too few cases", sandbox.backend());
        assert!(findings.escaped().is_empty(), "{findings}");
    }
}

#[test]
fn the_same_attempts_succeed_without_confinement() {
    let findings = escapes::run(&Sandbox::without_confinement()).unwrap();
    assert!(findings.powerless().is_empty(), "{:#?}", findings.powerless());
}
