//! Tier node: a scheduler, and one node with containerd, kubelet and kube-proxy, whose network is a namespace of its own.
//!
//! The namespace is joined to the machine by a pair of interfaces; the API listens on the machine's end. Bridges, rules of
//! iptables and the pods' addresses lie in the namespace and go with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::program::Program;
use super::server::Server;
use super::state::State;
use crate::images::archive::{self, Content, Image, Layer};
use crate::process;

pub mod clean;
mod control_groups;
mod kernel;
pub mod names;
mod network;
pub mod volumes;

pub use network::Network;

/// The programs that the tier runs besides those of tier api.
pub const PROGRAMS: [Program; 3] = [Program::KubeScheduler, Program::Kubelet, Program::KubeProxy];
/// The name of the node.
pub const NODE: &str = "foreman-node";
/// This program, as it was when the tier started, in the folder of the state: Cargo replaces it where it lay.
pub const OWN: &str = "xtask";
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

/// Checks that the tier can run here, and installs the Debian packages that are missing where that is asked for.
pub fn check(install: bool) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("tier node needs root: containers, mounts and network namespaces");
    }
    if clean::another_kubelet() {
        bail!(
            "tier node needs a machine without a kubelet: another one runs here; stop it, or its tier with `real down`"
        );
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
    kernel::keep(state)?;
    network.make()?;
    control_groups::make(&network.name)?;
    // By this path it is found also where Cargo has replaced it since it began.
    std::fs::copy("/proc/self/exe", state.file(OWN)).context("failed to copy this program")?;
    state.write("cni/10-foreman.conflist", cni(state.folder(), network).as_bytes())?;
    state.write("kubelet.yaml", kubelet(state.folder(), network).as_bytes())?;
    state.write("pause.c", PAUSE_SOURCE.as_bytes())?;
    let mut cc = Command::new("cc");
    cc.current_dir(state.folder())
        .args(["-static", "-O2", "-o", "pause", "pause.c"]);
    process::run(cc).context("failed to build the pause image")?;
    let bytes = std::fs::read(state.file("pause")).context("failed to read the pause program")?;
    let file = Content {
        path: "pause".to_owned(),
        bytes,
        mode: 0o755,
    };
    let image = Image {
        name: PAUSE.to_owned(),
        layers: vec![Layer::of(&[file])],
        entrypoint: vec!["/pause".to_owned()],
        user: None,
        labels: Default::default(),
    };
    archive::write(&state.file("pause.tar"), &[image])
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

fn cni(folder: &Path, network: &Network) -> String {
    let ipam = serde_json::json!({
        "type": "host-local",
        "dataDir": folder.join("cni-data"),
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    serde_json::json!({
        "cniVersion": "1.0.0",
        // Files outside of the folder are known by it.
        "name": network.name,
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
        "cgroupRoot": format!("/{}", network.name),
        "clusterDNS": [network.node],
        "clusterDomain": names::DOMAIN,
        "podLogsDir": format!("{folder}/pods"),
        "failSwapOn": false,
        // From Kubernetes 1.35 on a kubelet refuses control groups of version 1 unless told so.
        "failCgroupV1": false,
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

/// Returns the servers of the node, in the order in which they start: scheduler, containerd, names, kube-proxy, kubelet.
pub fn servers(folder: &Path, network: &Network, programs: &[PathBuf; 3], own: &Path) -> [Server; 5] {
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
            "names",
            own,
            vec![
                "real".to_owned(),
                "names".to_owned(),
                format!("--kubeconfig={}", file("names.kubeconfig")),
                format!("--listen={}:53", network.node),
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
        inside(
            Program::Kubelet.name(),
            kubelet,
            vec![
                format!("--config={}", file("kubelet.yaml")),
                format!("--kubeconfig={}", file("kubelet.kubeconfig")),
                format!("--root-dir={}", file("kubelet")),
                format!("--cert-dir={}", file("kubelet/pki")),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={}", network.node),
            ],
        ),
    ]
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
    fn what_the_node_writes_lies_in_its_folder_or_bears_its_name() {
        let network = Network::of(Path::new("/s"));
        let kubelet = kubelet(Path::new("/s"), &network);
        assert!(kubelet.contains("\"podLogsDir\":\"/s/pods\""), "{kubelet}");
        assert!(
            kubelet.contains(&format!("\"cgroupRoot\":\"/{}\"", network.name)),
            "{kubelet}"
        );
        let cni = cni(Path::new("/s"), &network);
        assert!(cni.contains("\"dataDir\":\"/s/cni-data\""), "{cni}");
        assert!(cni.contains(&network.name), "{cni}");
    }
}
