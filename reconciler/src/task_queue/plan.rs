//! Which objects to apply, to replace and to prune, from what changed.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use schemas::file_error::FileError;
use schemas::task_file::{QueueContext, TaskObject, resolve};
use schemas::{TaskQueue, Workload, labels};
use serde_json::json;

use super::load::Loaded;
use super::observe::{Known, Made, origin};
use super::validate::Valid;
use crate::cache::{Cached, Key};

/// One write; objects are kept as JSON text, which takes a tenth of the memory where there are thousands.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Creates or changes a Workload.
    Workload(Key, Box<str>),
    /// Creates a bare AgenticTask, which an edit replaces: nothing of it is ever taken back, and no object of its name that
    /// came meanwhile is taken over.
    Task(Key, Box<str>),
    /// Says that a bare AgenticTask comes from another file of the same content.
    Move(Key, Box<str>),
    /// Ties an object to its queue, or unties it, by the owners that it then has.
    Own(&'static str, Key, Owners),
    /// Deletes an object that no file makes any more, or that an edit replaces.
    Delete(&'static str, Key, String),
}

/// The owners that an object is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Owners {
    /// All of them: those that others named, too.
    pub all: Vec<OwnerReference>,
    /// Version of the object of which that is known.
    pub version: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Writes, independent of each other.
    pub writes: Vec<Write>,
    /// Files that broke in this revision, each with its first error: they get an Event.
    pub broke: Vec<FileError>,
    /// Paths whose object has a name that belongs to somebody else, and which.
    pub taken: Vec<(String, String)>,
    /// Paths of tasks that cannot be made yet: the one of the name is still being deleted.
    pub leaving: Vec<String>,
    /// Paths of objects that the zero guard kept, one for each object.
    pub guarded: Vec<String>,
    /// Files that showed to be wrong only when their objects were made.
    pub rejects: Vec<(String, FileError)>,
    /// Revision, as `branch@sha1:<hex>`.
    pub revision: String,
    /// UID of the queue.
    pub uid: String,
    /// Repository, for notes.
    pub note_to: Option<(git::RemoteUrl, git::Oid)>,
}

/// What is known of an object of a name.
struct Existing {
    uid: String,
    owners: Owners,
    mine: bool,
    path: Option<String>,
    run_key: Option<String>,
    run: i64,
    /// What it waits for.
    depends_on: Vec<String>,
    /// Whether its current run has begun, so that nothing waits any more.
    begun: bool,
}

/// Plans the writes.
pub fn plan(known: &Known<'_>, cached: &Cached<TaskQueue>, queue: &TaskQueue, valid: &Valid, loaded: &Loaded) -> Plan {
    let key = Key::of(cached.meta());
    let uid = cached.uid();
    let revision = format!("{}@sha1:{}", valid.branch, loaded.revision);
    let mut plan = Plan {
        revision: revision.clone(),
        uid: uid.to_owned(),
        ..Plan::default()
    };
    let defaults = queue.spec.defaults.clone().unwrap_or_default();
    let may_prune = queue.spec.prune && !loaded.files.is_empty();
    for path in &loaded.look_at {
        let mut wanted: BTreeSet<Made> = BTreeSet::new();
        let mut keeps_all = false;
        match loaded.files.get(path) {
            Some(Err(errors)) => {
                // What a broken file made before stays until the file is good again, or gone.
                keeps_all = true;
                if loaded.changed.contains(path)
                    && let Some(error) = errors.first()
                {
                    plan.broke.push(error.clone());
                }
            }
            Some(Ok(documents)) => {
                let context = QueueContext {
                    name: &key.name,
                    uid,
                    namespace: &key.namespace,
                    defaults: &defaults,
                    revision: &revision,
                    depends_on: loaded.files.depends_on(path),
                };
                for document in documents {
                    wanted.insert(Made {
                        kind: document.kind(),
                        name: document.object_name(uid),
                    });
                    match resolve(document, &context) {
                        Ok(object) => place(known, cached, queue, object, path, &mut plan),
                        Err(error) => {
                            if loaded.changed.contains(path) {
                                plan.broke.push(error.clone());
                            }
                            plan.rejects.push((path.clone(), error));
                        }
                    }
                }
            }
            None => {}
        }
        if keeps_all {
            for made in known.inventory.of_path(uid, path) {
                let object = Key::new(key.namespace.clone(), made.name.clone());
                let existing = find(known, made.kind, &object, uid);
                let owners = existing.and_then(|existing| owners(&existing.owners, cached, queue.spec.prune));
                plan.writes
                    .extend(owners.map(|owners| Write::Own(made.kind, object, owners)));
            }
            continue;
        }
        for made in known.inventory.of_path(uid, path) {
            if wanted.contains(&made)
                || loaded
                    .files
                    .owner(made.kind, &made.name)
                    .is_some_and(|owner| owner != path)
            {
                continue;
            }
            let object = Key::new(key.namespace.clone(), made.name.clone());
            let Some(existing) = find(known, made.kind, &object, uid) else {
                continue;
            };
            if may_prune {
                plan.writes.push(Write::Delete(made.kind, object, existing.uid));
            } else if queue.spec.prune {
                plan.guarded.push(path.clone());
            } else {
                let owners = owners(&existing.owners, cached, false);
                plan.writes
                    .extend(owners.map(|owners| Write::Own(made.kind, object, owners)));
            }
        }
    }
    if !plan.broke.is_empty() {
        plan.note_to = Some((valid.url.clone(), loaded.revision));
    }
    plan
}

fn find(known: &Known<'_>, kind: &str, key: &Key, queue_uid: &str) -> Option<Existing> {
    fn read<K: kube::Resource>(object: &Cached<K>, queue_uid: &str, run_key: Option<String>, run: i64) -> Existing {
        let path = origin(object)
            .filter(|(uid, _)| *uid == queue_uid)
            .map(|(_, path)| path.to_owned());
        let labelled = object.label(labels::QUEUE).is_some();
        Existing {
            uid: object.uid().to_owned(),
            owners: Owners {
                all: object.meta().owner_references.clone().unwrap_or_default(),
                version: object.meta().resource_version.clone(),
            },
            mine: path.is_some() && labelled,
            path,
            run_key,
            run,
            depends_on: Vec::new(),
            begun: true,
        }
    }
    if kind == "Workload" {
        let found = known.workloads.get(key).filter(|found| !found.is_deleting())?;
        let spec = found.readable().map(|workload| &workload.spec);
        let run_key = found
            .annotation(labels::RUN_KEY)
            .map(str::to_owned)
            .or_else(|| spec.and_then(|spec| spec.run_key.clone()));
        let run = spec.and_then(|spec| spec.run).unwrap_or(1);
        Some(Existing {
            depends_on: spec.and_then(|spec| spec.depends_on.clone()).unwrap_or_default(),
            begun: found.readable().is_none_or(has_begun),
            ..read(&found, queue_uid, run_key, run)
        })
    } else {
        let found = known.tasks.get(key).filter(|found| !found.is_deleting())?;
        Some(read(
            &found,
            queue_uid,
            found.annotation(labels::RUN_KEY).map(str::to_owned),
            1,
        ))
    }
}

/// Says whether the run that is wanted has begun.
fn has_begun(workload: &Workload) -> bool {
    let Some(status) = &workload.status else { return false };
    let of_this_run = status.run.unwrap_or(1) == workload.spec.run.unwrap_or(1);
    let ended = status.phase.is_some_and(|phase| phase.is_terminal());
    of_this_run && (ended || status.started_at.is_some() || status.tasks.iter().flatten().next().is_some())
}

/// Says whether a Workload whose run has not begun is to wait for other Workloads than it does.
///
/// What its file names may have been missing or broken, and stood for another name.
fn waits_for_others(existing: &Existing, object: &TaskObject) -> bool {
    match object {
        TaskObject::Workload(wanted) => {
            !existing.begun && existing.depends_on != wanted.spec.depends_on.clone().unwrap_or_default()
        }
        TaskObject::AgenticTask(_) => false,
    }
}

/// Names the queue as the owner that takes along what it made.
fn owner(queue: &Cached<TaskQueue>) -> OwnerReference {
    OwnerReference {
        api_version: format!("{}/{}", schemas::GROUP, schemas::VERSION),
        kind: "TaskQueue".to_owned(),
        name: queue.meta().name.clone().unwrap_or_default(),
        uid: queue.uid().to_owned(),
        block_owner_deletion: Some(false),
        controller: None,
    }
}

/// Returns the owners that an object is to have beside what others say, where they are not those that it has: with
/// `prune`, it ends with its queue.
fn owners(has: &Owners, queue: &Cached<TaskQueue>, prune: bool) -> Option<Owners> {
    let is_queue = |owner: &&OwnerReference| owner.uid == queue.uid();
    if has.all.iter().any(|owner| is_queue(&owner)) == prune {
        return None;
    }
    let others = has.all.iter().filter(|owner| !is_queue(owner)).cloned();
    Some(Owners {
        all: others.chain(prune.then(|| owner(queue))).collect(),
        version: has.version.clone(),
    })
}

/// Plans the write of one object, or finds that none is needed.
fn place(
    known: &Known<'_>,
    queue: &Cached<TaskQueue>,
    spec: &TaskQueue,
    object: TaskObject,
    path: &str,
    plan: &mut Plan,
) {
    let meta = object.metadata();
    let key = Key::of(meta);
    let wanted_key = meta
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(labels::RUN_KEY))
        .cloned();
    let existing = find(known, object.kind(), &key, queue.uid());
    if let Some(existing) = &existing {
        if !existing.mine {
            let name = format!("{} {:?} (wanted by {path})", object.kind(), key.name);
            plan.taken.push((path.to_owned(), name));
            return;
        }
        let same_run = existing.run_key == wanted_key;
        if same_run && existing.path.as_deref() == Some(path) && !waits_for_others(existing, &object) {
            let owners = owners(&existing.owners, queue, spec.spec.prune);
            plan.writes
                .extend(owners.map(|owners| Write::Own(object.kind(), key, owners)));
            return;
        }
        if object.kind() == "AgenticTask" && !same_run {
            // An edit replaces the object: when this one is gone, the path is looked at again.
            plan.writes
                .push(Write::Delete("AgenticTask", key, existing.uid.clone()));
            return;
        }
    } else if object.kind() == "AgenticTask" && known.tasks.get(&key).is_some() {
        plan.leaving.push(path.to_owned());
        return;
    }
    let run = match &existing {
        None => 1,
        Some(existing) if existing.run_key == wanted_key => existing.run,
        Some(existing) => existing.run.saturating_add(1),
    };
    let owner = spec.spec.prune.then(|| json!([owner(queue)]));
    let body = match &object {
        TaskObject::Workload(workload) => serde_json::to_value(workload),
        TaskObject::AgenticTask(task) => serde_json::to_value(task),
    };
    let Ok(mut body) = body else { return };
    if let Some(map) = body.as_object_mut() {
        map.remove("status");
    }
    if let Some(owner) = owner {
        body["metadata"]["ownerReferences"] = owner;
    }
    if let Some(existing) = &existing {
        body["metadata"]["uid"] = json!(existing.uid);
    }
    // An apply takes back only what it said itself.
    if !spec.spec.prune
        && let Some(existing) = &existing
    {
        let owners = owners(&existing.owners, queue, false);
        plan.writes
            .extend(owners.map(|owners| Write::Own(object.kind(), key.clone(), owners)));
    }
    plan.writes.push(match object {
        TaskObject::Workload(_) => {
            body["spec"]["run"] = json!(run);
            Write::Workload(key, body.to_string().into())
        }
        TaskObject::AgenticTask(_) if existing.is_none() => Write::Task(key, body.to_string().into()),
        TaskObject::AgenticTask(_) => Write::Move(key, body.to_string().into()),
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn workload(depends_on: &[&str], run: i64, status: serde_json::Value) -> Workload {
        serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "w" },
            "spec": { "intent": "x", "dependsOn": depends_on, "run": run }, "status": status
        }))
        .unwrap()
    }

    #[test]
    fn a_run_that_has_not_begun_waits_for_what_its_file_means_now() {
        let table = [
            (json!(null), true),
            (json!({ "run": 2, "phase": "Planning" }), true),
            (
                json!({ "run": 1, "phase": "Completed", "startedAt": "2026-01-01T00:00:00Z" }),
                true,
            ),
            (
                json!({ "run": 2, "phase": "Dispatched", "startedAt": "2026-01-01T00:00:00Z" }),
                false,
            ),
            (
                json!({ "run": 2, "phase": "Planning", "tasks": [{ "name": "t" }] }),
                false,
            ),
            (json!({ "run": 2, "phase": "Failed" }), false),
        ];
        for (status, written) in table {
            let found = workload(&["guessed"], 2, status.clone());
            let existing = Existing {
                uid: "u".into(),
                owners: Owners {
                    all: Vec::new(),
                    version: None,
                },
                mine: true,
                path: None,
                run_key: None,
                run: 2,
                depends_on: vec!["guessed".into()],
                begun: has_begun(&found),
            };
            let wants = |names: &[&str]| TaskObject::Workload(Box::new(workload(names, 2, json!(null))));
            assert_eq!(waits_for_others(&existing, &wants(&["named"])), written, "{status}");
            assert!(!waits_for_others(&existing, &wants(&["guessed"])), "{status}");
        }
    }
}
