//! The table of escapes: attempts that every backend must hold, made for real from inside.
//!
//! What is worth reaching is set up on the host (a secret in a home, servers, another process), one command is run for
//! each attempt, and each tells whether it was held. The same attempts without confinement show that they can succeed at
//! all.

#[path = "escapes/attempt.rs"]
pub mod attempt;
#[path = "escapes/raw.rs"]
mod raw;
#[path = "escapes/stage.rs"]
mod stage;
#[path = "escapes/table.rs"]
mod table;

use sandbox::{Backend, Command, Output, Sandbox, Toolchain};

use crate::backends;
use crate::part::part;
use stage::Stage;

/// How one attempt ended.
#[derive(Debug)]
struct Finding {
    name: &'static str,
    escaped: bool,
    /// Whether it gets out when nothing is confined, for any user on any machine.
    succeeds_unconfined: bool,
    /// What the attempt saw.
    detail: String,
}

/// Makes every attempt in a sandbox.
fn run(sandbox: &Sandbox, nesting: bool) -> Vec<Finding> {
    let stage = Stage::set().unwrap();
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    let tools = Toolchain::host();
    let mut findings = Vec::new();
    for (name, succeeds_unconfined, attempt) in table::table(&stage) {
        let (args, (key, value)) = part(&attempt.part());
        let command = Command::new("/opt/attempt")
            .args(args)
            .env(key, value)
            .toolchain(&tools)
            .ro(&own, "/opt/attempt")
            .rw(stage.work_tree(), "/workspace")
            .cwd("/workspace")
            .nesting(nesting)
            .wall(std::time::Duration::from_secs(20));
        let outcome = sandbox.run_blocking(command, Output::captured());
        let (escaped, detail) = attempt::verdict(&outcome);
        findings.push(Finding {
            name,
            escaped,
            succeeds_unconfined,
            detail,
        });
    }
    findings
}

fn assert_all_held(findings: Vec<Finding>, what: &str) {
    for finding in &findings {
        let verdict = if finding.escaped { "ESCAPED" } else { "held" };
        println!("{what}: {verdict:7} {}: {}", finding.name, finding.detail);
    }
    let escaped: Vec<&Finding> = findings.iter().filter(|finding| finding.escaped).collect();
    assert!(escaped.is_empty(), "{what}: {escaped:#?}");
}

#[test]
fn every_backend_holds_the_table_of_escapes() {
    for sandbox in backends() {
        assert_all_held(run(&sandbox, false), sandbox.backend().name());
    }
}

#[test]
fn what_may_make_sandboxes_of_its_own_holds_the_rest_of_the_table() {
    for sandbox in backends() {
        let mut findings = run(&sandbox, true);
        findings.retain(|finding| !table::FOR_NESTING.contains(&finding.name));
        assert_all_held(findings, &format!("{} with nesting", sandbox.backend()));
    }
}

#[test]
fn landlock_holds_the_table_as_older_kernels_have_it() {
    if !sandbox::probe().landlock.works() {
        // `backends` has made sure that there is another, which is tested above.
        assert!(!backends().is_empty());
        return;
    }
    let sandbox = Sandbox::with_backend(Backend::Landlock).unwrap();
    // The oldest, and the last without a scope for signals.
    for abi in [1, 5] {
        let older = sandbox.clone().with_landlock_at_most(abi);
        assert_all_held(run(&older, false), &format!("landlock {abi}"));
    }
}

#[test]
fn the_same_attempts_succeed_without_confinement() {
    let findings = run(&Sandbox::without_confinement(), false);
    // What is held although nothing is confined would prove nothing.
    let powerless = findings
        .iter()
        .filter(|finding| finding.succeeds_unconfined && !finding.escaped);
    let powerless: Vec<&Finding> = powerless.collect();
    assert!(powerless.is_empty(), "{powerless:#?}");
}
