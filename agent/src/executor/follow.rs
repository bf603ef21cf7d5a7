//! A Job from its creation to its end: what gates and coders in Jobs have in common.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{AsyncReadExt, StreamExt};
use gate::verdict::JobOutcome;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Run;
use crate::daemon::registration::FIELD_MANAGER;
use crate::patience::{Pauses, Unanswered, answered};

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
    async fn pods(&self) -> Result<Vec<Pod>, Unanswered> {
        let (pods, selector) = (
            &self.pods_api(),
            &ListParams::default().labels(&format!("job-name={}", self.name)),
        );
        Ok(answered(&self.run.cancel, &self.name, |_| pods.list(selector))
            .await?
            .items)
    }

    /// Begins to look at it.
    pub(super) fn follow(&self) -> Sights<'_> {
        let selector = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        Sights {
            of: self,
            events: watcher(self.jobs(), selector).backoff(Pauses::default()).boxed(),
            live: None,
        }
    }

    async fn look(&self, job: &Job) -> Result<JobOutcome, Unanswered> {
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
            Err(error) => {
                tracing::warn!(%error, job = self.name, "failed to remove the Job; the operator does when it looks for those that nobody waits for")
            }
        }
    }
}

/// What is seen of a Job, one sight after the other.
pub(super) struct Sights<'a> {
    of: &'a Followed<'a>,
    events: BoxStream<'a, watcher::Result<watcher::Event<Job>>>,
    live: Option<Job>,
}

impl Sights<'_> {
    /// Waits until there is something to see: a change, or that some time went by.
    ///
    /// An API that cannot be reached is waited for: the Job goes on without it. One that refuses is not.
    pub(super) async fn next(&mut self) -> Result<Sight, Unanswered> {
        let (run, job) = (self.of.run, &self.of.name);
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job))) => self.live = Some(job),
                    Some(Ok(watcher::Event::Delete(_))) | None => return Ok(Sight::Job(Box::default())),
                    // A list without it, after one with it, is how a watch that broke off tells of a deletion.
                    Some(Ok(watcher::Event::Init)) => {
                        self.live = None;
                        continue;
                    }
                    Some(Ok(watcher::Event::InitDone)) if self.live.is_none() => {
                        return Ok(Sight::Job(Box::default()));
                    }
                    Some(Ok(watcher::Event::InitDone)) => continue,
                    Some(Err(watcher::Error::InitialListFailed(error))) if is_refused(&error) => {
                        return Err(error.into());
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, job, "the watch on the Job broke off and is taken up again");
                        continue;
                    }
                },
                () = tokio::time::sleep(TICK) => {}
                () = run.cancel.cancelled() => return Ok(Sight::Cancelled),
            }
            let Some(live) = &self.live else { continue };
            return match self.of.look(live).await {
                Ok(seen) => Ok(Sight::Job(Box::new(seen))),
                Err(Unanswered::Cancelled(_)) => Ok(Sight::Cancelled),
                Err(error) => Err(error),
            };
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

/// Makes a Job that waits until [`begin`] lets it run, and returns it as the API keeps it.
pub(super) async fn create_waiting(run: &Run, jobs: &Api<Job>, job: &Job) -> Result<Job, Unanswered> {
    match create(run, jobs, job).await? {
        Some(made) => Ok(made),
        None => Ok(run.read(jobs, &job.name_any()).await?.unwrap_or_else(|| job.clone())),
    }
}

/// Makes an object that goes with a Job, whoever removes the Job.
pub(super) async fn create_owned<K>(run: &Run, api: &Api<K>, job: &Job, mut object: K) -> Result<(), Unanswered>
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    object.meta_mut().owner_references = Some(vec![OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    create(run, api, &object).await.map(drop)
}

/// Lets a Job run that waits.
pub(super) async fn begin(run: &Run, jobs: &Api<Job>, job: &Job) -> Result<(), Unanswered> {
    let begin = &Patch::Merge(json!({ "metadata": { "uid": job.uid() }, "spec": { "suspend": false } }));
    let (params, name) = (&PatchParams::default(), &job.name_any());
    answered(&run.cancel, name, |_| jobs.patch(name, params, begin))
        .await
        .map(drop)
}

/// Makes an object whose name nobody else uses; `None` where a try whose answer was lost has made it.
pub(super) async fn create<K>(run: &Run, api: &Api<K>, object: &K) -> Result<Option<K>, Unanswered>
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let params = &PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    answered(&run.cancel, &object.name_any(), |number| async move {
        match api.create(params, object).await {
            Err(kube::Error::Api(status)) if number > 0 && status.code == 409 => Ok(None),
            created => created.map(Some),
        }
    })
    .await
}
