//! The flags of a node agent, as they are published.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use schemas::fleet_node::Accelerator;

/// How tasks are executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The agent's own loop, tools and gate.
    Native,
    /// Sleeps and succeeds: for smoke tests.
    #[default]
    Stub,
}

/// The accelerator that a flag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcceleratorFlag {
    /// Apple Metal.
    Metal,
    /// NVIDIA CUDA.
    Cuda,
    /// Vulkan.
    Vulkan,
    /// None.
    None,
}

impl From<AcceleratorFlag> for Accelerator {
    fn from(flag: AcceleratorFlag) -> Self {
        match flag {
            AcceleratorFlag::Metal => Self::Metal,
            AcceleratorFlag::Cuda => Self::Cuda,
            AcceleratorFlag::Vulkan => Self::Vulkan,
            AcceleratorFlag::None => Self::None,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    schemas::duration::parse(text).map_err(|error| error.to_string())
}

/// The flags of `foreman-agent`.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Name of this node's FleetNode; unset means the host's name.
    #[arg(long, env = "FOREMAN_NODE_NAME")]
    pub fleet_node_name: Option<String>,
    /// Address of this node in a tailnet.
    #[arg(long, default_value = "")]
    pub tailscale_addr: String,
    /// Context of the kubeconfig to use.
    #[arg(long)]
    pub kube_context: Option<String>,
    /// Path of a kubeconfig; unset means in-cluster, then the usual places.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Folder for mirrors, work trees and the evidence spool.
    #[arg(long, default_value = "/var/lib/foreman-agent")]
    pub workspace_dir: PathBuf,
    /// Roles that this node takes, separated by commas.
    #[arg(long, default_value = "")]
    pub roles: String,
    /// Labels of the FleetNode, `key=value` separated by commas.
    #[arg(long, default_value = "")]
    pub node_labels: String,
    /// Accelerator; unset means what is found.
    #[arg(long, value_enum)]
    pub accelerator: Option<AcceleratorFlag>,
    /// Models that are installed, separated by commas; unset means what the endpoints serve.
    #[arg(long, default_value = "")]
    pub installed_models: String,
    /// Time between two heartbeats.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub heartbeat_interval: Duration,
    /// Bound on how long a missed watch event can go unseen.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub task_poll_interval: Duration,
    /// Namespace whose tasks are taken; empty means all.
    #[arg(long, default_value = "default")]
    pub task_namespace: String,
    /// Time that the stub executor sleeps.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub stub_sleep: Duration,
    /// Largest context window in tokens; 0 means what is found.
    #[arg(long, default_value_t = 0)]
    pub max_context_tokens: i64,
    /// Tokens per second; 0 means unknown.
    #[arg(long, default_value_t = 0)]
    pub tokens_per_second: i64,
    /// RAM in GiB; 0 means what is found.
    #[arg(long, default_value_t = 0)]
    pub total_ram_gb: i64,
    /// How tasks are executed.
    #[arg(long, value_enum, default_value = "stub")]
    pub agent_mode: Mode,
    /// Base URL against which `owner/name` repositories are resolved.
    #[arg(long, default_value = "")]
    pub git_remote_url: String,
    /// Endpoint that replaces whatever an Agent's model reference resolves to.
    #[arg(long, default_value = "")]
    pub inference_base_url_override: String,
    /// Host that replaces the host of an Agent's endpoint.
    #[arg(long, default_value = "")]
    pub inference_base_url_host_override: String,
    /// Author's name of commits.
    #[arg(long, default_value = "Foreman Bot")]
    pub commit_author_name: String,
    /// Author's address of commits.
    #[arg(long, default_value = "foreman@localhost")]
    pub commit_author_email: String,
    /// Committer's name; unset means the author's.
    #[arg(long, default_value = "")]
    pub commit_committer_name: String,
    /// Committer's address; when set, commits carry a sign-off trailer.
    #[arg(long, default_value = "")]
    pub commit_committer_email: String,
    /// Whether work trees stay after a task.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set)]
    pub keep_workspace: bool,
    /// Namespace of the release: node Leases live there.
    #[arg(long, default_value = "foreman-system")]
    pub foreman_namespace: String,
    /// Namespace in which gate Jobs run; unset means the task's.
    #[arg(long)]
    pub jobs_namespace: Option<String>,
    /// PersistentVolumeClaim for the gate's caches; empty means none.
    #[arg(long, default_value = "")]
    pub gate_cache_pvc: String,
    /// Secret with the credential for clones and pushes.
    #[arg(long, default_value = "")]
    pub coder_git_secret: String,
    /// Key of that Secret.
    #[arg(long, default_value = "token")]
    pub coder_git_secret_key: String,
    /// Image whose program fetches and judges in gate Jobs; empty means the one of this release.
    #[arg(long, default_value = "")]
    pub gate_image: String,
    /// Service account of gate Jobs; empty means their namespace's default. Its token is not mounted.
    #[arg(long, default_value = "")]
    pub gate_service_account: String,
    /// Image of coders' Jobs whose Agent names none; empty means the one of this release.
    #[arg(long, default_value = "")]
    pub coder_image: String,
    /// Service account of coders' Jobs whose Agent names none. Its token is not mounted.
    #[arg(long, default_value = "")]
    pub coder_service_account: String,
    /// Time that the container of a coder's Job may take to start; how long it may run is the Agent's to say.
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub coder_startup_timeout: Duration,
    /// Seconds for which an ended Job of a coder stays.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(i32).range(0..))]
    pub coder_ttl_seconds: i32,
    /// Token for clones and pushes below a URL, as `URL=FILE`; may be repeated.
    #[arg(long)]
    pub git_token: Vec<String>,
    /// File with Git credentials, one `https://user:password@host/path` a line, or `ssh://git@host/path key=FILE`.
    #[arg(long)]
    pub git_credentials: Option<PathBuf>,
    /// PEM bundle of certificate authorities, for the API, Git and model servers.
    #[arg(long)]
    pub ca_bundle: Option<PathBuf>,
    /// Roots below which `file://` repositories may lie; may be repeated.
    #[arg(long = "file-root")]
    pub file_roots: Vec<PathBuf>,
    /// Base URL of the operator's evidence store; empty keeps evidence on this node.
    #[arg(long, default_value = "", env = "FOREMAN_EVIDENCE_URL")]
    pub evidence_url: String,
    /// Tasks taken at once.
    #[arg(long, default_value_t = 2)]
    pub slots: usize,
    /// Address of metrics and probes, such as `0.0.0.0:8485`; unset serves none.
    #[arg(long)]
    pub metrics_listen: Option<SocketAddr>,
    /// Whether Agents of `provider: cloud-proxy` may be run, whose model servers stand outside of the house.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub allow_cloud_providers: bool,
    /// Folder of recorded sessions, for Agents whose base URL is `replay:`.
    #[arg(long)]
    pub replay_sessions: Option<PathBuf>,
    /// Run model commands and gate steps without any sandbox. Dangerous.
    #[arg(long)]
    pub unsafe_no_sandbox: bool,
    /// Accepted for compatibility; self-update is not built yet.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", hide = true)]
    pub self_update: Option<String>,
    /// Accepted for compatibility; self-update is not built yet.
    #[arg(long, hide = true)]
    pub self_update_dir: Option<String>,
    /// Accepted for compatibility; external executors are not built yet.
    #[arg(long, hide = true)]
    pub opencode_bin: Option<String>,
}

/// Turns published single-dash long flags (`-roles=x`) into the double-dash form.
pub fn normalise_args(args: impl IntoIterator<Item = String>) -> Vec<String> {
    args.into_iter()
        .enumerate()
        .map(|(index, arg)| {
            let long = arg
                .strip_prefix('-')
                .filter(|rest| !rest.starts_with('-') && rest.len() > 2);
            match long {
                Some(rest) if index > 0 && rest.as_bytes()[0].is_ascii_lowercase() => format!("--{rest}"),
                _ => arg,
            }
        })
        .collect()
}
