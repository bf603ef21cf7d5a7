//! How long the proxy waits.

use std::time::Duration;

/// How long a connection may take to open.
pub(super) const CONNECT: Duration = Duration::from_secs(20);
/// How long a client may take for its request's head.
pub(super) const HEAD: Duration = Duration::from_secs(30);
/// How long a connection may be silent.
pub(super) const IDLE: Duration = Duration::from_secs(300);
