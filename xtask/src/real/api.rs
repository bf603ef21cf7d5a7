//! Tier api: etcd, kube-apiserver and kube-controller-manager on the loopback interface, as an ordinary user.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::pki::{Admin, SERVICE_ADDRESS};
use super::program::Program;
use super::server::Server;

/// The programs that the tier runs.
pub const PROGRAMS: [Program; 3] = [Program::Etcd, Program::KubeApiserver, Program::KubeControllerManager];

/// All that the servers' command lines are made of.
pub struct Layout {
    /// The folder of the state.
    pub folder: PathBuf,
    /// The programs, in the order of [`PROGRAMS`].
    pub programs: [PathBuf; 3],
    pub etcd_port: u16,
    pub etcd_peer_port: u16,
    pub api_port: u16,
    /// The address that the API is reached at from this machine.
    pub listen: Ipv4Addr,
    /// The address that the API tells others to use; kube-apiserver refuses a loopback one.
    pub address: Ipv4Addr,
    /// Whether etcd waits for the disk.
    pub durable: bool,
}

/// Returns the servers, in the order in which they start.
pub fn servers(layout: &Layout) -> [Server; 3] {
    let [etcd, api, controllers] = layout.programs.clone();
    [
        Server {
            name: Program::Etcd.name(),
            program: etcd,
            arguments: etcd_arguments(layout),
        },
        Server {
            name: Program::KubeApiserver.name(),
            program: api,
            arguments: api_arguments(layout),
        },
        Server {
            name: Program::KubeControllerManager.name(),
            program: controllers,
            arguments: controller_arguments(layout),
        },
    ]
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

fn etcd_arguments(layout: &Layout) -> Vec<String> {
    let client = format!("http://127.0.0.1:{}", layout.etcd_port);
    let peer = format!("http://127.0.0.1:{}", layout.etcd_peer_port);
    let mut arguments = vec![
        format!("--data-dir={}", path(&layout.folder, "etcd")),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    if !layout.durable {
        arguments.push("--unsafe-no-fsync".to_owned());
    }
    arguments
}

fn api_arguments(layout: &Layout) -> Vec<String> {
    let file = |name: &str| path(&layout.folder, name);
    vec![
        format!("--etcd-servers=http://127.0.0.1:{}", layout.etcd_port),
        format!("--bind-address={}", layout.listen),
        format!("--secure-port={}", layout.api_port),
        format!("--advertise-address={}", layout.address),
        format!("--tls-cert-file={}", file("pki/apiserver.crt")),
        format!("--tls-private-key-file={}", file("pki/apiserver.key")),
        format!("--client-ca-file={}", file("pki/ca.crt")),
        format!("--token-auth-file={}", file("pki/tokens.csv")),
        format!("--kubelet-client-certificate={}", file("pki/kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("pki/kubelet-client.key")),
        format!("--service-account-key-file={}", file("pki/accounts.pub")),
        format!("--service-account-signing-key-file={}", file("pki/accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // Nodes' names are known to no name server.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-cluster-ip-range={}/16", service_network()),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// Returns the network that the API's own service address is the first of.
fn service_network() -> Ipv4Addr {
    let [a, b, ..] = SERVICE_ADDRESS.octets();
    Ipv4Addr::new(a, b, 0, 0)
}

fn controller_arguments(layout: &Layout) -> Vec<String> {
    let file = |name: &str| path(&layout.folder, name);
    vec![
        format!("--kubeconfig={}", file("kube-controller-manager.kubeconfig")),
        format!("--service-account-private-key-file={}", file("pki/accounts.key")),
        format!("--root-ca-file={}", file("pki/ca.crt")),
        // Each controller has the rights of its own account, as on other clusters.
        "--use-service-account-credentials=true".to_owned(),
        // There is one: nothing is gained by waiting for another's Lease.
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        // What it may ask of the API in a second; the default makes its start wait for its own first questions.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
    ]
}

/// Returns an address of this machine that is not a loopback one; where there is no network, one that nobody has, since
/// nothing of this tier connects to it.
pub fn own_address() -> Ipv4Addr {
    let nobody = Ipv4Addr::new(192, 0, 2, 1);
    // A datagram socket that is connected sends nothing: the kernel only chooses the address to send from.
    let chosen = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9))?;
        socket.local_addr()
    });
    match chosen {
        Ok(SocketAddr::V4(address)) if !address.ip().is_loopback() && !address.ip().is_unspecified() => *address.ip(),
        _ => nobody,
    }
}

/// The API, asked as the administrator.
pub struct Api {
    client: reqwest::blocking::Client,
    base: String,
    token: String,
}

impl Api {
    /// Prepares to ask the API at an address of this machine.
    pub fn new(listen: Ipv4Addr, port: u16, admin: &Admin) -> Result<Api> {
        Self::at(format!("https://{listen}:{port}"), &admin.ca, &admin.token)
    }

    /// Prepares to ask the API at a URL, as the bearer of a token.
    pub fn at(base: String, ca: &str, token: &str) -> Result<Api> {
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).context("failed to read the API's certificate")?;
        let client = reqwest::blocking::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
            .context("failed to make a client")?;
        Ok(Api {
            client,
            base,
            token: token.to_owned(),
        })
    }

    /// Prepares to ask the API as a kubeconfig of ours says.
    pub fn of(path: &Path) -> Result<Api> {
        let failed = || format!("failed to read {}", path.display());
        let text = std::fs::read_to_string(path).with_context(failed)?;
        let config = schemas::yaml::parse_value(&text).with_context(failed)?;
        let word = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
        let (Some(server), Some(ca), Some(token)) = (
            word("/clusters/0/cluster/server"),
            word("/clusters/0/cluster/certificate-authority-data"),
            word("/users/0/user/token"),
        ) else {
            bail!("{}: server, certificate or token is missing", failed());
        };
        let ca = String::from_utf8(STANDARD.decode(ca).with_context(failed)?).with_context(failed)?;
        Api::at(server.to_owned(), &ca, token)
    }

    /// Makes an object.
    pub fn create(&self, path: &str, object: &serde_json::Value) -> Result<()> {
        let url = format!("{}{path}", self.base);
        let failed = || format!("failed to make an object at {path}");
        let answer = self.client.post(url).bearer_auth(&self.token).json(object).send();
        let answer = answer.with_context(failed)?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{}: {status}: {}", failed(), answer.text().unwrap_or_default());
        }
        Ok(())
    }

    /// Returns what a path is answered with, where that is success; else what was wrong.
    pub fn answers(&self, path: &str) -> Result<String, String> {
        let url = format!("{}{path}", self.base);
        match self.client.get(url).bearer_auth(&self.token).send() {
            Ok(answer) if answer.status().is_success() => answer.text().map_err(|error| error.to_string()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => {
                let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                Err(cause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(durable: bool) -> Layout {
        Layout {
            folder: "/state".into(),
            programs: ["etcd".into(), "/bin/api".into(), "/bin/controllers".into()],
            etcd_port: 1001,
            etcd_peer_port: 1002,
            api_port: 1003,
            listen: Ipv4Addr::LOCALHOST,
            address: Ipv4Addr::new(192, 0, 2, 7),
            durable,
        }
    }

    #[test]
    fn the_servers_find_each_other_on_the_ports_that_were_reserved() {
        let [etcd, api, controllers] = servers(&layout(false));
        let has = |server: &Server, argument: &str| server.arguments.iter().any(|it| it == argument);
        assert!(has(&etcd, "--listen-client-urls=http://127.0.0.1:1001"));
        assert!(has(&api, "--etcd-servers=http://127.0.0.1:1001"));
        assert!(has(&api, "--secure-port=1003"));
        assert!(has(&api, "--advertise-address=192.0.2.7"));
        assert!(has(
            &controllers,
            "--kubeconfig=/state/kube-controller-manager.kubeconfig"
        ));
        assert_eq!(api.program, Path::new("/bin/api"));
    }

    #[test]
    fn the_api_is_reached_from_this_machine_only_and_asks_for_roles() {
        let [_, api, _] = servers(&layout(false));
        assert!(api.arguments.contains(&"--bind-address=127.0.0.1".to_owned()));
        assert!(api.arguments.contains(&"--authorization-mode=Node,RBAC".to_owned()));
        assert!(
            api.arguments
                .contains(&"--service-cluster-ip-range=10.96.0.0/16".to_owned())
        );
    }

    #[test]
    fn etcd_forgoes_the_disk_only_where_durability_was_not_asked_for() {
        let unsafe_option = |durable| {
            servers(&layout(durable))[0]
                .arguments
                .contains(&"--unsafe-no-fsync".to_owned())
        };
        assert!(unsafe_option(false));
        assert!(!unsafe_option(true));
    }

    #[test]
    fn the_address_told_to_others_is_never_a_loopback_one() {
        assert!(!own_address().is_loopback() && !own_address().is_unspecified());
    }
}
