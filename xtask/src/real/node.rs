//! Tier node: a scheduler, and one node with containerd, kubelet and kube-proxy, whose network is a namespace of its own.
//!
//! The namespace is joined to the machine by a pair of interfaces; the API listens on the machine's end. Bridges, rules of
//! iptables and the pods' addresses lie in the namespace and go with it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use super::image::{self, Content};
use super::program::Program;
use super::server::Server;
use super::state::State;
use crate::process;

/// The programs that the tier runs besides those of tier api.
pub const PROGRAMS: [Program; 3] = [Program::KubeScheduler, Program::Kubelet, Program::KubeProxy];
/// The name of the node.
pub const NODE: &str = "foreman-node";
/// What every pod's first container is.
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// The pods' addresses, within the namespace.
const POD_NETWORK: &str = "10.88.0.0/16";
/// The programs that must be there, and the Debian packages that bring them.
const NEEDED: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("cc", "gcc libc6-dev"),
];
/// A program that waits, and reaps what its pod's other processes leave behind.
const PAUSE_SOURCE: &str = r"#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
    signal(SIGINT, leave);
    signal(SIGTERM, leave);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
";

/// The network that joins the node to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The namespace, and the stem of the interfaces' names.
    pub name: String,
    /// The machine's end.
    pub host: Ipv4Addr,
    /// The node's end.
    pub node: Ipv4Addr,
}

impl Network {
    /// Names the network of a state folder; two folders have two networks.
    pub fn of(folder: &Path) -> Network {
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let [a, b] = [digest[0], digest[1] & 0xfc];
        Network {
            name: format!("fm{}", hex::encode(&digest[..4])),
            host: Ipv4Addr::new(10, 89, a, b | 1),
            node: Ipv4Addr::new(10, 89, a, b | 2),
        }
    }

    fn commands(&self) -> Vec<String> {
        let Network { name, host, node } = self;
        vec![
            format!("netns add {name}"),
            format!("link add {name}h type veth peer name {name}n"),
            format!("link set {name}n netns {name}"),
            format!("addr add {host}/30 dev {name}h"),
            format!("link set {name}h up"),
            format!("-n {name} addr add {node}/30 dev {name}n"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set {name}n up"),
            format!("-n {name} route add default via {host}"),
        ]
    }

    fn make(&self) -> Result<()> {
        for command in self.commands() {
            let mut ip = Command::new("ip");
            ip.args(command.split(' '));
            process::run(ip).context("failed to make the node's network")?;
        }
        // Pods reach each other and the API by way of the node.
        let mut sysctl = Command::new("nsenter");
        sysctl.arg(format!("--net=/run/netns/{}", self.name)).args([
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ]);
        process::run(sysctl).context("failed to make the node's network")
    }

    fn remove(&self) -> Result<()> {
        if !Path::new("/run/netns").join(&self.name).exists() {
            return Ok(());
        }
        let mut ip = Command::new("ip");
        ip.args(["netns", "delete", &self.name]);
        process::run(ip).context("failed to remove the node's network")
    }
}

/// Checks that the tier can run here, and installs the Debian packages that are missing where that is asked for.
pub fn check(install: bool) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("tier node needs root: containers, mounts and network namespaces");
    }
    let packages = missing(|program| {
        let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        folders
            .split(':')
            .any(|folder| Path::new(folder).join(program).exists())
    });
    if packages.is_empty() {
        return Ok(());
    }
    if !install {
        bail!(
            "tier node needs the Debian packages {}; `--install` installs them",
            packages.join(" ")
        );
    }
    let mut apt = Command::new("sh");
    apt.args([
        "-c",
        "apt-get update -q && apt-get install -q -y --no-install-recommends \"$@\"",
        "sh",
    ])
    .args(packages.iter().flat_map(|package| package.split(' ')))
    .env("DEBIAN_FRONTEND", "noninteractive")
    // What comes with a package is started by this program, not by the machine.
    .env("RUNLEVEL", "1");
    process::run(apt)
}

fn missing(is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    packages
}

/// Makes the network and writes what the node's programs read.
pub fn prepare(state: &State, network: &Network) -> Result<()> {
    // Written first: what is made from here on is taken away where this file is.
    state.write("containerd.toml", containerd(state.folder()).as_bytes())?;
    network.make()?;
    state.write("cni/10-foreman.conflist", cni().as_bytes())?;
    state.write("kubelet.yaml", kubelet(state.folder(), network).as_bytes())?;
    state.write("pause.c", PAUSE_SOURCE.as_bytes())?;
    let mut cc = Command::new("cc");
    cc.current_dir(state.folder())
        .args(["-static", "-O2", "-o", "pause", "pause.c"]);
    process::run(cc).context("failed to build the pause image")?;
    let bytes = std::fs::read(state.file("pause")).context("failed to read the pause program")?;
    let file = Content {
        path: "pause",
        bytes,
        mode: 0o755,
    };
    image::write(&state.file("pause.tar"), PAUSE, &["/pause"], &[file])
}

/// Gives an archive of an image to the node.
pub fn import(state: &State, archive: &Path) -> Result<()> {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address")
        .arg(state.file("containerd.sock"))
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive);
    process::run(ctr).context("failed to import an image")
}

/// Returns the path of the pause image.
pub fn pause_archive(state: &State) -> PathBuf {
    state.file("pause.tar")
}

fn cni() -> String {
    let ipam = serde_json::json!({
        "type": "host-local",
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "foreman",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    // The score of the out-of-memory killer is left alone where this process may not lower it.
    format!(
        "version = 2\n\
         root = \"{folder}/containerd/root\"\n\
         state = \"{folder}/containerd/state\"\n\
         [grpc]\n\
         address = \"{folder}/containerd.sock\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         restrict_oom_score_adj = true\n\
         netns_mounts_under_state_dir = true\n\
         sandbox_image = \"{PAUSE}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n\
         conf_dir = \"{folder}/cni\"\n"
    )
}

fn kubelet(folder: &Path, network: &Network) -> String {
    let folder = folder.display();
    // YAML is a superset of JSON.
    serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node,
        "healthzBindAddress": "127.0.0.1",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "containerRuntimeEndpoint": format!("unix://{folder}/containerd.sock"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{folder}/pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
    })
    .to_string()
}

/// Returns the servers of the node, in the order in which they start: scheduler, containerd, kubelet, kube-proxy.
pub fn servers(folder: &Path, network: &Network, programs: &[PathBuf; 3]) -> [Server; 4] {
    let file = |name: &str| folder.join(name).display().to_string();
    let [scheduler, kubelet, proxy] = programs;
    // Only the network is another: with all of `ip netns exec` the control groups would be out of sight.
    let inside = |name: &'static str, program: &Path, arguments: Vec<String>| {
        let mut all = vec![
            format!("--net=/run/netns/{}", network.name),
            program.display().to_string(),
        ];
        all.extend(arguments);
        Server {
            name,
            program: "nsenter".into(),
            arguments: all,
        }
    };
    [
        Server {
            name: Program::KubeScheduler.name(),
            program: scheduler.clone(),
            arguments: vec![
                format!("--kubeconfig={}", file("kube-scheduler.kubeconfig")),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ],
        },
        inside(
            "containerd",
            Path::new("containerd"),
            vec![format!("--config={}", file("containerd.toml"))],
        ),
        inside(
            Program::Kubelet.name(),
            kubelet,
            vec![
                format!("--config={}", file("kubelet.yaml")),
                format!("--kubeconfig={}", file("kubelet.kubeconfig")),
                format!("--root-dir={}", file("kubelet")),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={}", network.node),
            ],
        ),
        inside(
            Program::KubeProxy.name(),
            proxy,
            vec![
                format!("--kubeconfig={}", file("kube-proxy.kubeconfig")),
                format!("--hostname-override={NODE}"),
                "--proxy-mode=iptables".to_owned(),
                format!("--cluster-cidr={POD_NETWORK}"),
                "--conntrack-max-per-core=0".to_owned(),
            ],
        ),
    ]
}

/// Ends the pods that containerd's stop leaves running, and takes away mounts, control groups and the network.
pub fn clean(state: &State) -> Result<()> {
    let socket = state.file("containerd.sock").display().to_string();
    let shims = shims(&socket);
    for parent in &shims {
        for child in children(*parent) {
            kill(child);
        }
    }
    for shim in shims {
        kill(shim);
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("failed to list the mounts")?;
    for point in mounts_below(&table, state.folder()) {
        unmount(&point, UnmountFlags::DETACH).with_context(|| format!("failed to unmount {}", point.display()))?;
    }
    Network::of(state.folder()).remove()
}

/// Kills a process; one that has ended meanwhile is none to be killed.
fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Finds the processes that look after containers of the containerd of this socket.
fn shims(socket: &str) -> Vec<i32> {
    processes()
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_shim(&line, socket)
        })
        .collect()
}

fn is_shim(command_line: &[u8], socket: &str) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.ends_with(b"containerd-shim-runc-v2") && words.any(|word| word == socket.as_bytes())
}

fn children(parent: i32) -> Vec<i32> {
    processes()
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().nth(1));
            fields.flatten() == Some(parent.to_string().as_str())
        })
        .collect()
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Returns the mount points below a folder, the innermost first.
fn mounts_below(table: &str, folder: &Path) -> Vec<PathBuf> {
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_by_their_packages_once() {
        assert_eq!(missing(|_| true), Vec::<&str>::new());
        assert_eq!(
            missing(|program| !matches!(program, "containerd" | "ctr")),
            ["containerd"]
        );
        assert_eq!(missing(|program| program != "cc"), ["gcc libc6-dev"]);
    }

    #[test]
    fn two_folders_have_two_networks_and_names_fit_the_kernel() {
        let (one, two) = (Network::of(Path::new("/a")), Network::of(Path::new("/b")));
        assert_ne!(one, two);
        assert!(one.name.len() + 1 < 16, "{}", one.name);
        assert_eq!(u32::from(one.host) + 1, u32::from(one.node));
    }

    #[test]
    fn only_the_shims_of_our_own_containerd_are_ours() {
        let line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-address\0/s/containerd.sock\0";
        assert!(is_shim(line, "/s/containerd.sock"));
        assert!(!is_shim(line, "/run/containerd/containerd.sock"));
        assert!(!is_shim(
            b"grep\0containerd-shim-runc-v2\0/s/containerd.sock\0",
            "/s/containerd.sock"
        ));
    }

    #[test]
    fn mounts_are_taken_away_from_the_inside_out_and_others_stay() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /s/a rw - tmpfs x rw\n3 2 0:3 / /s/a/b rw - tmpfs x rw\n\
                     4 1 0:4 / /sa rw - tmpfs x rw\n";
        let points = mounts_below(table, Path::new("/s"));
        assert_eq!(points, [PathBuf::from("/s/a/b"), PathBuf::from("/s/a")]);
    }

    #[test]
    fn the_nodes_programs_run_in_its_network_and_the_scheduler_beside_the_api() {
        let network = Network::of(Path::new("/s"));
        let programs = ["/b/scheduler".into(), "/b/kubelet".into(), "/b/proxy".into()];
        let [scheduler, containerd, kubelet, proxy] = servers(Path::new("/s"), &network, &programs);
        assert_eq!(scheduler.program, Path::new("/b/scheduler"));
        for server in [containerd, kubelet, proxy] {
            assert_eq!(server.program, Path::new("nsenter"), "{}", server.name);
            assert_eq!(server.arguments[0], format!("--net=/run/netns/{}", network.name));
        }
    }
}
