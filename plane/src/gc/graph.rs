//! Who owns whom: a pure graph, and what follows from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::object::{Meta, Owner};
use crate::server::delete::{FOREGROUND, ORPHAN};

/// One stored object, as the collector sees it.
#[derive(Debug, Clone)]
pub struct Node {
    /// The object's key.
    pub key: Arc<str>,
    /// Its metadata.
    pub meta: Meta,
}

/// What is to be done about one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Delete it, if it is still the same object.
    Delete {
        /// The object's key.
        key: Arc<str>,
        /// The identity that it must have.
        uid: String,
        /// Whether its own dependents go first.
        foreground: bool,
    },
    /// Take references to these owners off it.
    Disown {
        /// The object's key.
        key: Arc<str>,
        /// The identity that it must have.
        uid: String,
        /// The owners that are gone.
        owners: Vec<String>,
    },
    /// Take a finalizer off it.
    Release {
        /// The object's key.
        key: Arc<str>,
        /// The identity that it must have.
        uid: String,
        /// The finalizer whose work is done.
        finalizer: &'static str,
    },
}

/// All objects and their owners.
#[derive(Debug, Default)]
pub struct Graph {
    by_uid: HashMap<String, Node>,
    by_key: HashMap<Arc<str>, String>,
    dependents: HashMap<String, BTreeSet<String>>,
    dirty: BTreeSet<String>,
}

impl Graph {
    /// Takes in an object as it stands now; none means that the key is gone.
    pub fn put(&mut self, key: &Arc<str>, meta: Option<Meta>) {
        if let Some(old) = self.by_key.remove(key) {
            self.forget(&old);
            let replaced = meta.as_ref().is_none_or(|meta| meta.uid != old);
            if replaced {
                // Those who belonged to it have to be looked at.
                self.dirty
                    .extend(self.dependents.get(&old).into_iter().flatten().cloned());
            }
        }
        let Some(meta) = meta.filter(|meta| !meta.uid.is_empty()) else {
            return;
        };
        let uid = meta.uid.clone();
        for owner in &meta.owner_references {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let interesting = !meta.owner_references.is_empty()
            || meta.finalizers.iter().any(|name| name == FOREGROUND || name == ORPHAN);
        if interesting {
            self.dirty.insert(uid.clone());
        }
        self.by_key.insert(Arc::clone(key), uid.clone());
        self.by_uid.insert(
            uid,
            Node {
                key: Arc::clone(key),
                meta,
            },
        );
    }

    fn forget(&mut self, uid: &str) {
        let Some(node) = self.by_uid.remove(uid) else {
            return;
        };
        for owner in &node.meta.owner_references {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            // An owner that waits for its dependents may go on.
            if self.by_uid.contains_key(&owner.uid) {
                self.dirty.insert(owner.uid.clone());
            }
        }
    }

    /// Tells whether anything is to be looked at.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Looks at an object again later, after what was to be done about it failed.
    pub fn retry(&mut self, uid: &str) {
        if self.by_uid.contains_key(uid) {
            self.dirty.insert(uid.to_owned());
        }
    }

    /// Plans what follows from the changes since the last time. `served` tells whether
    /// an owner's kind is known: of an unknown kind nothing can be said.
    pub fn plan(&mut self, served: impl Fn(&Owner) -> bool) -> Vec<Action> {
        let mut actions = BTreeMap::new();
        let dirty = std::mem::take(&mut self.dirty);
        for uid in &dirty {
            if let Some(node) = self.by_uid.get(uid) {
                for action in self.of(node, &served) {
                    actions.insert(format!("{uid}{action:?}"), action);
                }
            }
        }
        actions.into_values().collect()
    }

    fn of(&self, node: &Node, served: &impl Fn(&Owner) -> bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let meta = &node.meta;
        let deleting = meta.deletion_timestamp.is_some();
        let waits_for = |name: &str| deleting && meta.finalizers.iter().any(|f| f == name);
        if waits_for(ORPHAN) {
            let mut left = false;
            for dependent in self.dependents_of(&meta.uid) {
                left = true;
                actions.push(Action::Disown {
                    key: Arc::clone(&dependent.key),
                    uid: dependent.meta.uid.clone(),
                    owners: vec![meta.uid.clone()],
                });
            }
            if !left {
                actions.push(self.release(node, ORPHAN));
            }
            return actions;
        }
        if waits_for(FOREGROUND) {
            let mut blocked = false;
            for dependent in self.dependents_of(&meta.uid) {
                let reference = dependent
                    .meta
                    .owner_references
                    .iter()
                    .find(|owner| owner.uid == meta.uid);
                let blocks = reference.is_some_and(|owner| owner.block_owner_deletion);
                blocked |= blocks;
                if dependent.meta.deletion_timestamp.is_none() && self.has_other_owner(dependent, &meta.uid) {
                    blocked = true;
                    actions.push(Action::Disown {
                        key: Arc::clone(&dependent.key),
                        uid: dependent.meta.uid.clone(),
                        owners: vec![meta.uid.clone()],
                    });
                } else if dependent.meta.deletion_timestamp.is_none() {
                    actions.push(Action::Delete {
                        key: Arc::clone(&dependent.key),
                        uid: dependent.meta.uid.clone(),
                        // Only what has dependents of its own waits for them.
                        foreground: self.dependents_of(&dependent.meta.uid).next().is_some(),
                    });
                }
            }
            if !blocked {
                actions.push(self.release(node, FOREGROUND));
            }
            return actions;
        }
        if !deleting && !meta.owner_references.is_empty() {
            actions.extend(self.ownerless(node, served));
        }
        actions
    }

    fn release(&self, node: &Node, finalizer: &'static str) -> Action {
        Action::Release {
            key: Arc::clone(&node.key),
            uid: node.meta.uid.clone(),
            finalizer,
        }
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|uid| self.by_uid.get(uid))
    }

    fn has_other_owner(&self, node: &Node, except: &str) -> bool {
        node.meta.owner_references.iter().any(|owner| {
            owner.uid != except
                && self
                    .by_uid
                    .get(&owner.uid)
                    .is_some_and(|owner| owner.meta.deletion_timestamp.is_none())
        })
    }

    /// What becomes of an object that may have lost its owners.
    fn ownerless(&self, node: &Node, served: &impl Fn(&Owner) -> bool) -> Option<Action> {
        let namespace = &node.meta.namespace;
        let mut gone = Vec::new();
        for owner in &node.meta.owner_references {
            match self.by_uid.get(&owner.uid) {
                // An owner in another namespace is no owner.
                Some(found) if found.meta.namespace.is_empty() || found.meta.namespace == *namespace => {}
                Some(_) if namespace.is_empty() => return None,
                Some(_) => gone.push(owner.uid.clone()),
                None if served(owner) => gone.push(owner.uid.clone()),
                None => return None,
            }
        }
        if gone.is_empty() {
            return None;
        }
        let (key, uid) = (Arc::clone(&node.key), node.meta.uid.clone());
        if gone.len() == node.meta.owner_references.len() {
            return Some(Action::Delete {
                key,
                uid,
                foreground: false,
            });
        }
        Some(Action::Disown { key, uid, owners: gone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, owners: &[&str]) -> Meta {
        Meta {
            uid: uid.into(),
            namespace: "d".into(),
            owner_references: owners
                .iter()
                .map(|uid| Owner {
                    uid: (*uid).into(),
                    block_owner_deletion: true,
                    ..Owner::default()
                })
                .collect(),
            ..Meta::default()
        }
    }

    fn put(graph: &mut Graph, meta: Meta) {
        graph.put(&Arc::from(meta.uid.clone()), Some(meta));
    }

    fn plan(graph: &mut Graph) -> Vec<String> {
        graph
            .plan(|_| true)
            .into_iter()
            .map(|action| match action {
                Action::Delete { uid, foreground, .. } => {
                    format!("delete {uid}{}", if foreground { " first" } else { "" })
                }
                Action::Disown { uid, owners, .. } => format!("disown {uid} {}", owners.join(",")),
                Action::Release { uid, finalizer, .. } => format!("release {uid} {finalizer}"),
            })
            .collect()
    }

    #[test]
    fn what_lost_all_its_owners_goes_and_what_lost_one_forgets_it() {
        let mut graph = Graph::default();
        for node in [
            meta("a", &[]),
            meta("b", &[]),
            meta("of-a", &["a"]),
            meta("of-both", &["a", "b"]),
        ] {
            put(&mut graph, node);
        }
        assert_eq!(plan(&mut graph), Vec::<String>::new());
        graph.put(&Arc::from("a"), None);
        assert_eq!(plan(&mut graph), ["delete of-a", "disown of-both a"]);
        assert!(graph.is_settled());
    }

    #[test]
    fn an_object_made_for_an_owner_that_is_gone_is_collected() {
        let mut graph = Graph::default();
        put(&mut graph, meta("x", &["gone"]));
        assert_eq!(plan(&mut graph), ["delete x"]);
        put(&mut graph, meta("y", &["gone"]));
        assert_eq!(graph.plan(|_| false), [], "an unknown kind proves nothing");
    }

    #[test]
    fn an_owner_made_anew_under_the_same_name_is_another_owner() {
        let mut graph = Graph::default();
        graph.put(&Arc::from("k"), Some(meta("old", &[])));
        put(&mut graph, meta("x", &["old"]));
        plan(&mut graph);
        graph.put(&Arc::from("k"), Some(meta("new", &[])));
        assert_eq!(plan(&mut graph), ["delete x"]);
    }

    #[test]
    fn foreground_deletion_waits_for_what_blocks_it() {
        let mut graph = Graph::default();
        put(&mut graph, meta("of-a", &["a"]));
        let mut owner = meta("a", &[]);
        owner.deletion_timestamp = Some("t".into());
        owner.finalizers = vec![FOREGROUND.into()];
        put(&mut graph, owner);
        assert_eq!(plan(&mut graph), ["delete of-a"]);
        put(&mut graph, meta("of-of-a", &["of-a"]));
        put(&mut graph, meta("of-a", &["a"]));
        assert_eq!(plan(&mut graph), ["delete of-a first"], "it has a dependent of its own");
        graph.put(&Arc::from("of-of-a"), None);
        graph.put(&Arc::from("of-a"), None);
        assert_eq!(plan(&mut graph), ["release a foregroundDeletion"]);
    }

    #[test]
    fn orphans_lose_their_owner_before_it_goes() {
        let mut graph = Graph::default();
        put(&mut graph, meta("of-a", &["a"]));
        let mut owner = meta("a", &[]);
        owner.deletion_timestamp = Some("t".into());
        owner.finalizers = vec![ORPHAN.into()];
        put(&mut graph, owner);
        assert_eq!(plan(&mut graph), ["disown of-a a"]);
        put(&mut graph, meta("of-a", &[]));
        assert_eq!(plan(&mut graph), ["release a orphan"]);
    }

    #[test]
    fn an_owner_in_another_namespace_is_no_owner() {
        let mut graph = Graph::default();
        put(&mut graph, meta("a", &[]));
        let mut elsewhere = meta("x", &["a"]);
        elsewhere.namespace = "other".into();
        put(&mut graph, elsewhere);
        assert_eq!(plan(&mut graph), ["delete x"]);
    }
}
