//! Starting a tier of real servers, telling of it and stopping it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::api::{self, Api, Layout};
use super::build::{self, Which, tail};
use super::ledger::{self, Recorded};
use super::ports::Reserved;
use super::state::{Cluster, State};
use super::{How, pki};

/// How long a server may take until it is ready. A machine with much else to do needs minutes; one that fails ends by
/// itself, and is not waited for.
const READY_WITHIN: Duration = Duration::from_secs(900);
/// How often it is asked whether it is ready, and how often the waiting is told of.
const ASKED_EVERY: Duration = Duration::from_millis(50);
const TOLD_EVERY: Duration = Duration::from_secs(5);
/// How long a server may take to stop by itself; its data is deleted next, so little is lost.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How many lines of a log are shown where its server fails.
const SHOWN_LINES: usize = 8;

/// How much of a cluster is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// etcd, kube-apiserver and kube-controller-manager; needs Go, no root.
    Api,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Api => "api",
        })
    }
}

/// What `up` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// It started the servers.
    Started,
    /// They ran before.
    Already,
}

/// Starts a tier, if it does not run; leaves nothing running where it fails.
pub fn up(root: &Path, state: &State, tier: Tier, how: How) -> Result<Up> {
    let _lock = state.lock()?;
    let recorded = ledger::read(state)?;
    if let Some(cluster) = state.cluster()? {
        match ended(&cluster, &recorded)? {
            None if cluster.tier == tier && cluster.durable == how.durable => return Ok(Up::Already),
            None => bail!(
                "tier {} is up in {}, {}; run `cargo xtask real down` first",
                cluster.tier,
                state.folder().display(),
                durability(cluster.durable)
            ),
            Some(name) => eprintln!("{name} has ended; starting all anew"),
        }
    }
    let begin = Instant::now();
    let programs: [PathBuf; 3] = build::paths(root, &api::PROGRAMS, Which::Pinned)?
        .try_into()
        .map_err(|_| anyhow!("failed to find every program of the tier"))?;
    stop_all(&recorded)?;
    state.clear()?;
    let built = begin.elapsed();
    match start(state, tier, how, programs) {
        Ok(()) => {
            let took = (begin.elapsed() - built).as_secs_f64();
            eprintln!("tier {tier} is ready after {took:.1} s, {}", durability(how.durable));
            Ok(Up::Started)
        }
        Err(error) => {
            // What went wrong first is what is told; what cannot be stopped is told too, and `down` tries again.
            match ledger::read(state).and_then(|recorded| stop_all(&recorded)) {
                Ok(_) => state.clear()?,
                Err(stopping) => eprintln!("{stopping:#}"),
            }
            Err(error)
        }
    }
}

fn durability(durable: bool) -> &'static str {
    if durable {
        "etcd waits for the disk"
    } else {
        "etcd does not wait for the disk (--unsafe-no-fsync): for tests only"
    }
}

/// Returns the name of a process that was to run and does not.
fn ended(cluster: &Cluster, recorded: &[Recorded]) -> Result<Option<String>> {
    for name in &cluster.processes {
        let runs = match recorded.iter().find(|recorded| recorded.name == *name) {
            Some(recorded) => recorded.runs()?,
            None => false,
        };
        if !runs {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

fn start(state: &State, tier: Tier, how: How, programs: [PathBuf; 3]) -> Result<()> {
    let [etcd_port, etcd_peer_port, api_port] = [Reserved::new()?, Reserved::new()?, Reserved::new()?];
    let address = api::own_address();
    let admin = pki::write(state, address, api_port.port())?;
    let layout = Layout {
        folder: state.folder().to_owned(),
        programs,
        etcd_port: etcd_port.port(),
        etcd_peer_port: etcd_peer_port.port(),
        api_port: api_port.port(),
        address,
        durable: how.durable,
    };
    let [etcd, server, controllers] = api::servers(&layout);
    state.write_cluster(&Cluster {
        tier,
        durable: how.durable,
        api_port: api_port.port(),
        processes: [&etcd, &server, &controllers].map(|it| it.name.to_owned()).into(),
    })?;
    for port in [etcd_port, etcd_peer_port, api_port] {
        port.release();
    }
    let api = Api::new(layout.api_port, &admin)?;
    // kube-apiserver waits for etcd by itself, and has much to prepare meanwhile.
    let etcd = etcd.start(state, 0)?;
    let server = server.start(state, 1)?;
    until_ready(state, &[&etcd, &server], &api, "/readyz")?;
    let controllers = controllers.start(state, 2)?;
    // Nothing can be done in a namespace before a controller has made its service account.
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until_ready(state, &[&etcd, &server, &controllers], &api, account)
}

/// Waits until the API answers a path with success. The last of the servers is the one that is waited for.
fn until_ready(state: &State, servers: &[&Recorded], api: &Api, path: &str) -> Result<()> {
    let begin = Instant::now();
    let mut told = begin;
    let name = servers.last().map_or("the API", |recorded| &recorded.name);
    loop {
        for server in servers {
            if !server.runs()? {
                return Err(broken(state, &server.name, "ended while it was waited for"));
            }
        }
        let answer = match api.answers(path) {
            Ok(()) => {
                eprintln!("{name}: ready after {:.1} s", begin.elapsed().as_secs_f64());
                return Ok(());
            }
            Err(answer) => answer,
        };
        if begin.elapsed() > READY_WITHIN {
            let what = format!("is not ready after {} s; {path}: {answer}", READY_WITHIN.as_secs());
            return Err(broken(state, name, &what));
        }
        if told.elapsed() > TOLD_EVERY {
            told = Instant::now();
            eprintln!("{name}: waiting for {} s; {answer}", begin.elapsed().as_secs());
        }
        std::thread::sleep(ASKED_EVERY);
    }
}

/// Tells what is wrong with a server, and which log says more.
fn broken(state: &State, name: &str, what: &str) -> anyhow::Error {
    let log = state.log(name);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    anyhow!(
        "failed to start {name}: it {what}; {} ends with:\n{}",
        log.display(),
        tail(&text, SHOWN_LINES)
    )
}

/// Stops processes in the opposite order of their starts.
fn stop_all(recorded: &[Recorded]) -> Result<usize> {
    let mut stopped = 0;
    for recorded in recorded.iter().rev() {
        if recorded.runs()? {
            recorded.stop(STOP_WITHIN)?;
            stopped += 1;
        }
    }
    Ok(stopped)
}

/// Stops what runs and deletes its data.
pub fn down(state: &State) -> Result<()> {
    let _lock = state.lock()?;
    let begin = Instant::now();
    let recorded = ledger::read(state)?;
    let stopped = stop_all(&recorded)?;
    state.clear()?;
    if recorded.is_empty() {
        println!("nothing is up in {}", state.folder().display());
    } else {
        println!(
            "stopped {stopped} of {} processes in {:.1} s; logs stay in {}",
            recorded.len(),
            begin.elapsed().as_secs_f64(),
            state.file("logs").display()
        );
    }
    Ok(())
}

/// Says of each process whether it runs; fails where one does not.
pub fn status(state: &State) -> Result<()> {
    let Some(cluster) = state.cluster()? else {
        bail!("nothing is up in {}", state.folder().display());
    };
    println!(
        "tier {} in {}, https://127.0.0.1:{}, {}",
        cluster.tier,
        state.folder().display(),
        cluster.api_port,
        durability(cluster.durable)
    );
    let recorded = ledger::read(state)?;
    println!("{:<26}{:<10}{:>9}{:>10}  LOG", "PROCESS", "STATE", "PID", "MEMORY");
    for name in &cluster.processes {
        let found = recorded.iter().find(|recorded| recorded.name == *name);
        let (shown, pid, memory) = match found {
            Some(found) if found.runs()? => ("runs", found.pid.to_string(), found.memory()),
            Some(found) => ("ended", found.pid.to_string(), None),
            None => ("absent", "-".to_owned(), None),
        };
        let memory = memory.map_or_else(|| "-".to_owned(), |memory| format!("{memory} MiB"));
        let log = state.log(name);
        println!("{name:<26}{shown:<10}{pid:>9}{memory:>10}  {}", log.display());
    }
    match ended(&cluster, &recorded)? {
        None => Ok(()),
        Some(name) => Err(anyhow!("{name} does not run; {} says why", state.log(&name).display()))
            .context("the cluster is not whole; `cargo xtask real up` starts it anew"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn own(name: &str) -> Recorded {
        Recorded::of(0, name, std::process::id()).unwrap()
    }

    #[test]
    fn a_cluster_is_whole_only_while_each_of_its_processes_runs() {
        let cluster = Cluster {
            tier: Tier::Api,
            durable: false,
            api_port: 1,
            processes: vec!["etcd".to_owned(), "kube-apiserver".to_owned()],
        };
        assert_eq!(ended(&cluster, &[own("etcd"), own("kube-apiserver")]).unwrap(), None);
        let never = ended(&cluster, &[own("etcd")]).unwrap();
        assert_eq!(never.as_deref(), Some("kube-apiserver"));
        let replaced = Recorded {
            started: 1,
            ..own("etcd")
        };
        let gone = ended(&cluster, &[replaced, own("kube-apiserver")]).unwrap();
        assert_eq!(gone.as_deref(), Some("etcd"));
    }

    #[test]
    fn a_server_that_fails_is_named_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        state.write("logs/etcd.log", b"one\naddress in use\n").unwrap();
        let error = broken(&state, "etcd", "ended").to_string();
        assert!(
            error.contains("logs/etcd.log") && error.contains("address in use"),
            "{error}"
        );
    }
}
