//! Local mode: plane, Job runner, operator and agent in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agent::config::{CapabilityOverrides, Identities, Mode};
use agent::daemon::Shutdown;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Client, Resource, ResourceExt};
use plane::runner::{Runner, RunnerConfig};
use plane::{Plane, PlaneConfig};
use reconciler::operator::{self, Operator};
use schemas::{Agent, FleetNode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::{AccessArgs, SandboxArgs, SandboxBackend};
use crate::endpoint;
use crate::place::Place;
use crate::project::Project;

/// The field manager of what local commands apply.
pub const FIELD_MANAGER: &str = "foreman-up";
/// Label of the objects that `.foreman/` made.
const FROM_PROJECT: &str = "foreman.llmkube.dev/from-project";
/// Name of the Secret that holds the model server's key, and its key.
pub const MODEL_SECRET: (&str, &str) = ("foreman-model", "api-key");

/// How long the start waits at most for the node to say what it can do.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// What local mode is told at its start.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Port of the API; none serves it in process only.
    pub port: Option<u16>,
    /// Tasks worked on at once.
    pub slots: usize,
    /// How untrusted commands are run.
    pub sandbox: SandboxArgs,
    /// Git credentials, recorded sessions.
    pub access: AccessArgs,
    /// Certificate authorities to trust as well.
    pub ca_bundle: Option<PathBuf>,
    /// Roots below which local repositories may lie.
    pub file_roots: Vec<PathBuf>,
    /// Name and address on commits.
    pub user: Option<(String, String)>,
}

/// Plane, Job runner, operator and agent of one process.
pub struct Local {
    /// Client.
    pub client: Client,
    /// Plane.
    pub plane: Plane,
    /// Base URL of the evidence store.
    pub evidence_url: String,
    /// Sandbox that commands run in.
    pub sandbox: sandbox::Sandbox,
    runner: Runner,
    operator: JoinHandle<Result<(), String>>,
    operator_stop: CancellationToken,
    agent: JoinHandle<Result<(), String>>,
    agent_stop: Shutdown,
}

/// Opens the sandbox that the arguments ask for.
pub fn open_sandbox(args: &SandboxArgs) -> Result<sandbox::Sandbox> {
    if args.unsafe_no_sandbox {
        return Ok(sandbox::Sandbox::without_confinement());
    }
    Ok(match args.sandbox {
        Some(SandboxBackend::Namespaces) => sandbox::Sandbox::with_backend(sandbox::Backend::Namespaces)?,
        Some(SandboxBackend::Landlock) => sandbox::Sandbox::with_backend(sandbox::Backend::Landlock)?,
        None => sandbox::Sandbox::detect()?,
    })
}

/// Opens the plane over the state of `place`, with our kinds served.
pub async fn open_plane(place: &Place, port: Option<u16>) -> Result<Plane> {
    place.create()?;
    let mut config = PlaneConfig::new(&place.state, env!("CARGO_PKG_VERSION"));
    if let Some(port) = port {
        config = config.listening(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let plane = Plane::open(config)
        .await
        .with_context(|| format!("failed to open the state in {}", place.state.display()))?;
    let client = plane.client();
    for crd in schemas::crds::all() {
        apply_cluster(&client, crd)
            .await
            .context("failed to apply our CRDs to the plane")?;
    }
    Ok(plane)
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

async fn apply_cluster<K>(client: &Client, object: K) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    Api::<K>::all(client.clone())
        .patch(&object.name_any(), &params(), &Patch::Apply(&object))
        .await
}

/// Applies an object of a namespace.
pub async fn apply<K>(client: &Client, namespace: &str, object: &K) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    Api::<K>::namespaced(client.clone(), namespace)
        .patch(&object.name_any(), &params(), &Patch::Apply(object))
        .await
}

impl Local {
    /// Starts everything; the caller holds the lock of `place`.
    pub async fn start(place: &Place, namespace: &str, config: LocalConfig) -> Result<Self> {
        if sandbox::forbids_programs(&place.state) {
            bail!(
                "failed to use the state folder {}: its file system is mounted noexec, and gates build and run programs \
                 there; name another folder with --state",
                place.state.display()
            );
        }
        let sandbox = open_sandbox(&config.sandbox)?;
        let plane = open_plane(place, config.port).await?;
        let client = plane.client();
        release_node(&client, &host().1).await?;
        if config.port.is_some() {
            plane.serve_tls().await.context("failed to serve the API")?;
        }
        let runner = Runner::start(client.clone(), runner_config(place, &config, sandbox.clone()))
            .await
            .context("failed to start the Job runner")?;
        plane.set_pod_logs(runner.logs());
        let operator_stop = CancellationToken::new();
        let operator = prepare_operator(place, namespace, &config, &client).await?;
        let evidence = operator.http_address().context("the evidence store has no address")?;
        remember_port(place, evidence.port())?;
        let evidence_url = format!("http://{evidence}");
        let before = heartbeat(&client, &host().1).await?;
        let agent_stop = Shutdown::default();
        let agent_config = agent_config(place, namespace, &config, &sandbox, &evidence_url)?;
        let agent = {
            let (client, stop) = (client.clone(), agent_stop.clone());
            tokio::spawn(async move {
                agent::daemon::run(agent_config, client, stop)
                    .await
                    .map_err(|error| error.to_string())
            })
        };
        first_word(&client, &host().1, before).await;
        let operator = {
            let stop = operator_stop.clone();
            tokio::spawn(async move { operator.run(stop).await.map_err(|error| error.to_string()) })
        };
        Ok(Self {
            client,
            plane,
            evidence_url,
            sandbox,
            runner,
            operator,
            operator_stop,
            agent,
            agent_stop,
        })
    }

    /// Applies what `.foreman/` says, and removes what it no longer says; returns the agents that changed.
    pub async fn accept(&self, namespace: &str, project: &Project) -> Result<Vec<String>> {
        if let Some(key) = endpoint::api_key() {
            apply(&self.client, namespace, &model_secret(&key))
                .await
                .context("failed to store the model server's key")?;
        }
        let api: Api<Agent> = Api::namespaced(self.client.clone(), namespace);
        let before = api
            .list(&ListParams::default())
            .await
            .context("failed to list agents")?
            .items;
        let mut changed = Vec::new();
        for agent in &project.agents {
            let known = before.iter().find(|known| known.name_any() == agent.name_any());
            let mut agent = agent.clone();
            mark(&mut agent);
            let applied = apply(&self.client, namespace, &agent)
                .await
                .with_context(|| format!("failed to apply agent {}", agent.name_any()))?;
            if known.is_none_or(|known| known.spec != applied.spec) {
                changed.push(agent.name_any());
            }
        }
        for gone in before.iter().filter(|known| known.labels().contains_key(FROM_PROJECT)) {
            if !project.agents.iter().any(|agent| agent.name_any() == gone.name_any()) {
                api.delete(&gone.name_any(), &DeleteParams::default())
                    .await
                    .context("failed to remove an agent")?;
                changed.push(format!("{} (removed)", gone.name_any()));
            }
        }
        if let Some(queue) = &project.queue {
            let mut queue = queue.clone();
            mark(&mut queue);
            apply(&self.client, namespace, &queue)
                .await
                .with_context(|| format!("failed to apply queue {}", queue.name_any()))?;
        }
        Ok(changed)
    }

    /// Waits until a part ends by itself, which none should.
    pub async fn broken(&mut self) -> String {
        tokio::select! {
            ended = &mut self.operator => format!("the operator ended: {}", said(ended)),
            ended = &mut self.agent => format!("the agent ended: {}", said(ended)),
        }
    }

    /// Lets running tasks end first; returns when they have.
    pub async fn drain(&mut self) {
        self.agent_stop.drain.cancel();
        let _ = (&mut self.agent).await;
    }

    /// Ends everything now; running tasks give their claims back.
    pub async fn stop(mut self) {
        self.agent_stop.stop.cancel();
        if !self.agent.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.agent).await;
        }
        self.operator_stop.cancel();
        if !self.operator.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.operator).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), self.runner.shutdown()).await;
        self.plane.shutdown().await;
    }
}

/// Returns when the node was heard of, by an earlier start.
async fn heartbeat(client: &Client, node: &str) -> Result<Option<Time>> {
    let nodes: Api<FleetNode> = Api::all(client.clone());
    let node = nodes.get_opt(node).await.context("failed to look at the node")?;
    Ok(node.and_then(|node| node.status?.last_heartbeat_time))
}

/// Waits until the node says what it can do, so that no work is told first that nobody is there. An agent that asks a slow
/// model server is not waited for.
async fn first_word(client: &Client, node: &str, before: Option<Time>) {
    let nodes: Api<FleetNode> = Api::all(client.clone());
    let speaks = await_condition(nodes, node, move |node: Option<&FleetNode>| {
        let status = node.and_then(|node| node.status.as_ref());
        status.is_some_and(|status| status.last_heartbeat_time.is_some() && status.last_heartbeat_time != before)
    });
    let _ = tokio::time::timeout(FIRST_WORD, speaks).await;
}

/// Frees the node's name: whoever held it in this state is dead, since this process has the state's lock.
///
/// Without this, a start after a kill would wait until the dead process's Lease lapses.
async fn release_node(client: &Client, node: &str) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    match leases
        .delete(
            &format!("{}{node}", schemas::labels::NODE_LEASE_PREFIX),
            &DeleteParams::default(),
        )
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).context("failed to release the node's Lease of an earlier start"),
    }
}

/// Returns this machine's name and the name of its node.
fn host() -> (String, String) {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let node = schemas::names::node_name(if host.is_empty() { "local" } else { &host });
    (host, node)
}

fn said(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "it was asked to".into(),
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    }
}

fn mark(object: &mut impl ResourceExt) {
    object.labels_mut().insert(FROM_PROJECT.into(), "true".into());
}

fn model_secret(key: &str) -> k8s_openapi::api::core::v1::Secret {
    let mut secret = k8s_openapi::api::core::v1::Secret::default();
    secret.metadata.name = Some(MODEL_SECRET.0.into());
    secret.string_data = Some([(MODEL_SECRET.1.to_owned(), key.to_owned())].into());
    secret
}

fn git_settings(config: &LocalConfig) -> Result<git::Settings> {
    let access = &config.access;
    agent::config::git_settings(
        access.git_credentials.as_deref(),
        config.ca_bundle.clone(),
        config.file_roots.clone(),
    )
    .map_err(anyhow::Error::msg)
}

fn runner_config(place: &Place, config: &LocalConfig, sandbox: sandbox::Sandbox) -> RunnerConfig {
    let mut runner = RunnerConfig::new(place.state.join("runner"), sandbox);
    runner.host_paths.clone_from(&config.file_roots);
    runner.own_images = [gate::IMAGE, agent::executor::job::build::IMAGE]
        .map(|image| image.rsplit_once(':').map_or(image, |(name, _)| name).to_owned())
        .into();
    // An Agent may name an image of its own for its Jobs; here it stands for this machine's tools, as a gate's does.
    runner.own_programs = vec![agent::executor::job::build::PROGRAM.to_owned()];
    runner
}

async fn prepare_operator(place: &Place, namespace: &str, config: &LocalConfig, client: &Client) -> Result<Operator> {
    let port = remembered_port(place);
    let mut operator = operator::Config::new(client.clone(), place.state.join("operator"));
    operator.namespaces = vec![namespace.to_owned()];
    operator.lease_namespace = "default".into();
    operator.git = git_settings(config)?;
    operator.git_remote_url.clone_from(&config.access.git_remote_url);
    operator.evidence_dir = Some(place.state.join("evidence"));
    operator.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    operator.secrets = endpoint::api_key().into_iter().collect();
    match Operator::prepare(operator.clone()).await {
        Err(operator::Error::Listen { .. }) if port != 0 => {
            operator.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            Ok(Operator::prepare(operator).await?)
        }
        prepared => Ok(prepared?),
    }
}

fn agent_config(
    place: &Place,
    namespace: &str,
    config: &LocalConfig,
    sandbox: &sandbox::Sandbox,
    evidence_url: &str,
) -> Result<agent::config::Config> {
    let (host_name, node_name) = host();
    let (name, email) = config
        .user
        .clone()
        .unwrap_or_else(|| ("Foreman Bot".into(), "foreman@localhost".into()));
    Ok(agent::config::Config {
        node_name,
        host_name,
        tailscale_addr: None,
        roles: None,
        node_labels: Default::default(),
        capability: CapabilityOverrides::default(),
        workspace_dir: place.state.join("agent"),
        heartbeat_interval: Duration::from_secs(30),
        poll_interval: Duration::from_secs(5),
        task_namespace: Some(namespace.to_owned()),
        foreman_namespace: "default".into(),
        jobs_namespace: None,
        mode: Mode::Native,
        stub_sleep: Duration::from_secs(10),
        git_remote_url: config.access.git_remote_url.clone(),
        inference_base_url: None,
        inference_host: None,
        identities: Identities {
            author_name: "Foreman Bot".into(),
            author_email: "foreman@localhost".into(),
            committer_name: name,
            committer_email: email,
            sign_off: false,
        },
        keep_workspace: false,
        gate_cache_pvc: Some("foreman-gate-cache".into()),
        git_secret: None,
        gate_image: None,
        gate_service_account: None,
        coder: Default::default(),
        git: git_settings(config)?,
        ca_bundle: config.ca_bundle.clone(),
        evidence_url: Some(evidence_url.to_owned()),
        slots: config.slots.max(1),
        metrics_listen: None,
        allow_cloud_providers: true,
        replay_sessions: config.access.replay_sessions.clone(),
        unsafe_no_sandbox: config.sandbox.unsafe_no_sandbox,
        sandbox_backend: Some(sandbox.backend()),
    })
}

/// Returns the evidence store's port of the last start, so that links stay true over restarts; 0 at the first.
fn remembered_port(place: &Place) -> u16 {
    std::fs::read_to_string(place.state.join("evidence-port"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn remember_port(place: &Place, port: u16) -> Result<()> {
    let file = place.state.join("evidence-port");
    std::fs::write(&file, port.to_string()).with_context(|| format!("failed to write {}", file.display()))
}
