//! `foreman cancel` and `foreman retry`: requests that the operator answers.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use schemas::shared::LocalRef;
use schemas::{AgenticTask, Workload, labels};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::connect::Connection;
use crate::target::{Target, find};

/// What is asked of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End what runs.
    Cancel,
    /// Start again as a new run.
    Retry,
}

impl Request {
    fn annotation(self) -> &'static str {
        match self {
            Self::Cancel => labels::CANCEL,
            Self::Retry => labels::RETRY,
        }
    }
}

/// Writes the request and says what became of it.
pub async fn run(connection: &Connection, wanted: &str, request: Request) -> Result<()> {
    let target = find(connection, wanted).await?;
    let id = format!("{}-{}", jiff::Timestamp::now().as_millisecond(), std::process::id());
    let name = target.name();
    if request == Request::Cancel
        && let Some(phase) = target.over()
    {
        println!("{name}: it is over already ({phase}); nothing was running");
        return Ok(());
    }
    match &target {
        Target::Workload(_) => annotate::<Workload>(connection, &name, request, &id).await?,
        Target::Task(task) => {
            if request == Request::Retry
                && let Some(owner) = task.spec.workload_ref.as_ref().and_then(LocalRef::named)
            {
                bail!(
                    "{name} is a step of workload {owner}; a finished step is never reopened. Use `foreman retry {owner}`"
                );
            }
            annotate::<AgenticTask>(connection, &name, request, &id).await?;
        }
    }
    for _ in 0..50 {
        if handled(connection, &target, request).await?.as_deref() == Some(&id) {
            println!(
                "{name}: {}",
                if request == Request::Cancel {
                    "cancelled"
                } else {
                    "a new run starts"
                }
            );
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{name}: the request is written; it is dealt with when an operator runs (`foreman up`)");
    Ok(())
}

async fn annotate<K>(connection: &Connection, name: &str, request: Request, id: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let mut annotations = serde_json::Map::new();
    annotations.insert(request.annotation().into(), json!(id));
    let patch = json!({ "metadata": { "annotations": annotations } });
    let params = PatchParams {
        field_manager: Some("foreman-cli".into()),
        ..PatchParams::default()
    };
    api.patch(name, &params, &Patch::Merge(patch))
        .await
        .with_context(|| format!("failed to write the request to {name}"))?;
    Ok(())
}

async fn handled(connection: &Connection, target: &Target, request: Request) -> Result<Option<String>> {
    let pick = |cancel: Option<String>, retry: Option<String>| if request == Request::Cancel { cancel } else { retry };
    Ok(match target {
        Target::Workload(workload) => {
            let api: Api<Workload> = Api::namespaced(connection.client.clone(), &connection.namespace);
            let status = api.get_status(&workload.name_any()).await?.status.unwrap_or_default();
            pick(status.handled_cancel, status.handled_retry)
        }
        Target::Task(task) => {
            let api: Api<AgenticTask> = Api::namespaced(connection.client.clone(), &connection.namespace);
            let status = api.get_status(&task.name_any()).await?.status.unwrap_or_default();
            pick(status.handled_cancel, status.handled_retry)
        }
    })
}
