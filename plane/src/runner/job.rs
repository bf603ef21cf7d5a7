//! What a Job needs next: a pure function of the Job, its Pods and the time.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

/// What a Job needs next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Pod to create.
    pub create: Option<Pod>,
    /// Pods to delete, by name.
    pub delete: Vec<String>,
    /// Status to write, if it differs.
    pub status: Option<JobStatus>,
    /// Whether the Job itself is to be deleted, its time to live being over.
    pub expire: bool,
    /// When to look again.
    pub wake: Option<Timestamp>,
}

/// Says whether a Job has come to its end.
pub fn is_finished(job: &Job) -> bool {
    job.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
        })
}

/// Says which parts of a Job's spec this runner cannot carry out.
pub fn unsupported(job: &Job) -> Option<String> {
    let spec = job.spec.as_ref()?;
    if spec.parallelism.is_some_and(|n| n > 1) || spec.completions.is_some_and(|n| n > 1) {
        return Some("parallelism and completions above 1 are not supported here".into());
    }
    if spec.completion_mode.as_deref() == Some("Indexed") {
        return Some("completionMode Indexed is not supported here".into());
    }
    if spec.pod_failure_policy.is_some() || spec.success_policy.is_some() {
        return Some("podFailurePolicy and successPolicy are not supported here".into());
    }
    None
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Works out what `job` needs, given its Pods.
pub fn plan(job: &Job, pods: &[Pod], suffix: &str, now: Timestamp) -> Plan {
    let Some(spec) = &job.spec else { return Plan::default() };
    let mut status = job.status.clone().unwrap_or_default();
    if is_finished(job) {
        return after_the_end(job, now);
    }
    let mut plan = Plan::default();
    if let Some(reason) = unsupported(job) {
        end(&mut status, "Failed", "NotSupported", &reason, now);
        plan.status = Some(status);
        return plan;
    }
    if spec.suspend == Some(true) {
        plan.delete = pods
            .iter()
            .filter(is_active)
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        status.active = None;
        status.ready = Some(0);
        status.terminating = Some(pods.iter().filter(|pod| is_terminating(pod)).count() as i32);
        status.uncounted_terminated_pods.get_or_insert_default();
        condition(&mut status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        plan.status = (job.status.as_ref() != Some(&status)).then_some(status);
        return plan;
    }
    if is_suspended(&status) {
        condition(&mut status, "Suspended", "False", "JobResumed", "Job resumed", now);
        status.start_time = Some(Time(now));
    }
    status.uncounted_terminated_pods.get_or_insert_default();
    let started = status.start_time.get_or_insert(Time(now)).0;
    let active: Vec<&Pod> = pods.iter().filter(is_active).collect();
    let failed = pods.iter().filter(|pod| phase(pod) == "Failed").count() as i32;
    let succeeded = pods.iter().filter(|pod| phase(pod) == "Succeeded").count() as i32;
    status.active = Some(active.len() as i32).filter(|n| *n > 0);
    status.ready = Some(pods.iter().filter(|pod| phase(pod) == "Running").count() as i32);
    status.failed = Some(failed).filter(|n| *n > 0);
    status.succeeded = Some(succeeded).filter(|n| *n > 0);
    status.terminating = Some(pods.iter().filter(|pod| is_terminating(pod)).count() as i32);
    let deadline = spec.active_deadline_seconds.and_then(|seconds| later(started, seconds));
    let overdue = deadline.is_some_and(|deadline| now >= deadline);
    if succeeded > 0 {
        status.completion_time = Some(Time(now));
        end(
            &mut status,
            "Complete",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
            now,
        );
    } else if overdue {
        plan.delete = active.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        status.failed = Some(failed + active.len() as i32).filter(|n| *n > 0);
        status.active = None;
        end(
            &mut status,
            "Failed",
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
            now,
        );
    } else if failed > spec.backoff_limit.unwrap_or(6) {
        end(
            &mut status,
            "Failed",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
            now,
        );
    } else if active.is_empty() && !pods.iter().any(is_terminating) {
        let last = pods.iter().filter_map(ended_at).max();
        let again = last.and_then(|last| later(last, 10 << (failed - 1).clamp(0, 5)));
        match again.filter(|again| *again > now) {
            Some(again) => plan.wake = Some(again),
            None => {
                plan.create = Some(build_pod(job, suffix));
                status.active = Some(1);
            }
        }
    }
    if !is_finished(&Job {
        status: Some(status.clone()),
        ..Job::default()
    }) {
        plan.wake = [plan.wake, deadline].into_iter().flatten().min();
    }
    plan.status = (job.status.as_ref() != Some(&status)).then_some(status);
    plan
}

fn after_the_end(job: &Job, now: Timestamp) -> Plan {
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let ended = job
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed")))
        .and_then(|condition| condition.last_transition_time.as_ref().map(|time| time.0));
    match (ttl, ended) {
        (Some(ttl), Some(ended)) => {
            let over = later(ended, ttl.into());
            Plan {
                expire: over.is_some_and(|over| now >= over),
                wake: over.filter(|over| now < *over),
                ..Plan::default()
            }
        }
        _ => Plan::default(),
    }
}

/// Returns the time so many seconds after `time`; `None` where no clock gets there.
fn later(time: Timestamp, seconds: i64) -> Option<Timestamp> {
    time.checked_add(SignedDuration::from_secs(seconds.max(0))).ok()
}

fn is_suspended(status: &JobStatus) -> bool {
    let conditions = status.conditions.iter().flatten();
    conditions
        .into_iter()
        .any(|c| c.type_ == "Suspended" && c.status == "True")
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_active(pod: &&Pod) -> bool {
    !is_terminating(pod) && !matches!(phase(pod), "Succeeded" | "Failed")
}

/// Returns when a Pod's last container ended; a Pod that never ran one counts from its creation.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let ended = statuses.into_iter().flatten().filter_map(|status| {
        let terminated = status.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| time.0)
    });
    ended
        .max()
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn condition(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == kind && c.status == value) {
        return;
    }
    conditions.retain(|c| c.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

fn end(status: &mut JobStatus, kind: &str, reason: &str, message: &str, now: Timestamp) {
    let first = if kind == "Complete" {
        "SuccessCriteriaMet"
    } else {
        "FailureTarget"
    };
    condition(status, first, "True", reason, message, now);
    condition(status, kind, "True", reason, message, now);
    status.active = None;
    status.ready = Some(0);
}

/// Builds a Job's Pod.
pub fn build_pod(job: &Job, suffix: &str) -> Pod {
    let name = job.metadata.name.clone().unwrap_or_default();
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    for (key, value) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    let short: String = name.chars().take(57).collect();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            name: Some(format!("{}-{suffix}", short.trim_end_matches(['-', '.']))),
            namespace: job.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: None,
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".into(),
                kind: "Job".into(),
                name,
                uid,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.unwrap_or_default()),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::batch::v1::JobSpec;
    use k8s_openapi::api::core::v1::PodStatus;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn job(change: impl FnOnce(&mut JobSpec)) -> Job {
        let mut spec = JobSpec {
            backoff_limit: Some(0),
            ..JobSpec::default()
        };
        change(&mut spec);
        let mut job = Job {
            spec: Some(spec),
            ..Job::default()
        };
        job.metadata.name = Some("gate".into());
        job.metadata.uid = Some("u".into());
        job
    }

    fn pod(phase: &str) -> Pod {
        let mut pod = Pod {
            status: Some(PodStatus {
                phase: Some(phase.into()),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        pod.metadata.name = Some("gate-x".into());
        pod.metadata.creation_timestamp = Some(Time(at(0)));
        pod
    }

    fn reason(plan: &Plan, kind: &str) -> Option<String> {
        let status = plan.status.as_ref()?;
        status
            .conditions
            .as_ref()?
            .iter()
            .find(|c| c.type_ == kind)?
            .reason
            .clone()
    }

    #[test]
    fn a_new_job_gets_one_pod_that_it_owns() {
        let plan = plan(&job(|_| ()), &[], "abcde", at(0));
        let pod = plan.create.unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("gate-abcde"));
        assert_eq!(pod.metadata.owner_references.unwrap()[0].uid, "u");
        assert_eq!(plan.status.unwrap().active, Some(1));
    }

    #[test]
    fn a_pod_that_succeeds_completes_the_job_and_one_that_fails_ends_it_at_the_limit() {
        assert_eq!(
            reason(&plan(&job(|_| ()), &[pod("Succeeded")], "", at(5)), "Complete").as_deref(),
            Some("CompletionsReached")
        );
        let failed = plan(&job(|_| ()), &[pod("Failed")], "", at(5));
        assert_eq!(reason(&failed, "Failed").as_deref(), Some("BackoffLimitExceeded"));
        assert!(failed.create.is_none());
    }

    #[test]
    fn below_the_limit_another_pod_follows_after_a_pause() {
        let job = job(|spec| spec.backoff_limit = Some(2));
        let early = plan(&job, &[pod("Failed")], "b", at(5));
        assert!(early.create.is_none());
        assert_eq!(early.wake, Some(at(10)));
        assert!(plan(&job, &[pod("Failed")], "b", at(10)).create.is_some());
    }

    #[test]
    fn an_overdue_job_fails_and_its_pod_goes() {
        let mut job = job(|spec| spec.active_deadline_seconds = Some(30));
        job.status = Some(JobStatus {
            start_time: Some(Time(at(0))),
            ..JobStatus::default()
        });
        assert_eq!(plan(&job, &[pod("Running")], "", at(29)).wake, Some(at(30)));
        let over = plan(&job, &[pod("Running")], "", at(30));
        assert_eq!(reason(&over, "Failed").as_deref(), Some("DeadlineExceeded"));
        assert_eq!(over.delete, ["gate-x"]);
    }

    #[test]
    fn a_time_that_never_comes_is_not_waited_for() {
        for seconds in [250_000_000_000, 300_000_000_000, i64::MAX] {
            let job = job(|spec| spec.active_deadline_seconds = Some(seconds));
            let begun = plan(&job, &[], "", at(0));
            assert!(begun.create.is_some(), "{seconds}");
            assert!(reason(&begun, "Failed").is_none(), "{seconds}");
        }
        let mut finished = job(|spec| spec.ttl_seconds_after_finished = Some(i32::MAX));
        let mut done = plan(&finished, &[pod("Succeeded")], "", at(0)).status.unwrap();
        for condition in done.conditions.iter_mut().flatten() {
            condition.last_transition_time = Some(Time(Timestamp::MAX));
        }
        finished.status = Some(done);
        assert_eq!(plan(&finished, &[], "", at(0)), Plan::default());
        let again = job(|spec| spec.backoff_limit = Some(2));
        let mut failed = pod("Failed");
        failed.metadata.creation_timestamp = Some(Time(Timestamp::MAX));
        assert!(plan(&again, &[failed], "", at(0)).create.is_some());
    }

    #[test]
    fn a_finished_job_goes_when_its_time_to_live_is_over() {
        let mut job = job(|spec| spec.ttl_seconds_after_finished = Some(60));
        let done = plan(&job, &[pod("Succeeded")], "", at(0)).status.unwrap();
        job.status = Some(done);
        assert_eq!(
            plan(&job, &[], "", at(59)),
            Plan {
                wake: Some(at(60)),
                ..Plan::default()
            }
        );
        assert!(plan(&job, &[], "", at(60)).expire);
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        let plan = plan(&job(|spec| spec.parallelism = Some(3)), &[], "", at(0));
        assert!(plan.create.is_none());
        assert_eq!(reason(&plan, "Failed").as_deref(), Some("NotSupported"));
    }
}
