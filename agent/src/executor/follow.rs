//! A Job from its creation to its end: what gates and coders in Jobs have in common.

use std::time::Duration;

use futures::{AsyncReadExt, StreamExt};
use gate::verdict::JobOutcome;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};

use super::Run;
use crate::daemon::registration::FIELD_MANAGER;

/// How often a Job is looked at where nothing is heard of it.
const TICK: Duration = Duration::from_secs(5);
/// Bytes of a log that are kept as evidence.
const LOG_BYTES: usize = 16 << 20;

/// A Job and where it lies.
pub(super) struct Followed<'a> {
    pub(super) run: &'a Run,
    pub(super) namespace: &'a str,
    pub(super) name: String,
    /// Name of its init container, which it may lack.
    pub(super) init: &'static str,
    /// Name of its container.
    pub(super) main: &'static str,
}

/// What there is to see of a Job.
pub(super) enum Sight {
    /// The Job as it is now; a Job that is gone has ended as well.
    Job(Box<JobOutcome>),
    /// The run is to end.
    Cancelled,
}

impl Followed<'_> {
    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.run.services.client.clone(), self.namespace)
    }

    fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.run.services.client.clone(), self.namespace)
    }

    /// Lists its Pods.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>, kube::Error> {
        let selector = ListParams::default().labels(&format!("job-name={}", self.name));
        Ok(self.pods_api().list(&selector).await?.items)
    }

    /// Looks at it until `decide` knows what it comes to.
    ///
    /// An API that cannot be reached is waited for: the Job goes on without it. One that refuses is not.
    pub(super) async fn until<T>(&self, mut decide: impl FnMut(Sight) -> Option<T>) -> Result<T, kube::Error> {
        let selector = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(self.jobs(), selector).default_backoff().boxed();
        let mut live: Option<Job> = None;
        let mut unscheduled = String::new();
        loop {
            let mut gone = false;
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job))) => live = Some(job),
                    Some(Ok(watcher::Event::Delete(_))) | None => gone = true,
                    // A list without it, after one with it, is how a watch that broke off tells of a deletion.
                    Some(Ok(watcher::Event::Init)) => { live = None; continue; }
                    Some(Ok(watcher::Event::InitDone)) => gone = live.is_none(),
                    Some(Err(watcher::Error::InitialListFailed(error))) if is_refused(&error) => return Err(error),
                    Some(Err(error)) => {
                        tracing::warn!(%error, job = self.name, "the watch on the Job broke off and is taken up again");
                        continue;
                    }
                },
                () = tokio::time::sleep(TICK) => {}
                () = self.run.cancel.cancelled() => {
                    if let Some(found) = decide(Sight::Cancelled) {
                        return Ok(found);
                    }
                }
            }
            let mut seen = match &live {
                _ if gone => JobOutcome::default(),
                None => continue,
                Some(job) => match self.look(job).await {
                    Ok(seen) => seen,
                    Err(error) if is_refused(&error) => return Err(error),
                    Err(error) => {
                        tracing::warn!(%error, job = self.name, "failed to look at the Job's Pod; looking again");
                        continue;
                    }
                },
            };
            // The Pod goes with the deadline, and what it waited for with the Pod.
            if seen.finished() && seen.unscheduled.is_empty() {
                seen.unscheduled.clone_from(&unscheduled);
            }
            if seen.unscheduled != unscheduled {
                unscheduled.clone_from(&seen.unscheduled);
                if !unscheduled.is_empty() {
                    tracing::warn!(job = self.name, why = unscheduled, "the Job's Pod finds no node");
                }
            }
            if let Some(found) = decide(Sight::Job(Box::new(seen))) {
                return Ok(found);
            }
        }
    }

    async fn look(&self, job: &Job) -> Result<JobOutcome, kube::Error> {
        let alone = JobOutcome::read(Some(job), &[], self.init, self.main);
        let begun = job.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if !begun && !alone.finished() {
            return Ok(alone);
        }
        Ok(JobOutcome::read(Some(job), &self.pods().await?, self.init, self.main))
    }

    /// Reads the end of its container's log, as much as is kept.
    pub(super) async fn log(&self) -> Option<Vec<u8>> {
        let pod = self.pods().await.ok()?.into_iter().next()?;
        let params = LogParams {
            container: Some(self.main.into()),
            ..LogParams::default()
        };
        let mut stream = self.pods_api().log_stream(&pod.name_any(), &params).await.ok()?;
        let mut kept: Vec<u8> = Vec::new();
        let mut block = vec![0_u8; 64 * 1024];
        loop {
            match stream.read(&mut block).await {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    kept.extend_from_slice(&block[..read]);
                    if kept.len() > LOG_BYTES * 2 {
                        kept.drain(..kept.len() - LOG_BYTES);
                    }
                }
            }
        }
        Some(kept)
    }

    /// Removes the Job; its Pod, and what it owns, go with it. `now` leaves the Pod no time.
    pub(super) async fn remove(&self, now: bool) {
        let mut params = DeleteParams::background();
        params.grace_period_seconds = now.then_some(0);
        match self.jobs().delete(&self.name, &params).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => tracing::warn!(%error, job = self.name, "failed to remove the Job; its deadline ends it"),
        }
    }
}

/// Says whether the API refused, so that asking again is of no use.
fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

/// Says whether the object is not there.
pub(super) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Creates an object in this agent's name.
pub(super) async fn create<K>(api: &Api<K>, object: &K) -> Result<K, kube::Error>
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    api.create(&params, object).await
}
