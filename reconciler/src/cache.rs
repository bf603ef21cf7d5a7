//! What the API holds, kept in memory by watches.
//!
//! The watched type cannot fail to deserialise: an object that is not what its kind says is kept as unreadable, with
//! the reason, and never ends a watch. Listeners are called one change at a time, in order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::lock;

/// Namespace and name; the namespace of cluster-wide objects is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Names an object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Reads the key off an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One object as the API last showed it, without managed fields.
#[derive(Debug)]
pub struct Cached<K>(Result<K, Box<Unreadable>>);

/// What is known of an object that is not what its kind says.
#[derive(Debug)]
struct Unreadable {
    meta: ObjectMeta,
    why: String,
}

impl<K: Resource> Cached<K> {
    /// Holds an object.
    pub fn of(object: K) -> Self {
        Self(Ok(object))
    }

    /// Returns the object's metadata, which is there of unreadable ones too.
    pub fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(unreadable) => &unreadable.meta,
        }
    }

    /// Returns the object unless it is unreadable.
    pub fn readable(&self) -> Option<&K> {
        self.0.as_ref().ok()
    }

    /// Says why the object is not what its kind says; `None` where it is.
    pub fn unreadable(&self) -> Option<&str> {
        self.0.as_ref().err().map(|unreadable| unreadable.why.as_str())
    }

    /// Returns the UID, empty if there is none.
    pub fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    /// Returns a label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.meta().labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Returns an annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.meta().annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Says whether the object is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}

/// What happened to one object.
pub struct Change<'a, K> {
    /// Key.
    pub key: &'a Key,
    /// The object before; `None` for a new one.
    pub before: Option<&'a Arc<Cached<K>>>,
    /// The object now; `None` for one that is gone.
    pub after: Option<&'a Arc<Cached<K>>>,
}

/// How long a UID whose object is gone is remembered: longer than the answer to any write is under way.
const REMEMBERED: Duration = Duration::from_secs(60);

/// UIDs of objects that are gone, for a while: a UID never comes back.
#[derive(Debug, Default)]
struct Gone {
    uids: HashSet<String>,
    since: VecDeque<(Instant, String)>,
}

impl Gone {
    fn add(&mut self, uid: &str, now: Instant) {
        while let Some((since, _)) = self.since.front()
            && now.saturating_duration_since(*since) >= REMEMBERED
            && let Some((_, old)) = self.since.pop_front()
        {
            self.uids.remove(&old);
        }
        if !uid.is_empty() && self.uids.insert(uid.to_owned()) {
            self.since.push_back((now, uid.to_owned()));
        }
    }

    fn has(&self, meta: &ObjectMeta) -> bool {
        meta.uid.as_ref().is_some_and(|uid| self.uids.contains(uid))
    }
}

/// What listeners hear from, and what no change may bring back.
struct Changes<K> {
    listeners: Vec<Listener<K>>,
    gone: Gone,
}

type Listener<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// All objects of one kind.
pub struct Cache<K> {
    objects: RwLock<HashMap<Key, Arc<Cached<K>>>>,
    /// Held while a change is made and told, so that listeners hear of changes in order.
    changes: Mutex<Changes<K>>,
    synced: watch::Sender<bool>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            changes: Mutex::new(Changes {
                listeners: Vec::new(),
                gone: Gone::default(),
            }),
            synced: watch::Sender::new(false),
        }
    }
}

impl<K> Cache<K>
where
    K: Resource + DeserializeOwned,
    K::DynamicType: Default,
{
    /// Returns an object.
    pub fn get(&self, key: &Key) -> Option<Arc<Cached<K>>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Finds an object by its UID.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Cached<K>>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.values().find(|object| object.uid() == uid).cloned()
    }

    /// Returns all objects, in no order.
    pub fn all(&self) -> Vec<Arc<Cached<K>>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Returns how many objects there are.
    pub fn len(&self) -> usize {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `listener` for every object that is there and for every change from now on.
    ///
    /// It runs while the change is made: it must be quick, and must not write to this cache.
    pub fn subscribe(&self, listener: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut changes = lock(&self.changes);
        let now: Vec<_> = {
            let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
            objects
                .iter()
                .map(|(key, object)| (key.clone(), object.clone()))
                .collect()
        };
        for (key, object) in &now {
            listener(&Change {
                key,
                before: None,
                after: Some(object),
            });
        }
        changes.listeners.push(Box::new(listener));
    }

    /// Says whether every object has been listed once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until every object has been listed once.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as this cache does.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Takes in an object that a watch or the answer to a write showed; an older version than the known one is left, and
    /// so is one that is known to be gone: the answer to a write may come after the watch told of the deletion.
    pub fn observe(&self, object: DynamicObject) {
        let key = Key::of(&object.metadata);
        // What was written comes again by the watch: most of all changes end here, before the object is read.
        if self.get(&key).is_some_and(|known| !is_newer(&object.metadata, &known)) {
            return;
        }
        let after = Arc::new(parse::<K>(object));
        let changes = lock(&self.changes);
        if changes.gone.has(after.meta()) {
            return;
        }
        let before = self.get(&key);
        if before.as_ref().is_some_and(|known| !is_newer(after.meta(), known)) {
            return;
        }
        self.objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), after.clone());
        for listener in &changes.listeners {
            listener(&Change {
                key: &key,
                before: before.as_ref(),
                after: Some(&after),
            });
        }
    }

    /// Takes out an object, unless another of the same name has taken its place. One whose UID is given is gone for good.
    pub fn forget(&self, key: &Key, uid: Option<&str>) {
        let mut changes = lock(&self.changes);
        if let Some(uid) = uid {
            changes.gone.add(uid, Instant::now());
        }
        let before = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            match objects.get(key) {
                Some(known) if uid.is_none_or(|uid| known.uid() == uid) => objects.remove(key),
                _ => None,
            }
        };
        if let Some(before) = before {
            for listener in &changes.listeners {
                listener(&Change {
                    key,
                    before: Some(&before),
                    after: None,
                });
            }
        }
    }
}

/// Says whether metadata is of a later version than what is known; versions that are no numbers always are.
fn is_newer<K: Resource>(meta: &ObjectMeta, known: &Cached<K>) -> bool {
    match (version(known.meta()), version(meta)) {
        (Some(old), Some(new)) => new > old,
        _ => true,
    }
}

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

fn parse<K>(mut object: DynamicObject) -> Cached<K>
where
    K: Resource + DeserializeOwned,
{
    object.metadata.managed_fields = None;
    let meta = object.metadata.clone();
    let read = serde_json::to_value(object).and_then(serde_json::from_value);
    Cached(read.map_err(|error| {
        Box::new(Unreadable {
            meta,
            why: error.to_string(),
        })
    }))
}

/// The longest pause between two tries to take a watch up: an API that comes back is heard again soon, also after it
/// was away for long.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The usual pauses of a watch that breaks off, none of them long.
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next()?.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Keeps `cache` like the API until `stop`. No namespaces means all of them.
pub async fn keep<K>(cache: Arc<Cache<K>>, client: Client, namespaces: Vec<String>, stop: CancellationToken)
where
    K: Resource + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default,
{
    let resource = ApiResource::erase::<K>(&K::DynamicType::default());
    let apis: Vec<(Option<String>, Api<DynamicObject>)> = if namespaces.is_empty() {
        vec![(None, Api::all_with(client, &resource))]
    } else {
        let namespaced = |namespace: String| {
            let api = Api::namespaced_with(client.clone(), &namespace, &resource);
            (Some(namespace), api)
        };
        namespaces.into_iter().map(namespaced).collect()
    };
    let missing = Arc::new(std::sync::atomic::AtomicUsize::new(apis.len()));
    let followed = apis.into_iter().map(|(namespace, api)| {
        let (cache, missing) = (cache.clone(), missing.clone());
        let kind = resource.kind.clone();
        async move {
            let mut listed: HashSet<Key> = HashSet::new();
            let mut first = true;
            let mut events = watcher::watcher(api, watcher::Config::default())
                .backoff(Pauses::default())
                .boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(object)) => cache.observe(object),
                    Ok(Event::Delete(object)) => {
                        cache.forget(&Key::of(&object.metadata), object.metadata.uid.as_deref())
                    }
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(object)) => {
                        listed.insert(Key::of(&object.metadata));
                        cache.observe(object);
                    }
                    Ok(Event::InitDone) => {
                        let gone: Vec<Key> = {
                            let objects = cache.objects.read().unwrap_or_else(PoisonError::into_inner);
                            let within = |key: &&Key| namespace.as_ref().is_none_or(|ns| *ns == key.namespace);
                            objects
                                .keys()
                                .filter(within)
                                .filter(|key| !listed.contains(*key))
                                .cloned()
                                .collect()
                        };
                        for key in gone {
                            cache.forget(&key, None);
                        }
                        listed = HashSet::new();
                        if std::mem::take(&mut first) && missing.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1
                        {
                            cache.synced.send_replace(true);
                        }
                    }
                    Err(error) => tracing::warn!(kind, %error, "a watch broke off and is taken up again"),
                }
            }
        }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        _ = futures::future::join_all(followed) => {}
    }
}

#[cfg(test)]
mod tests;
