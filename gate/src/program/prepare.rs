//! `foreman-gate prepare`: fills a cache once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::fence::Network;
use super::fetch::CheckedOut;
use super::log::GateLog;
use super::step::{self, Place};
use super::{Folders, Trouble, caches, environment, harden};
use crate::plan::Plan;
use crate::report::ErrorReason;
use crate::tail;

/// Arguments of `foreman-gate prepare`.
#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    #[command(flatten)]
    pub(super) folders: Folders,
    /// Folder for temporary files.
    #[arg(long)]
    tmp: Option<PathBuf>,
    /// Folder of the log.
    #[arg(long)]
    evidence: PathBuf,
    /// Folder with the caches of the repository.
    #[arg(long)]
    cache: PathBuf,
    /// Folder of this cache within it.
    #[arg(long)]
    cache_key: String,
}

/// Fills the cache unless it is there.
pub(super) fn prepare(args: &PrepareArgs, plan: &Plan) -> Result<(), Trouble> {
    harden::harden()?;
    if !crate::binding::is_hex(&args.cache_key, 32) {
        return Err(Trouble::new(
            ErrorReason::PlanInvalid,
            "the cache's key is not 32 hex digits",
            false,
        ));
    }
    let Some(prepare) = &plan.gate.prepare else {
        return Err(Trouble::new(
            ErrorReason::PlanInvalid,
            "the gate has nothing to prepare",
            false,
        ));
    };
    let cache = args.cache.join(&args.cache_key);
    if caches::is_complete(&cache) {
        println!("the cache {} is there", args.cache_key);
        return Ok(());
    }
    CheckedOut::verify(&args.folders, &plan.base)?;
    let now = SystemTime::now();
    caches::sweep(&args.cache, now);
    let nonce = format!(
        "{}-{}",
        std::process::id(),
        now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
    );
    let unfinished = caches::begin(&args.cache, &args.cache_key, &nonce)
        .map_err(|error| Trouble::internal("make a folder for the cache", error))?;
    let filled = fill(args, prepare.command.as_str(), prepare.timeout_seconds, &unfinished);
    let done = filled.and_then(|()| {
        caches::finish(&unfinished, &cache).map_err(|error| Trouble::internal("put the cache into its place", error))
    });
    match done {
        Ok(true) => {
            println!("filled the cache {}", args.cache_key);
            Ok(())
        }
        other => {
            let _ = git::remove_tree(&unfinished);
            other.map(|_| ())
        }
    }
}

fn fill(args: &PrepareArgs, command: &str, seconds: i64, cache: &Path) -> Result<(), Trouble> {
    let home = args.folders.home.join("user");
    let cargo = cache.join("cargo");
    for folder in [&home, &cargo] {
        std::fs::create_dir_all(folder).map_err(|error| Trouble::internal("make the home of prepare", error))?;
    }
    caches::copy_config(std::env::var_os("CARGO_HOME").map(PathBuf::from).as_deref(), &cargo);
    let mut environment = environment::base(std::env::vars_os(), &home, args.tmp.as_deref());
    environment::filling(&mut environment, cache);
    let mut writable = vec![args.folders.work.clone(), args.folders.home.clone(), cache.to_owned()];
    writable.extend(args.tmp.clone());
    let log = GateLog::create(&args.evidence.join("prepare.log"))
        .map_err(|error| Trouble::internal("open the log", error))?;
    let log = Arc::new(Mutex::new(log));
    let place = Place {
        work: &args.folders.work,
        writable: &writable,
        environment: &environment,
        network: Network::Whole,
    };
    let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    let ended = step::run(Path::new("/bin/sh"), command, &place, timeout, &log)?;
    // It may name a private registry and is laid out anew for every gate.
    for name in ["config.toml", "credentials.toml"] {
        let _ = std::fs::remove_file(cargo.join(name));
    }
    let how = match ended.exit_code {
        Some(0) => return Ok(()),
        Some(code) => format!("exit code {code}"),
        None => format!("no end within {seconds} s"),
    };
    let cleaned = tail::clean(&ended.tail);
    let end = tail::last(cleaned.trim_end(), 700);
    Err(Trouble::new(ErrorReason::PrepareFailed, format!("{how}: {end}"), true))
}
