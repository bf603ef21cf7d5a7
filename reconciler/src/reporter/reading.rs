//! Reads the gates' Jobs of one Workload: which were read, which could not be, and what cannot be told for that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use kube::api::{Api, ListParams};
use schemas::workload::Confirmation;
use schemas::{AgenticTask, Workload, labels, names};

use super::confirm::{self, Pass};
use super::plan::{CommitStatus, State};
use crate::cache::{Cached, Key};
use crate::clock::{Clock, lock};

/// Reads what proves a pass.
pub struct Reader {
    client: Client,
    clock: Arc<dyn Clock>,
    /// Since when passes could not be read, by the UID of their tasks.
    unread: Mutex<HashMap<String, Duration>>,
}

impl Reader {
    /// Reads from an API.
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            clock,
            unread: Mutex::default(),
        }
    }

    /// Returns a Workload's tasks as the API lists them now.
    pub async fn tasks(&self, key: &Key) -> Result<Vec<Arc<Cached<AgenticTask>>>, String> {
        let api: Api<AgenticTask> = Api::namespaced(self.client.clone(), &key.namespace);
        let selector = format!("{}={}", labels::WORKLOAD, names::label_value(&key.name));
        let listed = api.list(&ListParams::default().labels(&selector)).await;
        let failed = |error| format!("failed to list the tasks of {key}: {error}");
        Ok(listed
            .map_err(failed)?
            .into_iter()
            .map(|task| Arc::new(Cached::of(task)))
            .collect())
    }

    /// Reads a pass's Job. One that could not be read as long as a Job stays is given up: no commit is pending for ever.
    async fn read(&self, pass: &Pass) -> Result<Confirmation, String> {
        let now = self.clock.elapsed();
        let waits = |since: &Duration| now.saturating_sub(*since) < confirm::STAYS;
        match confirm::read(&self.client, pass).await {
            Err(error) if waits(lock(&self.unread).entry(pass.uid.clone()).or_insert(now)) => Err(error),
            read => {
                lock(&self.unread).remove(&pass.uid);
                Ok(read.unwrap_or_else(|error| confirm::never_read(pass, &error)))
            }
        }
    }
}

/// What came of reading gates' Jobs in one step.
#[derive(Debug, Default)]
pub struct Reading {
    /// Tasks whose Jobs were read, by UID.
    read: BTreeSet<String>,
    /// Tasks whose Jobs could not be, by UID.
    unread: BTreeSet<String>,
    /// Commits of which nothing can be told for that, each with its run.
    heads: BTreeSet<(String, i64)>,
    /// The first error; it is told at the end.
    pub error: Option<String>,
}

impl Reading {
    /// Remembers that a commit's pass could not be read.
    pub fn fails(&mut self, head: String, run: i64, error: String) {
        self.heads.insert((head, run));
        self.error.get_or_insert(error);
    }

    /// Says whether a state needs a pass that could not be read.
    pub fn holds(&self, status: &CommitStatus) -> bool {
        (status.state == State::Success || status.is_unread) && self.heads.contains(&(status.head.clone(), status.run))
    }

    /// Reads the Jobs of the passes among a Workload's own tasks that nobody read yet, and returns what they say, by the
    /// UID of the task. A Job that cannot be read holds up nothing but what has to be told of its commit.
    pub async fn read<'a>(
        &mut self,
        reader: &Reader,
        workload: &Workload,
        tasks: impl IntoIterator<Item = &'a AgenticTask>,
    ) -> BTreeMap<String, Confirmation> {
        let mut found = BTreeMap::new();
        for pass in confirm::unread(workload, tasks) {
            if self.unread.contains(&pass.uid) {
                continue;
            }
            let read = match self.read.contains(&pass.uid) {
                true => Err("status.confirmed is not kept: the CRD of Workloads is of another release".to_owned()),
                false => reader.read(&pass).await,
            };
            match read {
                Ok(confirmation) => {
                    self.read.insert(pass.uid.clone());
                    found.insert(pass.uid, confirmation);
                }
                Err(error) => {
                    self.unread.insert(pass.uid);
                    self.fails(pass.head, pass.run, error);
                }
            }
        }
        found
    }
}
