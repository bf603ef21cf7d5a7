//! Creating and changing objects.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use serde_json::Value;

use super::Server;
use crate::admission::names::generate_name;
use crate::admit::{self, FieldValidation, Manager, Part, View};
use crate::kinds::{Kind, crd, crd_names};
use crate::object::{Unreadable, meta_mut, meta_of, meta_str, read, same, to_document};
use crate::status::ApiError;
use crate::storage::{CommitError, Entry, Expect, Write};

/// How often a write that named no version is tried again when another came first.
const TRIES: usize = 64;
/// How many generated names are tried.
const NAMES: usize = 8;

/// How a write is to be carried out.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Whether nothing is to be stored.
    pub dry_run: bool,
    /// What is done about unknown fields.
    pub validation: FieldValidation,
    /// Who writes.
    pub manager: Manager,
}

impl WriteOptions {
    /// A write by a part of the plane itself.
    pub fn by(manager: &str) -> WriteOptions {
        WriteOptions {
            dry_run: false,
            validation: FieldValidation::Ignore,
            manager: Manager {
                name: manager.to_owned(),
                settled: false,
            },
        }
    }
}

/// Turns an object as it stands into what it is to be, with warnings for the writer.
pub type Change<'a> = dyn Fn(&Value, &mut Vec<String>) -> Result<Value, ApiError> + Sync + 'a;

/// What a write left behind.
#[derive(Debug)]
pub struct Outcome {
    /// The object as it is stored, or would be.
    pub entry: Arc<Entry>,
    /// Whether the write made the object.
    pub created: bool,
    /// What the writer should know.
    pub warnings: Vec<String>,
}

impl Outcome {
    fn of(entry: Arc<Entry>, warnings: Vec<String>) -> Outcome {
        Outcome {
            entry,
            created: false,
            warnings,
        }
    }

    /// What a write of `object` would leave behind, or what a write that removed it showed last.
    fn tried(key: &Arc<str>, object: &Value, warnings: Vec<String>) -> Outcome {
        let bytes = Bytes::from(object.to_string());
        Outcome::of(Arc::new(Entry::tried(Arc::clone(key), bytes)), warnings)
    }
}

/// A view that owns its kind, as requests hold it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The kind.
    pub kind: Arc<Kind>,
    /// The place of the version among the kind's.
    pub version: usize,
    /// The namespace, empty for cluster-scoped kinds.
    pub namespace: String,
}

impl Target {
    /// Borrows the kind and version.
    pub fn view(&self) -> View<'_> {
        View {
            kind: &self.kind,
            served: &self.kind.versions[self.version],
        }
    }
}

fn is_crd(kind: &Kind) -> bool {
    kind.prefix == crd::PREFIX
}

impl Server {
    /// Makes an object that was decoded.
    pub async fn create(
        &self,
        target: &Target,
        object: Value,
        options: &WriteOptions,
        warnings: Vec<String>,
    ) -> Result<Outcome, ApiError> {
        let kind = &target.kind;
        let view = target.view();
        self.definition_guard(kind, meta_str(&object, "name"), true)?;
        // It is the store that minds, which a dry run does not reach.
        if !options.dry_run && !meta_str(&object, "resourceVersion").is_empty() {
            return Err(ApiError::cannot_apply(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let generated = meta_str(&object, "name").is_empty() && !meta_str(&object, "generateName").is_empty();
        let mut names = 0;
        for _ in 0..TRIES {
            let stamp = self.stamp();
            let mut candidate = object.clone();
            if generated {
                let name = generate_name(meta_str(&candidate, "generateName"), rand::rng().random());
                meta_mut(&mut candidate).insert("name".into(), name.into());
            }
            let name = meta_str(&candidate, "name").to_owned();
            let mut guards = Vec::new();
            guards.extend(self.definition_guard(kind, &name, true)?);
            if kind.namespaced {
                guards.push(self.namespace_guard(kind, &target.namespace, &name)?);
            }
            let mut warnings = warnings.clone();
            let made = admit::create(
                view,
                candidate,
                &target.namespace,
                &stamp,
                &options.manager,
                &mut warnings,
            );
            // Definitions are written one after the other, so that no two are given one name.
            let naming = if is_crd(kind) {
                Some(self.naming.lock().await)
            } else {
                None
            };
            let made = match made {
                Ok(mut made) => {
                    if is_crd(kind) && !options.dry_run {
                        let taken = self.other_names(&made)?;
                        crd_names::settle(&mut made, &taken, &stamp);
                    }
                    view.to_stored(made)
                }
                Err(error) => return Err(error.with_warnings(warnings)),
            };
            let key = kind.key(&target.namespace, &name);
            let document = to_document(&made);
            if options.dry_run {
                if self.store.get(&key).is_some() {
                    return Err(ApiError::already_exists(kind.named(), &name));
                }
                return Ok(Outcome {
                    created: true,
                    ..Outcome::tried(&key, &made, warnings)
                });
            }
            super::size::check(kind, &made, &document.bytes)?;
            let mut writes = vec![Write::Put {
                key: Arc::clone(&key),
                document,
                expect: Expect::Absent,
            }];
            writes.extend(guards);
            let committed = self.store.commit(writes).await;
            drop(naming);
            match committed {
                Ok(changes) => {
                    let entry = changes
                        .first()
                        .and_then(|change| change.after.clone())
                        .ok_or_else(|| ApiError::internal("a create left nothing behind"))?;
                    return Ok(Outcome {
                        created: true,
                        ..Outcome::of(entry, warnings)
                    });
                }
                Err(CommitError::Precondition { key: failed, .. }) if failed == key => {
                    names += 1;
                    if !generated || names >= NAMES {
                        return Err(self.taken(kind, &key, &name));
                    }
                }
                // The namespace or the definition changed in between: look at it again.
                Err(CommitError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ApiError::timeout(
            "the namespace or the definition kept changing while an object was made; try again",
        ))
    }

    /// Returns the names that other definitions of a definition's group were given.
    fn other_names(&self, new: &Value) -> Result<crd_names::Taken, ApiError> {
        let others = self.store.list(crd::PREFIX, None, None)?;
        let others: Result<Vec<Value>, Unreadable> = others.entries.iter().map(|entry| read(entry)).collect();
        Ok(crd_names::Taken::of(new, others?.into_iter()))
    }

    /// Says that a name is taken, and whether its object is going.
    fn taken(&self, kind: &Kind, key: &str, name: &str) -> ApiError {
        let mut error = ApiError::already_exists(kind.named(), name);
        let going = |entry: Arc<Entry>| meta_of(&entry).is_ok_and(|meta| meta.deletion_timestamp.is_some());
        if self.store.get(key).is_some_and(going) {
            error.message = format!("object is being deleted: {}", error.message);
        }
        error
    }

    /// Changes an object: `change` is given the object as it stands, in the version of
    /// `target`, and returns what it is to be. It may be called again when another write
    /// came first.
    pub async fn update(
        &self,
        target: &Target,
        name: &str,
        part: Part,
        options: &WriteOptions,
        change: &Change<'_>,
    ) -> Result<Outcome, ApiError> {
        let kind = &target.kind;
        let view = target.view();
        for _ in 0..TRIES {
            let guard = self.definition_guard(kind, name, false)?;
            let entry = self.entry(kind, &target.namespace, name)?;
            // What an older schema left is written anew with whatever the write is about, be it nothing.
            let renewed = kind.renewed(&entry)?;
            let stale = renewed.is_some();
            let live = view.from_stored(renewed.map_or_else(|| read(&entry), Ok)?);
            let mut warnings = Vec::new();
            let changed = change(&live, &mut warnings)
                .and_then(|new| admit::update(view, &live, new, part, &self.stamp(), &options.manager, &mut warnings));
            let naming = if is_crd(kind) {
                Some(self.naming.lock().await)
            } else {
                None
            };
            let new = match changed {
                Ok(mut new) => {
                    if is_crd(kind) {
                        let taken = self.other_names(&new)?;
                        crd_names::settle(&mut new, &taken, &self.stamp());
                    }
                    new
                }
                Err(error) => return Err(error.with_warnings(warnings)),
            };
            let unchanged = same(&live, &new);
            if unchanged && !stale {
                return Ok(Outcome::of(entry, warnings));
            }
            let new = if unchanged { live } else { new };
            let gone = admit::is_gone(kind, &new);
            let new = view.to_stored(new);
            if options.dry_run {
                return Ok(Outcome::tried(&entry.key, &new, warnings));
            }
            let key = Arc::clone(&entry.key);
            let write = if gone {
                Write::Delete {
                    key,
                    expect: entry.version,
                }
            } else {
                let document = to_document(&new);
                super::size::check(kind, &new, &document.bytes)?;
                Write::Put {
                    key,
                    document,
                    expect: Expect::Version(entry.version),
                }
            };
            let writes = std::iter::once(write).chain(guard).collect();
            let committed = self.store.commit(writes).await;
            drop(naming);
            match committed {
                Ok(changes) => {
                    return Ok(match changes.first().and_then(|change| change.after.clone()) {
                        Some(entry) => Outcome::of(entry, warnings),
                        None => Outcome::tried(&entry.key, &new, warnings),
                    });
                }
                Err(CommitError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ApiError::conflict(kind.named(), name))
    }

    /// Sets the content finalizers of a namespace; the last one that goes takes the
    /// namespace with it.
    pub async fn finalize(
        &self,
        target: &Target,
        name: &str,
        keep: &Value,
        options: &WriteOptions,
    ) -> Result<Outcome, ApiError> {
        self.update(target, name, Part::Finalize, options, &|live, _| {
            let mut new = live.clone();
            if let Some(spec) = new["spec"].as_object_mut() {
                match keep.as_array() {
                    Some(list) if !list.is_empty() => spec.insert("finalizers".into(), keep.clone()),
                    _ => spec.remove("finalizers"),
                };
            }
            Ok(new)
        })
        .await
    }
}
