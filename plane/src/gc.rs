//! The collector: what must go because something else went.

use std::sync::Arc;

use crate::server::Server;

/// Runs until the server stops.
pub async fn run(server: Arc<Server>) {
    server.stopping.cancelled().await;
}
