//! Reads what gates' Jobs say themselves of the passes that verifiers told of.
//!
//! It is done when a verifier ends, since a Job is removed some minutes after its end, and kept in the Workload's status,
//! which no agent may write. So a report that comes late is as right as one that comes at once.

use std::time::Duration;

use gate::binding::Binding;
use gate::verdict::{self, JobOutcome, Verdict};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use schemas::agentic_task::{Phase, TaskKind};
use schemas::inert::{DESCRIPTION_CHARS, one_line};
use schemas::workload::Confirmation;
use schemas::{AgenticTask, Workload, shared};

use super::plan;

/// Longer than a gate's Job stays after its end: what could not be read until then will not be.
pub const STAYS: Duration = Duration::from_secs(15 * 60);

/// A pass that a verifier told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// UID of the verifier's task.
    pub uid: String,
    /// Run.
    pub run: i64,
    /// Commit that was tested.
    pub head: String,
    /// Commit that the operator pinned the task to.
    pub base: Option<String>,
    /// Gate that was run, as the verifier says.
    pub digest: Option<String>,
    /// Namespace of the Job.
    pub namespace: String,
    /// Name of the Job, as the verifier says.
    pub job: Option<String>,
}

impl Pass {
    fn unconfirmed(&self, doubt: Option<String>) -> Confirmation {
        Confirmation {
            run: self.run,
            head_sha: self.head.clone(),
            base_sha: self.base.clone(),
            gate_digest: self.digest.clone(),
            job: self.job.as_ref().map(|name| format!("{}/{name}", self.namespace)),
            doubt,
        }
    }
}

/// Says whether a verifier ended with a pass.
pub fn is_pass(task: &AgenticTask) -> bool {
    let status = task.status.as_ref();
    task.spec.kind == TaskKind::Verify
        && status.is_some_and(|status| {
            status.phase == Some(Phase::Succeeded) && status.verdict == Some(shared::Verdict::GatePass)
        })
}

/// Finds the passes among a Workload's own tasks that may have to be reported and whose Jobs were not read yet.
pub fn unread<'a>(workload: &Workload, tasks: impl IntoIterator<Item = &'a AgenticTask>) -> Vec<Pass> {
    let Some(status) = &workload.status else {
        return Vec::new();
    };
    let open = plan::open_heads(workload);
    let read = |uid: &str| status.confirmed.as_ref().is_some_and(|known| known.contains_key(uid));
    let pass = |task: &AgenticTask| {
        let found = task.status.as_ref().filter(|_| is_pass(task))?;
        let (uid, head) = (task.metadata.uid.clone()?, found.commit_sha.clone()?);
        let run = task.spec.run.unwrap_or(1);
        if read(&uid) || open.get(head.as_str()) != Some(&run) {
            return None;
        }
        // The pin is the operator's own word; a task that came without one has the base of its run.
        let of_run = || status.base_sha.clone().filter(|_| status.run.unwrap_or(1) == run);
        let extra = found.result.as_ref().and_then(|result| result.get("extra"));
        let elsewhere = extra.and_then(|extra| extra.get("namespace")?.as_str().map(str::to_owned));
        Some(Pass {
            uid,
            run,
            head,
            base: task.spec.base_sha.clone().or_else(of_run),
            digest: found.gate_digest.clone(),
            namespace: elsewhere
                .or_else(|| task.metadata.namespace.clone())
                .unwrap_or_default(),
            job: found.job_name.clone().filter(|name| !name.is_empty()),
        })
    };
    tasks.into_iter().filter_map(pass).collect()
}

/// Reads the end of a pass's Job and judges it anew. The error is that the Job could not be asked: then nothing is known,
/// and it is tried again.
pub async fn read(client: &Client, pass: &Pass) -> Result<Confirmation, String> {
    let mut confirmation = pass.unconfirmed(None);
    let Some(name) = &pass.job else {
        confirmation.doubt = Some("no verifier of this head names its Job".to_owned());
        return Ok(confirmation);
    };
    let (Some(base), Some(digest)) = (pass.base.clone(), pass.digest.clone()) else {
        confirmation.doubt = Some("the verdict names no head, base or gate".to_owned());
        return Ok(confirmation);
    };
    let jobs: Api<Job> = Api::namespaced(client.clone(), &pass.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pass.namespace);
    let unknown = |error: kube::Error| format!("failed to read Job {}/{name}: {error}", pass.namespace);
    let job = jobs.get_opt(name).await.map_err(unknown)?;
    let selector = ListParams::default().labels(&format!("job-name={name}"));
    let pods = pods.list(&selector).await.map_err(unknown)?.items;
    let binding = Binding {
        head: pass.head.clone(),
        base,
        digest,
        steps: None,
        memory_limit: None,
    };
    confirmation.doubt = doubt(name, &JobOutcome::from_objects(job.as_ref(), &pods), &binding);
    Ok(confirmation)
}

/// Says of a pass that its Job could not be read as long as it was there.
pub fn never_read(pass: &Pass, error: &str) -> Confirmation {
    let minutes = STAYS.as_secs() / 60;
    let doubt = format!("not confirmed within {minutes} minutes: {error}");
    pass.unconfirmed(Some(one_line(&doubt, DESCRIPTION_CHARS)))
}

/// Says what the end of a Job leaves to doubt of a pass; `None` where it proves it.
fn doubt(name: &str, outcome: &JobOutcome, binding: &Binding) -> Option<String> {
    let said = match verdict::judge(outcome, binding) {
        Verdict::Pass { .. } => return None,
        // It contradicts nobody: it cannot be asked any more.
        Verdict::Error(failure) if failure.reason == "JobMissing" => plan::gone("Job"),
        Verdict::Error(failure) if failure.reason == "PodMissing" => plan::gone("Job's Pod"),
        other => format!("Job {name} does not say so: {}", other.summary()),
    };
    Some(one_line(&said, DESCRIPTION_CHARS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use gate::verdict::JobEnd;
    use serde_json::{Value, json};

    fn workload(status: Value) -> Workload {
        serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "w", "namespace": "n" },
            "spec": { "intent": "x", "repo": "o/r", "verifierAgentRef": { "name": "v" } }, "status": status
        }))
        .unwrap()
    }

    fn verifier(uid: &str, run: i64, status: Value) -> AgenticTask {
        serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": uid, "namespace": "n", "uid": uid },
            "spec": { "kind": "verify", "payload": {}, "run": run, "baseSHA": "base" }, "status": status
        }))
        .unwrap()
    }

    #[test]
    fn every_verifier_of_a_head_that_may_be_reported_is_read_once() {
        let passed = |head: &str| json!({ "phase": "Succeeded", "verdict": "GATE-PASS", "commitSHA": head, "jobName": "j", "gateDigest": "d" });
        let tasks = [
            verifier("one", 2, passed("now")),
            verifier("two", 2, passed("now")),
            verifier("read", 2, passed("now")),
            verifier("before", 1, passed("left")),
            verifier("old", 1, passed("reported")),
            verifier("other-run", 1, passed("now")),
            verifier(
                "failed",
                2,
                json!({ "phase": "Succeeded", "verdict": "GATE-FAIL", "commitSHA": "now" }),
            ),
            verifier(
                "works",
                2,
                json!({ "phase": "Verifying", "verdict": "GATE-PASS", "commitSHA": "now" }),
            ),
        ];
        let mut status = json!({
            "run": 2, "phase": "Dispatched", "headSHA": "now", "baseSHA": "base",
            "pendingHeads": { "left": { "run": 1, "repo": "o/r" } },
            "confirmed": { "read": { "run": 2, "headSHA": "now" } },
        });
        let uids = |status: &Value| {
            let found = unread(&workload(status.clone()), &tasks);
            found.into_iter().map(|pass| pass.uid).collect::<Vec<_>>()
        };
        assert_eq!(uids(&status), ["one", "two", "before"]);
        // Once the verdict is reported, nobody asks for its Jobs any more.
        status["reported"] = json!("refs/notes/foreman@now run 2 success");
        assert_eq!(uids(&status), ["before"]);
    }

    #[test]
    fn a_job_that_is_gone_contradicts_nobody_and_proves_nothing() {
        let binding = Binding {
            head: "h".into(),
            base: "b".into(),
            digest: "d".into(),
            steps: None,
            memory_limit: None,
        };
        let missing = doubt("j", &JobOutcome::default(), &binding).unwrap();
        assert!(
            missing.starts_with("the evidence is gone: the Job was removed"),
            "{missing}"
        );
        assert!(missing.ends_with("run the gate again by `foreman retry`"), "{missing}");
        let ended = |job| JobOutcome {
            job,
            ..JobOutcome::default()
        };
        let no_pod = doubt("j", &ended(JobEnd::Complete), &binding).unwrap();
        assert!(no_pod.starts_with("the evidence is gone: the Job's Pod"), "{no_pod}");
        let running = doubt("j", &ended(JobEnd::Running), &binding).unwrap();
        assert!(running.starts_with("Job j does not say so"), "{running}");
    }
}
