//! `foreman up --dry-run`: what one tick would do, per task.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::task_file::{self, TaskDocument, run_key};
use schemas::task_file::{QueueContext, TaskObject, resolve};
use schemas::{Workload, labels};

use crate::cli::{AccessArgs, Global};
use crate::connect;
use crate::place::Place;
use crate::project::Project;
use crate::table::{plain, render};

/// Prints what one tick would do.
pub async fn run(global: &Global, place: &Place, project: &Project, access: &AccessArgs) -> Result<ExitCode> {
    let Some(queue) = &project.queue else {
        return Ok(ExitCode::SUCCESS);
    };
    let Some(source) = &queue.spec.git else {
        return Ok(ExitCode::SUCCESS);
    };
    let url = git::RemoteUrl::parse(&source.url)?;
    let roots = url.local_path().into_iter().collect();
    let git = git::Git::new(
        place.state.join("operator/mirrors"),
        agent::config::git_settings(access.git_credentials.as_deref(), global.ca_bundle.clone(), roots)
            .map_err(anyhow::Error::msg)?,
    );
    let branch = source.branch.clone().unwrap_or_else(|| "main".into());
    place.create()?;
    let tip = git
        .fetch_branch(&url, &branch, true)
        .await
        .with_context(|| format!("failed to read {branch} of {url}"))?;
    let folder = source.path.clone();
    let files = git
        .read(&url, move |repository| {
            let entries = repository.tree_entries(tip, &folder, true)?.unwrap_or_default();
            let mut files = Vec::new();
            for entry in entries {
                let path = entry.path.to_string();
                if task_file::is_task_file(&path) && matches!(entry.kind, git::EntryKind::File | git::EntryKind::Exec) {
                    files.push((path, repository.read_blob(entry.oid, 6 << 20)?));
                }
            }
            Ok(files)
        })
        .await?;
    let connection = connect::connect(global).await?;
    let workloads: Api<Workload> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let known = workloads
        .list(&ListParams::default())
        .await
        .context("failed to list workloads")?
        .items;
    connection.close().await;
    let revision = format!("{branch}@sha1:{tip}");
    let rows = plan(project, &files, &known, &revision, &global.namespace);
    println!("{} of {} at {}", source.path, url, &tip.to_string()[..12]);
    if queue.spec.suspend {
        println!("The queue is suspended: none of this happens until spec.suspend is unset.");
    }
    if rows.is_empty() {
        println!("There are no task files; commit one below {}.", source.path);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", render(&["FILE", "WOULD", "WHY"], &rows));
    Ok(ExitCode::SUCCESS)
}

fn plan(
    project: &Project,
    files: &[(String, Vec<u8>)],
    known: &[Workload],
    revision: &str,
    namespace: &str,
) -> Vec<Vec<String>> {
    let Some(queue) = &project.queue else { return Vec::new() };
    let folder = queue.spec.git.as_ref().map(|git| git.path.clone()).unwrap_or_default();
    let mut parsed: BTreeMap<String, Vec<TaskDocument>> = BTreeMap::new();
    let mut rows = Vec::new();
    let row = |file: &str, would: &str, why: String| vec![file.to_owned(), would.to_owned(), plain(&why)];
    for (path, bytes) in files {
        match task_file::parse(path, bytes) {
            Ok(documents) => {
                parsed.insert(path.clone(), documents);
            }
            Err(errors) => rows.extend(errors.first().map(|error| row(path, "be invalid", error.to_string()))),
        }
    }
    let uid = known
        .iter()
        .find_map(|workload| workload.annotations().get(labels::QUEUE_UID).cloned())
        .unwrap_or_default();
    let set = schemas::queue_set::check(&parsed, &folder, &uid);
    let defaults = queue.spec.defaults.clone().unwrap_or_default();
    for (path, documents) in &parsed {
        if let Some(error) = set.errors.iter().find(|error| error.path == *path) {
            rows.push(row(path, "be invalid", error.to_string()));
            continue;
        }
        for document in documents {
            let context = QueueContext {
                name: &queue.name_any(),
                uid: &uid,
                namespace,
                revision,
                defaults: &defaults,
                depends_on: set.depends_on.get(path).map(Vec::as_slice).unwrap_or_default(),
            };
            rows.push(match resolve(document, &context) {
                Err(error) => row(path, "be invalid", error.to_string()),
                Ok(object) => would(project, path, document, &object, known),
            });
        }
    }
    rows.sort();
    rows
}

fn would(
    project: &Project,
    path: &str,
    document: &TaskDocument,
    object: &TaskObject,
    known: &[Workload],
) -> Vec<String> {
    let row = |would: &str, why: String| vec![path.to_owned(), would.to_owned(), plain(&why)];
    let TaskObject::Workload(workload) = object else {
        return row(
            "become a task",
            "a bare AgenticTask; the scheduler picks its node".into(),
        );
    };
    let live = known.iter().find(|live| {
        live.annotations()
            .get(labels::SOURCE_PATH)
            .is_some_and(|source| source == path)
    });
    if let Some(live) = live
        && live.spec.run_key.as_deref() == Some(&run_key(document))
    {
        let status = live.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let verdict = status.verdict.map(|verdict| format!(", {verdict}")).unwrap_or_default();
        return row(
            "stay as it is",
            format!("run {} is {}{verdict}", live.spec.run.unwrap_or(1), phase.as_str()),
        );
    }
    let waiting: Vec<&String> = workload
        .spec
        .depends_on
        .iter()
        .flatten()
        .filter(|name| {
            let done = known
                .iter()
                .find(|live| live.name_any() == **name)
                .and_then(|live| live.status.as_ref()?.phase);
            done != Some(schemas::workload::WorkloadPhase::Completed)
        })
        .collect();
    if !waiting.is_empty() {
        return row(
            "wait",
            format!(
                "it depends on {}",
                waiting.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        );
    }
    for step in workload.spec.pipeline.iter().flatten() {
        let name = step.agent_ref.name.as_str();
        if !project.agents.iter().any(|agent| agent.name_any() == name) {
            return row(
                "wait",
                format!(
                    "step {} names agent {name:?}, which .foreman/agents.yaml does not have",
                    step.name
                ),
            );
        }
    }
    let agents: Vec<String> = workload
        .spec
        .pipeline
        .iter()
        .flatten()
        .map(|step| format!("{} by {}", step.name, step.agent_ref.name))
        .collect();
    let what = if live.is_some() { "start again" } else { "start" };
    row(what, format!("{} on this machine", agents.join(", ")))
}
