//! The `foreman-gate` program: fetches a commit, fills caches, runs the steps of a gate.

fn main() -> std::process::ExitCode {
    gate::program::main(std::env::args_os())
}
