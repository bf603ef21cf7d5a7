//! What a node agent is told at its start: the published flags and our own.

mod flags;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemas::fleet_node::Accelerator;
use schemas::names;

pub use flags::{AcceleratorFlag, Flags, Mode, normalise_args};

/// Who writes commits.
#[derive(Clone, Debug)]
pub struct Identities {
    /// Author's name.
    pub author_name: String,
    /// Author's address.
    pub author_email: String,
    /// Committer's name.
    pub committer_name: String,
    /// Committer's address.
    pub committer_email: String,
    /// Whether commits carry a sign-off trailer.
    pub sign_off: bool,
}

/// What this node offers where its flags say so.
#[derive(Clone, Debug, Default)]
pub struct CapabilityOverrides {
    /// Accelerator.
    pub accelerator: Option<Accelerator>,
    /// Models.
    pub installed_models: Option<Vec<String>>,
    /// Context window in tokens.
    pub max_context_tokens: Option<i64>,
    /// Tokens per second.
    pub tokens_per_second: Option<i64>,
    /// RAM in GiB.
    pub total_ram_gb: Option<i64>,
}

/// What a node agent is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the FleetNode.
    pub node_name: String,
    /// Name of the machine.
    pub host_name: String,
    /// Address in a tailnet.
    pub tailscale_addr: Option<String>,
    /// Roles; none means every role.
    pub roles: Option<Vec<String>>,
    /// Labels of the FleetNode.
    pub node_labels: BTreeMap<String, String>,
    /// Capability where flags say it.
    pub capability: CapabilityOverrides,
    /// Folder for mirrors, work trees and the evidence spool.
    pub workspace_dir: PathBuf,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Bound on how long a missed watch event can go unseen.
    pub poll_interval: Duration,
    /// Namespace whose tasks are taken; none means all.
    pub task_namespace: Option<String>,
    /// Namespace of the release.
    pub foreman_namespace: String,
    /// Namespace in which gate Jobs run; none means the task's.
    pub jobs_namespace: Option<String>,
    /// How tasks are executed.
    pub mode: Mode,
    /// Time that the stub executor sleeps.
    pub stub_sleep: Duration,
    /// Base URL of `owner/name` repositories.
    pub git_remote_url: Option<String>,
    /// Endpoint that replaces an Agent's.
    pub inference_base_url: Option<String>,
    /// Host that replaces the host of an Agent's endpoint.
    pub inference_host: Option<String>,
    /// Who writes commits.
    pub identities: Identities,
    /// Whether work trees stay.
    pub keep_workspace: bool,
    /// Claim for the gate's caches.
    pub gate_cache_pvc: Option<String>,
    /// Secret and key with the clone credential of gate Jobs.
    pub git_secret: Option<(String, String)>,
    /// Image of the gate's program; none means the one of this release.
    pub gate_image: Option<String>,
    /// Service account of gate Jobs.
    pub gate_service_account: Option<String>,
    /// How coders' Jobs are set up.
    pub coder: CoderJobs,
    /// Git settings: credentials, CA bundle, roots of `file://`.
    pub git: git::Settings,
    /// PEM bundle of certificate authorities.
    pub ca_bundle: Option<PathBuf>,
    /// Base URL of the evidence store.
    pub evidence_url: Option<String>,
    /// Tasks taken at once.
    pub slots: usize,
    /// Address of metrics and probes.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether Agents of `provider: cloud-proxy` may be run.
    pub allow_cloud_providers: bool,
    /// Folder of recorded sessions.
    pub replay_sessions: Option<PathBuf>,
    /// Whether model commands may run without a sandbox.
    pub unsafe_no_sandbox: bool,
    /// Sandbox backend; none means the best that works here.
    pub sandbox_backend: Option<sandbox::Backend>,
}

/// How coders' Jobs are set up where their Agent does not say.
#[derive(Clone, Debug)]
pub struct CoderJobs {
    /// Image.
    pub image: Option<String>,
    /// Service account.
    pub service_account: Option<String>,
    /// Time that the container may take to start.
    pub startup: Duration,
    /// Seconds for which an ended Job stays.
    pub ttl_seconds: i32,
}

impl Default for CoderJobs {
    fn default() -> Self {
        Self {
            image: None,
            service_account: None,
            startup: Duration::from_secs(300),
            ttl_seconds: 600,
        }
    }
}

fn filled(text: String) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Parses `key=value` pairs separated by commas.
pub fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    names::comma_list(text)
        .unwrap_or_default()
        .into_iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
            _ => Err(format!(
                "failed to read --node-labels: found {pair:?}, expected key=value"
            )),
        })
        .collect()
}

/// Takes `host`, `host:port`, an IPv6 address or `[address]:port` apart.
pub fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((format!("[{text}]"), None));
    }
    // Of a scheme that has no port of its own, so that none is taken for it and left out.
    let url = url::Url::parse(&format!("host://{text}")).ok()?;
    let alone = url.username().is_empty() && url.path().is_empty() && url.query().or(url.fragment()).is_none();
    let name = url.host_str().filter(|name| alone && !name.is_empty())?;
    Some((name.to_owned(), url.port()))
}

impl Flags {
    /// Turns the flags into a configuration for the machine called `host_name`.
    pub fn into_config(self, host_name: &str) -> Result<Config, String> {
        for (flag, value) in [
            ("--self-update", &self.self_update),
            ("--self-update-dir", &self.self_update_dir),
            ("--opencode-bin", &self.opencode_bin),
        ] {
            if value.is_some() {
                tracing::info!(flag, "this flag is accepted and has no effect yet");
            }
        }
        let mut git = git_settings(
            self.git_credentials.as_deref(),
            self.ca_bundle.clone(),
            self.file_roots.clone(),
        )?;
        for token in &self.git_token {
            git.credentials.push(git_token(token)?);
        }
        let inference_host = filled(self.inference_base_url_host_override);
        if let Some(host) = inference_host.as_deref().filter(|host| host_and_port(host).is_none()) {
            return Err(format!(
                "failed to read --inference-base-url-host-override: found {host:?}, expected a host or host:port, with an \
                 IPv6 address before a port in brackets"
            ));
        }
        if self.heartbeat_interval.is_zero() {
            return Err("failed to read --heartbeat-interval: found no time at all, expected such as 30s".to_owned());
        }
        let sign_off = filled(self.commit_committer_email.clone()).is_some();
        let author_email = self.commit_author_email.clone();
        Ok(Config {
            node_name: names::node_name(self.fleet_node_name.as_deref().unwrap_or(host_name)),
            host_name: host_name.to_owned(),
            tailscale_addr: filled(self.tailscale_addr),
            roles: names::comma_list(&self.roles),
            node_labels: parse_labels(&self.node_labels)?,
            capability: CapabilityOverrides {
                accelerator: self.accelerator.map(Into::into),
                installed_models: names::comma_list(&self.installed_models),
                max_context_tokens: Some(self.max_context_tokens).filter(|n| *n > 0),
                tokens_per_second: Some(self.tokens_per_second).filter(|n| *n > 0),
                total_ram_gb: Some(self.total_ram_gb).filter(|n| *n > 0),
            },
            workspace_dir: self.workspace_dir,
            heartbeat_interval: self.heartbeat_interval,
            poll_interval: self.task_poll_interval,
            task_namespace: filled(self.task_namespace),
            foreman_namespace: self.foreman_namespace,
            jobs_namespace: self.jobs_namespace.and_then(filled),
            mode: self.agent_mode,
            stub_sleep: self.stub_sleep,
            git_remote_url: filled(self.git_remote_url),
            inference_base_url: filled(self.inference_base_url_override),
            inference_host,
            identities: Identities {
                committer_name: filled(self.commit_committer_name).unwrap_or_else(|| self.commit_author_name.clone()),
                committer_email: filled(self.commit_committer_email).unwrap_or_else(|| author_email.clone()),
                author_name: self.commit_author_name,
                author_email,
                sign_off,
            },
            keep_workspace: self.keep_workspace,
            gate_cache_pvc: filled(self.gate_cache_pvc),
            git_secret: filled(self.coder_git_secret).map(|name| (name, self.coder_git_secret_key)),
            gate_image: filled(self.gate_image),
            gate_service_account: filled(self.gate_service_account),
            coder: CoderJobs {
                image: filled(self.coder_image),
                service_account: filled(self.coder_service_account),
                startup: self.coder_startup_timeout,
                ttl_seconds: self.coder_ttl_seconds,
            },
            git,
            ca_bundle: self.ca_bundle,
            evidence_url: filled(self.evidence_url).map(|url| url.trim_end_matches('/').to_owned()),
            slots: self.slots.max(1),
            metrics_listen: self.metrics_listen,
            allow_cloud_providers: self.allow_cloud_providers,
            replay_sessions: self.replay_sessions,
            unsafe_no_sandbox: self.unsafe_no_sandbox,
            sandbox_backend: None,
        })
    }
}

/// Reads the token that `URL=FILE` names; what the file holds is never shown.
fn git_token(text: &str) -> Result<git::Credential, String> {
    let wrong = |why: String| format!("failed to read --git-token: {why}");
    let (url, file) = text
        .rsplit_once('=')
        .filter(|(url, file)| !url.is_empty() && !file.is_empty())
        .ok_or_else(|| wrong("expected URL=FILE".into()))?;
    let token = std::fs::read_to_string(file).map_err(|error| wrong(format!("{file}: {error}")))?;
    let token = token.trim();
    if token.is_empty() {
        return Err(wrong(format!("{file} is empty; put the token into it")));
    }
    git::Credential::new(url, git::CredentialKind::Token(token.to_owned().into()))
        .map_err(|error| wrong(error.to_string()))
}

/// Reads a credentials file into Git settings.
pub fn git_settings(
    credentials: Option<&std::path::Path>,
    ca_bundle: Option<PathBuf>,
    file_roots: Vec<PathBuf>,
) -> Result<git::Settings, String> {
    let mut settings = git::Settings {
        ca_bundle,
        file_roots,
        ..git::Settings::default()
    };
    if let Some(path) = credentials {
        settings.credentials = git::read_credentials(path).map_err(|error| error.to_string())?;
    }
    Ok(settings)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    pub(crate) fn parse(args: &[&str]) -> Config {
        let args = std::iter::once("foreman-agent")
            .chain(args.iter().copied())
            .map(str::to_owned);
        Program::try_parse_from(normalise_args(args))
            .unwrap()
            .flags
            .into_config("Host_A")
            .unwrap()
    }

    #[test]
    fn published_flags_are_taken_with_one_dash_and_with_two() {
        let one = parse(&["-roles=coder,verifier", "-heartbeat-interval", "10s", "-keep-workspace"]);
        let two = parse(&[
            "--roles=coder,verifier",
            "--heartbeat-interval",
            "10s",
            "--keep-workspace",
        ]);
        for config in [one, two] {
            assert_eq!(config.roles, Some(vec!["coder".to_owned(), "verifier".to_owned()]));
            assert_eq!(config.heartbeat_interval, Duration::from_secs(10));
            assert!(config.keep_workspace);
        }
    }

    #[test]
    fn a_host_and_a_port_are_told_from_what_is_neither() {
        let found = |name: &str, port| Some((name.to_owned(), port));
        for (text, read) in [
            ("gpu", found("gpu", None)),
            ("gpu.lan:80", found("gpu.lan", Some(80))),
            ("10.0.0.1:8080", found("10.0.0.1", Some(8080))),
            ("fd00::10", found("[fd00::10]", None)),
            ("[fd00::10]:8080", found("[fd00::10]", Some(8080))),
            ("gpu:http", None),
            ("gpu/v1", None),
            ("user@gpu", None),
            ("http://gpu", None),
            (":8080", None),
        ] {
            assert_eq!(host_and_port(text), read, "{text}");
        }
    }

    #[test]
    fn published_defaults_hold() {
        let config = parse(&[]);
        assert_eq!(config.node_name, "host-a");
        assert_eq!(config.heartbeat_interval, Duration::from_secs(30));
        assert_eq!(config.poll_interval, Duration::from_secs(5));
        assert_eq!(config.task_namespace.as_deref(), Some("default"));
        assert_eq!(config.stub_sleep, Duration::from_secs(10));
        assert_eq!(config.identities.author_name, "Foreman Bot");
        assert_eq!(config.roles, None);
        assert_eq!(config.capability.accelerator, None);
    }

    #[test]
    fn lists_of_separators_only_are_absent_and_an_empty_namespace_means_all() {
        let config = parse(&["--roles", " , ,", "--installed-models", ",", "--task-namespace", ""]);
        assert_eq!(config.roles, None);
        assert_eq!(config.capability.installed_models, None);
        assert_eq!(config.task_namespace, None);
    }

    #[test]
    fn a_token_is_bound_to_its_url_and_a_missing_or_empty_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "s3cret\n").unwrap();
        let given = |url: &str| git_token(&format!("{url}={}", file.display()));
        let credential = given("https://git.example/team").unwrap();
        assert_eq!(credential.prefix().to_string(), "https://git.example/team");
        assert_eq!(credential.kind(), &git::CredentialKind::Token("s3cret".into()));
        for (wrong, named) in [
            ("https://git.example".to_owned(), "URL=FILE"),
            (format!("={}", file.display()), "URL=FILE"),
            ("https://git.example=/nowhere/token".to_owned(), "/nowhere/token"),
        ] {
            let error = git_token(&wrong).unwrap_err();
            assert!(error.contains(named) && !error.contains("s3cret"), "{error}");
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(given("https://git.example").unwrap_err().contains("is empty"));
    }

    #[test]
    fn a_label_without_a_value_is_refused_by_name() {
        assert!(parse_labels("zone=a,oops").unwrap_err().contains("oops"));
    }
}
