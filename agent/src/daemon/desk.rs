//! The runs in hand, shared between the daemon's loops, and why one is ended early.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::agentic_task::TaskKind;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::claim::Held;

/// Why a run is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The claim is no longer ours: say nothing.
    Lost,
    /// Somebody asked for it.
    Cancelled,
    /// The wall time is spent.
    Timeout,
    /// This agent goes away: give the claim back.
    Shutdown,
}

#[derive(Clone)]
pub(super) struct Running {
    pub(super) held: Held,
    pub(super) cancel: CancellationToken,
    pub(super) stop: Arc<Mutex<Option<Stop>>>,
    pub(super) kind: TaskKind,
    /// Wall time of the whole run.
    pub(super) limit: Duration,
}

impl Running {
    pub(super) fn end(&self, why: Stop) {
        self.stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
        self.cancel.cancel();
    }

    /// Returns why the run was ended, where it was.
    pub(super) fn why(&self) -> Option<Stop> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this node does now, shared between its loops.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) running: Mutex<HashMap<String, Running>>,
    pub(super) changed: Notify,
}

impl Desk {
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Running>) -> T) -> T {
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.with(|running| running.values().map(|run| run.held.name.clone()).collect());
        names.sort();
        names
    }
}
