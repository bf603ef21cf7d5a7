//! The `foreman-agent` program: one machine's agent.

use std::process::ExitCode;

use agent::config::{Flags, normalise_args};
use agent::daemon::{self, Shutdown};
use agent::executor::job::inside;
use anyhow::{Context, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use telemetry::logging::Form;

/// Takes tasks for one machine: registers it, claims tasks, runs coders and gates.
#[derive(Parser)]
#[command(name = "foreman-agent", version, about)]
struct Program {
    #[command(flatten)]
    flags: Flags,
    /// Form of the log.
    #[arg(long, value_enum, default_value = "text")]
    log_format: Form,
    /// Write logs as JSON: the same as `--log-format=json`.
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    sandbox::reexec_main_if_requested();
    if is_called(gate::job::PROGRAM) {
        return gate::program::main(std::env::args_os());
    }
    let args: Vec<_> = std::env::args_os().collect();
    if inside::is_asked(&args) {
        return inside::main(args);
    }
    let program = Program::parse_from(normalise_args(std::env::args()));
    let form = if program.log_json {
        Form::Json
    } else {
        program.log_format
    };
    telemetry::logging::init(form, "info");
    match run(program.flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether this program was started under `name`, as its own image's entry point is.
fn is_called(name: &str) -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|path| std::path::Path::new(&path).file_name() == Some(name.as_ref()))
}

/// Runs the agent, and leaves without waiting for calls that block, such as a fetch: the two seconds are over by then.
fn run(flags: Flags) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    let ended = runtime.block_on(start(flags));
    runtime.shutdown_background();
    ended
}

async fn start(flags: Flags) -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let client = connect(&flags).await?;
    let host = kube_host_name();
    let config = flags.into_config(&host).map_err(anyhow::Error::msg)?;
    let shutdown = Shutdown::default();
    let stop = shutdown.stop.clone();
    tokio::spawn(async move {
        if signalled().await.is_ok() {
            tracing::info!("draining: cancelling what runs and giving claims back");
            stop.cancel();
        }
    });
    daemon::run(config, client, shutdown)
        .await
        .context("the node agent stopped")
}

async fn signalled() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn connect(flags: &Flags) -> Result<Client> {
    let options = KubeConfigOptions {
        context: flags.kube_context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = match &flags.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("failed to read {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await?
        }
        None if flags.kube_context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer()
            .await
            .context("failed to find a Kubernetes API; name one with --kubeconfig")?,
    };
    if let Some(bundle) = &flags.ca_bundle {
        let pem = std::fs::read(bundle).with_context(|| format!("failed to read {}", bundle.display()))?;
        let more = rustls_certificates(&pem)?;
        config.root_cert.get_or_insert_default().extend(more);
    }
    Client::try_from(config).context("failed to set up the API client")
}

fn rustls_certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem)
        .map(|found| {
            found
                .map(|certificate| certificate.to_vec())
                .context("failed to read the CA bundle")
        })
        .collect()
}

fn kube_host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
