//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns a Git repository into a task queue for coding agents on local models.
#[derive(Parser, Debug)]
#[command(
    name = "foreman",
    version,
    about,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// Command.
    #[command(subcommand)]
    pub command: Command,
}

/// Heading of what every command takes.
const GLOBAL: &str = "Global options";

/// What every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Work in this folder instead of the current one.
    #[arg(long, short = 'C', global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Folder of the local state; unset means one per repository under the user's state folder.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR", env = "FOREMAN_STATE")]
    pub state: Option<PathBuf>,
    /// Use the cluster of this kubeconfig instead of the local state.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of that kubeconfig.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub context: Option<String>,
    /// Namespace.
    #[arg(long, short, global = true, help_heading = GLOBAL, default_value = "default")]
    pub namespace: String,
    /// PEM bundle of certificate authorities, for Git servers and model servers.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "FOREMAN_CA_BUNDLE")]
    pub ca_bundle: Option<PathBuf>,
    /// Say more; twice for everything.
    #[arg(long, short, global = true, help_heading = GLOBAL, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What `foreman` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show the whole thread on a sample repository in a temporary folder.
    Demo(DemoArgs),
    /// Write `.foreman/` into this repository: queue, agents, gate and a first task.
    Init(InitArgs),
    /// Check task files, gate, agents and queue without running anything.
    Validate(ValidateArgs),
    /// Serve this repository: API, operator and agent in one process, until Ctrl-C.
    Up(UpArgs),
    /// Do one piece of work in this repository and exit by its verdict.
    Run(RunArgs),
    /// List tasks, workloads, nodes, queues or agents.
    Get(GetArgs),
    /// Show one task's timeline: rounds, verdicts, tokens, times, evidence.
    Show(ShowArgs),
    /// Print a task's transcript, or its gate's log.
    Logs(LogsArgs),
    /// End what runs of a task.
    Cancel(TargetArgs),
    /// Start a task's work again as a new run.
    Retry(TargetArgs),
    /// Check what Foreman needs on this machine.
    Doctor(DoctorArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Shell.
        shell: clap_complete::Shell,
    },
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Replay the recorded sessions even if a model server is found.
    #[arg(long)]
    pub replay: bool,
    /// Folder to use for a sample that differs from the built-in one.
    #[arg(long, value_name = "DIR", hide = true)]
    pub sample: Option<PathBuf>,
    /// How untrusted commands are run.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    pub timeout: u64,
}

/// How untrusted commands are run.
#[derive(Args, Clone, Debug, Default)]
pub struct SandboxArgs {
    /// Run model commands and gate steps without any sandbox. Dangerous.
    #[arg(long)]
    pub unsafe_no_sandbox: bool,
    /// Sandbox backend; unset means the best that works here.
    #[arg(long, value_enum)]
    pub sandbox: Option<SandboxBackend>,
}

/// A sandbox backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxBackend {
    /// User, mount, process, network and IPC namespaces, with Landlock and seccomp inside.
    Namespaces,
    /// Landlock and seccomp alone.
    Landlock,
}

/// Arguments of `init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Do not look for model servers.
    #[arg(long)]
    pub no_probe: bool,
}

/// Arguments of `validate`.
#[derive(Args, Debug)]
pub struct ValidateArgs {
    /// Files to check; none means everything under `.foreman/` and the queue's folder.
    pub files: Vec<PathBuf>,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: ReportFormat,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Arguments of `up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Print what one tick would do, per task, and exit.
    #[arg(long)]
    pub dry_run: bool,
    /// Port of the Kubernetes API on 127.0.0.1; 0 means any free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Tasks that are worked on at once.
    #[arg(long, default_value_t = 2)]
    pub slots: usize,
    /// How untrusted commands are run.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Where Git credentials and recorded sessions are.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Where Git credentials and recorded sessions are.
#[derive(Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// File with Git credentials, one a line: `https://user:password@host/path`, `https://token@host/path` or `ssh://user@host/path key=FILE`.
    #[arg(long, value_name = "FILE")]
    pub git_credentials: Option<PathBuf>,
    /// Further roots below which local repositories may lie; may be repeated.
    #[arg(long = "file-root", value_name = "DIR")]
    pub file_roots: Vec<PathBuf>,
    /// Folder of recorded sessions, for Agents whose base URL is `replay:`.
    #[arg(long, value_name = "DIR")]
    pub replay_sessions: Option<PathBuf>,
    /// Base URL against which `owner/name` repositories are resolved.
    #[arg(long, value_name = "URL")]
    pub git_remote_url: Option<String>,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// What is to be done, in words.
    pub prompt: String,
    /// Show the task and the agent that would take it, and exit.
    #[arg(long)]
    pub dry_run: bool,
    /// Rounds of code and gate.
    #[arg(long)]
    pub rounds: Option<i64>,
    /// Coder from `.foreman/agents.yaml`; unset means the queue's, or the model server that is found.
    #[arg(long)]
    pub agent: Option<String>,
    /// How untrusted commands are run.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Where Git credentials and recorded sessions are.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// AgenticTasks.
    #[value(alias = "task", alias = "at", alias = "agentictasks")]
    Tasks,
    /// Workloads.
    #[value(alias = "workload", alias = "wl")]
    Workloads,
    /// FleetNodes.
    #[value(alias = "node", alias = "fn", alias = "fleetnodes")]
    Nodes,
    /// TaskQueues.
    #[value(alias = "queue", alias = "tq", alias = "taskqueues")]
    Queues,
    /// Agents.
    #[value(alias = "agent", alias = "ag")]
    Agents,
}

/// Output format of `get`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Arguments of `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// Kind.
    #[arg(value_enum, default_value = "workloads")]
    pub kind: Kind,
    /// Name of one object.
    pub name: Option<String>,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Format,
    /// Go on and print what changes.
    #[arg(long, short)]
    pub watch: bool,
}

/// Arguments of `show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Name of a Workload or AgenticTask, or path of a task file.
    pub task: String,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: ReportFormat,
}

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Name of a Workload or AgenticTask, or path of a task file.
    pub task: String,
    /// Go on and print what comes.
    #[arg(long, short)]
    pub follow: bool,
    /// The gate's log instead of the coder's transcript.
    #[arg(long)]
    pub gate: bool,
}

/// Arguments of `cancel` and `retry`.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// Name of a Workload or AgenticTask, or path of a task file.
    pub task: String,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: ReportFormat,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_command_that_may_speak_to_a_server_takes_the_certificates() {
        for command in [
            &["demo"][..],
            &["init"],
            &["up"],
            &["run", "do it"],
            &["doctor"],
            &["get"],
        ] {
            let args = ["foreman"].iter().chain(command).chain(&["--ca-bundle", "ca.pem"]);
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.global.ca_bundle, Some("ca.pem".into()), "{command:?}");
        }
    }
}
