#![allow(clippy::unwrap_used, clippy::panic)]
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::binding::ExpectedStep;
use crate::report::tests::{report, step};
use crate::report::{ErrorReason, StepReport, first_failing, outcome_of};

fn binding() -> Binding {
    Binding {
        head: "a".repeat(40),
        base: "b".repeat(40),
        digest: "c".repeat(64),
        steps: Some(vec![ExpectedStep {
            name: "test".to_owned(),
            advisory: false,
        }]),
        memory_limit: Some("8Gi".to_owned()),
    }
}

fn ended_with(exit_code: i32, reason: &str, message: Vec<u8>) -> ContainerEnd {
    ContainerEnd::Terminated(Terminated {
        exit_code,
        signal: None,
        reason: reason.to_owned(),
        message: String::from_utf8(message).unwrap(),
    })
}

fn outcome(exit_code: i32, report: &Report) -> JobOutcome {
    JobOutcome {
        job: if exit_code == 0 {
            JobEnd::Complete
        } else {
            JobEnd::Failed
        },
        job_reason: if exit_code == 0 {
            String::new()
        } else {
            "BackoffLimitExceeded".to_owned()
        },
        pods: 1,
        pod_phase: if exit_code == 0 { "Succeeded" } else { "Failed" }.to_owned(),
        pod_reason: String::new(),
        detail: String::new(),
        unscheduled: String::new(),
        init: ended_with(0, "Completed", Vec::new()),
        main: ended_with(
            exit_code,
            if exit_code == 0 { "Completed" } else { "Error" },
            report.to_message(),
        ),
    }
}

fn green() -> Report {
    report(vec![step("test", StepOutcome::Pass, Some(0))])
}

fn red() -> Report {
    report(vec![step("test", StepOutcome::Fail, Some(101))])
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Error(failure) => failure.reason,
        other => panic!("expected an error, found {other:?}"),
    }
}

#[test]
fn a_green_report_of_this_triple_passes() {
    assert!(matches!(judge(&outcome(0, &green()), &binding()), Verdict::Pass { .. }));
}

#[test]
fn a_red_step_fails_with_its_name_and_code() {
    let verdict = judge(&outcome(1, &red()), &binding());
    assert_eq!(verdict.summary(), "step test failed with exit code 101");
    let late = report(vec![step("test", StepOutcome::Timeout, None)]);
    assert_eq!(
        judge(&outcome(1, &late), &binding()).summary(),
        "step test overran its timeout"
    );
}

#[test]
fn the_memory_limit_is_named() {
    let mut killed = outcome(137, &green());
    killed.main = ended_with(137, "OOMKilled", Vec::new());
    let verdict = judge(&killed, &binding());
    assert_eq!(verdict.summary(), "killed at the memory limit of 8Gi");
    assert!(matches!(verdict, Verdict::Fail { .. }));
    let mut one = step("test", StepOutcome::Fail, Some(137));
    one.oom = true;
    assert_eq!(
        judge(&outcome(1, &report(vec![one])), &binding()).summary(),
        "killed at the memory limit of 8Gi"
    );
}

#[test]
fn a_report_of_another_head_base_or_gate_is_an_error() {
    for change in [
        |binding: &mut Binding| binding.head = "d".repeat(40),
        |binding: &mut Binding| binding.base = "d".repeat(40),
        |binding: &mut Binding| binding.digest = "d".repeat(64),
        |binding: &mut Binding| binding.steps.as_mut().unwrap()[0].name.push('x'),
        |binding: &mut Binding| binding.steps.as_mut().unwrap()[0].advisory = true,
        |binding: &mut Binding| {
            let again = binding.steps.as_ref().unwrap()[0].clone();
            binding.steps.as_mut().unwrap().push(again);
        },
    ] {
        let mut other = binding();
        change(&mut other);
        assert_eq!(reason(judge(&outcome(0, &green()), &other)), "ReportMismatch");
        assert_eq!(reason(judge(&outcome(1, &red()), &other)), "ReportMismatch");
    }
}

#[test]
fn an_exit_code_that_disagrees_is_an_error() {
    for code in [1, 2, 3, 125, 137, 255] {
        assert_eq!(reason(judge(&outcome(code, &green()), &binding())), "ExitMismatch");
    }
    assert_eq!(reason(judge(&outcome(0, &red()), &binding())), "ExitMismatch");
}

#[test]
fn a_killed_gate_is_an_error_whatever_its_message_says() {
    let mut killed = outcome(137, &green());
    if let ContainerEnd::Terminated(end) = &mut killed.main {
        end.signal = Some(9);
        end.exit_code = 0;
    }
    killed.job = JobEnd::Complete;
    killed.job_reason = String::new();
    killed.pod_phase = "Succeeded".to_owned();
    assert_eq!(reason(judge(&killed, &binding())), "Killed");
}

#[test]
fn what_befalls_the_whole_job_is_named() {
    let with = |change: &dyn Fn(&mut JobOutcome)| {
        let mut one = outcome(0, &green());
        change(&mut one);
        reason(judge(&one, &binding()))
    };
    assert_eq!(
        with(&|one| {
            one.job = JobEnd::Failed;
            one.job_reason = "DeadlineExceeded".into();
        }),
        "DeadlineExceeded"
    );
    assert_eq!(with(&|one| one.pod_reason = "Evicted".into()), "Evicted");
    assert_eq!(with(&|one| one.pod_reason = "NodeLost".into()), "NodeLost");
    assert_eq!(with(&|one| one.pods = 2), "SeveralPods");
    assert_eq!(with(&|one| one.pods = 0), "PodMissing");
    assert_eq!(with(&|one| one.job = JobEnd::Missing), "JobMissing");
    assert_eq!(with(&|one| one.job = JobEnd::Running), "NotFinished");
    assert_eq!(with(&|one| one.pod_phase = "Failed".into()), "PodFailed");
    assert_eq!(with(&|one| one.main = ContainerEnd::Running), "NotFinished");
    assert_eq!(
        with(&|one| one.main = ended_with(0, "Completed", Vec::new())),
        "ReportMissing"
    );
    assert_eq!(
        with(&|one| one.main = ended_with(0, "Completed", b"GATE-PASS".to_vec())),
        "ReportMalformed"
    );
    assert_eq!(
        with(&|one| one.main = ended_with(128, "StartError", Vec::new())),
        "StartError"
    );
    assert_eq!(
        with(&|one| one.init = ended_with(2, "Error", Vec::new())),
        "CloneFailed"
    );
    assert_eq!(
        with(&|one| one.init = ended_with(137, "OOMKilled", Vec::new())),
        "FetchOutOfMemory"
    );
    let waiting = ContainerEnd::Waiting {
        reason: "ImagePullBackOff".into(),
        message: "no such image".into(),
    };
    assert_eq!(with(&|one| one.main = waiting.clone()), "ImagePull");
}

#[test]
fn errors_of_the_gate_keep_their_reason_and_retry() {
    let missing = report(vec![step("test", StepOutcome::Error, None)]);
    let Verdict::Error(failure) = judge(&outcome(2, &missing), &binding()) else {
        panic!("expected an error");
    };
    assert_eq!(failure.reason, ErrorReason::ProgramMissing.as_str());
    assert!(!failure.retry);
    let broken = GateError::BrokenFile {
        reason: "3:1: x".into(),
    };
    assert!(!Failure::from(&broken).retry, "a broken gate file is not tried again");
}

#[test]
fn a_refusal_comes_from_either_container() {
    let mut refused = Report::new(&"a".repeat(40), &"b".repeat(40), &"c".repeat(64), Outcome::Refused);
    refused.refused = vec![".foreman/gate.yaml".into()];
    let by_main = outcome(3, &refused);
    let mut by_init = outcome(3, &refused);
    by_init.init = ended_with(3, "Error", refused.to_message());
    by_init.main = ContainerEnd::Missing;
    for one in [by_main, by_init] {
        assert_eq!(
            judge(&one, &binding()),
            Verdict::Refused {
                paths: vec![".foreman/gate.yaml".into()]
            }
        );
    }
}

fn any_step() -> impl Strategy<Value = StepReport> {
    (
        prop_oneof![Just("test".to_owned()), Just("lint".to_owned())],
        prop_oneof![
            Just((StepOutcome::Pass, Some(0))),
            Just((StepOutcome::Fail, Some(1))),
            Just((StepOutcome::Timeout, None)),
            Just((StepOutcome::Error, None)),
            Just((StepOutcome::Pass, Some(1))),
        ],
        any::<bool>(),
    )
        .prop_map(|(name, (outcome, code), advisory)| StepReport {
            advisory,
            ..step(&name, outcome, code)
        })
}

fn any_report() -> impl Strategy<Value = Vec<u8>> {
    let hex = |c: char, n: usize| prop_oneof![9 => Just(c.to_string().repeat(n)), 1 => Just("d".repeat(n))];
    let honest = (
        hex('a', 40),
        hex('b', 40),
        hex('c', 64),
        proptest::collection::vec(any_step(), 0..3),
    )
        .prop_map(|(head, base, digest, steps)| {
            let mut one = report(steps);
            one.head = head;
            one.base = base;
            one.digest = digest;
            one
        })
        .boxed();
    prop_oneof![
        8 => honest.clone().prop_map(|one| one.to_message()),
        2 => honest.prop_map(|mut one| {
            one.outcome = Outcome::Pass;
            one.error = None;
            one.first_failing = None;
            one.to_message()
        }),
        1 => "\\PC{0,60}".prop_map(String::into_bytes),
    ]
}

fn any_end() -> impl Strategy<Value = ContainerEnd> {
    let terminated = (
        prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(137)],
        prop_oneof![6 => Just(None), 1 => Just(Some(9)), 1 => Just(Some(0))],
        prop_oneof![6 => Just("Completed"), 1 => Just("Error"), 1 => Just("OOMKilled"), 1 => Just("ContainerCannotRun")],
        any_report(),
    )
        .prop_map(|(exit_code, signal, reason, message)| {
            ContainerEnd::Terminated(Terminated {
                exit_code,
                signal,
                reason: reason.to_owned(),
                message: String::from_utf8(message).unwrap_or_default(),
            })
        });
    prop_oneof![
        10 => terminated,
        1 => Just(ContainerEnd::Running),
        1 => Just(ContainerEnd::Missing),
    ]
}

fn any_outcome() -> impl Strategy<Value = JobOutcome> {
    (
        prop_oneof![6 => Just(JobEnd::Complete), 1 => Just(JobEnd::Failed), 1 => Just(JobEnd::Running), 1 => Just(JobEnd::Missing)],
        prop_oneof![6 => Just(""), 1 => Just("DeadlineExceeded"), 1 => Just("BackoffLimitExceeded")],
        prop_oneof![8 => Just(1_usize), 1 => Just(0), 1 => Just(2)],
        prop_oneof![6 => Just("Succeeded"), 1 => Just("Failed"), 1 => Just("Unknown")],
        prop_oneof![8 => Just(""), 1 => Just("Evicted")],
        any_end(),
        any_end(),
    )
        .prop_map(|(job, job_reason, pods, pod_phase, pod_reason, init, main)| JobOutcome {
            job,
            job_reason: job_reason.to_owned(),
            pods,
            pod_phase: pod_phase.to_owned(),
            pod_reason: pod_reason.to_owned(),
            detail: String::new(),
            unscheduled: String::new(),
            init,
            main,
        })
}

/// What a pass needs, said again and independently of the code under test.
fn deserves_to_pass(one: &JobOutcome) -> bool {
    let (ContainerEnd::Terminated(init), ContainerEnd::Terminated(main)) = (&one.init, &one.main) else {
        return false;
    };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(&main.message) else {
        return false;
    };
    let steps = value["steps"].as_array().cloned().unwrap_or_default();
    one.job == JobEnd::Complete
        && one.pods == 1
        && one.pod_phase == "Succeeded"
        && one.pod_reason.is_empty()
        && (init.exit_code, init.signal) == (0, None)
        && main.exit_code == 0
        && main.signal.unwrap_or(0) == 0
        && main.reason == "Completed"
        && value["head"] == "a".repeat(40)
        && value["base"] == "b".repeat(40)
        && value["digest"] == "c".repeat(64)
        && value["outcome"] == "pass"
        && steps.len() == 1
        && steps[0]["name"] == "test"
        && steps[0]["outcome"] == "pass"
        && steps[0]["exitCode"] == 0
        && steps[0]["advisory"].is_null()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn there_is_no_other_way_to_pass(one in any_outcome()) {
        let passed = matches!(judge(&one, &binding()), Verdict::Pass { .. });
        prop_assert!(!passed || deserves_to_pass(&one), "{one:?}");
    }

    #[test]
    fn any_step_list_comes_to_what_its_blocking_steps_say(steps in proptest::collection::vec(any_step(), 0..4)) {
        let pass = outcome_of(&steps) == Outcome::Pass;
        let blocking: Vec<_> = steps.iter().filter(|step| !step.advisory).collect();
        prop_assert_eq!(pass, !blocking.is_empty() && blocking.iter().all(|step| step.outcome == StepOutcome::Pass));
        prop_assert!(!pass || first_failing(&steps).is_none());
    }
}

#[test]
fn the_generator_reaches_passes() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let passes = (0..20_000)
        .filter(|_| {
            let one = any_outcome().new_tree(&mut runner).unwrap().current();
            matches!(judge(&one, &binding()), Verdict::Pass { .. })
        })
        .count();
    assert!(passes > 0, "the property above would hold of nothing");
}

#[test]
fn what_passed_is_counted_and_an_advisory_failure_is_named() {
    let pass = |steps| Verdict::Pass { report: report(steps) };
    let test = || step("test", StepOutcome::Pass, Some(0));
    assert_eq!(pass(vec![test()]).summary(), "1 step passed");
    assert_eq!(
        pass(vec![test(), step("build", StepOutcome::Pass, Some(0))]).summary(),
        "2 steps passed"
    );
    let format = StepReport {
        advisory: true,
        ..step("format", StepOutcome::Fail, Some(1))
    };
    assert_eq!(
        pass(vec![format, test()]).summary(),
        "1 step passed; advisory only: format did not"
    );
}

#[test]
fn a_pod_without_a_node_says_what_the_scheduler_says() {
    let job: Job = serde_json::from_value(json!({ "metadata": { "uid": "u" } })).unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u" }] },
        "status": { "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available",
        }] },
    }))
    .unwrap();
    let outcome = JobOutcome::from_objects(Some(&job), &[pod]);
    assert_eq!(outcome.unscheduled, "0/1 nodes are available");
    assert!(
        !outcome.finished() && outcome.stuck().is_none(),
        "a node may still come"
    );
}

#[test]
fn a_job_whose_time_is_over_has_ended_also_while_its_node_is_silent() {
    let with = |reason: &str| {
        let job: Job = serde_json::from_value(json!({
            "metadata": { "uid": "u" },
            "status": { "conditions": [{ "type": "FailureTarget", "status": "True", "reason": reason, "message": "m" }] },
        }))
        .unwrap();
        JobOutcome::from_objects(Some(&job), &[])
    };
    let over = with("DeadlineExceeded");
    assert!(over.finished());
    assert!(
        matches!(judge(&over, &binding()), Verdict::Error(Failure { reason, retry: true, .. }) if reason == "DeadlineExceeded")
    );
    // What else ends a Job is told by its Pod, whose end is waited for.
    assert!(!with("BackoffLimitExceeded").finished());
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_while_its_job_goes_on() {
    let waiting = JobOutcome {
        job: JobEnd::Running,
        main: ContainerEnd::Waiting {
            reason: "ErrImagePull".to_owned(),
            message: "connection refused".to_owned(),
        },
        ..outcome(0, &green())
    };
    let Verdict::Error(failure) = judge(&waiting, &binding()) else {
        panic!("expected an error");
    };
    assert_eq!(failure.reason, "ImagePull");
    assert!(
        failure.detail.contains("connection refused") && failure.retry,
        "{failure:?}"
    );
    let creating = JobOutcome {
        main: ContainerEnd::Waiting {
            reason: "ContainerCreating".to_owned(),
            message: String::new(),
        },
        ..waiting
    };
    assert_eq!(reason(judge(&creating, &binding())), "NotFinished");
}
