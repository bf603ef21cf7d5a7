//! What a queue would do next, planned as the controller plans it, with nothing written.

use std::sync::Arc;

use git::{Git, Oid};
use kube::api::DynamicObject;
use schemas::dependencies::{WorkloadDependencyState, workload_dependency_state};
use schemas::workload::WorkloadPhase;
use schemas::{AgenticTask, TaskQueue, Workload};

use super::files::Files;
use super::load;
use super::observe::{Inventory, Known, Made, task_phase, workload_phase};
use super::plan::{self, Plan};
use super::problem::Problem;
use super::validate::validate;
use crate::cache::{Cache, Cached, Key};
use crate::workload::observe::phase_of_run;

/// The objects that there are.
#[derive(Default)]
pub struct There {
    workloads: Cache<Workload>,
    tasks: Cache<AgenticTask>,
    inventory: Arc<Inventory>,
}

/// What would happen.
pub struct Foreseen {
    /// Commit that was read.
    pub revision: Oid,
    /// The files at that commit.
    pub files: Files,
    /// What would be written.
    pub plan: Plan,
}

impl There {
    /// Takes in what the API lists.
    pub fn new(workloads: Vec<DynamicObject>, tasks: Vec<DynamicObject>) -> Self {
        let there = Self::default();
        let map = there.inventory.clone();
        there
            .workloads
            .subscribe(move |change| map.change("Workload", change, &workload_phase, &|_, _| {}));
        let map = there.inventory.clone();
        there
            .tasks
            .subscribe(move |change| map.change("AgenticTask", change, &task_phase, &|_, _| {}));
        workloads.into_iter().for_each(|object| there.workloads.observe(object));
        tasks.into_iter().for_each(|object| there.tasks.observe(object));
        there
    }

    /// Returns a Workload.
    pub fn workload(&self, key: &Key) -> Option<Arc<Cached<Workload>>> {
        self.workloads.get(key)
    }

    /// Returns a task.
    pub fn task(&self, key: &Key) -> Option<Arc<Cached<AgenticTask>>> {
        self.tasks.get(key)
    }

    /// Returns what a queue made of a path.
    pub fn of_path(&self, queue_uid: &str, path: &str) -> impl Iterator<Item = Made> {
        self.inventory.of_path(queue_uid, path).into_iter()
    }

    /// Says whether a Workload's run might start once `plan` is written.
    pub fn may_start(&self, workload: &Workload, namespace: &str, plan: &Plan) -> WorkloadDependencyState {
        let begins = |key: &Key| {
            let is_it = |write: &plan::Write| matches!(write, plan::Write::Workload(of, _) if of == key);
            plan.writes.iter().any(is_it).then_some(WorkloadPhase::Planning)
        };
        let phase = |name: &str| {
            let key = Key::new(namespace, name);
            begins(&key).or_else(|| self.workload(&key).map(|found| phase_of_run(&found)))
        };
        let upstream = workload.spec.depends_on.iter().flatten();
        workload_dependency_state(upstream.map(|name| (name.as_str(), phase(name))))
    }

    /// Reads the queue's branch and plans what the controller would do with it.
    pub async fn foresee(&self, git: &Git, queue: &TaskQueue) -> Result<Foreseen, Problem> {
        let valid = validate(queue)?;
        let cached = Cached::of(queue.clone());
        let of_git = |error: &git::Error| Problem::of(error);
        let tip = git.fetch_branch(&valid.url, &valid.branch, true).await;
        let tip = tip.map_err(|error| of_git(&error))?;
        let loaded = load::load(git, &valid.url, &valid, tip, None, cached.uid()).await;
        let mut loaded = loaded.map_err(|failed| of_git(&failed.error))?;
        loaded.look_at_what_is_made(&self.inventory, cached.uid());
        let known = Known {
            workloads: &self.workloads,
            tasks: &self.tasks,
            inventory: &self.inventory,
        };
        let plan = plan::plan(&known, &cached, queue, &valid, &loaded);
        Ok(Foreseen {
            revision: loaded.revision,
            files: loaded.files,
            plan,
        })
    }
}
