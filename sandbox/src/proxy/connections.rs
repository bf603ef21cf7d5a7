//! The connections that a proxy has open for one command, which end with it.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The most connections that one command has open at one time.
const MAX_CONNECTIONS: usize = 256;

/// The open connections of one command.
#[derive(Default)]
pub(super) struct Connections {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    next: u64,
    open: HashMap<u64, Entry>,
}

struct Entry {
    streams: Vec<Arc<TcpStream>>,
    /// Whether it waits for a host, which nothing can cut short.
    dials: bool,
}

/// One open connection, until it is dropped.
pub(super) struct Connection {
    all: Arc<Connections>,
    number: u64,
}

impl Connections {
    /// Takes a client in; `None` when there are too many, or no more are wanted.
    pub(super) fn enter(self: &Arc<Connections>, client: &Arc<TcpStream>) -> Option<Connection> {
        let mut state = self.lock();
        if state.closed || state.open.len() >= MAX_CONNECTIONS {
            return None;
        }
        let number = state.next;
        state.next += 1;
        let entry = Entry {
            streams: vec![client.clone()],
            dials: false,
        };
        state.open.insert(number, entry);
        Some(Connection {
            all: self.clone(),
            number,
        })
    }

    /// Ends all connections, and waits until those who served them are done. One that still waits for a host ends when
    /// it hears from it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for stream in state.open.values().flat_map(|entry| &entry.streams) {
            // One that is closed already needs no closing.
            let _ = stream.shutdown(Shutdown::Both);
        }
        while state.open.values().any(|entry| !entry.dials) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Tells that this one now waits for a host.
    pub(super) fn dials(&self) {
        let mut state = self.all.lock();
        if let Some(entry) = state.open.get_mut(&self.number) {
            entry.dials = true;
        }
        self.all.changed.notify_all();
    }

    /// Adds the host's side once it is there, or tells that waiting for it was in vain; `false` when the command has
    /// ended meanwhile.
    pub(super) fn dialled(&self, host: Option<&Arc<TcpStream>>) -> bool {
        let mut state = self.all.lock();
        if state.closed {
            return false;
        }
        if let Some(entry) = state.open.get_mut(&self.number) {
            entry.dials = false;
            entry.streams.extend(host.cloned());
        }
        true
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.lock().open.remove(&self.number);
        self.all.changed.notify_all();
    }
}
