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

    /// Returns the phase that it ended in, if it did.
    pub fn over(&self) -> Option<&'static str> {
        match self {
            Self::Workload(workload) => {
                let phase = workload.status.as_ref()?.phase?;
                phase.is_terminal().then(|| phase.as_str())
            }
            Self::Task(task) => {
                let phase = task.status.as_ref()?.phase?;
                phase.is_terminal().then(|| phase.as_str())
            }
        }
    }
}

/// Finds a Workload or AgenticTask by name, by the path of its file with or without its ending, or by a prefix that only one has.
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
    // What `up` and `run` print: the stem of the file's name.
    let stems = workloads.iter().filter(|workload| is_stem(*workload, wanted));
    let mut close: Vec<Target> = stems.map(|w| Target::Workload(Box::new(w.clone()))).collect();
    if close.is_empty() {
        close.extend(
            workloads
                .into_iter()
                .filter(|w| w.name_any().starts_with(wanted))
                .map(|w| Target::Workload(Box::new(w))),
        );
    }
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
        .is_some_and(|path| ends_in(path, wanted))
}

fn is_stem(object: &impl ResourceExt, wanted: &str) -> bool {
    let path = object.annotations().get(labels::SOURCE_PATH);
    path.and_then(|path| path.rsplit_once('.'))
        .is_some_and(|(stem, _)| ends_in(stem, wanted))
}

/// Says whether the last parts of a path are `wanted`.
fn ends_in(path: &str, wanted: &str) -> bool {
    path == wanted || path.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'))
}

/// Returns the AgenticTasks of a Workload, in the order in which they were made.
pub async fn tasks_of(connection: &Connection, workload: &Workload) -> Result<Vec<AgenticTask>> {
    let api: Api<AgenticTask> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let selector = labels::tasks_of_workload(&workload.name_any());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_meant_by_its_path_its_last_parts_and_its_stem() {
        assert!(ends_in(".foreman/tasks/a/fix.md", "fix.md"));
        assert!(ends_in(".foreman/tasks/a/fix.md", "a/fix.md"));
        assert!(ends_in(".foreman/tasks/a/fix", "fix"));
        assert!(!ends_in(".foreman/tasks/a/prefix", "fix"), "only whole parts count");
    }
}
