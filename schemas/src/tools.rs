//! Names of tools that more than one room knows.

/// The tools of a coder that is given no list.
pub const CODER: [&str; 8] = [
    "read_file",
    "write_file",
    "str_replace",
    "apply_patch",
    "grep",
    "glob",
    "bash",
    "submit_result",
];

/// Tools that run without a model.
pub const DETERMINISTIC: [&str; 3] = ["run_gate_job", "run_integrate", "run_reconcile"];
