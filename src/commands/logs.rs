//! `foreman logs`: a coder's transcript, or a gate's log.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use schemas::AgenticTask;
use schemas::agentic_task::{Phase, TaskKind};

use crate::cli::LogsArgs;
use crate::connect::Connection;
use crate::target::{Target, find, tasks_of};

/// Prints a log, and what comes to it while the task is not over.
pub async fn run(connection: &Connection, args: &LogsArgs) -> Result<()> {
    let mut task = pick(connection, args).await?;
    let (mut printed, mut epoch) = (0, epoch_of(&task));
    loop {
        if epoch_of(&task) != epoch {
            // Another claim has begun the work anew, and its log with it.
            if printed > 0 {
                println!("--- claim {} begins", epoch_of(&task));
            }
            (printed, epoch) = (0, epoch_of(&task));
        }
        let text = read(connection, &task, args.gate).await?;
        let over = is_over(&task);
        if let Some(text) = &text {
            let fresh = text.get(printed..).unwrap_or_default();
            let whole = if over {
                fresh.len()
            } else {
                fresh.rfind('\n').map_or(0, |at| at + 1)
            };
            let lines = if args.gate {
                fresh[..whole].to_owned()
            } else {
                crate::transcript::render(&fresh[..whole])
            };
            print!("{}", schemas::inert::printable(&lines));
            std::io::stdout().flush()?;
            printed += whole;
        }
        if over || !args.follow {
            if text.is_none() {
                let phase = task.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
                bail!(
                    "{} has no {} yet; it is {}",
                    task.name_any(),
                    if args.gate { "gate log" } else { "transcript" },
                    phase.as_str()
                );
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let api: Api<AgenticTask> = Api::namespaced(connection.client.clone(), &connection.namespace);
        task = api
            .get(&task.name_any())
            .await
            .context("failed to read the task again")?;
    }
}

fn epoch_of(task: &AgenticTask) -> i64 {
    task.status.as_ref().and_then(|status| status.epoch).unwrap_or_default()
}

fn is_over(task: &AgenticTask) -> bool {
    task.status
        .as_ref()
        .and_then(|status| status.phase)
        .is_some_and(Phase::is_terminal)
}

async fn pick(connection: &Connection, args: &LogsArgs) -> Result<AgenticTask> {
    let workload = match find(connection, &args.task).await? {
        Target::Task(task) => return Ok(*task),
        Target::Workload(workload) => workload,
    };
    let run = workload.spec.run.unwrap_or(1);
    loop {
        let tasks = tasks_of(connection, &workload).await?;
        let begun = |task: &&AgenticTask| task.status.as_ref().is_some_and(|status| status.epoch.unwrap_or(0) > 0);
        let wanted = |task: &&AgenticTask| (task.spec.kind == TaskKind::Verify) == args.gate;
        if let Some(task) = tasks.iter().filter(wanted).rfind(begun) {
            let of = task.spec.run.unwrap_or(1);
            if of >= run {
                return Ok(task.clone());
            }
            if !args.follow {
                eprintln!("run {run} has not come to this yet; this is from run {of}");
                return Ok(task.clone());
            }
        }
        if !args.follow {
            bail!(
                "{} has no {} that has begun; see `foreman show {}`",
                workload.name_any(),
                if args.gate { "gate" } else { "coder" },
                args.task
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn read(connection: &Connection, task: &AgenticTask, gate: bool) -> Result<Option<String>> {
    let status = task.status.clone().unwrap_or_default();
    let name = if gate { "gate-log" } else { "transcript" };
    let uid = task.uid().unwrap_or_default();
    let epoch = status.epoch.unwrap_or(0).to_string();
    if let Some(place) = &connection.place {
        let spooled = place.state.join("agent/evidence").join(&uid).join(&epoch).join(name);
        if let Some(text) = read_file(&[spooled])? {
            return Ok(Some(text));
        }
        let stored = place.state.join("evidence").join(&uid).join(&epoch).join(name);
        let mut segments: Vec<PathBuf> = std::fs::read_dir(&stored)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        segments.sort_by_key(|path| {
            path.file_name()
                .and_then(|name| name.to_str()?.parse::<u64>().ok())
                .unwrap_or(0)
        });
        if let Some(text) = read_file(&segments)? {
            return Ok(Some(text));
        }
    } else if let Some(evidence) = status.evidence.iter().flatten().find(|evidence| evidence.name == name) {
        let answer = reqwest::get(&evidence.url)
            .await
            .and_then(reqwest::Response::error_for_status);
        let text = answer
            .with_context(|| format!("failed to read {}", evidence.url))?
            .text()
            .await?;
        return Ok(Some(text));
    }
    if gate {
        pod_log(connection, task).await
    } else {
        Ok(None)
    }
}

fn read_file(paths: &[PathBuf]) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    for path in paths {
        match std::fs::read(path) {
            Ok(found) => bytes.extend(found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }
    Ok((!paths.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

async fn pod_log(connection: &Connection, task: &AgenticTask) -> Result<Option<String>> {
    let status = task.status.clone().unwrap_or_default();
    let Some(job) = status.job_name else { return Ok(None) };
    let pods: Api<Pod> = Api::all(connection.client.clone());
    let found = pods
        .list(&ListParams::default().labels(&format!("job-name={job}")))
        .await
        .context("failed to list pods")?;
    let Some(pod) = found.items.into_iter().next() else {
        return Ok(None);
    };
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &pod.namespace().unwrap_or_default());
    let container = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .map(|container| container.name.clone());
    let Ok(stream) = pods
        .log_stream(
            &pod.name_any(),
            &LogParams {
                container,
                ..LogParams::default()
            },
        )
        .await
    else {
        return Ok(None);
    };
    let lines: Vec<String> = stream.lines().try_collect().await.unwrap_or_default();
    Ok(Some(lines.into_iter().map(|line| line + "\n").collect()))
}
