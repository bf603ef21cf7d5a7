//! What is read from a Job and its Pod.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::job::{INIT_CONTAINER, MAIN_CONTAINER};

/// How a Job and its one Pod ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOutcome {
    /// How the Job stands.
    pub job: JobEnd,
    /// Reason of the Job's condition Failed; empty where it has none.
    pub job_reason: String,
    /// Pods of the Job.
    pub pods: usize,
    /// Phase of the Pod.
    pub pod_phase: String,
    /// Reason of the Pod's status, such as `Evicted`; empty where it has none.
    pub pod_reason: String,
    /// Message that goes with the reasons.
    pub detail: String,
    /// Why the Pod finds no node, as the scheduler says it; empty where it has one.
    pub unscheduled: String,
    /// The container that fetches.
    pub init: ContainerEnd,
    /// The container that runs the steps.
    pub main: ContainerEnd,
}

/// How a Job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobEnd {
    /// There is no such Job.
    #[default]
    Missing,
    /// It has not ended.
    Running,
    /// Condition Complete.
    Complete,
    /// Condition Failed.
    Failed,
}

/// How a container stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ContainerEnd {
    /// It has no status.
    #[default]
    Missing,
    /// It waits.
    Waiting {
        /// Reason, such as `ImagePullBackOff`.
        reason: String,
        /// Message.
        message: String,
    },
    /// It runs.
    Running,
    /// It ended.
    Terminated(Terminated),
}

/// The end of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminated {
    /// Exit code.
    pub exit_code: i32,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Reason, such as `Completed`, `Error` or `OOMKilled`.
    pub reason: String,
    /// Termination message.
    pub message: String,
}

impl JobOutcome {
    /// Reads a Job and the Pods that were found by its labels; Pods of another Job are left out.
    pub fn from_objects(job: Option<&Job>, pods: &[Pod]) -> Self {
        Self::read(job, pods, INIT_CONTAINER, MAIN_CONTAINER)
    }

    /// Reads a Job whose containers have other names than a gate's.
    pub fn read(job: Option<&Job>, pods: &[Pod], init: &str, main: &str) -> Self {
        let Some(job) = job else {
            return Self::default();
        };
        let mut outcome = Self {
            job: JobEnd::Running,
            ..Self::default()
        };
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref());
        for condition in conditions.unwrap_or_default().iter().filter(|one| one.status == "True") {
            match condition.type_.as_str() {
                "Complete" if outcome.job != JobEnd::Failed => outcome.job = JobEnd::Complete,
                // Said when its time is over; `Failed` follows when its Pods are gone, which takes as long as a node is
                // silent.
                "FailureTarget" if condition.reason.as_deref() != Some("DeadlineExceeded") => {}
                "Failed" | "FailureTarget" => {
                    outcome.job = JobEnd::Failed;
                    outcome.job_reason = condition.reason.clone().unwrap_or_default();
                    outcome.detail = condition.message.clone().unwrap_or_default();
                }
                _ => {}
            }
        }
        let own: Vec<&Pod> = pods
            .iter()
            .filter(|pod| {
                job.metadata.uid.is_some()
                    && pod
                        .owner_references()
                        .iter()
                        .any(|owner| owner.kind == "Job" && Some(&owner.uid) == job.metadata.uid.as_ref())
            })
            .collect();
        outcome.pods = own.len();
        let Some(status) = own.first().and_then(|pod| pod.status.as_ref()) else {
            return outcome;
        };
        outcome.pod_phase = status.phase.clone().unwrap_or_default();
        outcome.pod_reason = status.reason.clone().unwrap_or_default();
        if !outcome.pod_reason.is_empty() {
            outcome.detail = status.message.clone().unwrap_or_default();
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        if let Some(found) = conditions
            .iter()
            .find(|it| it.type_ == "PodScheduled" && it.status == "False")
        {
            outcome.unscheduled = crate::tail::line(found.message.as_deref().unwrap_or("it is not scheduled"), 300);
        }
        outcome.init = end_of(status.init_container_statuses.as_deref(), init);
        outcome.main = end_of(status.container_statuses.as_deref(), main);
        outcome
    }

    /// Tells whether the Job has ended, so that judging it makes sense.
    pub fn finished(&self) -> bool {
        self.job != JobEnd::Running
    }

    /// Returns why a Job that has not ended cannot go on: its image cannot be pulled, or its container
    /// cannot be made. Waiting longer may still help; the Job's deadline bounds it.
    pub fn stuck(&self) -> Option<String> {
        [&self.init, &self.main].into_iter().find_map(ContainerEnd::stuck)
    }
}

impl ContainerEnd {
    /// Returns why it cannot start.
    pub fn stuck(&self) -> Option<String> {
        match self {
            Self::Waiting { reason, message }
                if !matches!(reason.as_str(), "" | "PodInitializing" | "ContainerCreating") =>
            {
                Some(format!("{reason}: {}", crate::tail::line(message, 300)))
            }
            _ => None,
        }
    }
}

fn end_of(statuses: Option<&[ContainerStatus]>, name: &str) -> ContainerEnd {
    let Some(status) = statuses.unwrap_or_default().iter().find(|status| status.name == name) else {
        return ContainerEnd::Missing;
    };
    let Some(state) = &status.state else {
        return ContainerEnd::Missing;
    };
    if let Some(end) = &state.terminated {
        return ContainerEnd::Terminated(Terminated {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.clone().unwrap_or_default(),
            message: end.message.clone().unwrap_or_default(),
        });
    }
    if state.running.is_some() {
        return ContainerEnd::Running;
    }
    let waiting = state.waiting.clone().unwrap_or_default();
    ContainerEnd::Waiting {
        reason: waiting.reason.unwrap_or_default(),
        message: waiting.message.unwrap_or_default(),
    }
}
