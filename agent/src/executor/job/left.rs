//! What an earlier claim left: the Job of an agent that was killed goes on without it.
//!
//! The next claim takes such a Job over, where it is of the same node, instead of beginning another. It pushes no marker, so
//! that the Job's own push still wins; any other claim does, and makes the Job lose, whoever claims the task after it.

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
        begun && is_of_last_claim(job, epoch) && job.annotations().contains_key(BASE_ANNOTATION)
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

/// Says whether a Job is the very last claim's: a claim between it and this one may have pushed a marker, to which it loses.
fn is_of_last_claim(job: &Job, epoch: i64) -> bool {
    let of = job.labels().get(labels::EPOCH).and_then(|of| of.parse::<i64>().ok());
    // It is this claim's already where a try to take it over was carried out, and its answer was lost.
    made_for(job).is_some_and(|made| made < epoch) && of.is_some_and(|of| of == epoch - 1 || of == epoch)
}

/// Reads the epoch of the claim that a Job was made for, from what nobody can change any more.
fn made_for(job: &Job) -> Option<i64> {
    let template = job.spec.as_ref()?.template.metadata.as_ref()?;
    template.labels.as_ref()?.get(labels::EPOCH)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::{Arc, Mutex};

    use axum::Json;
    use axum::extract::{Request, State};
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse, Response};
    use serde_json::Value;

    use super::*;
    use crate::daemon::claim::Held;
    use crate::executor::sample;

    fn job(name: &str, epoch: i64, suspend: bool, condition: &str) -> Job {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "labels": { (labels::EPOCH): epoch.to_string() },
                "annotations": { BASE_ANNOTATION: "b" },
            },
            "spec": {
                "suspend": suspend,
                "template": { "metadata": { "labels": { (labels::EPOCH): epoch.to_string() } } },
            },
            "status": { "conditions": [{ "type": condition, "status": "True" }] },
        }))
        .unwrap()
    }

    /// Returns the Job as a later claim leaves it that took it over.
    fn taken_over(mut job: Job, epoch: i64) -> Job {
        job.labels_mut().insert(labels::EPOCH.into(), epoch.to_string());
        job
    }

    fn sorted(jobs: Vec<Job>) -> (Option<(String, i64)>, Vec<String>) {
        let (useful, useless) = sort(jobs, 4);
        (
            useful.map(|(_, work)| (work.name, work.epoch)),
            useless.iter().map(ResourceExt::name_any).collect(),
        )
    }

    #[test]
    fn the_last_claims_job_that_runs_or_has_a_result_is_taken_over_and_the_others_go() {
        let running = |epoch| job(&format!("run-{epoch}"), epoch, false, "Suspended");
        assert_eq!(sorted(vec![]), (None, vec![]));
        assert_eq!(
            sorted(vec![running(1), running(3), running(2)]),
            (Some(("run-3".into(), 3)), vec!["run-2".into(), "run-1".into()])
        );
        let done = job("done", 3, false, "Complete");
        assert_eq!(
            sorted(vec![done.clone()]),
            (Some(("done".into(), 3)), vec![]),
            "its result is there to be read"
        );
        // What never began has perhaps no payload; what failed has no result, and its time to stay.
        let (waits, failed) = (job("waits", 3, true, "Suspended"), job("failed", 3, false, "Failed"));
        assert_eq!(sorted(vec![waits.clone(), failed]), (None, vec!["waits".into()]));
        assert_eq!(
            sorted(vec![waits, done]),
            (Some(("done".into(), 3)), vec!["waits".into()])
        );
    }

    #[test]
    fn a_job_is_taken_over_by_one_claim_after_the_other_and_by_none_after_a_claim_without_it() {
        let running = |name: &str| job(name, 1, false, "Suspended");
        assert_eq!(
            sorted(vec![taken_over(running("kept"), 3)]),
            (Some(("kept".into(), 1)), vec![]),
            "claims 2 and 3 took it over, and pushed no marker"
        );
        // Another node's claim 3 pushed its marker and died: the Job's push can only lose, whatever it came to.
        assert_eq!(
            sorted(vec![taken_over(running("fenced"), 2)]),
            (None, vec!["fenced".into()])
        );
        assert_eq!(sorted(vec![running("fenced")]), (None, vec!["fenced".into()]));
        assert_eq!(sorted(vec![job("done", 2, false, "Complete")]), (None, vec![]));
    }

    #[test]
    fn a_job_of_this_very_claim_or_without_its_base_is_not_taken_over() {
        assert_eq!(sorted(vec![job("own", 4, false, "x")]).0, None);
        let mut bare = job("bare", 3, false, "x");
        bare.metadata.annotations = None;
        assert_eq!(sorted(vec![bare]), (None, vec!["bare".into()]));
    }

    /// An API of one Job, which takes the first patch and loses its answer.
    #[derive(Clone)]
    struct Losing(Arc<Mutex<(Job, Vec<Method>)>>);

    async fn serve(State(api): State<Losing>, request: Request) -> Response {
        let method = request.method().clone();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let mut kept = api.0.lock().unwrap();
        if method == Method::GET {
            let list = json!({ "apiVersion": "batch/v1", "kind": "JobList", "metadata": {}, "items": [kept.0] });
            return Json(list).into_response();
        }
        kept.1.push(method.clone());
        if method == Method::PATCH {
            let patch: Value = serde_json::from_slice(&body).unwrap();
            let epoch = patch["metadata"]["labels"][labels::EPOCH].as_str().unwrap().to_owned();
            kept.0.labels_mut().insert(labels::EPOCH.into(), epoch);
            if kept.1.len() == 1 {
                return sample::failure(StatusCode::GATEWAY_TIMEOUT);
            }
        }
        Json(kept.0.clone()).into_response()
    }

    #[tokio::test]
    async fn a_job_is_taken_over_where_the_answer_to_that_was_lost() {
        let folder = tempfile::tempdir().unwrap();
        let api = Losing(Arc::new(Mutex::new((job("left", 1, false, "Suspended"), Vec::new()))));
        let app = axum::Router::new().fallback(serve).with_state(api.clone());
        let run = sample::run(folder.path(), kube::Client::new(app, "default"), Held::sample(2));
        let work = take_over(&run, "default").await.unwrap().unwrap();
        assert_eq!((work.name.as_str(), work.epoch), ("left", 1));
        assert_eq!(
            api.0.lock().unwrap().1,
            [Method::PATCH, Method::PATCH],
            "and it is not removed"
        );
    }
}
