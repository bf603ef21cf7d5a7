//! Starting a tier of real servers, telling of it and stopping it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::api::{self, Api, Layout};
use super::build::{self, Which, tail};
use super::ledger::{self, Recorded};
use super::ports::Reserved;
use super::program::{Program, Release};
use super::server::Server;
use super::state::{Cluster, State, Tier};
use super::{How, argocd, node, pki};

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
            None if cluster.tier.includes(tier)
                && cluster.durable == how.durable
                && how.kubernetes.is_none_or(|wanted| wanted == cluster.kubernetes) =>
            {
                return Ok(Up::Already);
            }
            None => bail!(
                "tier {} of Kubernetes {} is up in {}, {}; run `cargo xtask real down` first",
                cluster.tier,
                cluster.kubernetes.name(),
                state.folder().display(),
                durability(cluster.durable)
            ),
            Some(name) => eprintln!("{name} has ended; starting all anew"),
        }
    }
    match tier {
        Tier::Api => {}
        Tier::Node => node::check(how.install)?,
        Tier::Argocd => argocd::check()?,
    }
    let begin = Instant::now();
    let release = how.kubernetes.unwrap_or_default();
    let programs = Programs {
        api: find(root, &api::PROGRAMS, release)?,
        node: match tier {
            Tier::Node => Some(find(root, &node::PROGRAMS, release)?),
            Tier::Api | Tier::Argocd => None,
        },
        argocd: match tier {
            Tier::Argocd => Some(argocd::Parts::find(root)?),
            Tier::Api | Tier::Node => None,
        },
    };
    stop_all(state, &recorded)?;
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
            match ledger::read(state).and_then(|recorded| stop_all(state, &recorded)) {
                Ok(_) => state.clear()?,
                Err(stopping) => eprintln!("{stopping:#}"),
            }
            Err(error)
        }
    }
}

/// The programs that a tier runs.
struct Programs {
    api: [PathBuf; 3],
    node: Option<[PathBuf; 3]>,
    argocd: Option<argocd::Parts>,
}

fn find(root: &Path, programs: &[Program; 3], release: Release) -> Result<[PathBuf; 3]> {
    build::paths(root, programs, Which::Of(release))?
        .try_into()
        .map_err(|_| anyhow!("failed to find every program of the tier"))
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
            Some(recorded) => recorded.runs()? && !recorded.is_frozen(),
            None => false,
        };
        if !runs {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

fn start(state: &State, tier: Tier, how: How, programs: Programs) -> Result<()> {
    let [etcd_port, etcd_peer_port, api_port] = [Reserved::new()?, Reserved::new()?, Reserved::new()?];
    let network = node::Network::of(state.folder());
    let (listen, address) = match tier {
        Tier::Api | Tier::Argocd => (Ipv4Addr::LOCALHOST, api::own_address()),
        Tier::Node => (network.host, network.host),
    };
    let admin = pki::write(state, listen, address, api_port.port())?;
    let layout = Layout {
        folder: state.folder().to_owned(),
        programs: programs.api,
        etcd_port: etcd_port.port(),
        etcd_peer_port: etcd_peer_port.port(),
        api_port: api_port.port(),
        listen,
        address,
        durable: how.durable,
    };
    let [etcd, server, controllers] = api::servers(&layout);
    let own = state.file(node::OWN);
    let node = programs
        .node
        .map(|programs| node::servers(state.folder(), &network, &programs, &own));
    let argocd = programs.argocd.as_ref().map(|found| {
        let ports = argocd::Ports::reserve()?;
        let parts = argocd::parts(state.folder(), found, &ports);
        anyhow::Ok((found, parts, ports))
    });
    let argocd = argocd.transpose()?;
    let parts = argocd.iter().flat_map(|(_, parts, _)| parts).map(|part| &part.server);
    let all = [&etcd, &server, &controllers]
        .into_iter()
        .chain(node.iter().flatten())
        .chain(parts);
    state.write_cluster(&Cluster {
        tier,
        durable: how.durable,
        kubernetes: how.kubernetes.unwrap_or_default(),
        api: format!("https://{listen}:{}", layout.api_port),
        processes: all.map(|server| server.name.to_owned()).collect(),
    })?;
    if node.is_some() {
        node::prepare(state, &network)?;
    }
    for port in [etcd_port, etcd_peer_port, api_port] {
        port.release();
    }
    let api = Api::new(listen, layout.api_port, &admin)?;
    // kube-apiserver waits for etcd by itself, and has much to prepare meanwhile.
    let etcd = etcd.start(state, 0)?;
    let server = server.start(state, 1)?;
    until_ready(state, &[&etcd, &server], &api, "/readyz", |_| true)?;
    let controllers = controllers.start(state, 2)?;
    // Nothing can be done in a namespace before a controller has made its service account.
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until_ready(state, &[&etcd, &server, &controllers], &api, account, |_| true)?;
    if let Some(servers) = node {
        start_node(state, &api, &servers)?;
    }
    if let Some((found, parts, ports)) = argocd {
        argocd::configure(state, &api, found)?;
        ports.release();
        start_argocd(state, &parts)?;
    }
    Ok(())
}

fn start_argocd(state: &State, parts: &[argocd::Part]) -> Result<()> {
    let mut started = Vec::new();
    for (part, order) in parts.iter().zip(3..) {
        started.push(part.server.start(state, order)?);
        let servers: Vec<&Recorded> = started.iter().collect();
        until(state, &servers, || part.answers())?;
    }
    Ok(())
}

fn start_node(state: &State, api: &Api, [scheduler, containerd, names, proxy, kubelet]: &[Server; 5]) -> Result<()> {
    node::volumes::make(state, api)?;
    let scheduler = scheduler.start(state, 3)?;
    let containerd = containerd.start(state, 4)?;
    let names = names.start(state, 5)?;
    let proxy = proxy.start(state, 6)?;
    let begin = Instant::now();
    while node::import(state, &node::pause_archive(state)).is_err() {
        if !containerd.runs()? || begin.elapsed() > READY_WITHIN {
            return Err(broken(state, "containerd", "takes no images"));
        }
        std::thread::sleep(ASKED_EVERY);
    }
    let kubelet = kubelet.start(state, 7)?;
    let path = format!("/api/v1/nodes/{}", node::NODE);
    let servers = [&scheduler, &containerd, &names, &proxy, &kubelet];
    until_ready(state, &servers, api, &path, is_ready)
}

/// Returns whether a Node says of itself that it is ready.
fn is_ready(answer: &str) -> bool {
    let node: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"))
}

/// Waits until the API answers a path with success and what is wanted. The last of the servers is waited for.
pub fn until_ready(
    state: &State,
    servers: &[&Recorded],
    api: &Api,
    path: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    until(state, servers, || match api.answers(path) {
        Ok(answer) if wanted(&answer) => Ok(()),
        Ok(_) => Err(format!("{path}: not ready yet")),
        Err(answer) => Err(format!("{path}: {answer}")),
    })
}

/// Waits until what is asked is answered with success. The last of the servers is waited for.
fn until(state: &State, servers: &[&Recorded], ask: impl Fn() -> Result<(), String>) -> Result<()> {
    let begin = Instant::now();
    let mut told = begin;
    let name = servers.last().map_or("the API", |recorded| &recorded.name);
    loop {
        for server in servers {
            if !server.runs()? {
                return Err(broken(state, &server.name, "ended while it was waited for"));
            }
        }
        let answer = match ask() {
            Ok(()) => {
                eprintln!("{name}: ready after {:.1} s", begin.elapsed().as_secs_f64());
                return Ok(());
            }
            Err(answer) => answer,
        };
        if begin.elapsed() > READY_WITHIN {
            let what = format!("is not ready after {} s; {answer}", READY_WITHIN.as_secs());
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
fn stop_all(state: &State, recorded: &[Recorded]) -> Result<usize> {
    let mut stopped = 0;
    for recorded in recorded.iter().rev() {
        if recorded.runs()? {
            recorded.stop(STOP_WITHIN)?;
            stopped += 1;
        }
    }
    // A folder without a node has nothing of this, and nobody but root could have made it.
    if state.file("containerd.toml").exists() {
        node::clean::all(state)?;
    }
    Ok(stopped)
}

/// Stops what runs and deletes its data.
pub fn down(state: &State) -> Result<()> {
    let _lock = state.lock()?;
    let begin = Instant::now();
    let recorded = ledger::read(state)?;
    let stopped = stop_all(state, &recorded)?;
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
        "tier {} of Kubernetes {} in {}, {}, {}",
        cluster.tier,
        cluster.kubernetes.name(),
        state.folder().display(),
        cluster.api,
        durability(cluster.durable)
    );
    let recorded = ledger::read(state)?;
    println!("{:<32}{:<10}{:>9}{:>10}  LOG", "PROCESS", "STATE", "PID", "MEMORY");
    for name in &cluster.processes {
        let found = recorded.iter().find(|recorded| recorded.name == *name);
        let (shown, pid, memory) = match found {
            Some(found) if found.is_frozen() => ("frozen", found.pid.to_string(), found.memory()),
            Some(found) if found.runs()? => ("runs", found.pid.to_string(), found.memory()),
            Some(found) => ("ended", found.pid.to_string(), None),
            None => ("absent", "-".to_owned(), None),
        };
        let memory = memory.map_or_else(|| "-".to_owned(), |memory| format!("{memory} MiB"));
        let log = state.log(name);
        println!("{name:<32}{shown:<10}{pid:>9}{memory:>10}  {}", log.display());
    }
    match ended(&cluster, &recorded)? {
        None => Ok(()),
        Some(name) => Err(anyhow!("{name} does not run; {} says why", state.log(&name).display())).context(
            "the cluster is not whole; `cargo xtask real start` starts what `stop` stopped, `up` starts all anew",
        ),
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
            kubernetes: Release::Usual,
            api: String::new(),
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
    fn a_node_is_ready_when_it_says_so() {
        let node = |status: &str| format!(r#"{{"status":{{"conditions":[{{"type":"Ready","status":"{status}"}}]}}}}"#);
        assert!(is_ready(&node("True")));
        assert!(!is_ready(&node("False")));
        assert!(!is_ready("{}"));
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
