//! Finds what a person means by TASK: a Workload, an AgenticTask, or the path of a task file.

use anyhow::{Context, Result, bail};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::{AgenticTask, Workload, labels};

use crate::connect::Connection;

/// What a person means by TASK.
#[derive(Clone, Debug)]
pub enum Target {
    /// A piece of work with its rounds.
    Workload(Box<Workload>),
    /// One step.
    Task(Box<AgenticTask>),
}

impl Target {
    /// Returns the object's name.
    pub fn name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.name_any(),
            Self::Task(task) => task.name_any(),
        }
    }
}

/// Finds a Workload or AgenticTask by name, by the path of its file, or by a prefix that only one has.
pub async fn find(connection: &Connection, wanted: &str) -> Result<Target> {
    let workloads: Api<Workload> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let tasks: Api<AgenticTask> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let workloads = workloads
        .list(&ListParams::default())
        .await
        .context("failed to list workloads")?
        .items;
    if let Some(found) = workloads
        .iter()
        .find(|workload| workload.name_any() == wanted || is_path(*workload, wanted))
    {
        return Ok(Target::Workload(Box::new(found.clone())));
    }
    let tasks = tasks
        .list(&ListParams::default())
        .await
        .context("failed to list tasks")?
        .items;
    if let Some(found) = tasks
        .iter()
        .find(|task| task.name_any() == wanted || is_path(*task, wanted))
    {
        return Ok(Target::Task(Box::new(found.clone())));
    }
    let mut close: Vec<Target> = Vec::new();
    close.extend(
        workloads
            .into_iter()
            .filter(|w| w.name_any().starts_with(wanted))
            .map(|w| Target::Workload(Box::new(w))),
    );
    if close.is_empty() {
        close.extend(
            tasks
                .into_iter()
                .filter(|t| t.name_any().starts_with(wanted))
                .map(|t| Target::Task(Box::new(t))),
        );
    }
    match close.len() {
        1 => Ok(close.remove(0)),
        0 => bail!(
            "there is no workload, task or task file {wanted:?} in namespace {:?} ({}); see `foreman get workloads`",
            connection.namespace,
            connection.source
        ),
        _ => bail!(
            "{wanted:?} could be any of {}; give the whole name",
            close.iter().map(Target::name).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn is_path(object: &impl ResourceExt, wanted: &str) -> bool {
    let wanted = wanted.trim_start_matches("./");
    object
        .annotations()
        .get(labels::SOURCE_PATH)
        .is_some_and(|path| path == wanted || path.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/')))
}

/// Returns the AgenticTasks of a Workload, in the order in which they were made.
pub async fn tasks_of(connection: &Connection, workload: &Workload) -> Result<Vec<AgenticTask>> {
    let api: Api<AgenticTask> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let selector = format!("{}={}", labels::WORKLOAD, workload.name_any());
    let mut tasks = api
        .list(&ListParams::default().labels(&selector))
        .await
        .context("failed to list tasks")?
        .items;
    tasks.sort_by_key(|task| {
        let step = task.labels().get(labels::STEP).map_or(9, |step| match step.as_str() {
            "code" => 0,
            "verify" => 1,
            _ => 2,
        });
        (
            task.spec.run.unwrap_or(1),
            task.spec.round.unwrap_or(1),
            step,
            task.name_any(),
        )
    });
    Ok(tasks)
}
