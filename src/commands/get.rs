//! `foreman get`: lists objects.

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use schemas::{Agent, AgenticTask, FleetNode, TaskQueue, Workload, labels};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io::Write;

use crate::cli::{Format, GetArgs, Kind};
use crate::connect::Connection;
use crate::table::{age, plain, render};

/// How a kind is shown in a table.
trait Row {
    /// Column heads; those after `narrow()` are shown with `-o wide` only, and MESSAGE as the last of all.
    fn head() -> &'static [&'static str];
    /// Number of columns without `-o wide`.
    fn narrow() -> usize;
    /// Cells, in the order of the heads.
    fn cells(&self, now: Timestamp) -> Vec<String>;
}

fn since(time: Option<&Time>, now: Timestamp) -> String {
    time.map(|time| age(time.0, now)).unwrap_or_else(|| "-".into())
}

fn text<T: ToString>(value: Option<T>) -> String {
    value
        .map(|value| plain(&value.to_string()))
        .unwrap_or_else(|| "-".into())
}

fn condition<'a>(conditions: Option<&'a Vec<Condition>>, kind: &str) -> Option<&'a Condition> {
    conditions?.iter().find(|condition| condition.type_ == kind)
}

fn short(sha: Option<&String>) -> String {
    sha.map(|sha| sha.chars().take(10).collect())
        .unwrap_or_else(|| "-".into())
}

impl Row for Workload {
    fn head() -> &'static [&'static str] {
        &[
            "NAME", "PHASE", "VERDICT", "ROUND", "AGE", "MESSAGE", "RUN", "FILE", "BRANCH", "HEAD", "REPO",
        ]
    }
    fn narrow() -> usize {
        6
    }
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        vec![
            self.name_any(),
            text(status.phase.map(|phase| phase.as_str())),
            text(status.verdict),
            text(status.round),
            since(self.metadata.creation_timestamp.as_ref(), now),
            text(status.message),
            text(status.run),
            text(self.annotations().get(labels::SOURCE_PATH)),
            text(status.branch),
            short(status.head_sha.as_ref()),
            text(self.spec.repo.as_ref()),
        ]
    }
}

impl Row for AgenticTask {
    fn head() -> &'static [&'static str] {
        &[
            "NAME", "PHASE", "KIND", "NODE", "VERDICT", "AGE", "REASON", "EPOCH", "BRANCH", "HEAD", "WAITING",
        ]
    }
    fn narrow() -> usize {
        7
    }
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let waiting = status.waiting.as_ref().map(|waiting| match waiting.place {
            Some(place) => format!("{place}: {}", waiting.reason),
            None => waiting.reason.clone(),
        });
        vec![
            self.name_any(),
            text(status.phase.map(|phase| phase.as_str())),
            self.spec.kind.as_str().into(),
            text(status.assigned_node),
            text(status.verdict),
            since(self.metadata.creation_timestamp.as_ref(), now),
            text(status.failure_reason.map(|reason| reason.as_str())),
            text(status.epoch),
            text(status.branch),
            short(status.commit_sha.as_ref()),
            text(waiting),
        ]
    }
}

impl Row for FleetNode {
    fn head() -> &'static [&'static str] {
        &[
            "NAME",
            "PHASE",
            "VERSION",
            "ACCELERATOR",
            "RAM",
            "CURRENT TASK",
            "HEARTBEAT",
            "AGE",
            "ROLES",
            "MODELS",
            "CONTEXT",
        ]
    }
    fn narrow() -> usize {
        8
    }
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let capability = status.capability.unwrap_or_default();
        vec![
            self.name_any(),
            text(status.phase.map(|phase| format!("{phase:?}"))),
            text(status.agent_version),
            text(capability.accelerator.map(word)),
            text(capability.available_ram_gb),
            text(status.current_task),
            since(status.last_heartbeat_time.as_ref(), now),
            since(self.metadata.creation_timestamp.as_ref(), now),
            text(self.spec.roles.as_ref().map(|roles| roles.join(","))),
            text(capability.installed_models.map(|models| models.join(","))),
            text(capability.max_context_tokens),
        ]
    }
}

/// Returns the serialised form of a value that is one word.
fn word<T: Serialize>(value: T) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

impl Row for TaskQueue {
    fn head() -> &'static [&'static str] {
        &[
            "NAME", "READY", "REVISION", "FILES", "INVALID", "AGE", "MESSAGE", "URL", "PATH",
        ]
    }
    fn narrow() -> usize {
        7
    }
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let ready = condition(status.conditions.as_ref(), "Ready");
        let suspended = condition(status.conditions.as_ref(), "Suspended").filter(|said| said.status == "True");
        vec![
            self.name_any(),
            text(ready.map(|ready| &ready.status)),
            text(
                status
                    .observed_revision
                    .map(|revision| revision.chars().take(60).collect::<String>()),
            ),
            text(status.files),
            text(status.invalid_file_count),
            since(self.metadata.creation_timestamp.as_ref(), now),
            text(suspended.or(ready).map(|said| &said.message)),
            text(self.spec.git.as_ref().map(|git| git::redact(&git.url))),
            text(self.spec.git.as_ref().map(|git| &git.path)),
        ]
    }
}

impl Row for Agent {
    fn head() -> &'static [&'static str] {
        &[
            "NAME",
            "ROLE",
            "MODEL",
            "VALIDATED",
            "AGE",
            "MESSAGE",
            "ENDPOINT",
            "TOOLS",
        ]
    }
    fn narrow() -> usize {
        6
    }
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let validated = condition(status.conditions.as_ref(), "Validated");
        let provider = self.spec.provider_config.as_ref();
        vec![
            self.name_any(),
            self.spec.role.as_str().into(),
            text(
                self.spec
                    .model
                    .as_ref()
                    .or(provider.and_then(|provider| provider.model.as_ref())),
            ),
            text(validated.map(|validated| &validated.status)),
            since(self.metadata.creation_timestamp.as_ref(), now),
            text(
                validated
                    .map(|validated| &validated.message)
                    .filter(|message| !message.is_empty()),
            ),
            text(provider.and_then(|provider| provider.base_url.as_ref())),
            self.spec.tools.join(","),
        ]
    }
}

/// Lists what was asked for.
pub async fn run(connection: &Connection, args: &GetArgs) -> Result<()> {
    let client = connection.client.clone();
    let namespace = &connection.namespace;
    match args.kind {
        Kind::Workloads => list::<Workload>(connection, Api::namespaced(client, namespace), args).await,
        Kind::Tasks => list::<AgenticTask>(connection, Api::namespaced(client, namespace), args).await,
        Kind::Queues => list::<TaskQueue>(connection, Api::namespaced(client, namespace), args).await,
        Kind::Agents => list::<Agent>(connection, Api::namespaced(client, namespace), args).await,
        Kind::Nodes => list::<FleetNode>(connection, Api::all(client), args).await,
    }
}

/// Says why there may be no work: what each queue says of itself, and what to do.
async fn why_none(connection: &Connection) -> Result<Vec<String>> {
    let api: Api<TaskQueue> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let queues = api
        .list(&ListParams::default())
        .await
        .context("failed to list taskqueues")?
        .items;
    if queues.is_empty() {
        return Ok(vec![
            "There is no queue either: `foreman init` writes one, `foreman up` serves it.".into(),
        ]);
    }
    let mut lines: Vec<String> = queues.iter().map(standing).collect();
    if !connection.is_served() {
        lines.push("Nothing serves this repository now; run `foreman up`.".into());
    }
    Ok(lines)
}

fn standing(queue: &TaskQueue) -> String {
    let name = queue.name_any();
    let status = queue.status.clone().unwrap_or_default();
    let folder = queue.spec.git.as_ref().map(|git| git.path.clone()).unwrap_or_default();
    let conditions = status.conditions.as_ref();
    let Some(ready) = condition(conditions, "Ready") else {
        return format!("Queue {name} was not looked at yet.");
    };
    if ready.status != "True" {
        let stalled = condition(conditions, "Stalled").is_some_and(|stalled| stalled.status == "True");
        let advice = if stalled {
            "change .foreman/queue.yaml and start `foreman up` again"
        } else {
            "it is tried again; `foreman get queues` shows when it is mended"
        };
        return plain(&format!(
            "Queue {name} is not ready: {}: {}; {advice}.",
            ready.reason, ready.message
        ));
    }
    match (status.files.unwrap_or(0), status.invalid_file_count.unwrap_or(0)) {
        (0, _) => plain(&format!(
            "Queue {name} has no task files; commit one below {folder} ({}).",
            status.observed_revision.as_deref().unwrap_or("no revision yet")
        )),
        (files, 0) => format!("Queue {name} has {files} task files."),
        (files, invalid) => {
            format!("Queue {name}: {invalid} of {files} task files cannot be used; `foreman validate` says why.")
        }
    }
}

async fn list<K>(connection: &Connection, api: Api<K>, args: &GetArgs) -> Result<()>
where
    K: Row + Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + 'static,
{
    let kind = K::plural(&());
    let items = match &args.name {
        Some(name) => match api
            .get_opt(name)
            .await
            .with_context(|| format!("failed to read {kind} {name}"))?
        {
            Some(item) => vec![item],
            None => bail!(
                "there is no {name:?} among the {kind}; see `foreman get {}`",
                kind_word(args.kind)
            ),
        },
        None => {
            api.list(&ListParams::default())
                .await
                .with_context(|| format!("failed to list {kind}"))?
                .items
        }
    };
    if items.is_empty() && matches!(args.output, Format::Table | Format::Wide) {
        eprintln!("There are no {kind}.");
        if matches!(args.kind, Kind::Workloads | Kind::Tasks) {
            for line in why_none(connection).await? {
                eprintln!("{line}");
            }
        }
    } else {
        print!("{}", format(&items, args)?);
    }
    if !args.watch {
        return Ok(());
    }
    let mut config = watcher::Config::default();
    if let Some(name) = &args.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let seen: std::collections::HashMap<_, _> =
        items.iter().map(|item| (item.uid(), item.resource_version())).collect();
    let mut changes = watcher(api, config).default_backoff().applied_objects().boxed();
    while let Some(item) = changes
        .try_next()
        .await
        .with_context(|| format!("failed to watch {kind}"))?
    {
        if seen.get(&item.uid()) == Some(&item.resource_version()) {
            continue;
        }
        let mut lines = format(std::slice::from_ref(&item), args)?;
        if matches!(args.output, Format::Table | Format::Wide) {
            lines = lines.split_once('\n').map(|(_, row)| row.to_owned()).unwrap_or(lines);
        }
        print!("{lines}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Workloads => "workloads",
        Kind::Tasks => "tasks",
        Kind::Nodes => "nodes",
        Kind::Queues => "queues",
        Kind::Agents => "agents",
    }
}

fn format<K: Row + Serialize>(items: &[K], args: &GetArgs) -> Result<String> {
    let now = Timestamp::now();
    Ok(match args.output {
        Format::Table | Format::Wide => {
            let width = if args.output == Format::Wide {
                K::head().len()
            } else {
                K::narrow()
            };
            // A message may be long: what stands behind it would be out of sight.
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by_key(|column| K::head()[*column] == "MESSAGE");
            let head: Vec<&str> = order.iter().map(|column| K::head()[*column]).collect();
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    let cells = item.cells(now);
                    order.iter().map(|column| cells[*column].clone()).collect()
                })
                .collect();
            render(&head, &rows)
        }
        Format::Json | Format::Yaml => {
            let value = match (items, &args.name) {
                ([item], Some(_)) => serde_json::to_value(item)?,
                _ => serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }),
            };
            if args.output == Format::Json {
                format!("{}\n", serde_json::to_string_pretty(&value)?)
            } else {
                schemas::yaml::to_string(&value)?
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_queue_that_cannot_work_says_why_and_what_to_do() {
        let queue = |status: serde_json::Value| -> TaskQueue {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue", "metadata": { "name": "tasks" },
                "spec": { "git": { "url": "/x", "path": "todo" } }, "status": status,
            }))
            .unwrap()
        };
        let said = |kind: &str, status: &str| {
            json!({ "type": kind, "status": status, "reason": "NoBranch", "message": "there is no branch trunk",
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let fetch = standing(&queue(json!({ "conditions": [said("Ready", "False")] })));
        assert!(
            fetch.contains("NoBranch: there is no branch trunk") && fetch.contains("tried again"),
            "{fetch}"
        );
        let stalled = standing(&queue(
            json!({ "conditions": [said("Ready", "False"), said("Stalled", "True")] }),
        ));
        assert!(stalled.contains("change .foreman/queue.yaml"), "{stalled}");
        let empty = standing(&queue(json!({ "files": 0, "conditions": [said("Ready", "True")] })));
        assert!(empty.contains("commit one below todo"), "{empty}");
        let broken = standing(&queue(
            json!({ "files": 2, "invalidFileCount": 1, "conditions": [said("Ready", "True")] }),
        ));
        assert!(
            broken.contains("1 of 2") && broken.contains("foreman validate"),
            "{broken}"
        );
        assert!(standing(&queue(json!({}))).contains("not looked at yet"));
    }
}
