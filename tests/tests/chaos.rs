//! `foreman up` killed over and over, at named points: nothing is lost, and nothing is made up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schemas::agentic_task::{FailureReason, Phase};
use schemas::shared::Verdict;
use schemas::workload::WorkloadPhase;
use schemas::{AgenticTask, Workload, labels};

use crate::poll::until;
use crate::stage::{self, Setup, Stage, Up};

/// Where a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// While it starts.
    Starting,
    /// A task has a node.
    Scheduled,
    /// A task is claimed.
    Running,
    /// A branch has just been pushed.
    Pushed,
    /// A verifier waits for its Job.
    Verifying,
    /// A Job's containers run.
    JobRunning,
    /// Evidence has just been stored.
    Evidence,
    /// A task's end has just been written.
    Ended,
    /// A verdict has just been noted in the repository.
    Noted,
    /// After some time.
    Anywhere,
}

const POINTS: [Point; 10] = [
    Point::Starting,
    Point::Scheduled,
    Point::Running,
    Point::Pushed,
    Point::Verifying,
    Point::JobRunning,
    Point::Evidence,
    Point::Ended,
    Point::Noted,
    Point::Anywhere,
];

/// How long a point is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// After how many kills work is left alone for once.
const CALM_EVERY: u64 = 5;

/// How long it is then left alone at most.
const CALM: Duration = Duration::from_secs(90);

/// An end that was read over the API: it must never change.
type Ends = HashMap<String, (Option<Phase>, Option<Verdict>, Option<String>)>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn remember(ends: &mut Ends, tasks: &[AgenticTask]) {
    for task in tasks {
        let status = task.status.clone().unwrap_or_default();
        if matches!(status.phase, Some(Phase::Succeeded | Phase::Failed)) {
            let now = (status.phase, status.verdict, status.commit_sha);
            let known = ends.entry(task.uid().unwrap()).or_insert_with(|| now.clone());
            assert_eq!(*known, now, "the end of {} changed", task.name_any());
        }
    }
}

fn refs(repository: &Path, below: &str) -> BTreeSet<String> {
    stage::git(
        repository,
        &["for-each-ref", "--format=%(objectname) %(refname)", below],
    )
    .lines()
    .map(str::to_owned)
    .collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn count_files(folder: &Path) -> usize {
    let mut found = Vec::new();
    files(folder, &mut found);
    found.len()
}

/// Waits for a point; says whether it was reached.
async fn reach(point: Point, stage: &Stage, up: &Up, random: &mut StdRng, ends: &mut Ends) -> bool {
    let begun = Instant::now();
    if point == Point::Starting {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        return true;
    }
    up.ready(Duration::from_secs(60));
    if point == Point::Anywhere {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        return true;
    }
    let client = up.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let branches = refs(&stage.sample, "refs/heads/");
    let notes = refs(&stage.sample, "refs/notes/");
    let evidence = count_files(&stage.state.join("evidence"));
    remember(ends, &stage::tasks(&client).await.unwrap());
    let known = ends.len();
    while begun.elapsed() < PATIENCE {
        // Only what the point needs is read: a slow look would miss what is short.
        let tasks = match point {
            Point::Scheduled | Point::Running | Point::Verifying | Point::Ended => stage::tasks(&client).await.unwrap(),
            _ => Vec::new(),
        };
        remember(ends, &tasks);
        let any = |phase| {
            tasks
                .iter()
                .any(|task| task.status.as_ref().and_then(|status| status.phase) == Some(phase))
        };
        let reached = match point {
            Point::Scheduled => any(Phase::Scheduled),
            Point::Running => any(Phase::Running),
            Point::Verifying => any(Phase::Verifying),
            Point::Pushed => refs(&stage.sample, "refs/heads/") != branches,
            Point::Noted => refs(&stage.sample, "refs/notes/") != notes,
            Point::Evidence => count_files(&stage.state.join("evidence")) > evidence,
            Point::Ended => ends.len() > known,
            Point::JobRunning => {
                let pods = pods.list(&ListParams::default()).await.unwrap().items;
                pods.iter()
                    .any(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"))
            }
            Point::Starting | Point::Anywhere => true,
        };
        if reached {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

async fn completed(client: &kube::Client) -> usize {
    let workloads = stage::workloads(client).await.unwrap();
    let done = |workload: &&Workload| {
        workload.status.as_ref().and_then(|status| status.phase) == Some(WorkloadPhase::Completed)
    };
    workloads.iter().filter(done).count()
}

/// Starts `up` and leaves it alone until one more Workload has completed.
async fn calm(stage: &Stage, ends: &mut Ends) {
    let up = stage.up(&["--slots", "2"]);
    let client = up.client().await;
    let before = completed(&client).await;
    let begun = Instant::now();
    while completed(&client).await <= before {
        assert!(
            begun.elapsed() < CALM,
            "left alone, and nothing completed within {CALM:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    remember(ends, &stage::tasks(&client).await.unwrap());
    assert!(up.stop().success());
}

fn fsck(repository: &Path) {
    stage::git(repository, &["fsck", "--full", "--strict", "--no-dangling"]);
}

fn check_repositories(stage: &Stage) {
    fsck(&stage.sample);
    fsck(&stage.tasks);
    let mut mirrors = 0;
    for part in ["operator/mirrors", "agent/mirrors"] {
        for entry in std::fs::read_dir(stage.state.join(part)).unwrap().flatten() {
            if entry.path().join("HEAD").exists() {
                fsck(&entry.path());
                mirrors += 1;
            }
        }
    }
    assert!(mirrors >= 3, "only {mirrors} mirrors were checked");
}

/// Every verdict of a gate has its evidence: named in the status, stored, not empty.
fn check_evidence(stage: &Stage, task: &AgenticTask) {
    let status = task.status.clone().unwrap_or_default();
    assert_eq!(status.evidence_error, None, "{}", task.name_any());
    let evidence = status.evidence.unwrap_or_default();
    assert!(
        evidence.iter().any(|one| one.name == "gate-log"),
        "{} has a verdict and no log: {evidence:?}",
        task.name_any()
    );
    assert!(
        evidence.iter().any(|one| one.name == "gate-report"),
        "{} has a verdict and no report: {evidence:?}",
        task.name_any()
    );
    let epoch = status.epoch.unwrap().to_string();
    for one in evidence {
        let folder = stage
            .state
            .join("evidence")
            .join(task.uid().unwrap())
            .join(&epoch)
            .join(&one.name);
        let mut found = Vec::new();
        files(&folder, &mut found);
        let bytes: u64 = found.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(
            !found.is_empty(),
            "{} is named by {} and not stored",
            one.name,
            task.name_any()
        );
        assert_eq!(bytes, one.bytes as u64, "{} of {}", one.name, task.name_any());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_nothing_is_lost_and_nothing_is_made_up() {
    let kills = number("FOREMAN_CHAOS_KILLS").unwrap_or(100);
    let seed = number("FOREMAN_CHAOS_SEED").unwrap_or_else(|| rand::rng().random());
    println!("{kills} kills; repeat them with FOREMAN_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let marker = format!("foreman-chaos-{seed:x}");
    let gate = format!(
        "steps:\n  - name: check\n    command: \": {marker}; sleep 0.3; test -f notes/README\"\n    timeoutSeconds: 30\n"
    );
    let stage = Stage::build(&Setup {
        gate,
        ..Setup::default()
    });
    let mut reached: BTreeMap<Point, u32> = BTreeMap::new();
    let mut missed = 0;
    let mut ends = Ends::new();
    let mut asked = 0;
    for kill in 0..kills {
        // Enough in hand that every point can be met.
        while asked < 4 + kill as usize {
            stage.ask(&[format!("task-{asked}"), format!("task-{}", asked + 1)]);
            asked += 2;
        }
        let point = POINTS[(kill as usize + random.random_range(0..3)) % POINTS.len()];
        let up = stage.start(&["--slots", "2"]);
        if reach(point, &stage, &up, &mut random, &mut ends).await {
            *reached.entry(point).or_default() += 1;
        } else {
            missed += 1;
        }
        up.kill();
        stage.gone(&marker);
        if kill % CALM_EVERY == CALM_EVERY - 1 {
            // What is killed again and again is given up after three lost claims: some must be left to end well.
            stage.ask(&[format!("task-{asked}")]);
            asked += 1;
            calm(&stage, &mut ends).await;
        }
        if kill % 10 == 9 {
            println!("{} kills, {asked} task files, {} ends seen", kill + 1, ends.len());
        }
    }
    println!("killed at {reached:?}; {missed} times somewhere else");
    let up = stage.up(&[]);
    let client = up.client().await;
    let all = stage::ended(&client, asked, Duration::from_secs(180)).await;
    let tasks = stage::tasks(&client).await.unwrap();
    remember(&mut ends, &tasks);
    assert_eq!(all.len(), asked, "one Workload for each file");
    let mut passed = 0;
    let mut lost = 0;
    for workload in &all {
        let status = workload.status.clone().unwrap();
        let path = workload.annotations().get(labels::SOURCE_PATH).unwrap();
        let name = path.trim_start_matches("tasks/").trim_end_matches(".md");
        let mine: Vec<&AgenticTask> = tasks
            .iter()
            .filter(|task| task.labels().get(labels::WORKLOAD) == Some(&workload.name_any()))
            .collect();
        if status.phase == Some(WorkloadPhase::Completed) {
            passed += 1;
            assert_eq!(status.verdict, Some(Verdict::GatePass), "{path}");
            let head = status.head_sha.clone().unwrap();
            let branch = format!("refs/heads/{}", status.branch.clone().unwrap());
            assert_eq!(
                stage::git(&stage.sample, &["rev-parse", &branch]).trim(),
                head,
                "{path}"
            );
            assert_eq!(
                stage::git(&stage.sample, &["show", &format!("{head}:notes/{name}.txt")]),
                format!("{name}\n")
            );
            let commits = stage::git(
                &stage.sample,
                &["rev-list", "--count", &format!("refs/heads/main..{branch}")],
            );
            assert_eq!(commits.trim(), "1", "{path}: a marker is left on the branch");
            // A verdict is told once it stands: that of the last task may be on its way.
            let note = || stage::git(&stage.sample, &["notes", "--ref=foreman", "show", &head]);
            until(
                Duration::from_secs(30),
                "the verdict in a note",
                || note().contains("success").then_some(()),
                || format!("{path}: {}", note()),
            );
            let verify = mine
                .iter()
                .find(|task| task.status.as_ref().and_then(|s| s.verdict) == Some(Verdict::GatePass));
            check_evidence(
                &stage,
                verify.unwrap_or_else(|| panic!("{path} passed and no task says so")),
            );
        } else {
            // Only what was killed again and again may end without a verdict, and then it says so.
            lost += 1;
            assert_eq!(
                status.failure_reason,
                Some(FailureReason::LostClaims),
                "{path}: {:?} {:?}",
                status.message,
                status.rounds
            );
            assert_ne!(status.verdict, Some(Verdict::GatePass), "{path}");
            let most = mine
                .iter()
                .filter_map(|task| task.status.as_ref()?.lost_claims)
                .max()
                .unwrap_or(0);
            assert!(most >= 3, "{path} counts as lost after {most} lost claims");
        }
    }
    let open: Vec<String> = tasks
        .iter()
        .filter(|task| !ends.contains_key(&task.uid().unwrap()))
        .map(ResourceExt::name_any)
        .collect();
    assert!(open.is_empty(), "these never ended: {open:?}");
    println!("{asked} task files: {passed} passed, {lost} lost three claims");
    assert!(
        passed as u64 >= kills / CALM_EVERY,
        "too little got through to prove anything"
    );
    assert!(up.stop().success());
    stage.gone(&marker);
    check_repositories(&stage);
    assert_eq!(reached.values().sum::<u32>() + missed, kills as u32);
    if kills >= 50 {
        // Some points last milliseconds: on a busy machine not every one of them is met.
        assert!(
            reached.len() * 3 >= POINTS.len() * 2,
            "too few points were reached: {reached:?}"
        );
    }
}
