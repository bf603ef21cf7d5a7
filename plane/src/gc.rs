//! The collector: what must go because something else went.
//!
//! One loop follows the store's changes. [`graph`] decides about owners and dependents;
//! a namespace or CRD that is being deleted is emptied first; a claim waits for its Pods;
//! old events expire.

pub mod graph;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::admit::Part;
use crate::kinds::{Kind, builtin, claim, crd, crd_names, split_key};
use crate::object::{Meta, Owner, finalizers, meta_mut, meta_of, meta_str, read};
use crate::server::Server;
use crate::server::delete::{DeleteOptions, Propagation};
use crate::server::write::{Target, WriteOptions};
use crate::status::ApiError;
use crate::storage::{Entry, Version};

use graph::{Action, Graph};

/// How long events are kept.
const EVENTS: SignedDuration = SignedDuration::from_hours(1);
/// How often old events are looked for.
const SWEEP: Duration = Duration::from_secs(300);
/// How long the collector waits before it tries again what failed.
const PAUSE: Duration = Duration::from_secs(1);

const NAMESPACES: &str = "core/namespaces/";
const CLAIMS: &str = "core/persistentvolumeclaims/";
const PODS: &str = "core/pods/";
const EVENT_KEYS: &str = "core/events/";
const MANAGER: &str = "foreman-plane";

/// Runs until the server stops.
pub async fn run(server: Arc<Server>) {
    let mut collector = Collector::new(&server);
    let mut latest = server.store.subscribe();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        latest.borrow_and_update();
        collector.follow(&server);
        let failed = collector.work(&server).await;
        tokio::select! {
            () = server.stopping.cancelled() => return,
            changed = latest.changed() => if changed.is_err() { return },
            _ = sweep.tick() => expire_events(&server).await,
            () = tokio::time::sleep(PAUSE), if failed => {}
        }
    }
}

struct Collector {
    graph: Graph,
    seen: Version,
    /// Keys of namespaces, CRDs and claims that are being deleted.
    emptying: BTreeSet<Arc<str>>,
    /// Keys of objects that cannot be read: nothing is concluded from them.
    unreadable: BTreeSet<Arc<str>>,
    /// Whether a definition went, whose names another one may wait for.
    freed: bool,
}

impl Collector {
    fn new(server: &Server) -> Collector {
        let mut collector = Collector {
            graph: Graph::default(),
            seen: 0,
            emptying: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            freed: true,
        };
        collector.reload(server);
        collector
    }

    /// Reads everything.
    fn reload(&mut self, server: &Server) {
        self.graph = Graph::default();
        self.freed = true;
        self.emptying.clear();
        self.unreadable.clear();
        if let Ok(listing) = server.store.list("", None, None) {
            self.seen = listing.version;
            for entry in &listing.entries {
                self.take(&entry.key, Some(entry));
            }
        }
    }

    fn take(&mut self, key: &Arc<str>, entry: Option<&Arc<Entry>>) {
        if key.starts_with(EVENT_KEYS) {
            return;
        }
        self.freed |= key.starts_with(crd::PREFIX);
        self.unreadable.remove(key);
        let meta: Option<Meta> = match entry.map(|entry| meta_of(entry)).transpose() {
            Ok(meta) => meta,
            Err(error) => {
                // Whoever it owns, and whether it is to go, is not known: it stays as it was.
                tracing::error!(%error, "nothing is collected that an unreadable object may own");
                self.unreadable.insert(Arc::clone(key));
                return;
            }
        };
        if [NAMESPACES, CLAIMS, crd::PREFIX]
            .iter()
            .any(|prefix| key.starts_with(prefix))
        {
            match &meta {
                Some(meta) if meta.deletion_timestamp.is_some() => {
                    self.emptying.insert(Arc::clone(key));
                }
                _ => {
                    self.emptying.remove(key);
                }
            }
        }
        self.graph.put(key, meta);
    }

    /// Takes in what was committed since the last time.
    fn follow(&mut self, server: &Server) {
        match server.store.changes_since("", self.seen) {
            Ok((changes, version)) => {
                for change in changes {
                    self.take(&change.key, change.after.as_ref());
                }
                self.seen = version;
            }
            Err(_) => self.reload(server),
        }
    }

    /// Does what there is to do; tells whether some of it failed.
    async fn work(&mut self, server: &Server) -> bool {
        let mut failed = false;
        if !self.graph.is_settled() {
            let kinds = server.catalog.kinds();
            let served = |owner: &Owner| {
                let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
                let hidden = |kind: &Kind| {
                    let may_be = |key: &Arc<str>| key.starts_with(&kind.prefix) && split_key(key).1 == owner.name;
                    self.unreadable.iter().any(may_be)
                };
                kinds.kind(group, &owner.kind).is_some_and(|kind| !hidden(kind))
            };
            for action in self.graph.plan(served) {
                if let Err(error) = carry_out(server, &action).await {
                    let uid = match &action {
                        Action::Delete { uid, .. } | Action::Disown { uid, .. } | Action::Release { uid, .. } => uid,
                    };
                    // A lost race means that the object changed: it is looked at again anyway.
                    if error.code != 404 && error.code != 409 {
                        tracing::warn!(?action, message = %error.message, "failed to collect");
                        self.graph.retry(uid);
                        failed = true;
                    }
                }
            }
        }
        if std::mem::take(&mut self.freed) && !give_names(server).await {
            self.freed = true;
            failed = true;
        }
        for key in self.emptying.clone() {
            let emptied = if key.starts_with(NAMESPACES) {
                empty_namespace(server, &key).await
            } else if key.starts_with(CLAIMS) {
                release_claim(server, &key).await
            } else {
                empty_crd(server, &key).await
            };
            if let Err(error) = emptied
                && error.code != 404
            {
                tracing::warn!(%key, message = %error.message, "failed to empty");
                failed = true;
            }
        }
        failed
    }
}

/// Gives definitions the names that have become free; tells whether that worked.
async fn give_names(server: &Server) -> bool {
    let entries = server.store.list(crd::PREFIX, None, None);
    let entries = entries.map(|listing| listing.entries).unwrap_or_default();
    let mut done = true;
    for entry in entries
        .iter()
        .filter(|entry| read(entry).is_ok_and(|crd| crd_names::waits_for_names(&crd)))
    {
        let Ok((target, name)) = target(server, &entry.key) else {
            continue;
        };
        let options = WriteOptions::by(MANAGER);
        let given = server
            .update(&target, &name, Part::Status, &options, &|live, _| Ok(live.clone()))
            .await;
        if let Err(error) = given
            && error.code != 404
        {
            tracing::warn!(%name, message = %error.message, "failed to give a definition its names");
            done = false;
        }
    }
    done
}

/// Finds the kind of a key, in its stored version.
fn target(server: &Server, key: &str) -> Result<(Target, String), ApiError> {
    let kinds = server.catalog.kinds();
    let kind = kinds
        .iter()
        .find(|kind| key.starts_with(&kind.prefix) && stored_version(kind).is_some())
        .ok_or_else(ApiError::no_such_resource)?;
    let (namespace, name) = split_key(key);
    Ok((
        Target {
            version: stored_version(kind).unwrap_or(0),
            kind: Arc::clone(kind),
            namespace: namespace.to_owned(),
        },
        name.to_owned(),
    ))
}

/// The place of the version that is stored; any version does where that is not served.
fn stored_version(kind: &Kind) -> Option<usize> {
    let stored = kind
        .versions
        .iter()
        .position(|served| kind.api_version(served) == kind.stored);
    match kind.builtin() {
        Some(_) => stored,
        None => stored.or((!kind.versions.is_empty()).then_some(0)),
    }
}

async fn carry_out(server: &Server, action: &Action) -> Result<(), ApiError> {
    match action {
        Action::Delete { key, uid, foreground } => {
            let (target, name) = target(server, key)?;
            let propagation = if *foreground {
                Propagation::Foreground
            } else {
                Propagation::Background
            };
            let options = DeleteOptions {
                uid: Some(uid.clone()),
                propagation: Some(propagation),
                ..DeleteOptions::default()
            };
            server.delete(&target, &name, &options).await?;
        }
        Action::Disown { key, uid, owners } => {
            change(server, key, uid, &|object| {
                let metadata = meta_mut(object);
                if let Some(list) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
                    list.retain(|owner| !owners.iter().any(|uid| owner["uid"] == uid.as_str()));
                    if list.is_empty() {
                        metadata.remove("ownerReferences");
                    }
                }
            })
            .await?;
        }
        Action::Release { key, uid, finalizer } => {
            change(server, key, uid, &|object| drop_finalizer(object, finalizer)).await?;
        }
    }
    Ok(())
}

fn drop_finalizer(object: &mut Value, finalizer: &str) {
    let left: Vec<Value> = finalizers(object)
        .into_iter()
        .filter(|name| *name != finalizer)
        .map(Value::from)
        .collect();
    if left.is_empty() {
        meta_mut(object).remove("finalizers");
    } else {
        meta_mut(object).insert("finalizers".into(), Value::Array(left));
    }
}

/// Changes an object that must still have the identity.
async fn change(server: &Server, key: &str, uid: &str, edit: &(dyn Fn(&mut Value) + Sync)) -> Result<(), ApiError> {
    let (target, name) = target(server, key)?;
    let options = WriteOptions::by(MANAGER);
    server
        .update(&target, &name, Part::Main, &options, &|live, _| {
            if meta_str(live, "uid") != uid {
                return Err(ApiError::not_found(target.kind.named(), &name));
            }
            let mut new = live.clone();
            edit(&mut new);
            Ok(new)
        })
        .await?;
    Ok(())
}

/// Deletes everything below a prefix; answers how much is left.
async fn empty(server: &Server, target: &Target, prefix: &str) -> Result<usize, ApiError> {
    let options = DeleteOptions {
        propagation: Some(Propagation::Background),
        ..DeleteOptions::default()
    };
    let listing = server.store.list(prefix, None, None)?;
    for entry in &listing.entries {
        let (namespace, name) = split_key(&entry.key);
        let target = Target {
            namespace: namespace.to_owned(),
            ..target.clone()
        };
        match server.delete(&target, name, &options).await {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(server.store.list(prefix, None, None)?.entries.len())
}

async fn empty_namespace(server: &Server, key: &str) -> Result<(), ApiError> {
    let (namespaces, name) = target(server, key)?;
    let kinds = server.catalog.kinds();
    let mut left = 0;
    for kind in kinds.iter().filter(|kind| kind.namespaced) {
        let version = match stored_version(kind) {
            Some(version) => version,
            // A built-in kind that only shows another's objects.
            None if kind.builtin().is_some() => continue,
            // Objects are deleted as they are stored, whether or not a version is served.
            None => 0,
        };
        let target = Target {
            kind: Arc::clone(kind),
            version,
            namespace: name.clone(),
        };
        left += empty(server, &target, &kind.prefix_of(Some(&name))).await?;
    }
    if left == 0 {
        let options = WriteOptions::by(MANAGER);
        server.finalize(&namespaces, &name, &json!([]), &options).await?;
    }
    Ok(())
}

async fn empty_crd(server: &Server, key: &str) -> Result<(), ApiError> {
    let entry = server.store.get(key).ok_or_else(ApiError::no_such_resource)?;
    let object = read(&entry)?;
    if !finalizers(&object).contains(&crd::FINALIZER) {
        return Ok(());
    }
    // Its objects are below its keys whether or not a version is served; a built-in kind's are not its own.
    if let Some(kind) = crd::kind_of(&object)
        && !builtin::kinds().iter().any(|builtin| builtin.prefix == kind.prefix)
    {
        let target = Target {
            version: stored_version(&kind).unwrap_or(0),
            kind: Arc::new(kind),
            namespace: String::new(),
        };
        if empty(server, &target, &target.kind.prefix).await? > 0 {
            return Ok(());
        }
    }
    change(server, key, meta_str(&object, "uid"), &|object| {
        drop_finalizer(object, crd::FINALIZER);
    })
    .await
}

/// Lets a claim go once no Pod uses it.
async fn release_claim(server: &Server, key: &str) -> Result<(), ApiError> {
    let (namespace, name) = split_key(key);
    let entry = server.store.get(key).ok_or_else(ApiError::no_such_resource)?;
    let object = read(&entry)?;
    if !finalizers(&object).contains(&claim::FINALIZER) {
        return Ok(());
    }
    let pods = server.store.list(&format!("{PODS}{namespace}/"), None, None)?;
    for pod in &pods.entries {
        if claim::is_used_by(name, &read(pod)?) {
            return Ok(());
        }
    }
    change(server, key, meta_str(&object, "uid"), &|object| {
        drop_finalizer(object, claim::FINALIZER);
    })
    .await
}

/// Deletes events that nothing was added to for an hour.
async fn expire_events(server: &Server) {
    let Ok(listing) = server.store.list(EVENT_KEYS, None, None) else {
        return;
    };
    let now = Timestamp::now();
    for entry in listing.entries {
        let event = match read(&entry) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(%error, "an event is kept");
                continue;
            }
        };
        let newest = [
            &event["lastTimestamp"],
            &event["series"]["lastObservedTime"],
            &event["eventTime"],
            &event["metadata"]["creationTimestamp"],
        ]
        .into_iter()
        .filter_map(|time| time.as_str()?.parse::<Timestamp>().ok())
        .max();
        let old = newest.is_none_or(|time| now.duration_since(time) > EVENTS);
        if old && let Ok((target, name)) = target(server, &entry.key) {
            let gone = server.delete(&target, &name, &DeleteOptions::default()).await;
            if let Err(error) = gone {
                tracing::debug!(message = %error.message, "an old event stayed");
            }
        }
    }
}
