//! The `foreman` command.

mod cli;
mod commands;
mod connect;
mod endpoint;
mod follow;
mod local;
mod place;
mod project;
mod table;
mod target;
mod transcript;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use commands::ask::Request;

fn main() -> ExitCode {
    sandbox::reexec_main_if_requested();
    if is_called(gate::job::PROGRAM) {
        return gate::program::main(std::env::args_os());
    }
    let cli = Cli::parse();
    init_logging(cli.global.verbose);
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether this program was started under `name`, as a gate's containers start it.
fn is_called(name: &str) -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|path| std::path::Path::new(&path).file_name() == Some(name.as_ref()))
}

fn init_logging(verbose: u8) {
    let default = match verbose {
        // What goes wrong with the API is said by the command itself.
        0 => "error,kube_client=off",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

#[tokio::main]
async fn start(cli: &Cli) -> Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let global = &cli.global;
    match &cli.command {
        Command::Demo(args) => commands::demo::run(args).await,
        Command::Init(args) => commands::init::run(global, args).await,
        Command::Validate(args) => commands::validate::run(global, args),
        Command::Up(args) => commands::up::run(global, args).await,
        Command::Run(args) => commands::run::run(global, args).await,
        Command::Doctor(args) => commands::doctor::run(global, args).await,
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "foreman", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Get(_) | Command::Show(_) | Command::Logs(_) | Command::Cancel(_) | Command::Retry(_) => {
            let connection = connect::connect(global).await?;
            let done = ask(&connection, &cli.command).await;
            connection.close().await;
            done.map(|()| ExitCode::SUCCESS)
        }
    }
}

async fn ask(connection: &connect::Connection, command: &Command) -> Result<()> {
    match command {
        Command::Get(args) => commands::get::run(connection, args).await,
        Command::Show(args) => commands::show::run(connection, args).await,
        Command::Logs(args) => commands::logs::run(connection, args).await,
        Command::Cancel(args) => commands::ask::run(connection, &args.task, Request::Cancel).await,
        Command::Retry(args) => commands::ask::run(connection, &args.task, Request::Retry).await,
        _ => Ok(()),
    }
}
