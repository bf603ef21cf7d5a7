//! One pass of the scheduler: from the index to the transitions that are due.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use schemas::agentic_task::{FailureReason, Phase, TaskKind, Waiting};
use schemas::dependencies::DependencyState;
use schemas::phase::{self, EndReason, Event};
use schemas::{AgenticTask, labels};

use super::class::{Class, Demand, Standing};
use super::facts::{CLAIM_TIME, PRIORITY_STEP, TaskObject, phase_of, status_of};
use super::fit::{self, Fitting};
use super::index::Index;
use super::node::Node;
use super::retry::{self, Retry};
use crate::cache::Key;

/// Why a task waits whose Workload is about to be brought forward.
const UNPINNED: &str = "its Workload has not pinned the base yet";
/// Why a task waits for which a node would fit.
const NO_SLOT: &str = "no slot is free on a node that fits";

/// A transition that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Task.
    pub key: Key,
    /// The task as it was when this was decided; a newer version makes the step void.
    pub task: TaskObjectRef,
    /// What happens.
    pub what: What,
}

/// A task, compared by version only.
#[derive(Clone, Debug)]
pub struct TaskObjectRef(pub TaskObject);

impl PartialEq for TaskObjectRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.meta().resource_version == other.0.meta().resource_version && self.0.meta().uid == other.0.meta().uid
    }
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It is seen for the first time: phase Pending, and why it has to wait where that is known.
    Admit(Option<Waiting>),
    /// A transition of the phase machine.
    Apply {
        /// Event.
        event: Event,
        /// Why, for people.
        message: String,
        /// Name of the cause, for counters.
        cause: &'static str,
    },
    /// Why it waits, and where it stands.
    Wait(Waiting),
    /// A request to run again is dealt with.
    Retry {
        /// Id of the request.
        id: String,
        /// What follows it.
        retry: Retry,
    },
}

/// What a pass found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    /// Transitions, independent of each other.
    pub steps: Vec<Step>,
    /// When to look again even if nothing changes.
    pub wake: Option<Duration>,
}

/// Plans all transitions that are due at `at` (time since the process began).
pub fn plan(index: &mut Index, at: Duration) -> Pass {
    let mut pass = Pass::default();
    index.look_at_overdue(at);
    let dirty = std::mem::take(&mut index.dirty);
    for key in dirty {
        if index.is_reserved(&key) || index.is_resting(&key) {
            // The answer to its assignment, or the end of its pause, brings it here again.
            continue;
        }
        index.unqueue(&key);
        let Some(task) = index.tasks.get(&key).cloned() else {
            continue;
        };
        let Some(object) = task.readable() else { continue };
        if task.is_deleting() {
            continue;
        }
        if let Some(id) = retry::request(&task) {
            match retry::decide(index, &key, &task, object, id) {
                Retry::Wait => {}
                retry => pass.steps.push(Step {
                    key: key.clone(),
                    task: TaskObjectRef(task.clone()),
                    what: What::Retry {
                        id: id.to_owned(),
                        retry,
                    },
                }),
            }
        }
        if phase_of(&task).is_terminal() {
            continue;
        }
        if phase_of(&task) == Phase::Pending {
            consider(index, &key, &task, object, &mut pass);
        } else {
            oversee(index, &key, &task, object, at, &mut pass);
        }
    }
    assign(index, &mut pass);
    index.supply_changed = false;
    pass.wake = index.next_due(at);
    pass
}

fn step(key: &Key, task: &TaskObject, event: Event, message: impl Into<String>, cause: &'static str) -> Step {
    let what = What::Apply {
        event,
        message: message.into(),
        cause,
    };
    Step {
        key: key.clone(),
        task: TaskObjectRef(task.clone()),
        what,
    }
}

/// Returns the id of a cancel request that was not dealt with.
pub(super) fn cancel_request(task: &TaskObject) -> Option<&str> {
    let id = task.annotation(labels::CANCEL).filter(|id| !id.is_empty())?;
    (status_of(task).handled_cancel.as_deref() != Some(id)).then_some(id)
}

/// Decides about a pending task: an end, a hold, or a place in a queue.
fn consider(index: &mut Index, key: &Key, task: &TaskObject, object: &AgenticTask, pass: &mut Pass) {
    let status = status_of(task);
    let mut end = |reason: EndReason, message: String, cause| {
        pass.steps.push(step(key, task, Event::End(reason), message, cause));
    };
    if cancel_request(task).is_some() {
        return end(EndReason::Cancelled, "cancelled before it began".into(), "cancelled");
    }
    if phase::lost_too_often(status) {
        let lost = status.lost_claims.unwrap_or(0);
        return end(
            EndReason::LostClaims,
            format!("{lost} claims were lost: their agents died, or could not say how it ended; see their logs"),
            "lost-claims",
        );
    }
    if matches!(object.spec.kind, TaskKind::Integrate | TaskKind::Reconcile) {
        let message = format!("kind {} is not supported yet", object.spec.kind.as_str());
        return end(
            EndReason::Refused(FailureReason::NotSupportedYet),
            message,
            "not-supported",
        );
    }
    let standing = match index.gate(key, object) {
        Err(reason) => {
            return end(
                EndReason::Refused(FailureReason::ConstraintViolated),
                reason,
                "bad-dependency",
            );
        }
        // Its Workload decides: another round may take the task's place.
        Ok(DependencyState::UpstreamFailed(reason) | DependencyState::Skip(reason))
            if task.label(labels::WORKLOAD).is_some() =>
        {
            Standing::Held(reason)
        }
        Ok(DependencyState::UpstreamFailed(reason)) => {
            return end(EndReason::UpstreamFailed, reason, "upstream-failed");
        }
        Ok(DependencyState::Skip(reason)) => return end(EndReason::Skipped, reason, "skipped"),
        Ok(DependencyState::Waiting(reason)) => Standing::Held(reason),
        Ok(DependencyState::Ready) if index.waits_for_base(key, task, object) => Standing::Held(UNPINNED.to_owned()),
        Ok(DependencyState::Ready) => index.place(key, object),
    };
    if status.phase.is_none() {
        let waiting = match &standing {
            // That is over in a moment, and then nobody wants to have read it.
            Standing::Held(reason) if reason == UNPINNED => None,
            Standing::Held(reason) => Some(Waiting {
                place: None,
                reason: reason.clone(),
            }),
            // Nor would anybody look for a node that is about to be found.
            Standing::Queued(class, _) if !fitting(index, &class.demand).is_known() => None,
            Standing::Queued(class, _) => lacking(index, &class.demand).map(|reason| {
                let before = index.classes.get(class).map_or(0, BTreeSet::len);
                Waiting {
                    place: i64::try_from(before + 1).ok(),
                    reason,
                }
            }),
        };
        // One that has to wait stands in its queue from now on, so that the next one is told a place behind it; any other
        // takes its place when the answer to this write comes back.
        if waiting.is_some() {
            index.stand(key, standing);
        }
        pass.steps.push(Step {
            key: key.clone(),
            task: TaskObjectRef(task.clone()),
            what: What::Admit(waiting),
        });
        return;
    }
    index.stand(key, standing);
}

/// Looks whether the claim of a task that is worked on still lives.
fn oversee(index: &Index, key: &Key, task: &TaskObject, object: &AgenticTask, at: Duration, pass: &mut Pass) {
    let status = status_of(task);
    let phase = phase_of(task);
    let epoch = status.epoch.unwrap_or(0);
    let mut lose = |message: String, cause| {
        pass.steps
            .push(step(key, task, Event::LoseClaim { epoch }, message, cause));
    };
    let name = status.assigned_node.as_deref().unwrap_or_default();
    let Some(node) = index.nodes.get(name) else {
        return lose(format!("FleetNode {name:?} does not exist any more"), "node-gone");
    };
    match node.alive {
        // Its judgement brings its tasks here again.
        None => return,
        Some(false) => return lose(format!("FleetNode {name:?} has not been heard of"), "node-lost"),
        Some(true) => {}
    }
    match (&status.claim, phase) {
        (Some(claim), _) if node.holder.as_ref().is_some_and(|holder| *holder != claim.agent) => {
            return lose(format!("the agent process on {name:?} was replaced"), "agent-replaced");
        }
        (None, Phase::Running | Phase::Verifying) => {
            return lose(format!("the agent on {name:?} gave the task back"), "given-back");
        }
        (None, _) if cancel_request(task).is_some() || !node.is_open() => {
            pass.steps.push(step(
                key,
                task,
                Event::Unassign,
                format!("taken from {name:?} before it began"),
                "unassigned",
            ));
            return;
        }
        _ => {}
    }
    if index.is_overdue(key, at) {
        if status.claim.is_none() && phase == Phase::Scheduled {
            let message = format!("{name:?} did not claim it within {} s", CLAIM_TIME.as_secs());
            pass.steps.push(step(key, task, Event::Unassign, message, "unclaimed"));
        } else {
            let message = format!(
                "still running long after its limit of {} s",
                object.spec.limit().as_secs()
            );
            pass.steps
                .push(step(key, task, Event::LoseClaim { epoch }, message, "overdue"));
        }
    }
}

/// Gives free slots to pending tasks: by age with priority, each running task of a repository counting against it.
///
/// The cost is that of the free nodes and of what is placed, not of all nodes or of all tasks.
fn assign(index: &mut Index, pass: &mut Pass) {
    // The heads of all classes that anything is free for; a class leaves the heap when nothing of it can start.
    let mut heads: BinaryHeap<Reverse<(i64, i64, Key, Class)>> = BinaryHeap::new();
    for (class, members) in &index.classes {
        if !index.free(!class.demand.verifies).is_empty()
            && let Some((start, key)) = members.first()
        {
            let rank = start.saturating_add(share(index, &class.repo));
            heads.push(Reverse((rank, *start, key.clone(), class.clone())));
        }
    }
    let mut candidates: HashMap<Class, Candidates> = HashMap::new();
    while let Some(Reverse((rank, start, key, class))) = heads.pop() {
        let now = start.saturating_add(share(index, &class.repo));
        if now > rank {
            // Another class of this repository was served meanwhile.
            heads.push(Reverse((now, start, key, class)));
            continue;
        }
        let fitting = fitting(index, &class.demand);
        if is_agent_full(index, &class.demand, &fitting) {
            continue;
        }
        if !candidates.contains_key(&class) {
            candidates.insert(class.clone(), Candidates::new(index, &class.repo, &fitting));
        }
        let best = candidates
            .get_mut(&class)
            .and_then(|candidates| candidates.take_best(index, &class.repo, &fitting));
        let Some(name) = best else { continue };
        let Some(task) = index.tasks.get(&key).cloned() else {
            continue;
        };
        // The write decides: until its answer shows the task assigned, or the race lost, the place is kept.
        index.unqueue(&key);
        if let Some(object) = task.readable() {
            index.reserve(&key, object, &name);
        }
        let message = format!("assigned to {name}");
        pass.steps
            .push(step(&key, &task, Event::Assign { node: name }, message, "assigned"));
        if let Some((start, key)) = index.classes.get(&class).and_then(BTreeSet::first) {
            let rank = start.saturating_add(share(index, &class.repo));
            heads.push(Reverse((rank, *start, key.clone(), class)));
        }
    }
}

/// How much later a repository's tasks begin because of those that run, in milliseconds.
fn share(index: &Index, repo: &str) -> i64 {
    let step = i64::try_from(PRIORITY_STEP.as_millis()).unwrap_or(i64::MAX);
    let running = index.repo_use.get(repo).copied().unwrap_or(0);
    i64::try_from(running).unwrap_or(i64::MAX).saturating_mul(step)
}

/// Says whether the Agent that is asked for runs as many tasks as it may.
fn is_agent_full(index: &Index, demand: &Demand, fitting: &Fitting) -> bool {
    let (Some(limit), Some(agent)) = (fitting.needs.agent_limit, &demand.agent) else {
        return false;
    };
    let agent = Key::new(demand.namespace.clone(), agent.clone());
    index.agent_use.get(&agent).copied().unwrap_or(0) >= limit
}

/// The free nodes that fit a class, best first, for one pass.
struct Candidates(BinaryHeap<(i64, Reverse<String>)>);

impl Candidates {
    fn new(index: &Index, repo: &str, fitting: &Fitting) -> Self {
        let rated = |name: &String| Some((rate(index, name, repo, fitting)?, Reverse(name.clone())));
        // Whichever is shorter is walked.
        let free = index.free(fitting.needs.holds_slot);
        Self(if free.len() <= fitting.nodes.len() {
            let fits = free.iter().filter(|name| fitting.nodes.contains(*name));
            fits.filter_map(rated).collect()
        } else {
            let open = fitting.nodes.iter().filter(|name| free.contains(*name));
            open.filter_map(rated).collect()
        })
    }

    /// Returns the best node. What was placed since only made nodes worse, so a rating that still holds is the best.
    fn take_best(&mut self, index: &Index, repo: &str, fitting: &Fitting) -> Option<String> {
        while let Some((rated, Reverse(name))) = self.0.pop() {
            match rate(index, &name, repo, fitting) {
                None => {}
                Some(now) if now < rated => self.0.push((now, Reverse(name))),
                Some(_) => {
                    // It may have room for another one; that is rated when it comes up.
                    self.0.push((rated, Reverse(name.clone())));
                    return Some(name);
                }
            }
        }
        None
    }
}

/// Rates a node for a class; `None` when it has no room.
fn rate(index: &Index, name: &str, repo: &str, fitting: &Fitting) -> Option<i64> {
    let node: &Node = index.nodes.get(name)?;
    let used = index.node_use.get(name).copied().unwrap_or_default();
    node.has_room(used, fitting.needs.holds_slot)
        .then(|| fit::score(&fitting.needs, repo, node, used))
}

/// Returns the nodes that fit a demand, found once for as long as nodes and agents stay the same.
pub(super) fn fitting(index: &mut Index, demand: &Demand) -> Arc<Fitting> {
    if let Some(known) = index.fitting.get(demand) {
        return known.clone();
    }
    let found = Arc::new(Fitting::new(index.needs(demand), index.nodes.iter()));
    index.fitting.insert(demand.clone(), found.clone());
    found
}

/// Says what a demand waits for; `None` when a node that fits has room now.
fn lacking(index: &mut Index, demand: &Demand) -> Option<String> {
    let fitting = fitting(index, demand);
    if fitting.nodes.is_empty() {
        return Some(fitting.reason());
    }
    if is_agent_full(index, demand, &fitting) {
        return Some(format!(
            "Agent {:?} runs at most {} at once",
            demand.agent.as_deref().unwrap_or_default(),
            fitting.needs.agent_limit.unwrap_or(0)
        ));
    }
    let free = index.free(fitting.needs.holds_slot);
    // Whichever is shorter is walked.
    let has_room = if free.len() <= fitting.nodes.len() {
        free.iter().any(|name| fitting.nodes.contains(name))
    } else {
        fitting.nodes.iter().any(|name| free.contains(name))
    };
    (!has_room).then(|| NO_SLOT.to_owned())
}

/// Says of at most `budget` waiting tasks why they wait and where they stand, where that is not what they say already.
pub fn plan_waits(index: &mut Index, budget: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let say = |key: &Key, task: &TaskObject, waiting: Waiting, steps: &mut Vec<Step>| {
        let status = status_of(task);
        // One that is not admitted yet is told with its admission.
        if status.phase.is_some() && is_news(status.waiting.as_ref(), &waiting) {
            steps.push(Step {
                key: key.clone(),
                task: TaskObjectRef(task.clone()),
                what: What::Wait(waiting),
            });
        }
    };
    for (key, standing) in &index.standing {
        if steps.len() >= budget {
            return steps;
        }
        if let (Standing::Held(reason), Some(task)) = (standing, index.tasks.get(key)) {
            let reason = reason.clone();
            say(key, task, Waiting { place: None, reason }, &mut steps);
        }
    }
    let classes: Vec<Class> = index.classes.keys().cloned().collect();
    for class in classes {
        if !fitting(index, &class.demand).is_known() {
            continue;
        }
        let reason = lacking(index, &class.demand).unwrap_or_else(|| NO_SLOT.to_owned());
        for (place, (_, key)) in index.classes.get(&class).into_iter().flatten().enumerate() {
            if steps.len() >= budget {
                return steps;
            }
            if let Some(task) = index.tasks.get(key) {
                let place = i64::try_from(place + 1).ok();
                say(
                    key,
                    task,
                    Waiting {
                        place,
                        reason: reason.clone(),
                    },
                    &mut steps,
                );
            }
        }
    }
    steps
}

/// Says whether `found` tells more than what stands: another reason, or a place that moved noticeably.
fn is_news(stands: Option<&Waiting>, found: &Waiting) -> bool {
    let Some(stands) = stands else { return true };
    if stands.reason != found.reason {
        return true;
    }
    match (stands.place, found.place) {
        (Some(old), Some(new)) => (old - new).abs() * 4 > old,
        (old, new) => old != new,
    }
}

#[cfg(test)]
mod tests;
