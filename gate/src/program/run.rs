//! `foreman-gate run`: the steps, then the report.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;

use super::caches;
use super::environment::{self, Environment};
use super::fence::{Fenced, Network};
use super::fetch::{CheckedOut, clone_failed, oid, protected, refusal};
use super::kept::{Ignored, Kept};
use super::log::GateLog;
use super::lookup::{NotRunnable, Programs};
use super::memory::OomCounter;
use super::scratch::Scratch;
use super::step::{self, Place};
use super::{Folders, Trouble, harden, reap};
use crate::definition::{ResolvedStep, preset::compiles_only};
use crate::plan::Plan;
use crate::report::{ErrorReason, Outcome, Report, StepOutcome, StepReport, first_failing, outcome_of};
use crate::tail;

/// Name of the log in the evidence folder.
pub(super) const LOG: &str = "gate.log";
/// Search path where the container has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit code of a step that was not run, or that changed what it is judged by, by the shells' convention for a command
/// that cannot be run.
const NO_JUDGE: i32 = 126;

/// Arguments of `foreman-gate run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) folders: Folders,
    /// Folder for temporary files.
    #[arg(long)]
    tmp: Option<PathBuf>,
    /// Folder of the log.
    #[arg(long)]
    evidence: PathBuf,
    /// Folder of the cache that prepare filled.
    #[arg(long)]
    cache: Option<PathBuf>,
}

/// What is known of the steps so far; nothing of it is on disk.
#[derive(Default)]
struct Results {
    steps: Vec<StepReport>,
    /// End of the log of the step that a person should look at first, with its name.
    tail: Option<(String, Vec<u8>)>,
    trouble: Option<Trouble>,
}

/// Runs every step and reports.
pub(super) fn run(args: &RunArgs, plan: &Plan) -> Result<Report, Trouble> {
    harden::harden()?;
    let checked_out = CheckedOut::verify(&args.folders, &plan.head)?;
    if let Some(report) = refusal(&checked_out.repository, plan)? {
        return Ok(report);
    }
    let ignored = Ignored::of(&checked_out.repository, oid(&plan.base)?).map_err(|error| clone_failed(&error))?;
    let kept = Kept::of(&args.folders.work, protected(plan)?, &plan.gate.pinned, ignored);
    let (scratch, environment) = lay_out(args)?;
    let path = args.evidence.join(LOG);
    let log = GateLog::create(&path).map_err(|error| Trouble::internal(&format!("open {}", path.display()), error))?;
    let log = Arc::new(Mutex::new(log));
    locked(&log).line(&format!("gate {} on {} against {}", plan.digest, plan.head, plan.base));

    let results = run_steps(args, plan, &kept, &scratch, &environment, &log);
    // Whatever went wrong above, nothing may write after the report.
    let alone = reap::end_all_others();
    let results = results?;
    if !alone {
        return Err(Trouble::new(
            ErrorReason::ProcessesRemain,
            "a process that a step started would not end",
            true,
        ));
    }
    Ok(report(plan, results, log))
}

fn report(plan: &Plan, results: Results, log: Arc<Mutex<GateLog>>) -> Report {
    let outcome = outcome_of(&results.steps);
    let mut report = match (outcome, results.trouble) {
        (Outcome::Error, trouble) => trouble
            .unwrap_or_else(|| Trouble::new(ErrorReason::Internal, "no blocking step ran", true))
            .report(plan),
        (outcome, _) => Report::new(&plan.head, &plan.base, &plan.digest, outcome),
    };
    report.first_failing = first_failing(&results.steps).map(str::to_owned);
    report.steps = results.steps;
    if let Some((name, bytes)) = results.tail
        && report.first_failing.as_ref() == Some(&name)
    {
        report.tail = tail::clean(&bytes);
    }
    locked(&log).line(&format!("{outcome:?}").to_lowercase());
    report.log = Arc::into_inner(log)
        .map(|log| log.into_inner().unwrap_or_else(PoisonError::into_inner))
        .and_then(GateLog::finish);
    report
}

/// Finds what the steps may write beside the work tree, and the variables that lead there.
fn lay_out(args: &RunArgs) -> Result<(Scratch, Environment), Trouble> {
    if args.cache.as_ref().is_some_and(|cache| !caches::is_complete(cache)) {
        return Err(Trouble::new(
            ErrorReason::CacheMissing,
            "the cache that prepare should have filled is not there",
            true,
        ));
    }
    let (tmp, cache) = (args.tmp.as_deref(), args.cache.as_deref());
    let scratch = Scratch::new(&args.folders.home, tmp, cache)
        .map_err(|error| Trouble::internal("lay out the home of the steps", error))?;
    let home = scratch.home();
    let mut environment = environment::base(std::env::vars_os(), home, tmp);
    environment::offline(&mut environment, cache, &scratch, &args.folders.work);
    environment.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    Ok((scratch, environment))
}

fn run_steps(
    args: &RunArgs,
    plan: &Plan,
    kept: &Kept,
    scratch: &Scratch,
    environment: &Environment,
    log: &Arc<Mutex<GateLog>>,
) -> Result<Results, Trouble> {
    let mut writable = vec![args.folders.work.clone(), args.folders.home.clone()];
    writable.extend(args.tmp.clone());
    let place = Place {
        work: &args.folders.work,
        writable: &writable,
        environment,
        network: Network::NoGit,
    };
    let path = environment.get(OsStr::new("PATH")).map(std::ffi::OsString::as_os_str);
    let programs = Programs::remember(plan.gate.steps.iter().map(|step| step.command.as_str()), path);
    let memory = OomCounter::of_this_process();
    let mut results = Results::default();
    let mut spoilt: Option<String> = None;
    // Whoever compiles once for all steps is several times as fast, but what a step runs of the branch could forge what
    // the next one is compiled from.
    let mut keep_builds = false;
    for step in &plan.gate.steps {
        locked(log).line(&format!("step {}: {}", step.name, tail::line(&step.command, 500)));
        let (report, end) = match (&spoilt, programs.check(&step.command, path)) {
            (Some(by), _) => {
                let detail = format!("not run: {by}");
                locked(log).line(&detail);
                let report = StepReport {
                    name: step.name.clone(),
                    outcome: StepOutcome::Fail,
                    exit_code: Some(NO_JUDGE),
                    ms: 0,
                    advisory: step.advisory,
                    oom: false,
                };
                (report, detail.into_bytes())
            }
            (None, Ok(shell)) => {
                scratch
                    .renew(keep_builds)
                    .map_err(|error| Trouble::internal("make a home for a step", error))?;
                let before = memory.kills();
                let mut ended = step::run(&shell, &step.command, &place, seconds(step), log)?;
                keep_builds = compiles_only(&step.command);
                if ended.fenced != Fenced::Whole && results.steps.is_empty() {
                    locked(log).line(&format!(
                        "fence: {:?}; this kernel keeps less than Landlock 6",
                        ended.fenced
                    ));
                }
                spoilt = kept.changed().map(|changed| spoiling(step, &changed));
                if let Some(by) = &spoilt {
                    locked(log).line(by);
                    ended.tail.extend_from_slice(format!("\n{by}\n").as_bytes());
                    ended.exit_code = ended.exit_code.map(|code| if code == 0 { NO_JUDGE } else { code });
                }
                let report = StepReport {
                    name: step.name.clone(),
                    outcome: match ended.exit_code {
                        None => StepOutcome::Timeout,
                        Some(0) => StepOutcome::Pass,
                        Some(_) => StepOutcome::Fail,
                    },
                    exit_code: ended.exit_code,
                    ms: u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
                    advisory: step.advisory,
                    oom: memory.kills() > before,
                };
                (report, ended.tail)
            }
            (None, Err(why)) => {
                let trouble = not_runnable(plan, step, &why, path);
                let detail = trouble.detail.clone();
                locked(log).line(&detail);
                if !step.advisory {
                    results.trouble.get_or_insert(trouble);
                }
                let report = StepReport {
                    name: step.name.clone(),
                    outcome: StepOutcome::Error,
                    exit_code: None,
                    ms: 0,
                    advisory: step.advisory,
                    oom: false,
                };
                (report, detail.into_bytes())
            }
        };
        locked(log).line(&describe(&report));
        results.steps.push(report);
        if first_failing(&results.steps) == Some(step.name.as_str()) {
            results.tail = Some((step.name.clone(), end));
        }
    }
    Ok(results)
}

/// Says which step changed what it and the steps after it judge by.
fn spoiling(step: &ResolvedStep, changed: &str) -> String {
    format!(
        "step {} changed {}, which is protected: what a change is judged by stays as it is at the base; write elsewhere, \
         or into a folder that .gitignore names there",
        step.name,
        tail::line(changed, 200)
    )
}

fn not_runnable(plan: &Plan, step: &ResolvedStep, why: &NotRunnable, path: Option<&OsStr>) -> Trouble {
    match why {
        NotRunnable::Missing(program) => Trouble::new(
            ErrorReason::ProgramMissing,
            format!(
                "step {} needs {program}, which is not in {}; install it there or choose another image (on one machine \
                 every image means this machine's own tools); PATH is {}",
                step.name,
                plan.gate.image,
                path.unwrap_or_default().display()
            ),
            false,
        ),
        NotRunnable::Changed(path) => Trouble::new(
            ErrorReason::ProgramChanged,
            format!(
                "step {} would run {path}, which an earlier step put there or changed",
                step.name
            ),
            false,
        ),
    }
}

fn describe(report: &StepReport) -> String {
    let how = match (report.outcome, report.exit_code) {
        (StepOutcome::Timeout, _) => "overran its timeout".to_owned(),
        (StepOutcome::Error, _) => "could not be started".to_owned(),
        (StepOutcome::Pass, _) => "passed".to_owned(),
        (StepOutcome::Fail, code) => format!("failed with exit code {}", code.unwrap_or_default()),
    };
    let advisory = if report.advisory { " (advisory)" } else { "" };
    let oom = if report.oom { ", killed at the memory limit" } else { "" };
    format!("step {} {how}{oom} after {} ms{advisory}", report.name, report.ms)
}

fn seconds(step: &ResolvedStep) -> Duration {
    Duration::from_secs(u64::try_from(step.timeout_seconds).unwrap_or(1))
}

fn locked(log: &Mutex<GateLog>) -> MutexGuard<'_, GateLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
