//! What runs inside the containers of a gate's Job: `foreman-gate fetch | prepare | run`.
//!
//! Nothing here trusts what it starts. The plan is read before anything of the branch runs, results
//! stay in this process's memory, every other process is gone before the report is written.

mod caches;
mod environment;
mod fence;
mod fetch;
mod harden;
mod kept;
mod log;
mod lookup;
mod manifest;
mod memory;
mod message;
mod prepare;
mod reap;
mod run;
mod scratch;
mod step;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::plan::{PLAN_MAX, Plan};
use crate::report::{EXIT_ERROR, ErrorReason, ErrorReport, Outcome, Report};
use message::MessageFile;

/// Arguments of `foreman-gate`.
#[derive(Debug, Parser)]
#[command(
    name = "foreman-gate",
    version,
    about = "Runs inside a gate's Job; started by Foreman, not by hand"
)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Copies this program, fetches the commit and checks it out.
    Fetch(fetch::FetchArgs),
    /// Fills the cache.
    Prepare(prepare::PrepareArgs),
    /// Runs the steps and reports.
    Run(run::RunArgs),
}

/// Arguments that every subcommand has.
#[derive(Debug, Args)]
struct Folders {
    /// Plan, as the Job's ConfigMap holds it.
    #[arg(long)]
    plan: PathBuf,
    /// Work tree.
    #[arg(long)]
    work: PathBuf,
    /// Folder with the program and the fetched objects.
    #[arg(long)]
    tools: PathBuf,
    /// Home of what is started.
    #[arg(long)]
    home: PathBuf,
    /// File of the termination message.
    #[arg(long, default_value = crate::job::TERMINATION_PATH)]
    termination_log: PathBuf,
}

/// Why a subcommand ends without a verdict.
#[derive(Debug)]
struct Trouble {
    reason: ErrorReason,
    detail: String,
    retry: bool,
}

impl Trouble {
    fn new(reason: ErrorReason, detail: impl Into<String>, retry: bool) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry,
        }
    }

    fn internal(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new(ErrorReason::Internal, format!("failed to {what}: {error}"), true)
    }

    fn report(self, plan: &Plan) -> Report {
        Report {
            error: Some(ErrorReport {
                reason: self.reason,
                detail: crate::tail::line(&self.detail, 1000),
                retry: self.retry,
            }),
            ..Report::new(&plan.head, &plan.base, &plan.digest, Outcome::Error)
        }
    }
}

/// Runs `foreman-gate`; the first argument is the program's own name.
///
/// Call it before anything else starts a thread: it changes what this process may do.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_ERROR } else { 0 });
        }
    };
    let folders = match &cli.command {
        Subcommands::Fetch(args) => &args.folders,
        Subcommands::Prepare(args) => &args.folders,
        Subcommands::Run(args) => &args.folders,
    };
    let mut message = match MessageFile::open(&folders.termination_log) {
        Ok(message) => message,
        Err(error) => {
            eprintln!(
                "failed to open the termination message {}: {error}",
                folders.termination_log.display()
            );
            return ExitCode::from(EXIT_ERROR);
        }
    };
    let plan = match read_plan(&folders.plan) {
        Ok(plan) => plan,
        Err(detail) => {
            // Without a plan there is no triple that a report could name.
            eprintln!("{detail}");
            return ExitCode::from(EXIT_ERROR);
        }
    };
    let report = match &cli.command {
        Subcommands::Fetch(args) => fetch::fetch(args, &plan),
        Subcommands::Prepare(args) => prepare::prepare(args, &plan).map(|()| None),
        Subcommands::Run(args) => run::run(args, &plan).map(Some),
    };
    let report = match report {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(report)) => report,
        Err(trouble) => {
            eprintln!(
                "foreman-gate: {}: {}",
                trouble.reason.as_str(),
                crate::tail::line(&trouble.detail, 2000)
            );
            trouble.report(&plan)
        }
    };
    if let Err(error) = message.write(&report.to_message()) {
        eprintln!("failed to write the termination message: {error}");
        return ExitCode::from(EXIT_ERROR);
    }
    ExitCode::from(report.outcome.exit_code())
}

fn read_plan(path: &std::path::Path) -> Result<Plan, String> {
    let fail = |error: &dyn std::fmt::Display| format!("failed to read the plan {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(|error| fail(&error))?.len();
    if size > PLAN_MAX as u64 {
        return Err(fail(&format!("it has {size} bytes; at most {PLAN_MAX} are allowed")));
    }
    let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
    Plan::parse(&bytes).map_err(|error| fail(&error))
}
