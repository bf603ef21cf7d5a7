//! What nobody needs any more: old evidence, Jobs whose task is gone.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::labels;
use tokio_util::sync::CancellationToken;

use super::controllers::Controllers;
use crate::cache::{Cache, Key};

impl Controllers {
    /// Takes away, now and then, evidence that nobody needs and Jobs whose task is gone.
    pub(super) async fn sweep(self: Arc<Self>, term: CancellationToken) {
        loop {
            tokio::select! {
                () = term.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(600)) => {}
            }
            if let Some(evidence) = &self.evidence {
                let tasks = self.workload.tasks.clone();
                let live = move |uid: &str| tasks.by_uid(uid).is_some();
                match evidence.sweep(self.task.clock.now(), self.evidence_keep, live).await {
                    Ok(0) => {}
                    Ok(gone) => tracing::info!(gone, "old evidence was deleted"),
                    Err(error) => tracing::warn!(%error, "evidence was not swept"),
                }
            }
            if let Err(error) = self.sweep_jobs().await {
                tracing::warn!(%error, "Jobs were not swept");
            }
        }
    }

    async fn sweep_jobs(&self) -> Result<(), kube::Error> {
        // Where Jobs have a namespace of their own, no other one may be looked at.
        let spaces = match &self.jobs_namespace {
            Some(namespace) => std::slice::from_ref(namespace),
            None => &self.namespaces[..],
        };
        let mut apis: Vec<Api<Job>> = spaces
            .iter()
            .map(|namespace| Api::namespaced(self.client.clone(), namespace))
            .collect();
        if apis.is_empty() {
            apis.push(Api::all(self.client.clone()));
        }
        for api in apis {
            for job in api.list(&ListParams::default().labels(labels::TASK_UID)).await? {
                let uid = job.labels().get(labels::TASK_UID).cloned().unwrap_or_default();
                if self.workload.tasks.by_uid(&uid).is_some() {
                    continue;
                }
                let key = Key::of(&job.metadata);
                let jobs: Cache<Job> = Cache::default();
                if let Err(error) = self
                    .workload
                    .writer
                    .delete(&jobs, &key, job.metadata.uid.as_deref().unwrap_or_default())
                    .await
                {
                    tracing::warn!(job = %key, %error, "a Job whose task is gone was not deleted");
                }
            }
        }
        Ok(())
    }
}
