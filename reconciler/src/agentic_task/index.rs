//! The scheduler's index: pending tasks by what they need, nodes by what they offer, and who uses what.
//!
//! It is synchronous and pure: watches feed it, passes read it, and nothing in it does I/O. A change costs what
//! changed; no event makes it look at every task.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use schemas::agentic_task::Phase;
use schemas::{Agent, AgenticTask, FleetNode};

use super::class::{Class, Demand, Standing};
use super::facts::{TaskObject, agent_name, is_verifier, repo_of, status_of, time_limit};
use super::node::{Node, Use};
use crate::cache::{Cached, Key};

/// What one task uses as long as a node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Usage {
    node: String,
    agent: Option<Key>,
    repo: String,
    /// A verifier whose gate Job runs holds no model slot, and the Job's own limits bound it.
    holds_slot: bool,
}

/// Since when a task is worked on, and until when it may be.
#[derive(Clone, Copy, Debug)]
struct Worked {
    epoch: i64,
    phase: Phase,
    since: Duration,
    due: Duration,
}

/// All that the scheduler knows.
#[derive(Default)]
pub struct Index {
    pub(super) tasks: HashMap<Key, TaskObject>,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) agents: HashMap<Key, Arc<Cached<Agent>>>,
    pub(super) profiles: HashSet<String>,
    /// Tasks that changed, or whose dependencies did, since the last pass.
    pub(super) dirty: BTreeSet<Key>,
    pub(super) standing: HashMap<Key, Standing>,
    pub(super) classes: BTreeMap<Class, BTreeSet<(i64, Key)>>,
    dependents: HashMap<Key, BTreeSet<Key>>,
    by_agent: HashMap<Key, BTreeSet<Key>>,
    pub(super) by_node: HashMap<String, BTreeSet<Key>>,
    pub(super) node_use: HashMap<String, Use>,
    pub(super) agent_use: HashMap<Key, usize>,
    pub(super) repo_use: HashMap<String, usize>,
    /// When a task was first seen to be worked on in an epoch, by our own clock.
    worked_since: HashMap<Key, Worked>,
    /// When the work on a task is overdue, soonest first.
    due: BTreeSet<(Duration, Key)>,
    /// Open nodes with room for one more task that holds a model slot, and for one more that holds none.
    free_slots: BTreeSet<String>,
    free_places: BTreeSet<String>,
    /// What assignments use that are decided and not answered yet.
    reserved: HashMap<Key, Usage>,
    /// How many writes about a task failed in a row.
    failures: HashMap<Key, u32>,
    /// Tasks of which a write did not succeed, until it is time to look again or there is news of them.
    resting: HashSet<Key>,
    /// Nodes, agents or limits changed since the last pass.
    pub(super) supply_changed: bool,
    /// The fitting nodes of each demand, as long as nodes and agents stay the same.
    pub(super) fitting: HashMap<Demand, Arc<super::fit::Fitting>>,
}

impl Index {
    /// Takes in a task that changed, or that is gone.
    pub fn set_task(&mut self, key: &Key, task: Option<TaskObject>, at: Duration) {
        self.release(key);
        self.resting.remove(key);
        if let Some(before) = self.tasks.remove(key) {
            self.count(&before, false);
            self.link(key, &before, false);
        }
        match task {
            Some(task) => {
                self.count(&task, true);
                self.link(key, &task, true);
                self.note_work(key, &task, at);
                self.tasks.insert(key.clone(), task);
            }
            None => {
                self.forget_work(key);
                self.end_failures(key);
            }
        }
        self.dirty.insert(key.clone());
        if let Some(dependents) = self.dependents.get(key) {
            self.dirty.extend(dependents.iter().cloned());
        }
    }

    /// Takes in a FleetNode that changed, or that is gone. Who is alive is said by [`Index::set_alive`].
    pub fn set_node(&mut self, name: &str, node: Option<&FleetNode>) {
        let Some(object) = node else {
            return self.replace_node(name, None);
        };
        let status = object.status.clone().unwrap_or_default();
        let known = self.nodes.get(name);
        let node = Node {
            capability: status.capability.unwrap_or_default(),
            roles: object.spec.roles.iter().flatten().cloned().collect(),
            labels: object.metadata.labels.clone().unwrap_or_default(),
            cached: status.cached_repositories.into_iter().flatten().collect(),
            phase: status.phase.unwrap_or_default(),
            alive: known.and_then(|known| known.alive),
            holder: known.and_then(|known| known.holder.clone()),
        };
        self.replace_node(name, Some(node));
    }

    /// Takes in whether a node is heard of, and which agent process holds its Lease.
    pub fn set_alive(&mut self, name: &str, alive: bool, holder: Option<String>) {
        if let Some(known) = self.nodes.get(name)
            && (known.alive != Some(alive) || known.holder != holder)
        {
            let node = Node {
                alive: Some(alive),
                holder,
                ..known.clone()
            };
            self.replace_node(name, Some(node));
        }
    }

    /// Puts a node in the place of what was known of it. That costs one look per demand, never one per node or task.
    fn replace_node(&mut self, name: &str, node: Option<Node>) {
        let before = match &node {
            Some(node) if self.nodes.get(name) == Some(node) => return,
            Some(node) => self.nodes.insert(name.to_owned(), node.clone()),
            None => match self.nodes.remove(name) {
                None => return,
                before => before,
            },
        };
        for fitting in self.fitting.values_mut() {
            Arc::make_mut(fitting).replace(name, before.as_ref(), node.as_ref());
        }
        self.sort_by_room(name);
        self.supply_changed = true;
        self.look_at_node(name);
    }

    /// Takes in an Agent that changed, or that is gone. What only its status says changes nothing here.
    pub fn set_agent(&mut self, key: &Key, agent: Option<Arc<Cached<Agent>>>) {
        let same = |before: &Cached<Agent>, after: &Cached<Agent>| {
            after.meta().generation.is_some()
                && before.meta().generation == after.meta().generation
                && before.meta().uid == after.meta().uid
        };
        if let (Some(before), Some(after)) = (self.agents.get(key), &agent)
            && same(before, after)
        {
            return;
        }
        match agent {
            Some(agent) => self.agents.insert(key.clone(), agent),
            None => self.agents.remove(key),
        };
        if let Some(tasks) = self.by_agent.get(key) {
            self.dirty.extend(tasks.iter().cloned());
        }
        self.needs_change();
    }

    /// Takes in a ModelProfile that appeared or is gone.
    pub fn set_profile(&mut self, name: &str, exists: bool) {
        let changed = if exists {
            self.profiles.insert(name.to_owned())
        } else {
            self.profiles.remove(name)
        };
        if changed {
            // It may be what an Agent lacked.
            self.dirty.extend(self.by_agent.values().flatten().cloned());
            self.needs_change();
        }
    }

    /// Looks again at the tasks of a node, such as when its time is over.
    pub fn look_at_node(&mut self, name: &str) {
        if let Some(tasks) = self.by_node.get(name) {
            self.dirty.extend(tasks.iter().cloned());
        }
    }

    /// Looks again at one task; an assignment that was decided and did not happen is forgotten.
    pub fn look_at_task(&mut self, key: &Key) {
        self.release(key);
        self.resting.remove(key);
        if self.tasks.contains_key(key) {
            self.dirty.insert(key.clone());
        }
    }

    /// Looks again at everything: what an earlier term decided and did not write is decided anew, and what it found of
    /// nodes is long ago. Until a node is judged, nothing is taken from it and nothing given to it.
    pub fn begin_term(&mut self) {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let unknown = self.nodes.get(&name).map(|known| Node {
                alive: None,
                holder: None,
                ..known.clone()
            });
            self.replace_node(&name, unknown);
        }
        let reserved: Vec<Key> = self.reserved.keys().cloned().collect();
        reserved.iter().for_each(|key| self.release(key));
        self.resting.clear();
        self.dirty.extend(self.tasks.keys().cloned());
    }

    /// Says whether a pass would find anything to do.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty() && !self.supply_changed
    }

    /// Returns how many tasks wait for a node.
    pub fn queued(&self) -> usize {
        self.classes.values().map(BTreeSet::len).sum()
    }

    fn needs_change(&mut self) {
        self.supply_changed = true;
        self.fitting.clear();
    }

    fn note_work(&mut self, key: &Key, task: &TaskObject, at: Duration) {
        let status = status_of(task);
        let (epoch, phase) = (status.epoch.unwrap_or(0), status.phase.unwrap_or_default());
        let known = self.worked_since.get(key).copied();
        self.forget_work(key);
        if !matches!(phase, Phase::Scheduled | Phase::Running | Phase::Verifying) {
            return;
        }
        let Some(limit) = time_limit(task, phase) else { return };
        let since = known
            .filter(|known| (known.epoch, known.phase) == (epoch, phase))
            .map_or(at, |known| known.since);
        let due = since.saturating_add(limit);
        self.due.insert((due, key.clone()));
        let worked = Worked {
            epoch,
            phase,
            since,
            due,
        };
        self.worked_since.insert(key.clone(), worked);
    }

    fn forget_work(&mut self, key: &Key) {
        if let Some(worked) = self.worked_since.remove(key) {
            self.due.remove(&(worked.due, key.clone()));
        }
    }

    /// Says whether the work on a task is overdue.
    pub(super) fn is_overdue(&self, key: &Key, at: Duration) -> bool {
        self.worked_since.get(key).is_some_and(|worked| worked.due <= at)
    }

    /// Looks again at the tasks whose work is overdue.
    pub(super) fn look_at_overdue(&mut self, at: Duration) {
        let overdue = self.due.iter().take_while(|(due, _)| *due <= at);
        self.dirty.extend(overdue.map(|(_, key)| key.clone()));
    }

    /// Returns when the next work is overdue.
    pub(super) fn next_due(&self, at: Duration) -> Option<Duration> {
        self.due.iter().map(|(due, _)| *due).find(|due| *due > at)
    }

    /// Adds or removes what a task uses.
    fn count(&mut self, task: &TaskObject, add: bool) {
        let Some(object) = task.readable() else { return };
        let status = status_of(task);
        let phase = status.phase.unwrap_or_default();
        let Some(node) = &status.assigned_node else { return };
        if phase.is_terminal() || phase == Phase::Pending {
            return;
        }
        let key = Key::of(task.meta());
        let tasks = self.by_node.entry(node.clone()).or_default();
        if add {
            tasks.insert(key.clone());
        } else {
            tasks.remove(&key);
            if tasks.is_empty() {
                self.by_node.remove(node);
            }
        }
        let usage = usage(&key, object, node);
        self.use_up(&usage, add);
    }

    /// Adds or removes one task's use of a node, an agent and a repository.
    fn use_up(&mut self, usage: &Usage, add: bool) {
        let change = |count: &mut usize| *count = if add { *count + 1 } else { count.saturating_sub(1) };
        let used = self.node_use.entry(usage.node.clone()).or_default();
        change(if usage.holds_slot {
            &mut used.with_model
        } else {
            &mut used.plain
        });
        if let Some(agent) = &usage.agent {
            change(self.agent_use.entry(agent.clone()).or_default());
        }
        change(self.repo_use.entry(usage.repo.clone()).or_default());
        self.sort_by_room(&usage.node);
        // What is used more leaves nothing new to do.
        self.supply_changed |= !add;
    }

    /// Returns the open nodes with room for one more task of a sort.
    pub(super) fn free(&self, holds_slot: bool) -> &BTreeSet<String> {
        if holds_slot {
            &self.free_slots
        } else {
            &self.free_places
        }
    }

    /// Keeps [`Index::free`] true of one node.
    fn sort_by_room(&mut self, name: &str) {
        let used = self.node_use.get(name).copied().unwrap_or_default();
        let node = self.nodes.get(name).filter(|node| node.is_open());
        for (free, holds_slot) in [(&mut self.free_slots, true), (&mut self.free_places, false)] {
            if node.is_some_and(|node| node.has_room(used, holds_slot)) {
                free.insert(name.to_owned());
            } else {
                free.remove(name);
            }
        }
    }

    /// Counts an assignment that is decided as if it had happened, until its answer is here.
    pub(super) fn reserve(&mut self, key: &Key, task: &AgenticTask, node: &str) {
        self.release(key);
        let usage = usage(key, task, node);
        self.use_up(&usage, true);
        self.reserved.insert(key.clone(), usage);
    }

    /// Gives back what an assignment that did not happen had reserved.
    pub fn release(&mut self, key: &Key) {
        if let Some(usage) = self.reserved.remove(key) {
            self.use_up(&usage, false);
        }
    }

    /// Counts one more failed write about a task; returns how many failed in a row.
    pub fn add_failure(&mut self, key: &Key) -> u32 {
        if !self.tasks.contains_key(key) {
            return 1;
        }
        let count = self.failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Ends a row of failed writes.
    pub fn end_failures(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// Leaves a task alone until [`Index::look_at_task`], or until there is news of it; what it had reserved is given back.
    pub fn rest(&mut self, key: &Key) {
        self.release(key);
        if self.tasks.contains_key(key) {
            self.resting.insert(key.clone());
        }
    }

    /// Says whether a task is left alone for now.
    pub(super) fn is_resting(&self, key: &Key) -> bool {
        self.resting.contains(key)
    }

    /// Says whether an assignment is decided and not answered yet.
    pub(super) fn is_reserved(&self, key: &Key) -> bool {
        self.reserved.contains_key(key)
    }

    /// Adds or removes the edges from a task to what it depends on.
    fn link(&mut self, key: &Key, task: &TaskObject, add: bool) {
        let Some(object) = task.readable() else { return };
        let set = |map: &mut HashMap<Key, BTreeSet<Key>>, to: Key| {
            let edges = map.entry(to.clone()).or_default();
            if add {
                edges.insert(key.clone());
            } else {
                edges.remove(key);
                if edges.is_empty() {
                    map.remove(&to);
                }
            }
        };
        for dependency in &object.spec.depends_on {
            if let Ok(name) = dependency.resolve(&key.namespace) {
                set(&mut self.dependents, Key::new(key.namespace.clone(), name));
            }
        }
        if let Some(agent) = agent_name(object) {
            set(&mut self.by_agent, Key::new(key.namespace.clone(), agent));
        }
    }

    /// Takes a task out of its class or its hold.
    pub(super) fn unqueue(&mut self, key: &Key) {
        if let Some(Standing::Queued(class, start)) = self.standing.remove(key)
            && let Some(members) = self.classes.get_mut(&class)
        {
            members.remove(&(start, key.clone()));
            if members.is_empty() {
                self.classes.remove(&class);
                self.forget_demand(class.demand);
            }
        }
    }

    /// Forgets the fitting nodes of a demand that no class has any more.
    fn forget_demand(&mut self, demand: Demand) {
        let first = Class {
            demand,
            repo: String::new(),
        };
        let next = self.classes.range(&first..).next();
        if next.is_none_or(|(class, _)| class.demand != first.demand) {
            self.fitting.remove(&first.demand);
        }
    }

    /// Puts a pending task where it stands.
    pub(super) fn stand(&mut self, key: &Key, standing: Standing) {
        if let Standing::Queued(class, start) = &standing {
            self.classes
                .entry(class.clone())
                .or_default()
                .insert((*start, key.clone()));
        }
        self.standing.insert(key.clone(), standing);
    }
}

/// Works out what a task uses on a node.
fn usage(key: &Key, task: &AgenticTask, node: &str) -> Usage {
    Usage {
        node: node.to_owned(),
        agent: agent_name(task).map(|agent| Key::new(key.namespace.clone(), agent)),
        repo: repo_of(task),
        holds_slot: !is_verifier(task),
    }
}
