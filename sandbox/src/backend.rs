//! How commands are kept apart from the host.

use serde::{Deserialize, Serialize};

/// Tells how a command is kept apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// User, mount, pid, network, IPC and UTS namespaces with a private root, Landlock and seccomp.
    Namespaces,
    /// Landlock and seccomp alone, for machines that forbid namespaces. The weaker backend.
    Landlock,
    /// Nothing but a supervisor: limits and clean-up, no confinement. Only when asked for by name.
    Unsafe,
}

impl Backend {
    /// Returns the name that people see, as in `foreman doctor`.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Namespaces => "namespaces",
            Backend::Landlock => "landlock",
            Backend::Unsafe => "unsafe (no sandbox)",
        }
    }

    /// Returns what this backend does not keep apart, or `None` for the full sandbox.
    pub fn weakness(self) -> Option<&'static str> {
        match self {
            Backend::Namespaces => None,
            Backend::Landlock => Some(
                "weaker backend: no namespaces on this machine, so commands see names of host \
                 processes and files, can change modes, groups, times and attributes of files of the same \
                 user, and have no Unix sockets",
            ),
            Backend::Unsafe => Some("no sandbox: commands run with everything this user may do"),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
