//! What an earlier claim left: the Job of an agent that was killed goes on without it.
//!
//! A later claim of the same node takes such a Job over instead of beginning another. It pushes no marker, so that the
//! Job's own push still wins; a claim of another node does, and makes the Job lose.

use gate::job::BASE_ANNOTATION;
use gate::network::{CODER, KIND_LABEL};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use schemas::labels;
use serde_json::json;

use super::{Work, broken, followed};
use crate::executor::Run;
use crate::executor::follow::is_missing;
use crate::outcome::Outcome;
use crate::patience::{answered, is_away};

/// How often a Job that changes meanwhile is looked at anew.
const TRIES: usize = 5;

/// Takes over the Job that an earlier claim of this task left on this node, and removes what is of no use.
pub(super) async fn take_over(run: &Run, namespace: &str) -> Result<Option<Work>, Outcome> {
    let epoch = run.held.claim.epoch;
    if epoch <= 1 {
        return Ok(None);
    }
    let jobs: Api<Job> = Api::namespaced(run.services.client.clone(), namespace);
    let selector = format!(
        "{KIND_LABEL}={CODER},{}={},{}={}",
        labels::TASK_UID,
        run.held.uid,
        labels::NODE,
        run.services.config.node_name
    );
    for _ in 0..TRIES {
        let (all, params) = (&jobs, &ListParams::default().labels(&selector));
        let found = answered(&run.cancel, &run.held.name, |_| all.list(params))
            .await
            .map_err(|error| broken("look for a coder's Job that was left", error))?;
        let (useful, useless) = sort(found.items, epoch);
        for job in useless {
            tracing::info!(job = job.name_any(), "removing a coder's Job that was left");
            followed(run, namespace, &job.name_any()).remove(true).await;
        }
        let Some((job, work)) = useful else { return Ok(None) };
        // From now on an agent that comes back from the dead leaves it alone.
        let patch = json!({
            "metadata": {
                "uid": job.uid(), "resourceVersion": job.resource_version(),
                "labels": { (labels::EPOCH): epoch.to_string() },
            },
        });
        match jobs
            .patch(&work.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => {
                tracing::info!(job = work.name, epoch, "took over the coder's Job of an earlier claim");
                return Ok(Some(work));
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) if is_missing(&error) || is_away(&error) => {}
            Err(error) => return Err(broken("take over the coder's Job", error)),
        }
    }
    Ok(None)
}

/// Finds the latest Job that runs or has a result, and those that are of no use and have not ended.
fn sort(mut jobs: Vec<Job>, epoch: i64) -> (Option<(Job, Work)>, Vec<Job>) {
    let condition = |job: &Job, name: &str| {
        let status = job.status.as_ref();
        let all = status.and_then(|status| status.conditions.as_ref());
        all.into_iter()
            .flatten()
            .any(|it| it.type_ == name && it.status == "True")
    };
    jobs.retain(|job| job.metadata.deletion_timestamp.is_none() && !condition(job, "Failed"));
    jobs.sort_by_key(|job| std::cmp::Reverse(made_for(job)));
    let at = jobs.iter().position(|job| {
        let begun = job.spec.as_ref().is_some_and(|spec| spec.suspend != Some(true));
        begun && made_for(job).is_some_and(|of| of < epoch) && job.annotations().contains_key(BASE_ANNOTATION)
    });
    let useful = at.map(|at| jobs.remove(at)).and_then(|job| {
        let work = Work {
            name: job.name_any(),
            epoch: made_for(&job)?,
            base: job.annotations().get(BASE_ANNOTATION)?.clone(),
        };
        Some((job, work))
    });
    jobs.retain(|job| !condition(job, "Complete"));
    (useful, jobs)
}

/// Reads the epoch of the claim that a Job was made for, from what nobody can change any more.
fn made_for(job: &Job) -> Option<i64> {
    let template = job.spec.as_ref()?.template.metadata.as_ref()?;
    template.labels.as_ref()?.get(labels::EPOCH)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn job(name: &str, epoch: i64, suspend: bool, condition: &str) -> Job {
        serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": { BASE_ANNOTATION: "b" } },
            "spec": {
                "suspend": suspend,
                "template": { "metadata": { "labels": { (labels::EPOCH): epoch.to_string() } } },
            },
            "status": { "conditions": [{ "type": condition, "status": "True" }] },
        }))
        .unwrap()
    }

    fn sorted(jobs: Vec<Job>) -> (Option<(String, i64)>, Vec<String>) {
        let (useful, useless) = sort(jobs, 4);
        (
            useful.map(|(_, work)| (work.name, work.epoch)),
            useless.iter().map(ResourceExt::name_any).collect(),
        )
    }

    #[test]
    fn the_latest_job_that_runs_or_has_a_result_is_taken_over_and_the_others_go() {
        let running = |epoch| job(&format!("run-{epoch}"), epoch, false, "Suspended");
        assert_eq!(sorted(vec![]), (None, vec![]));
        assert_eq!(
            sorted(vec![running(1), running(3), running(2)]),
            (Some(("run-3".into(), 3)), vec!["run-2".into(), "run-1".into()])
        );
        let done = job("done", 2, false, "Complete");
        assert_eq!(
            sorted(vec![done.clone()]),
            (Some(("done".into(), 2)), vec![]),
            "its result is there to be read"
        );
        // What never began has perhaps no payload; what failed has no result, and its time to stay.
        let (waits, failed) = (job("waits", 3, true, "Suspended"), job("failed", 3, false, "Failed"));
        assert_eq!(sorted(vec![waits.clone(), failed]), (None, vec!["waits".into()]));
        assert_eq!(
            sorted(vec![waits, done]),
            (Some(("done".into(), 2)), vec!["waits".into()])
        );
    }

    #[test]
    fn a_job_of_this_very_claim_or_without_its_base_is_not_taken_over() {
        assert_eq!(sorted(vec![job("own", 4, false, "x")]).0, None);
        let mut bare = job("bare", 3, false, "x");
        bare.metadata.annotations = None;
        assert_eq!(sorted(vec![bare]), (None, vec!["bare".into()]));
    }
}
