//! Argo CD on a cluster: redis, the repo-server and the application controller as processes, and what they read.
//!
//! The definitions and the configuration are those of the module that Argo CD is built from; beside them stands only what
//! `docs/argocd.md` tells a person to add.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api::Api;
use super::build::{self, Which};
use super::go;
use super::ports::Reserved;
use super::program::Program;
use super::server::Server;
use super::state::State;
use crate::process;

/// The namespace of Applications and of the configuration.
const NAMESPACE: &str = "argocd";
/// The store of what the two others know; any version of it serves.
const REDIS: &str = "redis-server";
/// What of the module's `manifests` is applied.
const MANIFESTS: [&str; 5] = [
    "crds/application-crd.yaml",
    "crds/appproject-crd.yaml",
    "base/config/argocd-cm.yaml",
    "base/config/argocd-cmd-params-cm.yaml",
    "base/config/argocd-secret.yaml",
];

/// Where Argo CD's parts are and what they are made of.
pub struct Parts {
    argocd: PathBuf,
    helm: PathBuf,
    kubectl: PathBuf,
    /// The folder of the module's manifests.
    manifests: PathBuf,
    /// What the configuration is patched with: the health of our kinds.
    health: PathBuf,
}

/// The ports that the parts listen on, on the loopback interface.
pub struct Ports {
    redis: Reserved,
    repo: Reserved,
    repo_metrics: Reserved,
    controller_metrics: Reserved,
}

/// One part, and the port on which it says that it is ready.
pub struct Part {
    /// How it is started.
    pub server: Server,
    /// The port.
    pub port: u16,
    /// The path, where it answers HTTP.
    pub path: Option<&'static str>,
}

/// Checks that redis is there.
pub fn check() -> Result<()> {
    match Command::new(REDIS).arg("--version").output() {
        Ok(answer) if answer.status.success() => Ok(()),
        _ => bail!("tier argocd needs `{REDIS}` on PATH: install the Debian package redis-server"),
    }
}

impl Parts {
    /// Finds the programs, and builds those that are not there.
    pub fn find(root: &Path) -> Result<Parts> {
        let wanted = [Program::Argocd, Program::Helm, Program::Kubectl];
        let [argocd, helm, kubectl]: [PathBuf; 3] = build::paths(root, &wanted, Which::Pinned)?
            .try_into()
            .ok()
            .context("failed to find every program of Argo CD")?;
        Ok(Parts {
            argocd,
            helm,
            kubectl,
            manifests: module(root)?.join("manifests"),
            health: root.join("argocd/argocd-cm.yaml"),
        })
    }
}

/// Finds the folder of Argo CD's module, which the build has fetched.
fn module(root: &Path) -> Result<PathBuf> {
    let failed = "failed to find the module of Argo CD";
    let mut command = Command::new(go::find(root)?);
    command
        .current_dir(root.join("tests/real").join(Program::Argocd.module()))
        .args(["mod", "download", "-json", Program::Argocd.versioned_by()])
        .env("GOWORK", "off");
    let answer = command.output().context(failed)?;
    if !answer.status.success() {
        bail!("{failed}: {}", String::from_utf8_lossy(&answer.stderr).trim());
    }
    let answer: Value = serde_json::from_slice(&answer.stdout).context(failed)?;
    Ok(answer["Dir"].as_str().context(failed)?.into())
}

impl Ports {
    /// Reserves them.
    pub fn reserve() -> Result<Ports> {
        Ok(Ports {
            redis: Reserved::new()?,
            repo: Reserved::new()?,
            repo_metrics: Reserved::new()?,
            controller_metrics: Reserved::new()?,
        })
    }

    /// Lets them go, for the servers that are started next.
    pub fn release(self) {
        for port in [self.redis, self.repo, self.repo_metrics, self.controller_metrics] {
            port.release();
        }
    }
}

/// Returns the parts in the order in which they start: redis, repo-server, application controller.
pub fn parts(folder: &Path, parts: &Parts, ports: &Ports) -> [Part; 3] {
    let redis = ports.redis.port();
    let told = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let redis_address = format!("--redis=127.0.0.1:{redis}");
    [
        Part {
            server: Server {
                name: "redis",
                program: REDIS.into(),
                arguments: told(&[
                    "--bind",
                    "127.0.0.1",
                    "--port",
                    &redis.to_string(),
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ]),
            },
            port: redis,
            path: None,
        },
        Part {
            server: argocd(
                "argocd-repo-server",
                folder,
                parts,
                told(&[
                    &redis_address,
                    "--address=127.0.0.1",
                    &format!("--port={}", ports.repo.port()),
                    "--metrics-address=127.0.0.1",
                    &format!("--metrics-port={}", ports.repo_metrics.port()),
                    "--disable-tls",
                ]),
            ),
            port: ports.repo_metrics.port(),
            path: Some("/healthz?full=true"),
        },
        Part {
            server: argocd(
                "argocd-application-controller",
                folder,
                parts,
                told(&[
                    &format!("--kubeconfig={}", folder.join("admin.kubeconfig").display()),
                    &format!("--namespace={NAMESPACE}"),
                    &redis_address,
                    &format!("--repo-server=127.0.0.1:{}", ports.repo.port()),
                    "--repo-server-plaintext",
                    &format!("--metrics-port={}", ports.controller_metrics.port()),
                    // So that each object's health can be read from its Application.
                    "--persist-resource-health",
                ]),
            ),
            port: ports.controller_metrics.port(),
            path: Some("/healthz"),
        },
    ]
}

/// Argo CD is one program, whose role is a variable; it calls `git` and `helm` by their names.
fn argocd(name: &'static str, folder: &Path, parts: &Parts, arguments: Vec<String>) -> Server {
    let home = folder.join("argocd").display().to_string();
    let helm = parts
        .helm
        .parent()
        .map_or_else(String::new, |it| it.display().to_string());
    let path = std::env::var("PATH").unwrap_or_default();
    let mut all = vec![
        format!("ARGOCD_BINARY_NAME={name}"),
        format!("HOME={home}"),
        format!("TMPDIR={home}"),
        format!("PATH={helm}:{path}"),
        // What an Application calls https://kubernetes.default.svc is this cluster.
        "ARGOCD_FAKE_IN_CLUSTER=true".to_owned(),
        format!("KUBECONFIG={}", folder.join("admin.kubeconfig").display()),
        "ARGOCD_GPG_ENABLED=false".to_owned(),
        format!("ARGOCD_ASK_PASS_SOCK={home}/ask-pass.sock"),
        // A test waits for what was pushed.
        "ARGOCD_RECONCILIATION_TIMEOUT=10s".to_owned(),
        "ARGOCD_RECONCILIATION_JITTER=0s".to_owned(),
        parts.argocd.display().to_string(),
    ];
    all.extend(arguments);
    Server {
        name,
        program: "env".into(),
        arguments: all,
    }
}

/// Makes the namespace, the definitions and the configuration that Argo CD reads, as its installation and our page do.
pub fn configure(state: &State, api: &Api, parts: &Parts) -> Result<()> {
    std::fs::create_dir_all(state.file("argocd")).context("failed to make the folder of Argo CD")?;
    api.create(
        "/api/v1/namespaces",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
    )?;
    let kubectl = |words: &[&str]| {
        let mut command = Command::new(&parts.kubectl);
        command
            .arg("--kubeconfig")
            .arg(state.file("admin.kubeconfig"))
            .args(["--namespace", NAMESPACE])
            .args(words)
            .stdout(std::process::Stdio::null());
        process::run(command).context("failed to configure Argo CD")
    };
    for manifest in MANIFESTS {
        let path = parts.manifests.join(manifest).display().to_string();
        kubectl(&["apply", "--server-side", "--filename", &path])?;
    }
    let health = parts.health.display().to_string();
    kubectl(&[
        "patch",
        "configmap",
        "argocd-cm",
        "--type=merge",
        "--patch-file",
        &health,
    ])?;
    let key = hex::encode(rand::random::<[u8; 16]>());
    let secret = json!({"stringData": {"server.secretkey": key}}).to_string();
    state.write("argocd/secret.json", secret.as_bytes())?;
    let secret = state.file("argocd/secret.json").display().to_string();
    kubectl(&[
        "patch",
        "secret",
        "argocd-secret",
        "--type=merge",
        "--patch-file",
        &secret,
    ])?;
    kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=120s",
        "crd/appprojects.argoproj.io",
        "crd/applications.argoproj.io",
    ])?;
    // The part that would make it is the one with the user interface.
    api.create(
        &format!("/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/appprojects"),
        &project(),
    )
}

fn project() -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "default"},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    })
}

impl Part {
    /// Asks whether it is ready.
    pub fn answers(&self) -> Result<(), String> {
        let patience = Duration::from_secs(5);
        let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, self.port));
        let Some(path) = self.path else {
            return std::net::TcpStream::connect_timeout(&address, patience)
                .map(drop)
                .map_err(|error| error.to_string());
        };
        let client = reqwest::blocking::Client::builder()
            .no_proxy()
            .timeout(patience)
            .build();
        let answer = client.and_then(|client| client.get(format!("http://{address}{path}")).send());
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn some() -> Parts {
        Parts {
            argocd: "/c/argocd".into(),
            helm: "/c/helm-1/key/helm".into(),
            kubectl: "/c/kubectl".into(),
            manifests: "/m".into(),
            health: "/h".into(),
        }
    }

    #[test]
    fn each_part_has_its_role_and_helm_and_finds_the_others() {
        let ports = Ports::reserve().unwrap();
        let [redis, repo, controller] = parts(Path::new("/s"), &some(), &ports);
        let has = |part: &Part, word: &str| part.server.arguments.iter().any(|it| it == word);
        let redis_address = format!("--redis=127.0.0.1:{}", redis.port);
        for (part, role) in [
            (&repo, "argocd-repo-server"),
            (&controller, "argocd-application-controller"),
        ] {
            assert!(has(part, &format!("ARGOCD_BINARY_NAME={role}")), "{role}");
            assert!(has(part, &redis_address), "{role}");
            let path = part.server.arguments.iter().find(|it| it.starts_with("PATH="));
            assert!(path.unwrap().starts_with("PATH=/c/helm-1/key:"), "{role}");
        }
        assert!(has(
            &controller,
            &format!("--repo-server=127.0.0.1:{}", ports.repo.port())
        ));
        assert!(has(&controller, "--kubeconfig=/s/admin.kubeconfig"));
    }

    #[test]
    fn nobody_else_reaches_redis_and_the_repo_server() {
        let [redis, repo, _] = parts(Path::new("/s"), &some(), &Ports::reserve().unwrap());
        assert!(
            redis
                .server
                .arguments
                .windows(2)
                .any(|pair| pair == ["--bind", "127.0.0.1"])
        );
        assert!(repo.server.arguments.contains(&"--address=127.0.0.1".to_owned()));
    }

    #[test]
    fn a_part_that_does_not_listen_is_not_ready() {
        let part = |path| Part {
            server: Server {
                name: "x",
                program: "x".into(),
                arguments: Vec::new(),
            },
            port: Reserved::new().unwrap().release(),
            path,
        };
        assert!(part(None).answers().is_err());
        assert!(part(Some("/healthz")).answers().is_err());
    }
}
