//! The operator as a program of its own, for a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use reconciler::evidence::http::Readers;
use reconciler::operator::{self, Config};
use tokio_util::sync::CancellationToken;

/// Reconciles task queues, workloads, tasks and nodes.
#[derive(Parser, Debug)]
#[command(name = "foreman-operator", version)]
struct Arguments {
    /// Context of the kubeconfig.
    #[arg(long, env = "FOREMAN_KUBE_CONTEXT")]
    kube_context: Option<String>,
    /// Kubeconfig; without one KUBECONFIG, ~/.kube/config, then the Pod's service account.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Namespaces to serve, separated by commas; none means all.
    #[arg(long, env = "FOREMAN_NAMESPACE", default_value = "")]
    namespace: String,
    /// Namespace of the Leases, those of the nodes too: the one that agents are given as --foreman-namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "foreman-system")]
    lease_namespace: String,
    /// Namespaces of gate Jobs, separated by commas; by default those of their tasks.
    #[arg(long, default_value = "")]
    jobs_namespace: String,
    /// Folder for mirrors.
    #[arg(long, env = "FOREMAN_STATE_DIR", default_value = "/var/lib/foreman")]
    state_dir: PathBuf,
    /// Folder of the evidence; by default `evidence` in the state folder.
    #[arg(long)]
    evidence_dir: Option<PathBuf>,
    /// Address of the HTTP: evidence, metrics, health.
    #[arg(long, default_value = "127.0.0.1:8484")]
    evidence_listen: SocketAddr,
    /// Serve evidence to whoever reaches the port, and not only to this machine.
    #[arg(long)]
    evidence_read_any: bool,
    /// Days for which evidence outlives its task.
    #[arg(long, default_value_t = 30)]
    evidence_keep_days: u64,
    /// Seconds for which tasks that ended are kept.
    #[arg(long, default_value_t = 86_400)]
    task_ttl_seconds: u64,
    /// File with TaskQueues and Forges, as a JSON list, that are created where they are not there.
    #[arg(long)]
    bootstrap: Option<PathBuf>,
    /// Lead by Lease; switch it off only for a single process.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// File with Git credentials, each bound to a URL prefix.
    #[arg(long)]
    git_credentials: Option<PathBuf>,
    /// Server that `owner/name` is looked up on.
    #[arg(long)]
    git_remote_url: Option<String>,
    /// Folder below which local repositories may lie; may be given several times.
    #[arg(long)]
    git_file_root: Vec<PathBuf>,
    /// PEM file with certificate authorities to trust besides the system's.
    #[arg(long)]
    ca_bundle: Option<PathBuf>,
    /// Form of the log.
    #[arg(long, value_enum, default_value = "text")]
    log_format: telemetry::logging::Form,
}

fn main() -> anyhow::Result<()> {
    // Before anything else: two parts of one process must not choose two TLS providers.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("failed to set up TLS: another provider was installed before");
    }
    let arguments = Arguments::parse();
    telemetry::logging::init(arguments.log_format, "info");
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let client = client(&arguments).await?;
    let mut config = Config::new(client, &arguments.state_dir);
    config.namespaces = schemas::names::comma_list(&arguments.namespace).unwrap_or_default();
    config.lease_namespace = arguments.lease_namespace;
    config.jobs_namespaces = schemas::names::comma_list(&arguments.jobs_namespace).unwrap_or_default();
    let mut git = git::Settings {
        ca_bundle: arguments.ca_bundle,
        file_roots: arguments.git_file_root,
        ..git::Settings::default()
    };
    if let Some(file) = &arguments.git_credentials {
        git.credentials = git::read_credentials(file).with_context(|| format!("failed to read {}", file.display()))?;
    }
    config.git = git;
    config.git_remote_url = arguments.git_remote_url;
    config.evidence_dir = Some(
        arguments
            .evidence_dir
            .unwrap_or_else(|| arguments.state_dir.join("evidence")),
    );
    config.listen = Some(arguments.evidence_listen);
    config.readers = if arguments.evidence_read_any {
        Readers::Anyone
    } else {
        Readers::Loopback
    };
    config.evidence_keep = Duration::from_secs(arguments.evidence_keep_days.saturating_mul(86_400));
    config.task_ttl = Duration::from_secs(arguments.task_ttl_seconds);
    config.bootstrap = arguments.bootstrap;
    config.leader_election = arguments.leader_elect;
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "foreman-operator".into());
    config.identity = format!("{host}_{:08x}", rand::random::<u32>());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        signalled().await;
        tracing::info!("stopping");
        stop.cancel();
    });
    operator::run(config, shutdown).await?;
    Ok(())
}

async fn client(arguments: &Arguments) -> anyhow::Result<kube::Client> {
    let options = KubeConfigOptions {
        context: arguments.kube_context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = match &arguments.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("failed to read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &options).await?
        }
        None if arguments.kube_context.is_some() => kube::Config::from_kubeconfig(&options).await?,
        None => kube::Config::infer().await?,
    };
    // A kubeconfig's or a cluster's own authority stands; the bundle serves where none is given.
    if config.root_cert.is_none() && config.root_cert_file.is_none() {
        config.root_cert_file.clone_from(&arguments.ca_bundle);
    }
    Ok(kube::Client::try_from(config)?)
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
