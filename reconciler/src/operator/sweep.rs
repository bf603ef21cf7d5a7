//! What nobody needs any more: old evidence, Jobs whose task is gone, Jobs that run for nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gate::network::{CODER, KIND_LABEL};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::agentic_task::Phase;
use schemas::{AgenticTaskStatus, labels};
use tokio_util::sync::CancellationToken;

use super::controllers::Controllers;
use crate::cache::{Cache, Key};

impl Controllers {
    /// Takes away, now and then, evidence and Jobs that nobody needs.
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
            self.sweep_jobs().await;
        }
    }

    async fn sweep_jobs(&self) {
        // Where Jobs have namespaces of their own, no other one may be looked at.
        let spaces = match &self.jobs_namespaces[..] {
            [] => &self.namespaces[..],
            jobs => jobs,
        };
        let mut apis: Vec<Api<Job>> = spaces
            .iter()
            .map(|namespace| Api::namespaced(self.client.clone(), namespace))
            .collect();
        if apis.is_empty() {
            apis.push(Api::all(self.client.clone()));
        }
        for api in apis {
            let listed = match api.list(&ListParams::default().labels(labels::TASK_UID)).await {
                Ok(listed) => listed,
                // The others are looked at all the same.
                Err(error) => {
                    tracing::warn!(%error, "Jobs of a namespace were not swept");
                    continue;
                }
            };
            let all = self.workload.tasks.all();
            let tasks: HashMap<&str, Key> = all.iter().map(|task| (task.uid(), Key::of(task.meta()))).collect();
            for job in listed {
                let uid = job.labels().get(labels::TASK_UID).map_or("", String::as_str);
                // Looked up after the Job was listed, so that a claim which made it is known, or later than what is.
                if let Some(task) = tasks.get(uid).and_then(|key| self.workload.tasks.get(key))
                    && task.uid() == uid
                    && !is_of_no_use(
                        &job,
                        &task.readable().and_then(|task| task.status.clone()).unwrap_or_default(),
                    )
                {
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
                    tracing::warn!(job = %key, %error, "a Job that nobody needs was not deleted");
                }
            }
        }
    }
}

/// Says whether a Job runs for nobody.
///
/// A coder's does where its task ended or was taken up by another node; the agent of the same node takes such a Job over,
/// or removes it. A gate's, or one that prepares it, belongs to one claim, and does once that is dead.
fn is_of_no_use(job: &Job, task: &AgenticTaskStatus) -> bool {
    let status = job.status.clone().unwrap_or_default();
    let ended = status
        .conditions
        .iter()
        .flatten()
        .any(|it| matches!(it.type_.as_str(), "Complete" | "Failed") && it.status == "True");
    if ended {
        return false;
    }
    match job.labels().get(KIND_LABEL).map(String::as_str) {
        Some(CODER) => {
            let node = job.labels().get(labels::NODE);
            let elsewhere = task.claim.as_ref().is_some_and(|claim| Some(&claim.node) != node);
            task.phase.is_some_and(Phase::is_terminal) || elsewhere
        }
        Some("gate" | "prepare") => {
            let of = job
                .labels()
                .get(labels::EPOCH)
                .and_then(|epoch| epoch.parse::<i64>().ok());
            let now = task.epoch.unwrap_or(0);
            let works = matches!(task.phase, Some(Phase::Running | Phase::Verifying));
            // One of a later claim than what is known of the task is not judged by that.
            of.is_some_and(|of| of < now || (of == now && !works))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_coders_job_that_runs_for_nobody_is_of_no_use() {
        let job = |kind: &str, condition: &str| -> Job {
            serde_json::from_value(json!({
                "metadata": { "labels": { KIND_LABEL: kind, (labels::NODE): "a" } },
                "status": { "conditions": [{ "type": condition, "status": "True" }] },
            }))
            .unwrap()
        };
        let task = |phase: &str, node: Option<&str>| -> AgenticTaskStatus {
            let claim = node.map(|node| json!({ "node": node, "agent": "x", "epoch": 2, "secretSHA256": "s" }));
            serde_json::from_value(json!({ "phase": phase, "claim": claim })).unwrap()
        };
        let running = job(CODER, "Suspended");
        for (status, of_no_use) in [
            (task("Running", Some("a")), false),
            // Its agent died, and may come back.
            (task("Pending", None), false),
            (task("Scheduled", None), false),
            (task("Running", Some("b")), true),
            (task("Failed", None), true),
            (task("Succeeded", None), true),
        ] {
            assert_eq!(is_of_no_use(&running, &status), of_no_use, "{status:?}");
            assert!(
                !is_of_no_use(&job(CODER, "Complete"), &status),
                "it has its time to stay"
            );
        }
    }

    #[test]
    fn a_gates_job_is_of_no_use_once_its_claim_is_dead() {
        let job = |kind: &str, epoch: &str, condition: &str| -> Job {
            serde_json::from_value(json!({
                "metadata": { "labels": { KIND_LABEL: kind, (labels::NODE): "a", (labels::EPOCH): epoch } },
                "status": { "conditions": [{ "type": condition, "status": "True" }] },
            }))
            .unwrap()
        };
        let task = |phase: &str, epoch: i64| -> AgenticTaskStatus {
            serde_json::from_value(json!({ "phase": phase, "epoch": epoch })).unwrap()
        };
        for (status, of_no_use) in [
            (task("Verifying", 2), false),
            // A first step of the claim prepares the gate.
            (task("Running", 2), false),
            (task("Pending", 2), true),
            (task("Scheduled", 2), true),
            (task("Failed", 2), true),
            (task("Succeeded", 2), true),
            (task("Verifying", 3), true),
            // The watch lags behind the list of Jobs.
            (task("Scheduled", 1), false),
            (task("Pending", 1), false),
        ] {
            for kind in ["gate", "prepare"] {
                assert_eq!(
                    is_of_no_use(&job(kind, "2", "Suspended"), &status),
                    of_no_use,
                    "{kind} {status:?}"
                );
                assert!(
                    !is_of_no_use(&job(kind, "2", "Failed"), &status),
                    "it has its time to stay"
                );
                assert!(
                    !is_of_no_use(&job(kind, "?", "Suspended"), &status),
                    "nobody knows whose it is"
                );
            }
        }
    }
}
