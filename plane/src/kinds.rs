//! The kinds that are served: built-in ones and those that CRDs define.

pub mod builtin;
pub mod claim;
pub mod crd;
pub mod crd_names;
pub mod event;
pub mod job;
mod keeping;
pub mod namespace;
pub mod pod;
pub mod stamp;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;

use crate::admission::names::NameRule;
use crate::admission::schema::Structural;
use crate::admission::table::Columns;
use crate::admission::types::TypeInfo;
use crate::object::read;
use crate::status::Named;
use crate::storage::{Entry, Store, Version};

pub use builtin::Builtin;
pub use keeping::{Keeping, Schema};

/// A kind in one API group, with the versions in which it is served.
#[derive(Debug)]
pub struct Kind {
    /// The API group, empty for the core group.
    pub group: String,
    /// The kind's name.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// The plural resource name.
    pub plural: String,
    /// The singular resource name.
    pub singular: String,
    /// Short names for the command line.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Versions that are served, the preferred one first.
    pub versions: Vec<Served>,
    /// The `apiVersion` of stored objects.
    pub stored: String,
    /// The keys of this kind start with this.
    pub prefix: String,
    /// How objects are kept.
    pub keeping: Keeping,
    /// Where the kind comes from.
    pub origin: Origin,
}

/// One served version of a kind.
#[derive(Debug)]
pub struct Served {
    /// The version's name.
    pub name: String,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// The schema, for kinds from CRDs.
    pub schema: Option<Arc<Structural>>,
    /// How lists and maps merge.
    pub types: Types,
    /// The schema as it was written, for documents.
    pub raw_schema: Option<Arc<Value>>,
    /// The columns of tables.
    pub columns: Columns,
    /// Field paths that field selectors may use.
    pub selectable: Vec<String>,
    /// What is said to users of a deprecated version.
    pub deprecation: Option<String>,
}

/// How lists and maps of a version merge, if that is known.
#[derive(Debug, Clone)]
pub enum Types {
    /// Known for a built-in kind.
    Builtin(Option<&'static TypeInfo>),
    /// Derived from a schema.
    Custom(Arc<TypeInfo>),
}

impl Types {
    /// Returns the description, if there is one.
    pub fn get(&self) -> Option<&TypeInfo> {
        match self {
            Types::Builtin(types) => *types,
            Types::Custom(types) => Some(types),
        }
    }
}

/// Where a kind comes from.
#[derive(Debug)]
pub enum Origin {
    /// Built in.
    Builtin(&'static Builtin),
    /// Defined by a CRD.
    Custom {
        /// The CRD's name.
        crd: String,
        /// The CRD's identity.
        uid: String,
        /// Whether the CRD is being deleted.
        terminating: bool,
        /// The change that wrote the CRD.
        version: Version,
    },
}

impl Kind {
    /// Returns the names by which errors refer to this kind.
    pub fn named(&self) -> Named<'_> {
        Named {
            group: &self.group,
            plural: &self.plural,
            kind: &self.kind,
        }
    }

    /// Returns the `apiVersion` of a served version.
    pub fn api_version(&self, served: &Served) -> String {
        api_version(&self.group, &served.name)
    }

    /// Returns the key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Arc<str> {
        Arc::from(format!("{}{namespace}/{name}", self.prefix))
    }

    /// Returns the start of the keys of one namespace, or of all.
    pub fn prefix_of(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("{}{namespace}/", self.prefix),
            None => self.prefix.clone(),
        }
    }

    /// Returns the built-in rules, if this kind is built in.
    pub fn builtin(&self) -> Option<&'static Builtin> {
        match &self.origin {
            Origin::Builtin(builtin) => Some(builtin),
            Origin::Custom { .. } => None,
        }
    }

    /// Returns the rule for names.
    pub fn name_rule(&self) -> NameRule {
        match self.origin {
            Origin::Builtin(_) => NameRule::of(&self.kind),
            Origin::Custom { .. } => NameRule::Subdomain,
        }
    }

    /// Returns the version with the name.
    pub fn version(&self, name: &str) -> Option<&Served> {
        self.versions.iter().find(|served| served.name == name)
    }

    /// Tells whether `metadata.generation` is counted.
    pub fn has_generation(&self) -> bool {
        self.builtin().is_none_or(|builtin| builtin.generation)
    }
}

/// Joins a group and a version.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Splits a key into namespace and name.
pub fn split_key(key: &str) -> (&str, &str) {
    let mut parts = key.rsplitn(3, '/');
    let name = parts.next().unwrap_or("");
    let namespace = parts.next().unwrap_or("");
    (namespace, name)
}

/// The served kinds at one moment.
#[derive(Debug, Default)]
pub struct Kinds {
    by_resource: HashMap<(String, String), Arc<Kind>>,
    groups: BTreeMap<String, Vec<Arc<Kind>>>,
}

impl Kinds {
    fn new(kinds: Vec<Arc<Kind>>) -> Kinds {
        let mut all = Kinds::default();
        // Built-in kinds come first.
        for kind in kinds {
            let taken = all
                .resource(&kind.group, &kind.plural)
                .or(all.kind(&kind.group, &kind.kind));
            if taken.is_some_and(|taken| taken.builtin().is_some()) {
                tracing::error!(group = %kind.group, plural = %kind.plural, "a definition has the name of a built-in kind and is not served");
                continue;
            }
            all.by_resource
                .insert((kind.group.clone(), kind.plural.clone()), Arc::clone(&kind));
            all.groups.entry(kind.group.clone()).or_default().push(kind);
        }
        for kinds in all.groups.values_mut() {
            kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
        all
    }

    /// Finds a kind by group and plural name.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&(group.to_owned(), plural.to_owned()))
    }

    /// Finds a kind by group and kind name.
    pub fn kind(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.iter().find(|candidate| candidate.kind == kind)
    }

    /// Returns the groups, the core group (empty) first, each with its kinds.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &[Arc<Kind>])> {
        self.groups
            .iter()
            .map(|(group, kinds)| (group.as_str(), kinds.as_slice()))
    }

    /// Returns the kinds of one group.
    pub fn group(&self, group: &str) -> Option<&[Arc<Kind>]> {
        self.groups.get(group).map(Vec::as_slice)
    }

    /// Returns all kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.groups.values().flatten()
    }
}

/// The versions of a group in order of preference: stable before beta before alpha,
/// higher numbers first.
pub fn versions_of(kinds: &[Arc<Kind>]) -> Vec<&str> {
    let mut versions: Vec<&str> = kinds
        .iter()
        .flat_map(|kind| kind.versions.iter().map(|served| served.name.as_str()))
        .collect();
    versions.sort_by_key(|name| std::cmp::Reverse(version_rank(name)));
    versions.dedup();
    versions
}

/// Ranks a version name by the API's rule of precedence; greater is preferred.
pub fn version_rank(name: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let parsed = name.strip_prefix('v').and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest.get(..digits)?.parse().ok()?;
        let rest = rest.get(digits..)?;
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        let (stage, minor) = rest
            .strip_prefix("beta")
            .map(|minor| (2, minor))
            .or_else(|| rest.strip_prefix("alpha").map(|minor| (1, minor)))?;
        Some((stage, major, minor.parse().ok()?))
    });
    match parsed {
        Some((stage, major, minor)) => (stage, major, minor, std::cmp::Reverse(String::new())),
        None => (0, 0, 0, std::cmp::Reverse(name.to_owned())),
    }
}

/// What became of a CRD, with the change that wrote it.
type Compiled = (Version, Option<Arc<Kind>>);

/// Builds the kind that a stored CRD defines.
fn defined(entry: &Entry) -> Option<Kind> {
    match read(entry) {
        Ok(crd) => crd::compile(&crd),
        Err(error) => {
            tracing::error!(%error, "a definition's kind is not served");
            None
        }
    }
}

/// The catalogue of kinds. Whoever asks for them brings it up to date with the CRDs in the store, so that what was
/// committed is served whether or not the request that wrote it came to its end.
pub struct Catalog {
    store: Store,
    current: RwLock<Arc<Kinds>>,
    /// The version of the store up to which `current` is true.
    seen: AtomicU64,
    compiled: Mutex<HashMap<String, Compiled>>,
}

impl Catalog {
    /// Makes a catalogue of what is stored.
    pub fn new(store: Store) -> Catalog {
        let catalog = Catalog {
            store,
            current: RwLock::new(Arc::new(Kinds::default())),
            seen: AtomicU64::new(0),
            compiled: Mutex::new(HashMap::new()),
        };
        catalog.rebuild(&mut lock(&catalog.compiled));
        catalog
    }

    /// Returns the kinds as the store defines them now.
    pub fn kinds(&self) -> Arc<Kinds> {
        if self.seen.load(Ordering::Acquire) < self.store.version() {
            self.follow();
        }
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what was committed since the last time.
    fn follow(&self) {
        let mut compiled = lock(&self.compiled);
        let seen = self.seen.load(Ordering::Acquire);
        match self.store.changes_since(crd::PREFIX, seen) {
            Ok((changes, version)) if changes.is_empty() => self.seen.store(version, Ordering::Release),
            _ => self.rebuild(&mut compiled),
        }
    }

    /// Compiles the CRDs that changed since the last time.
    fn rebuild(&self, compiled: &mut HashMap<String, Compiled>) {
        let Ok(listing) = self.store.list(crd::PREFIX, None, None) else {
            return;
        };
        let mut next = HashMap::new();
        for entry in listing.entries {
            let name = split_key(&entry.key).1.to_owned();
            let known = match compiled.get(&name) {
                Some((version, kind)) if *version == entry.version => (*version, kind.clone()),
                before => {
                    let mut kind = defined(&entry);
                    if let (Some(kind), Some((_, Some(before)))) = (&mut kind, before) {
                        kind.follow(before);
                    }
                    (entry.version, kind.map(Arc::new))
                }
            };
            next.insert(name, known);
        }
        let mut kinds = builtin::kinds();
        kinds.extend(next.values().filter_map(|(_, kind)| kind.clone()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Kinds::new(kinds));
        *compiled = next;
        self.seen.store(listing.version, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_stable_first_then_by_number() {
        let mut names = ["v1alpha1", "foo", "v2", "v1beta2", "v10", "v1", "v1beta10"];
        names.sort_by_key(|name| std::cmp::Reverse(version_rank(name)));
        assert_eq!(names, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn a_key_splits_into_namespace_and_name() {
        assert_eq!(split_key("core/pods/default/a"), ("default", "a"));
        assert_eq!(split_key("core/namespaces//a"), ("", "a"));
    }
}
