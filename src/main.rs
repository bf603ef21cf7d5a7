//! The `foreman` command.

mod cli;
mod commands;
mod connect;
mod endpoint;
mod follow;
mod local;
mod place;
mod project;
mod signals;
mod table;
mod target;
mod transcript;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use agent::executor::job::{build, inside};
use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use commands::ask::Request;

fn main() -> ExitCode {
    sandbox::reexec_main_if_requested();
    if let Some(args) = called(gate::job::PROGRAM) {
        return gate::program::main(args);
    }
    if let Some(args) = called(build::PROGRAM).filter(|args| inside::is_asked(args)) {
        return inside::main(args);
    }
    end_with_the_reader();
    let cli = Cli::parse();
    init_logging(cli.global.verbose);
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            match cli.command {
                // Its 1 says that the gate failed.
                Command::Run(_) => ExitCode::from(commands::run::ERROR),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Returns the arguments of `program` if this one stands for it: by the name that it was started under, as a gate's
/// main container starts it, or by its first argument, as the Job runner starts our own image.
fn called(program: &str) -> Option<Vec<OsString>> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let skip = usize::from(args.get(1).is_some_and(|first| first == program));
    let named = args
        .first()
        .is_some_and(|path| Path::new(path).file_name() == Some(program.as_ref()));
    (named || skip > 0).then(|| args.into_iter().skip(skip).collect())
}

/// Exit code of a command whose reader went away, as a shell gives it for SIGPIPE.
const READER_GONE: i32 = 141;

/// Ends the command in silence when whoever read its output is gone, as `head` is: `println!` panics then.
fn end_with_the_reader() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        if said.is_some_and(|said| said.starts_with("failed printing to stdout") && said.contains("Broken pipe")) {
            std::process::exit(READER_GONE);
        }
        before(panic);
    }));
}

fn init_logging(verbose: u8) {
    let default = match verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    telemetry::logging::init(telemetry::logging::Form::Text, default);
}

#[tokio::main]
async fn start(cli: &Cli) -> Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let global = &cli.global;
    match &cli.command {
        Command::Demo(args) => commands::demo::run(global, args).await,
        Command::Init(args) => commands::init::run(global, args).await,
        Command::Validate(args) => commands::validate::run(global, args),
        Command::Up(args) => commands::up::run(global, args).await,
        Command::Run(args) => commands::run::run(global, args).await,
        Command::Doctor(args) => commands::doctor::run(global, args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "foreman", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
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
