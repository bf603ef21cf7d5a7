//! The API itself, without its transport: the store, the kinds, and what writes do.

pub mod delete;
mod evict;
mod size;
pub mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use crate::kinds::stamp::Stamp;
use crate::kinds::{Catalog, Kind, Origin, crd};
use crate::object::read;
use crate::pod_logs::PodLogs;
use crate::status::{ApiError, Named};
use crate::storage::{Entry, Store, Write};

/// The largest request body, in bytes.
pub const BODY_LIMIT: usize = 3 << 20;

/// The names of Namespaces in errors.
pub const NAMESPACES: Named<'static> = Named {
    group: "",
    plural: "namespaces",
    kind: "Namespace",
};

/// The state that every request shares.
pub struct Server {
    /// The objects.
    pub store: Store,
    /// The kinds.
    pub catalog: Catalog,
    /// How requests were counted.
    pub counters: Counters,
    /// Ends every watch when the server shuts down.
    pub stopping: CancellationToken,
    /// The version that clients are told.
    pub git_version: String,
    /// How often watches that asked for it are sent a bookmark.
    pub bookmark_every: Duration,
    pod_logs: RwLock<Option<Arc<dyn PodLogs>>>,
    /// Held while a definition is given its names.
    naming: tokio::sync::Mutex<()>,
}

impl Server {
    /// Makes a server over an open store.
    pub fn new(store: Store, git_version: String, bookmark_every: Duration) -> Server {
        Server {
            catalog: Catalog::new(store.clone()),
            store,
            counters: Counters::default(),
            stopping: CancellationToken::new(),
            git_version,
            bookmark_every,
            pod_logs: RwLock::new(None),
            naming: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns what serves Pod logs, if anything does.
    pub fn pod_logs(&self) -> Option<Arc<dyn PodLogs>> {
        self.pod_logs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names what serves Pod logs.
    pub fn set_pod_logs(&self, logs: Arc<dyn PodLogs>) {
        *self.pod_logs.write().unwrap_or_else(PoisonError::into_inner) = Some(logs);
    }

    /// Returns the stored object, or the error that it does not exist.
    pub fn entry(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Entry>, ApiError> {
        self.store
            .get(&kind.key(namespace, name))
            .ok_or_else(|| ApiError::not_found(kind.named(), name))
    }

    /// Makes the precondition that a namespace is there and stays, for a write into it.
    fn namespace_guard(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Write, ApiError> {
        let key: Arc<str> = Arc::from(format!("core/namespaces//{namespace}"));
        let entry = self
            .store
            .get(&key)
            .ok_or_else(|| ApiError::not_found(NAMESPACES, namespace))?;
        let object = read(&entry)?;
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return Err(ApiError::terminating(kind.named(), name, namespace));
        }
        Ok(Write::Require {
            key,
            expect: entry.version,
        })
    }

    /// Makes the precondition that the definition of a custom kind stays as it is, for a write of its objects: none for
    /// a built-in kind. A kind that is not defined any more is refused, and so is one that is now defined otherwise
    /// than the request read it; `creates` tells whether an object is made.
    fn definition_guard(&self, kind: &Kind, name: &str, creates: bool) -> Result<Option<Write>, ApiError> {
        let Origin::Custom { crd, uid, .. } = &kind.origin else {
            return Ok(None);
        };
        let kinds = self.catalog.kinds();
        let now = kinds.resource(&kind.group, &kind.plural);
        match now.map(|now| (now, &now.origin)) {
            Some((
                now,
                Origin::Custom {
                    uid: known,
                    terminating,
                    version,
                    ..
                },
            )) if known == uid => {
                if *terminating && creates {
                    return Err(ApiError::forbidden(
                        kind.named(),
                        name,
                        "create not allowed while custom resource definition is terminating",
                    ));
                }
                if !now.keeps_as(kind) {
                    return Err(ApiError::changed(kind.named()));
                }
                Ok(Some(Write::Require {
                    key: Arc::from(format!("{}/{crd}", crd::PREFIX)),
                    expect: *version,
                }))
            }
            _ => Err(ApiError::unknown_path()),
        }
    }

    /// Makes the time and identity of a write.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            now: Timestamp::now(),
            uid: new_uid(),
        }
    }
}

/// Makes a random identity (UUID version 4).
pub fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Counts of requests by verb and resource, such as (`list`, `batch/jobs`).
#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<BTreeMap<(&'static str, String), u64>>,
}

impl Counters {
    /// Counts one request.
    pub fn count(&self, verb: &'static str, resource: String) {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((verb, resource))
            .or_default() += 1;
    }

    /// Returns the counts so far.
    pub fn snapshot(&self) -> BTreeMap<(&'static str, String), u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
