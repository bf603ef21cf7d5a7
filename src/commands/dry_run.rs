//! `foreman up --dry-run`: what one tick would do, per task.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt};
use reconciler::cache::Key;
use reconciler::task_queue::foresee::{Foreseen, There};
use reconciler::task_queue::observe::{origin, task_phase, workload_phase};
use reconciler::task_queue::plan::Write;
use schemas::dependencies::WorkloadDependencyState;
use schemas::{AgenticTask, TaskQueue, Workload, labels};

use crate::cli::{AccessArgs, Global};
use crate::connect;
use crate::place::Place;
use crate::project::Project;
use crate::table::{plain, render};

/// Prints what one tick would do.
pub async fn run(global: &Global, place: &Place, project: &Project, access: &AccessArgs) -> Result<ExitCode> {
    let Some(mut queue) = project.queue.clone() else {
        return Ok(ExitCode::SUCCESS);
    };
    let connection = connect::connect(global).await?;
    let there = what_is_there(&connection.client, &connection.namespace, &mut queue).await;
    connection.close().await;
    let there = there?;

    let root = queue
        .spec
        .git
        .iter()
        .filter_map(|git| git::RemoteUrl::parse(&git.url).ok());
    let roots = root.filter_map(|url| url.local_path()).collect();
    place.create()?;
    let git = git::Git::new(
        place.state.join("operator/mirrors"),
        agent::config::git_settings(access.git_credentials.as_deref(), global.ca_bundle.clone(), roots)
            .map_err(anyhow::Error::msg)?,
    );
    let foreseen = match there.foresee(&git, &queue).await {
        Ok(foreseen) => foreseen,
        Err(problem) => bail!("{}", problem.message),
    };
    let source = queue.spec.git.clone().unwrap_or_default();
    let revision = foreseen.revision.to_string();
    println!("{} of {} at {}", source.path, git::redact(&source.url), &revision[..12]);
    if queue.spec.suspend {
        println!("The queue is suspended: none of this happens until spec.suspend is unset.");
    }
    let rows = rows(project, &queue, &there, &foreseen);
    if rows.is_empty() {
        println!("There are no task files; commit one below {}.", source.path);
    } else {
        print!("{}", render(&["FILE", "WOULD", "WHY"], &rows));
    }
    if !foreseen.plan.guarded.is_empty() {
        println!(
            "What files that are gone have made ({}) would stay: with no task file left, nothing is pruned.",
            foreseen.plan.guarded.len()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists what there is, and gives the queue the identity that it has there.
async fn what_is_there(client: &Client, namespace: &str, queue: &mut TaskQueue) -> Result<There> {
    queue.metadata.namespace = Some(namespace.to_owned());
    let api: Api<TaskQueue> = Api::namespaced(client.clone(), namespace);
    let known = api
        .get_opt(&queue.name_any())
        .await
        .context("failed to read the queue")?;
    queue.metadata.uid = known.and_then(|known| known.metadata.uid);
    Ok(There::new(
        list::<Workload>(client, namespace).await?,
        list::<AgenticTask>(client, namespace).await?,
    ))
}

async fn list<K: Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Result<Vec<DynamicObject>> {
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let found = api.list(&ListParams::default()).await;
    Ok(found
        .with_context(|| format!("failed to list {}", resource.plural))?
        .items)
}

fn row(file: &str, would: &str, why: &str) -> Vec<String> {
    vec![file.to_owned(), would.to_owned(), plain(why)]
}

fn rows(project: &Project, queue: &TaskQueue, there: &There, foreseen: &Foreseen) -> Vec<Vec<String>> {
    let plan = &foreseen.plan;
    let mut rows = Vec::new();
    for error in &plan.broke {
        rows.push(row(&error.path, "be invalid", &error.to_string()));
    }
    for (path, name) in &plan.taken {
        rows.push(row(path, "wait", &format!("{name} is there and not of this queue")));
    }
    let leaving = plan.leaving.iter();
    rows.extend(leaving.map(|path| row(path, "wait", "the task of its name is still being deleted")));
    let mut written: BTreeSet<(&str, &str)> = BTreeSet::new();
    for write in &plan.writes {
        let (kind, key) = match write {
            Write::Workload(key, text) => {
                if let Ok(workload) = serde_json::from_str::<Workload>(text) {
                    rows.push(start(project, there, foreseen, key, &workload));
                }
                ("Workload", key)
            }
            Write::Task(key, text) => {
                if let Ok(task) = serde_json::from_str::<AgenticTask>(text) {
                    let why = "a bare AgenticTask; the scheduler picks its node";
                    rows.push(row(path_of(task.annotations()), "become a task", why));
                }
                ("AgenticTask", key)
            }
            Write::Move(key, text) => {
                let task = serde_json::from_str::<AgenticTask>(text);
                rows.extend(task.map(|task| stay(there, path_of(task.annotations()), "AgenticTask", key)));
                ("AgenticTask", key)
            }
            // Whether it ends with its queue is no matter of what it does.
            Write::Own(..) => continue,
            Write::Delete(kind, key, _) => {
                rows.push(end(there, foreseen, kind, key));
                (*kind, key)
            }
        };
        written.insert((kind, &key.name));
    }
    let uid = queue.metadata.uid.as_deref().unwrap_or_default();
    for path in foreseen.files.paths() {
        // What a broken file made stays, but of the file it is said that it is broken; what is on its way out does not stay.
        if !matches!(foreseen.files.get(path), Some(Ok(_))) || plan.leaving.contains(path) {
            continue;
        }
        let stays = there.of_path(uid, path);
        let stays = stays.filter(|made| !written.contains(&(made.kind, made.name.as_str())));
        rows.extend(stays.map(|made| stay(there, path, made.kind, &key_of(queue, &made.name))));
    }
    rows.sort();
    rows
}

fn key_of(queue: &TaskQueue, name: &str) -> Key {
    Key::new(queue.namespace().unwrap_or_default(), name)
}

fn path_of(annotations: &std::collections::BTreeMap<String, String>) -> &str {
    annotations
        .get(labels::SOURCE_PATH)
        .map(String::as_str)
        .unwrap_or_default()
}

/// Says of a Workload that would be written whether it would start.
fn start(project: &Project, there: &There, foreseen: &Foreseen, key: &Key, workload: &Workload) -> Vec<String> {
    let path = path_of(workload.annotations());
    match there.may_start(workload, &key.namespace, &foreseen.plan) {
        WorkloadDependencyState::Ready => {}
        WorkloadDependencyState::Waiting(why) | WorkloadDependencyState::Blocked(why) => {
            return row(path, "wait", &why);
        }
    }
    let steps = || workload.spec.pipeline.iter().flatten();
    let is_known = |name: &str| project.agents.iter().any(|agent| agent.name_any() == name);
    if let Some(step) = steps().find(|step| !is_known(&step.agent_ref.name)) {
        let why = format!(
            "step {} names agent {:?}, which .foreman/agents.yaml does not have",
            step.name, step.agent_ref.name
        );
        return row(path, "wait", &why);
    }
    let who: Vec<String> = steps()
        .map(|step| format!("{} by {}", step.name, step.agent_ref.name))
        .collect();
    let again = workload.spec.run.is_some_and(|run| run > 1);
    let would = if again { "start again" } else { "start" };
    row(path, would, &format!("{} on this machine", who.join(", ")))
}

/// Says of an object that would be deleted why.
fn end(there: &There, foreseen: &Foreseen, kind: &str, key: &Key) -> Vec<String> {
    let workload = there.workload(key);
    let task = there.task(key).filter(|_| kind == "AgenticTask");
    let of_task = task.as_deref().and_then(origin);
    let (_, path) = of_task
        .or_else(|| workload.as_deref().and_then(origin))
        .unwrap_or_default();
    let edited = kind == "AgenticTask" && foreseen.files.owner("AgenticTask", &key.name).is_some();
    if edited {
        row(
            path,
            "become a task",
            "the file was edited: another AgenticTask replaces the one that is there",
        )
    } else {
        row(
            path,
            "end",
            &format!("{kind} {} is deleted: no file makes it any more", key.name),
        )
    }
}

/// Says where an object stands that would stay as it is.
fn stay(there: &There, path: &str, kind: &str, key: &Key) -> Vec<String> {
    let why = match (there.workload(key), there.task(key)) {
        (Some(workload), _) if kind == "Workload" => {
            let readable = workload.readable();
            let run = readable.and_then(|workload| workload.spec.run).unwrap_or(1);
            let verdict = readable.and_then(|workload| workload.status.as_ref()?.verdict);
            let verdict = verdict.map(|verdict| format!(", {verdict}")).unwrap_or_default();
            format!("run {run} is {}{verdict}", workload_phase(&workload))
        }
        (_, Some(task)) => format!("the task is {}", task_phase(&task)),
        _ => "nothing changed".to_owned(),
    };
    row(path, "stay as it is", &why)
}
