//! What was asked of the proxy.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The most records that a log keeps.
const MAX_RECORDS: usize = 10_000;

/// One request to the proxy, as it is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRecord {
    /// The host that was asked for.
    pub host: String,
    /// The port that was asked for.
    pub port: u16,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why it was refused, or failed.
    pub why: Option<String>,
    /// Bytes from the command to the host.
    pub bytes_sent: u64,
    /// Bytes from the host to the command.
    pub bytes_received: u64,
}

/// The requests so far, and who else is told of each.
pub(super) struct Log {
    records: Mutex<Vec<ProxyRecord>>,
    on_record: Box<dyn Fn(&ProxyRecord) + Send + Sync>,
}

impl Log {
    pub(super) fn new(on_record: impl Fn(&ProxyRecord) + Send + Sync + 'static) -> Log {
        Log {
            records: Mutex::default(),
            on_record: Box::new(on_record),
        }
    }

    /// Takes a request that has ended.
    pub(super) fn add(&self, record: ProxyRecord) {
        if record.allowed {
            tracing::info!(host = %record.host, port = record.port, sent = record.bytes_sent,
                received = record.bytes_received, "proxy request allowed");
        } else {
            tracing::warn!(host = %record.host, port = record.port,
                why = record.why.as_deref().unwrap_or_default(), "proxy request refused");
        }
        (self.on_record)(&record);
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() < MAX_RECORDS {
            records.push(record);
        }
    }

    /// Returns the requests so far, oldest first.
    pub(super) fn records(&self) -> Vec<ProxyRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
