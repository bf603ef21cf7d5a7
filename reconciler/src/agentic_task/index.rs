//! The scheduler's index: pending tasks by what they need, nodes by what they offer, and who uses what.
//!
//! It is synchronous and pure: watches feed it, passes read it, and nothing in it does I/O. A change costs what
//! changed; no event makes it look at every task.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use schemas::agentic_task::{AgenticTaskStatus, Phase, TaskKind};
use schemas::dependencies::{DependencyState, TaskFacts, dependency_state};
use schemas::fleet_node::{Capability, NodePhase};
use schemas::shared::RequiredCapability;
use schemas::{Agent, AgenticTask, FleetNode, labels, phase};

use crate::agent::validate;
use crate::cache::{Cached, Key};

/// One step of priority, and one running task of the same repository, weigh as much as this much waiting.
pub const PRIORITY_STEP: Duration = Duration::from_secs(600);

/// How long an assigned task may stay unclaimed by a node that is alive.
pub const CLAIM_TIME: Duration = Duration::from_secs(120);
/// How long beyond its own time limit a task may be worked on before its claim counts as dead.
pub const OVERTIME: Duration = Duration::from_secs(120);
/// Seconds that a verifier may take: three tries of a gate of thirty minutes.
const VERIFY_SECONDS: i64 = 3 * 1800;

/// A task as it was last seen.
pub type TaskObject = Arc<Cached<AgenticTask>>;

/// What tasks have in common when the same nodes fit them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// Namespace.
    pub namespace: String,
    /// Agent, where one is named.
    pub agent: Option<String>,
    /// Requirement in canonical JSON, where no Agent says it.
    pub required: String,
    /// Model that replaces the Agent's.
    pub model: Option<String>,
    /// Target repository.
    pub repo: String,
    /// Whether the work is a verifier's, which waits for a gate Job and holds no model slot.
    pub verifies: bool,
}

/// What a class asks of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Requirement.
    pub required: RequiredCapability,
    /// Model that the work uses; `None` for deterministic agents.
    pub model: Option<String>,
    /// Whether the work holds a model slot.
    pub holds_slot: bool,
    /// Tasks of the Agent that may run at once.
    pub agent_limit: Option<usize>,
}

/// A node as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// What it offers.
    pub capability: Capability,
    /// Roles that it takes; empty where it takes every role.
    pub roles: BTreeSet<String>,
    /// Labels of the FleetNode.
    pub labels: BTreeMap<String, String>,
    /// Repositories that it has a mirror of.
    pub cached: BTreeSet<String>,
    /// Phase that its agent says.
    pub phase: NodePhase,
    /// Whether it is heard of.
    pub alive: bool,
    /// Identity of the agent process that holds the node's Lease, where there is one.
    pub holder: Option<String>,
}

impl Node {
    /// Says whether it takes a role.
    pub fn takes(&self, role: &str) -> bool {
        self.roles.is_empty() || self.roles.contains(role)
    }

    /// Says whether one more task of a sort has room.
    ///
    /// Verifiers have places of their own, as many as there are slots. An agent that does not say its slots does one
    /// task at a time, whatever its sort.
    pub fn has_room(&self, used: Use, holds_slot: bool) -> bool {
        let taken = match (self.capability.slots, holds_slot) {
            (None, _) => used.with_model + used.plain,
            (Some(_), true) => used.with_model,
            (Some(_), false) => used.plain,
        };
        taken < self.slots()
    }

    /// Returns how many tasks the node takes at once.
    pub fn slots(&self) -> usize {
        usize::try_from(self.capability.slots.unwrap_or(1)).unwrap_or(1)
    }

    /// Says whether the node takes new tasks.
    pub fn is_open(&self) -> bool {
        self.alive && self.phase == NodePhase::Ready
    }
}

/// Tasks that a node has, by sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Tasks that hold a model slot.
    pub with_model: usize,
    /// Verifiers.
    pub plain: usize,
}

impl Use {
    /// Adds one task of a sort.
    pub fn add(&mut self, holds_slot: bool) {
        *if holds_slot {
            &mut self.with_model
        } else {
            &mut self.plain
        } += 1;
    }
}

/// Where a pending task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// In the queue of its class, at this virtual start time.
    Queued(Class, i64),
    /// Held back, for this reason.
    Held(String),
}

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
    agents: HashMap<Key, Arc<Cached<Agent>>>,
    profiles: HashSet<String>,
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
    /// Nodes, agents or limits changed since the last pass.
    pub(super) supply_changed: bool,
    /// The fitting nodes of each class, as long as nodes and agents stay the same.
    pub(super) fitting: HashMap<Class, Arc<super::fit::Fitting>>,
}

impl Index {
    /// Takes in a task that changed, or that is gone.
    pub fn set_task(&mut self, key: &Key, task: Option<TaskObject>, at: Duration) {
        self.release(key);
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
            None => self.forget_work(key),
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
            alive: known.is_some_and(|known| known.alive),
            holder: known.and_then(|known| known.holder.clone()),
        };
        self.replace_node(name, Some(node));
    }

    /// Takes in whether a node is heard of, and which agent process holds its Lease.
    pub fn set_alive(&mut self, name: &str, alive: bool, holder: Option<String>) {
        if let Some(known) = self.nodes.get(name)
            && (known.alive != alive || known.holder != holder)
        {
            let node = Node {
                alive,
                holder,
                ..known.clone()
            };
            self.replace_node(name, Some(node));
        }
    }

    /// Puts a node in the place of what was known of it. That costs one look per class, never one per node or task.
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
        if self.tasks.contains_key(key) {
            self.dirty.insert(key.clone());
        }
    }

    /// Looks again at everything: what an earlier term decided and did not write is decided anew.
    pub fn begin_term(&mut self) {
        let reserved: Vec<Key> = self.reserved.keys().cloned().collect();
        reserved.iter().for_each(|key| self.release(key));
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
                self.fitting.remove(&class);
            }
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

    /// Says what a pending task's dependencies allow; an entry that can never be met is an error.
    pub(super) fn gate(&self, key: &Key, task: &AgenticTask) -> Result<DependencyState, String> {
        let mut facts = Vec::with_capacity(task.spec.depends_on.len());
        for dependency in &task.spec.depends_on {
            let name = dependency.resolve(&key.namespace)?;
            let found = self.tasks.get(&Key::new(key.namespace.clone(), name));
            facts.push((name, found.map(|found| TaskFacts::of(Some(status_of(found))))));
        }
        Ok(dependency_state(
            facts.iter().map(|(name, facts)| (*name, facts.as_ref())),
        ))
    }

    /// Says whether the base that a Workload's task is to be pinned to is known from what it depends on, and not set yet.
    pub(super) fn waits_for_base(&self, key: &Key, task: &TaskObject, object: &AgenticTask) -> bool {
        let known = |name: &str| {
            let found = self.tasks.get(&Key::new(key.namespace.clone(), name));
            found.is_some_and(|found| {
                let works = found
                    .readable()
                    .is_some_and(|task| matches!(task.spec.kind, TaskKind::IssueFix | TaskKind::Freeform));
                works && status_of(found).base_sha.is_some()
            })
        };
        let owned = object.spec.workload_ref.is_some() && task.label(labels::WORKLOAD).is_some();
        let mut upstream = object
            .spec
            .depends_on
            .iter()
            .filter_map(|entry| entry.resolve(&key.namespace).ok());
        owned && object.spec.base_sha.is_none() && upstream.any(known)
    }

    /// Finds out where a task that nothing holds back is to stand.
    pub(super) fn place(&self, key: &Key, task: &AgenticTask) -> Standing {
        if let Some(name) = agent_name(task) {
            let Some(agent) = self.agents.get(&Key::new(key.namespace.clone(), name)) else {
                return Standing::Held(format!(
                    "Agent {name:?} does not exist in namespace {:?}",
                    key.namespace
                ));
            };
            if let Some(why) = agent.unreadable() {
                return Standing::Held(format!("Agent {name:?} cannot be read: {why}"));
            }
            let profiles = |profile: &str| self.profiles.contains(profile);
            let found = agent.readable().map(|agent| validate::validate(agent, &profiles));
            if let Some(problem) = found.iter().flat_map(|found| &found.problems).next() {
                return Standing::Held(format!("Agent {name:?} is not valid: {problem}"));
            }
        }
        let class = Class {
            namespace: key.namespace.clone(),
            agent: agent_name(task).map(str::to_owned),
            required: match agent_name(task) {
                Some(_) => String::new(),
                None => task
                    .spec
                    .required_capability
                    .as_ref()
                    .and_then(|r| serde_json::to_string(r).ok())
                    .unwrap_or_default(),
            },
            model: task.spec.model_ref.clone(),
            repo: repo_of(task),
            verifies: is_verifier(task),
        };
        Standing::Queued(class, virtual_start(task))
    }

    /// Works out what a class needs of a node.
    pub(super) fn needs(&self, class: &Class) -> Needs {
        let Some(name) = &class.agent else {
            return Needs {
                required: serde_json::from_str(&class.required).unwrap_or_default(),
                model: class.model.clone(),
                holds_slot: !class.verifies,
                agent_limit: None,
            };
        };
        let found = self
            .agents
            .get(&Key::new(class.namespace.clone(), name))
            .and_then(|agent| agent.readable());
        let Some(agent) = found else {
            return Needs {
                holds_slot: !class.verifies,
                ..Needs::default()
            };
        };
        let provider_model = agent
            .spec
            .provider_config
            .as_ref()
            .and_then(|config| config.model.clone());
        Needs {
            required: agent.spec.required_capability.clone().unwrap_or_default(),
            model: class
                .model
                .clone()
                .or_else(|| agent.spec.model.clone())
                .or(provider_model),
            holds_slot: !class.verifies,
            agent_limit: agent
                .spec
                .max_concurrent_tasks
                .and_then(|limit| usize::try_from(limit).ok()),
        }
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

/// How long a task may stay in a phase in which it is worked on.
fn time_limit(task: &TaskObject, phase: Phase) -> Option<Duration> {
    if phase == Phase::Scheduled {
        return Some(CLAIM_TIME);
    }
    let object = task.readable()?;
    let own = object.spec.timeout();
    let seconds = if is_verifier(object) {
        own.max(VERIFY_SECONDS)
    } else {
        own
    };
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_add(OVERTIME))
}

/// Returns a task's status; an empty one where it has none or cannot be read.
pub(super) fn status_of(task: &TaskObject) -> &AgenticTaskStatus {
    static EMPTY: std::sync::OnceLock<AgenticTaskStatus> = std::sync::OnceLock::new();
    let status = task.readable().and_then(|object| object.status.as_ref());
    status.unwrap_or_else(|| EMPTY.get_or_init(AgenticTaskStatus::default))
}

/// Returns the phase of a task; none is Pending.
pub(super) fn phase_of(task: &TaskObject) -> Phase {
    phase::phase_of(task.readable().and_then(|object| object.status.as_ref()))
}

pub(super) fn agent_name(task: &AgenticTask) -> Option<&str> {
    task.spec.agent_ref.as_ref().and_then(|agent| agent.named())
}

/// Says whether a task is a verifier's, as node agents see it.
fn is_verifier(task: &AgenticTask) -> bool {
    task.spec.kind == TaskKind::Verify
}

pub(super) fn repo_of(task: &AgenticTask) -> String {
    task.spec.payload.repo.clone().unwrap_or_default()
}

/// When the task would have come if every task had the same priority, in milliseconds.
///
/// Waiting makes all tasks older at the same rate, so the order never changes: ageing costs nothing.
fn virtual_start(task: &AgenticTask) -> i64 {
    let created = task
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_millisecond());
    let step = i64::try_from(PRIORITY_STEP.as_millis()).unwrap_or(i64::MAX);
    created.saturating_sub(task.spec.priority.unwrap_or(0).saturating_mul(step))
}
