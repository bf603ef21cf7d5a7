#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::agentic_task::Phase;
use proptest::prelude::*;
use serde_json::json;

fn spec(extra: serde_json::Value) -> WorkloadSpec {
    let mut value = json!({
        "intent": "fix it", "repo": "file:///r", "baseBranch": "trunk",
        "pipeline": [
            {"name": "code", "kind": "issue-fix", "agentRef": {"name": "c"}, "payload": {"branch": "b"}},
            {"name": "verify", "kind": "verify", "agentRef": {"name": "v"}, "payload": {"branch": "b"}, "dependsOn": ["code"]},
            {"name": "review", "kind": "review", "agentRef": {"name": "r"}, "payload": {"branch": "b"}, "dependsOn": ["verify"]}
        ]
    });
    value
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

/// The tasks of a run, driven by what each step comes to.
struct World {
    spec: WorkloadSpec,
    tasks: Vec<TaskView>,
    run: i64,
}

impl World {
    fn new(extra: serde_json::Value) -> Self {
        Self {
            spec: spec(extra),
            tasks: Vec::new(),
            run: 1,
        }
    }

    fn next(&self) -> Decision {
        next(&Ledger {
            name: "wl",
            namespace: "ns",
            spec: &self.spec,
            status: None,
            run: self.run,
            base_sha: Some("abc"),
            tasks: &self.tasks,
        })
    }

    fn carry_out(&mut self, decision: &Decision) {
        for end in &decision.ends {
            let (phase, verdict, failure_reason) = end.reason.end();
            let task = self.tasks.iter_mut().find(|task| task.name == end.name).unwrap();
            assert_eq!(
                task.facts.phase,
                Phase::Pending,
                "only pending work is ended without running"
            );
            task.facts = TaskFacts {
                phase,
                verdict,
                failure_reason,
                already_resolved: false,
            };
        }
        if let Step::Create { tasks, .. } = &decision.step {
            for new in tasks {
                assert!(
                    self.tasks.iter().all(|task| task.name != new.name),
                    "{} is created once",
                    new.name
                );
                self.tasks.push(TaskView {
                    name: new.name.clone(),
                    step: new.step.clone(),
                    run: self.run,
                    round: new.round,
                    ..Default::default()
                });
            }
        }
    }

    fn settle(&mut self) -> Step {
        for _ in 0..20 {
            let decision = self.next();
            self.carry_out(&decision);
            if decision.ends.is_empty() && !matches!(decision.step, Step::Create { .. }) {
                return decision.step;
            }
        }
        panic!("does not settle: {:?}", self.next());
    }

    fn end(&mut self, name: &str, verdict: Verdict) -> Step {
        self.settle();
        let task = self
            .tasks
            .iter_mut()
            .find(|task| task.name == name)
            .unwrap_or_else(|| panic!("no task {name}"));
        assert_eq!(task.facts.phase, Phase::Pending, "{name} is open");
        task.facts.phase = Phase::Succeeded;
        task.facts.verdict = Some(verdict);
        self.settle()
    }

    fn fail(&mut self, name: &str, reason: FailureReason) -> Step {
        self.settle();
        let task = self.tasks.iter_mut().find(|task| task.name == name).unwrap();
        task.facts.phase = Phase::Failed;
        task.facts.failure_reason = Some(reason);
        self.settle()
    }

    fn phase_of(&self, name: &str) -> (Phase, Option<Verdict>) {
        let task = self.tasks.iter().find(|task| task.name == name).unwrap();
        (task.facts.phase, task.facts.verdict)
    }
}

#[test]
fn the_first_look_creates_every_step_of_round_one() {
    let world = World::new(json!({"budget": {"rounds": 3, "turns": 20}, "priority": 4}));
    let Step::Create { round: 1, tasks } = world.next().step else {
        panic!("{:?}", world.next())
    };
    assert_eq!(
        tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(),
        ["wl-code", "wl-verify", "wl-review"]
    );
    let code = &tasks[0].spec;
    assert_eq!(code.payload.repo.as_deref(), Some("file:///r"));
    assert_eq!(code.payload.base_branch.as_deref(), Some("trunk"));
    assert_eq!(code.workload_ref, Some(crate::shared::LocalRef::new("wl")));
    assert_eq!(
        (code.payload.prompt.as_deref(), code.base_sha.as_deref(), code.priority),
        (None, Some("abc"), Some(4))
    );
    assert_eq!(
        code.budget.as_ref().map(|budget| (budget.rounds, budget.turns)),
        Some((None, Some(20)))
    );
    assert_eq!(
        tasks[1].spec.depends_on,
        [crate::agentic_task::Dependency::Name("wl-code".into())]
    );
}

#[test]
fn code_gate_and_review_complete_the_run_with_the_gates_word() {
    let mut world = World::new(json!({}));
    assert!(matches!(world.end("wl-code", Verdict::Go), Step::Wait(_)));
    assert!(matches!(world.end("wl-verify", Verdict::GatePass), Step::Wait(_)));
    assert!(matches!(
        world.end("wl-review", Verdict::Go),
        Step::Complete {
            verdict: Verdict::GatePass,
            ..
        }
    ));
    assert_eq!(
        counts(&world.tasks, 1),
        Counts {
            succeeded: 3,
            failed: 0,
            incomplete: 0
        }
    );
}

#[test]
fn without_a_budget_the_first_gate_fail_ends_the_run_as_published() {
    let mut world = World::new(json!({}));
    world.end("wl-code", Verdict::Go);
    let end = world.end("wl-verify", Verdict::GateFail);
    assert!(
        matches!(
            end,
            Step::Fail {
                verdict: Some(Verdict::GateFail),
                reason: Some(FailureReason::GateFailed),
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(world.phase_of("wl-review").0, Phase::Failed);
}

#[test]
fn a_gate_fail_starts_another_round_until_the_budget_is_spent() {
    let mut world = World::new(json!({"budget": {"rounds": 3}}));
    for (code, verify) in [("wl-code", "wl-verify"), ("wl-code-r2", "wl-verify-r2")] {
        world.end(code, Verdict::Go);
        assert!(matches!(world.end(verify, Verdict::GateFail), Step::Wait(_)));
    }
    assert_eq!(
        world.phase_of("wl-review"),
        (Phase::Succeeded, Some(Verdict::Skipped)),
        "another round took its place"
    );
    world.end("wl-code-r3", Verdict::Go);
    let end = world.end("wl-verify-r3", Verdict::GateFail);
    assert!(
        matches!(&end, Step::Fail { reason: Some(FailureReason::GateFailed), message, .. } if message.contains("3 of 3")),
        "{end:?}"
    );
    assert_eq!(world.next().round, 3);
    assert!(!world.tasks.iter().any(|task| task.round > 3));
}

#[test]
fn a_fix_works_on_the_same_branch_with_the_failed_gate_as_feedback() {
    let mut world = World::new(json!({"budget": {"rounds": 2}, "revisionCoderAgentRef": {"name": "rev"}}));
    world.end("wl-code", Verdict::Go);
    world.tasks[1].facts = TaskFacts {
        phase: Phase::Succeeded,
        verdict: Some(Verdict::GateFail),
        ..Default::default()
    };
    let Step::Create { round: 2, tasks } = world.next().step else {
        panic!("{:?}", world.next())
    };
    let code = &tasks[0];
    assert_eq!(
        (code.name.as_str(), code.spec.feedback_from.as_deref()),
        ("wl-code-r2", Some("wl-verify"))
    );
    assert_eq!(
        (
            code.spec.payload.branch.as_deref(),
            code.spec.payload.revise_from_branch.as_deref()
        ),
        (Some("b"), Some("b"))
    );
    assert_eq!(
        code.spec.agent_ref.as_ref().unwrap().name,
        "c",
        "the revision coder is for reviews"
    );
    assert_eq!(tasks[1].spec.feedback_from, None);
    assert_eq!(
        tasks[1].spec.depends_on,
        [crate::agentic_task::Dependency::Name("wl-code-r2".into())]
    );
}

#[test]
fn a_reviewers_no_go_has_iterations_of_its_own() {
    let mut world = World::new(json!({"revisionCoderAgentRef": {"name": "rev"}}));
    world.end("wl-code", Verdict::Go);
    world.end("wl-verify", Verdict::GatePass);
    assert!(matches!(world.end("wl-review", Verdict::NoGo), Step::Wait(_)));
    assert_eq!((world.next().round, world.next().review_iterations), (2, 1));
    world.end("wl-code-r2", Verdict::Go);
    world.end("wl-verify-r2", Verdict::GatePass);
    let end = world.end("wl-review-r2", Verdict::NoGo);
    assert!(
        matches!(&end, Step::Fail { verdict: Some(Verdict::NoGo), reason: None, message } if message.contains("1 of 1")),
        "{end:?}"
    );
}

#[test]
fn no_review_iterations_means_the_first_no_go_is_the_end() {
    let mut world = World::new(json!({"maxReviewIterations": 0}));
    world.end("wl-code", Verdict::Go);
    world.end("wl-verify", Verdict::GatePass);
    assert!(matches!(world.end("wl-review", Verdict::NoGo), Step::Fail { .. }));
}

#[test]
fn work_that_was_already_done_skips_the_rest_and_completes() {
    let mut world = World::new(json!({"budget": {"rounds": 3}}));
    world.settle();
    world.tasks[0].facts = TaskFacts {
        phase: Phase::Succeeded,
        verdict: Some(Verdict::NoGo),
        already_resolved: true,
        ..Default::default()
    };
    let end = world.settle();
    assert!(
        matches!(
            end,
            Step::Complete {
                verdict: Verdict::Skipped,
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(world.phase_of("wl-review"), (Phase::Succeeded, Some(Verdict::Skipped)));
    assert_eq!(counts(&world.tasks, 1), Counts::default());
}

#[test]
fn a_declined_or_failed_coder_ends_the_run_without_another_round() {
    let mut world = World::new(json!({"budget": {"rounds": 3}}));
    let end = world.end("wl-code", Verdict::NoGo);
    assert!(
        matches!(
            end,
            Step::Fail {
                verdict: Some(Verdict::NoGo),
                reason: None,
                ..
            }
        ),
        "{end:?}"
    );
    let mut world = World::new(json!({"budget": {"rounds": 3}}));
    let end = world.fail("wl-code", FailureReason::ConstraintViolated);
    assert!(
        matches!(
            end,
            Step::Fail {
                reason: Some(FailureReason::ConstraintViolated),
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(
        counts(&world.tasks, 1),
        Counts {
            succeeded: 0,
            failed: 3,
            incomplete: 0
        }
    );
}

#[test]
fn a_gate_error_costs_no_round_and_ends_the_run_as_an_error() {
    let mut world = World::new(json!({"budget": {"rounds": 3}}));
    world.end("wl-code", Verdict::Go);
    let end = world.fail("wl-verify", FailureReason::GateError);
    assert!(
        matches!(
            end,
            Step::Fail {
                reason: Some(FailureReason::GateError),
                ..
            }
        ),
        "{end:?}"
    );
    assert!(world.tasks.iter().all(|task| task.round == 1));
}

#[test]
fn spent_tokens_stop_further_rounds_and_pending_model_work_but_not_the_gate() {
    let mut world = World::new(json!({"budget": {"rounds": 3, "tokens": 100}}));
    world.end("wl-code", Verdict::Go);
    world.tasks[0].tokens = 100;
    assert!(matches!(world.settle(), Step::Wait(_)));
    assert_eq!(world.phase_of("wl-verify").0, Phase::Pending);
    assert_eq!(world.phase_of("wl-review").0, Phase::Failed);
    let end = world.end("wl-verify", Verdict::GateFail);
    assert!(
        matches!(
            end,
            Step::Fail {
                reason: Some(FailureReason::BudgetExhausted),
                ..
            }
        ),
        "{end:?}"
    );
}

#[test]
fn every_round_is_given_the_whole_budget_of_tokens_since_its_agent_takes_off_what_is_used() {
    let mut world = World::new(json!({"budget": {"rounds": 3, "tokens": 100, "turns": 7, "seconds": 60}}));
    world.end("wl-code", Verdict::Go);
    world.tasks[0].tokens = 40;
    let verifier = world.tasks.iter_mut().find(|task| task.name == "wl-verify").unwrap();
    verifier.facts = TaskFacts {
        phase: Phase::Succeeded,
        verdict: Some(Verdict::GateFail),
        ..TaskFacts::default()
    };
    let Step::Create { round: 2, tasks } = world.next().step else {
        panic!("{:?}", world.next())
    };
    let budget = tasks[0].spec.budget.clone().unwrap();
    assert_eq!(
        (budget.tokens, budget.turns, budget.seconds, budget.rounds),
        (Some(100), Some(7), Some(60), None)
    );
}

#[test]
fn without_a_gate_the_run_completes_unverified() {
    let mut world = World::new(
        json!({"pipeline": [{"name": "code", "kind": "issue-fix", "agentRef": {"name": "c"}, "payload": {}}]}),
    );
    let end = world.end("wl-code", Verdict::Go);
    assert!(
        matches!(&end, Step::Complete { verdict: Verdict::Go, message } if message.contains("not verified")),
        "{end:?}"
    );
}

#[test]
fn an_interrupted_creation_is_completed() {
    let mut world = World::new(json!({"budget": {"rounds": 2}}));
    world.end("wl-code", Verdict::Go);
    world.end("wl-verify", Verdict::GateFail);
    world.tasks.retain(|task| task.name != "wl-verify-r2");
    let Step::Create { round: 2, tasks } = world.next().step else {
        panic!("{:?}", world.next())
    };
    assert_eq!(
        tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(),
        ["wl-verify-r2"]
    );
}

#[test]
fn issues_are_fixed_one_by_one_each_with_rounds_of_its_own() {
    let mut world = World::new(
        json!({"pipeline": null, "issues": [1, 2], "coderAgentRef": {"name": "c"}, "verifierAgentRef": {"name": "v"}, "budget": {"rounds": 2}}),
    );
    world.end("wl-code-1", Verdict::Go);
    world.end("wl-code-2", Verdict::Go);
    world.end("wl-verify-1", Verdict::GateFail);
    world.end("wl-verify-2", Verdict::GatePass);
    assert!(!world.tasks.iter().any(|task| task.name == "wl-code-2-r2"));
    world.end("wl-code-1-r2", Verdict::Go);
    assert!(matches!(
        world.end("wl-verify-1-r2", Verdict::GatePass),
        Step::Complete {
            verdict: Verdict::GatePass,
            ..
        }
    ));
}

#[test]
fn a_later_run_has_names_of_its_own_and_ignores_earlier_tasks() {
    let mut world = World::new(json!({}));
    world.end("wl-code", Verdict::NoGo);
    world.run = 2;
    let Step::Create { tasks, .. } = world.next().step else {
        panic!("{:?}", world.next())
    };
    assert_eq!(tasks[0].name, "wl-code-x2");
}

#[test]
fn a_run_that_ended_stays_ended() {
    let spec = spec(json!({}));
    let status = WorkloadStatus {
        phase: Some(crate::workload::WorkloadPhase::Failed),
        run: Some(2),
        ..Default::default()
    };
    let ledger = |run| Ledger {
        name: "wl",
        namespace: "ns",
        spec: &spec,
        status: Some(&status),
        run,
        base_sha: None,
        tasks: &[],
    };
    assert_eq!(next(&ledger(2)).step, Step::Done);
    assert!(matches!(next(&ledger(3)).step, Step::Create { .. }));
}

proptest! {
    #[test]
    fn every_run_ends_within_its_rounds_whatever_the_tasks_say(
        outcomes in proptest::collection::vec(0u8..9, 60), rounds in 1i64..5, reviews in 0i64..4
    ) {
        let mut world = World::new(json!({"budget": {"rounds": rounds}, "maxReviewIterations": reviews}));
        let mut passed = false;
        let mut outcomes = outcomes.into_iter();
        let end = loop {
            let step = world.settle();
            if !matches!(step, Step::Wait(_)) { break step; }
            let ready = world.tasks.iter().position(|task| {
                task.facts.phase == Phase::Pending && world.spec.pipeline.as_ref().unwrap().iter().find(|s| s.name == task.step)
                    .unwrap().depends_on.iter().all(|dependency| {
                        let name = dependency.resolve("ns").unwrap();
                        world.tasks.iter().any(|t| t.step == name && t.round == task.round && t.facts.ending() == Ending::Well)
                    })
            });
            let Some(at) = ready else { panic!("waits for nothing: {:?}", world.tasks) };
            let gate = world.tasks[at].step == "verify";
            let facts = match (outcomes.next().unwrap(), gate) {
                (0..=3, true) => TaskFacts { phase: Phase::Succeeded, verdict: Some(Verdict::GatePass), ..Default::default() },
                (4..=7, true) => TaskFacts { phase: Phase::Succeeded, verdict: Some(Verdict::GateFail), ..Default::default() },
                (0..=5, false) => TaskFacts { phase: Phase::Succeeded, verdict: Some(Verdict::Go), ..Default::default() },
                (6, false) => TaskFacts { phase: Phase::Succeeded, verdict: Some(Verdict::NoGo), ..Default::default() },
                (7, false) => TaskFacts { phase: Phase::Succeeded, verdict: Some(Verdict::Incomplete), ..Default::default() },
                _ => TaskFacts { phase: Phase::Failed, failure_reason: Some(FailureReason::Timeout), ..Default::default() },
            };
            passed |= facts.verdict == Some(Verdict::GatePass);
            world.tasks[at].facts = facts;
        };
        prop_assert!(world.tasks.iter().all(|task| task.round <= rounds));
        prop_assert!(world.tasks.iter().all(|task| task.facts.phase.is_terminal()));
        if let Step::Complete { verdict, .. } = end {
            prop_assert_eq!(verdict, Verdict::GatePass);
            prop_assert!(passed);
        } else {
            let failed = matches!(end, Step::Fail { .. });
            prop_assert!(failed);
        }
    }
}
