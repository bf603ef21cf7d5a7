//! What a run's commands are confined by, and the tools that they find.

use std::sync::OnceLock;

use crate::config::{Config, Mode};

/// Opens the sandbox that this node's commands run in; a stub node needs none.
pub fn open_sandbox(config: &Config) -> Result<sandbox::Sandbox, String> {
    if config.unsafe_no_sandbox || config.mode == Mode::Stub {
        return Ok(sandbox::Sandbox::without_confinement());
    }
    match config.sandbox_backend {
        Some(backend) => sandbox::Sandbox::with_backend(backend),
        None => sandbox::Sandbox::detect(),
    }
    .map_err(|error| error.to_string())
}

/// Returns the host's tools, found once.
pub fn toolchain() -> &'static sandbox::Toolchain {
    static FOUND: OnceLock<sandbox::Toolchain> = OnceLock::new();
    FOUND.get_or_init(sandbox::Toolchain::host)
}
