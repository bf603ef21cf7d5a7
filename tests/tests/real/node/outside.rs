//! Operator and agent as processes beside a cluster whose node runs their gates: what befalls the cluster does not take
//! them along, and what they do about it is seen from the outside.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use schemas::workload::WorkloadPhase;
use schemas::{Agent, AgenticTask, FleetNode, TaskQueue, Workload, labels};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::site::Site;
use crate::follower::Follower;
use crate::foreman::LIMIT;
use crate::operator::{Operator, Setup};
use crate::real::chart::helm::needed;
use crate::real::{install_crds, namespace};
use crate::site::Process;
use crate::stage;

/// What gates run in.
pub const IMAGE: &str = "docker.io/library/debian:bookworm-slim";

/// Operator, agent, a repository of tasks, and one that they are about.
pub struct Outside {
    pub site: Site,
    pub namespace: String,
    pub operator: Operator,
    pub agent: Process,
    agent_arguments: Vec<OsString>,
    clock: Option<&'static str>,
    agent_http: String,
    project: PathBuf,
    tasks: PathBuf,
    sessions: PathBuf,
    asked: BTreeSet<String>,
}

/// Builds a gate of one step.
pub fn gate(command: &str, deadline: i64) -> Value {
    json!({
        "image": IMAGE,
        "resources": { "cpu": "50m", "memory": "128Mi" },
        "deadlineSeconds": deadline,
        "steps": [{ "name": "check", "command": command }],
    })
}

impl Outside {
    /// Sets all of it up; every task has to pass this gate. The agent is told `more`.
    pub async fn open(gate: &Value, more: &[&str]) -> Self {
        Self::open_at(None, gate, more).await
    }

    /// Sets all of it up with an agent whose clock is wrong by so much.
    pub async fn open_at(clock: Option<&'static str>, gate: &Value, more: &[&str]) -> Self {
        let site = Site::open().await;
        install_crds(&site.client).await;
        let namespace = namespace(&site.client).await;
        let gate = gate.to_string();
        let (project, tasks) = tokio::task::block_in_place(|| {
            site.shell(&format!(
                "kubectl -n {namespace} create secret generic clone --from-literal=username=\"$GIT_USER\" \
                 --from-literal=password=\"$GIT_PASSWORD\""
            ));
            let files = [(".foreman/gate.yaml", gate.as_str()), ("notes/README", "notes\n")];
            let project = site.repository("team/project", &files, &[]);
            // Every change of a reference is written down.
            stage::git(&project, &["config", "core.logAllRefUpdates", "always"]);
            (
                project,
                site.repository("team/tasks", &[("README.md", "Tasks.\n")], &[]),
            )
        });
        let sessions = site.folder().join("sessions");
        std::fs::create_dir(&sessions).unwrap();
        let credentials = site.git_credentials();
        let kubeconfig = needed("FOREMAN_REAL_KUBECONFIG");
        let mut operator = Operator::start(&Setup {
            kubeconfig: &kubeconfig,
            namespace: &namespace,
            folder: site.folder(),
            name: "operator",
            more: &[
                "--git-credentials",
                credentials.to_str().unwrap(),
                "--git-remote-url",
                site.git_url(),
            ],
        });
        operator.says(&["Starting workers", "TaskQueue"]);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let listen = format!("127.0.0.1:{port}");
        let node = format!("{namespace}-outside");
        let workspace = site.folder().join("agent");
        let evidence = operator.http().to_owned();
        let mut arguments = vec![
            OsStr::new("--kubeconfig"),
            kubeconfig.as_os_str(),
            OsStr::new("--workspace-dir"),
            workspace.as_os_str(),
            OsStr::new("--replay-sessions"),
            sessions.as_os_str(),
            OsStr::new("--git-credentials"),
            credentials.as_os_str(),
        ];
        let words = [
            "--fleet-node-name",
            &node,
            "--foreman-namespace",
            &namespace,
            "--task-namespace",
            &namespace,
            "--git-remote-url",
            site.git_url(),
            "--metrics-listen",
            &listen,
            "--evidence-url",
            &evidence,
            "--coder-git-secret=clone",
            "--heartbeat-interval=2s",
            "--agent-mode=native",
            "--roles=coder,verifier",
            "--slots=4",
        ];
        arguments.extend(words.iter().chain(more).map(OsStr::new));
        let agent_arguments: Vec<OsString> = arguments.into_iter().map(OsStr::to_owned).collect();
        let agent = start_agent(&agent_arguments, clock).await;
        let outside = Self {
            agent_arguments,
            clock,
            agent_http: format!("http://{listen}"),
            operator,
            agent,
            project,
            tasks,
            sessions,
            asked: BTreeSet::new(),
            namespace,
            site,
        };
        outside.queue().await;
        outside
    }

    /// Kills the agent, which says good-bye to nobody, and starts it again.
    pub async fn restart_agent(&mut self) {
        self.agent.kill().await;
        self.agent = start_agent(&self.agent_arguments, self.clock).await;
    }

    async fn queue(&self) {
        let coder = json!({
            "role": "coder", "providerConfig": { "baseURL": "replay:", "model": "recorded" },
            "tools": ["read_file", "write_file", "submit_result"],
        });
        self.create::<Agent>("Agent", "coder", coder).await;
        let verifier = json!({ "role": "verifier", "tools": ["run_gate_job"] });
        self.create::<Agent>("Agent", "verifier", verifier).await;
        let url = format!("{}/team/tasks.git", self.site.git_url());
        let queue = json!({
            "git": { "url": url, "branch": "main", "path": "tasks", "interval": "1s" },
            "defaults": {
                "repo": "team/project", "baseBranch": "main",
                "coderAgentRef": { "name": "coder" }, "verifierAgentRef": { "name": "verifier" },
            },
        });
        self.create::<TaskQueue>("TaskQueue", "queue", queue).await;
    }

    async fn create<K>(&self, kind: &str, name: &str, spec: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        }))
        .unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap();
    }

    /// Returns the agent's node.
    pub async fn node(&self) -> FleetNode {
        let nodes: Api<FleetNode> = Api::all(self.site.client.clone());
        nodes.get(&format!("{}-outside", self.namespace)).await.unwrap()
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.site.client.clone(), &self.namespace)
    }

    pub fn follow<K>(&self) -> Follower<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        Follower::of(self.api())
    }

    /// Commits files that ask for tasks of these names.
    pub fn ask(&mut self, names: &[&str]) {
        let mut files = Vec::new();
        for name in names {
            stage::record(&self.sessions, name);
            files.push(stage::task_file(name));
            self.asked.insert((*name).to_owned());
        }
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        stage::commit(&self.site.clone_of("team/tasks"), &self.tasks, &files);
    }

    /// Makes a task that proves a branch of a repository of its own with a gate.
    pub async fn verify(&self, name: &str, gate: &Value) {
        tokio::task::block_in_place(|| {
            self.site.repository(
                &format!("team/{name}"),
                &[(".foreman/gate.yaml", &gate.to_string()), ("file", "as it was\n")],
                &[("change", &[("file", "changed\n")])],
            )
        });
        let spec = json!({
            "kind": "verify", "agentRef": { "name": "verifier" },
            "payload": { "repo": format!("team/{name}"), "baseBranch": "main", "branch": "change" },
        });
        self.create::<AgenticTask>("AgenticTask", name, spec).await;
    }

    /// Asks both programs whether they are ready, until they say so or do not, as is wanted; returns their words.
    pub async fn until_ready(&mut self, wanted: bool) -> [String; 2] {
        let mut said = [String::new(), String::new()];
        let waited = tokio::time::timeout(LIMIT, async {
            for (http, said) in [self.operator.http(), self.agent_http.as_str()].iter().zip(&mut said) {
                loop {
                    let answer = reqwest::get(format!("{http}/readyz")).await.unwrap();
                    let ready = answer.status().is_success();
                    *said = answer.text().await.unwrap();
                    if ready == wanted {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        })
        .await;
        if waited.is_err() {
            let logs = self.logs();
            panic!("readiness never became {wanted}: {said:#?}\n{logs}");
        }
        said
    }

    /// Fails unless both programs are the processes that were started, and would not be restarted.
    pub async fn assert_alive(&mut self) {
        assert!(self.operator.runs() && self.agent.runs(), "{}", self.logs());
        for http in [self.operator.http(), self.agent_http.as_str()] {
            let answer = reqwest::get(format!("{http}/livez")).await.unwrap();
            let alive = answer.status().is_success();
            assert!(alive, "{}", answer.text().await.unwrap());
        }
    }

    /// Returns what both programs said.
    pub fn logs(&mut self) -> String {
        let operator = self.operator.log().to_owned();
        format!("operator:\n{operator}\nagent:\n{}", self.agent.log())
    }

    /// Waits until every task that was asked for has ended, and fails unless each was done once, and well.
    pub async fn assert_each_done_once(&mut self, seen: &mut Seen) {
        let asked = self.asked.len();
        // A cluster whose API was away takes minutes until its nodes are given Pods again.
        let over = |states: &[Workload]| {
            let last: BTreeMap<String, &Workload> = states.iter().map(|it| (it.name_any(), it)).collect();
            let over = |it: &&Workload| {
                let phase = it.status.as_ref().and_then(|status| status.phase);
                phase.is_some_and(WorkloadPhase::is_terminal)
            };
            (last.len() == asked && last.values().all(over)).then(|| last.into_values().cloned().collect::<Vec<_>>())
        };
        let Some(all) = seen.workloads.within(3 * LIMIT, over).await else {
            panic!("not all work ended:\n{}", self.logs());
        };
        for workload in &all {
            let status = workload.status.clone().unwrap_or_default();
            let told = format!("{}: {:#}\n{}", workload.name_any(), json!(status), self.logs());
            assert_eq!(status.phase, Some(WorkloadPhase::Completed), "{told}");
            assert_eq!(json!(status.verdict), "GATE-PASS", "{told}");
        }
        // One object for each name.
        let uids = |states: Vec<(String, Option<String>)>| -> BTreeMap<String, BTreeSet<Option<String>>> {
            let mut all: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
            for (name, uid) in states {
                all.entry(name).or_default().insert(uid);
            }
            all
        };
        let made = [
            uids(
                seen.workloads
                    .states()
                    .iter()
                    .map(|it| (it.name_any(), it.uid()))
                    .collect(),
            ),
            uids(seen.tasks.states().iter().map(|it| (it.name_any(), it.uid())).collect()),
            uids(
                seen.jobs
                    .states()
                    .iter()
                    .filter(|it| it.labels().contains_key(labels::TASK))
                    .map(|it| (it.name_any(), it.uid()))
                    .collect(),
            ),
        ];
        for made in &made {
            for (name, uids) in made {
                assert_eq!(uids.len(), 1, "{name} was made twice");
            }
        }
        let [_, tasks, jobs] = made;
        assert_eq!(
            tasks.len(),
            2 * asked,
            "a coder's and a verifier's task for each: {tasks:?}"
        );
        // What a task came to is said once, and stands.
        for name in tasks.keys() {
            let states = seen.tasks.states_of(name);
            let mut ends: Vec<Value> = states
                .iter()
                .filter_map(|task| task.status.as_ref())
                .filter(|status| status.phase.is_some_and(|phase| phase.is_terminal()))
                .map(|status| json!([status.phase, status.verdict, status.finished_at, status.commit_sha]))
                .collect();
            ends.dedup();
            assert_eq!(ends.len(), 1, "{name} ended more than once: {ends:?}");
        }
        // Each try of a gate is one Job and one Pod, and one Job proves.
        let pods = seen.pods.states();
        for job in jobs.keys() {
            let own: BTreeSet<_> = pods
                .iter()
                .filter(|pod| pod.labels().get("job-name") == Some(job))
                .map(ResourceExt::uid)
                .collect();
            assert!(own.len() <= 1, "{job} had {} Pods", own.len());
        }
        self.assert_pushed_once(asked);
        println!("{asked} tasks, {} gate Jobs", jobs.len());
    }

    /// Returns how many branches of ours there are.
    pub fn branches(&self) -> usize {
        let folder = std::fs::read_dir(self.project.join("refs/heads/foreman"));
        folder.map_or(0, Iterator::count)
    }

    /// Fails unless each branch was pushed once, with one commit, and has one note of its verdict.
    fn assert_pushed_once(&self, asked: usize) {
        let list = ["for-each-ref", "--format=%(refname)", "refs/heads/foreman/"];
        let branches = stage::git(&self.project, &list);
        assert_eq!(branches.lines().count(), asked, "{branches}");
        for branch in branches.lines() {
            let log = std::fs::read_to_string(self.project.join("logs").join(branch)).unwrap();
            assert_eq!(log.lines().count(), 1, "{branch} was pushed more than once:\n{log}");
            let commits = stage::git(
                &self.project,
                &["rev-list", "--count", &format!("refs/heads/main..{branch}")],
            );
            assert_eq!(commits.trim(), "1", "{branch}");
        }
    }
}

async fn start_agent(arguments: &[OsString], clock: Option<&str>) -> Process {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let library = clock.map(|_| wrong_clock());
    let mut environment = Vec::new();
    if let (Some(clock), Some(library)) = (clock, &library) {
        environment.extend([
            ("LD_PRELOAD", library.as_os_str()),
            ("FAKETIME", OsStr::new(clock)),
            // A clock that is wrong still runs.
            ("FAKETIME_DONT_FAKE_MONOTONIC", OsStr::new("1")),
        ]);
    }
    let mut agent = Process::start_in("foreman-agent", "agent", &arguments, &environment);
    agent.says(&["node agent is ready"]).await;
    agent
}

/// Finds the library that tells a process another time than it is.
fn wrong_clock() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    folders
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|library| library.exists())
        .expect("Debian's package libfaketime, for a clock that is wrong")
}

/// Everything that is seen of the work.
pub struct Seen {
    pub workloads: Follower<Workload>,
    pub tasks: Follower<AgenticTask>,
    pub jobs: Follower<Job>,
    pub pods: Follower<Pod>,
}

impl Seen {
    pub fn of(outside: &Outside) -> Self {
        Self {
            workloads: outside.follow(),
            tasks: outside.follow(),
            jobs: outside.follow(),
            pods: outside.follow(),
        }
    }

    /// Waits until a gate's steps run, of a task of this name or of any.
    pub async fn gate_runs(&mut self, task: Option<&str>) -> Pod {
        let of = |pod: &Pod| task.is_none_or(|task| pod.labels().get(labels::TASK).is_some_and(|it| it == task));
        self.pods.saw("steps that run", |pod| of(pod) && runs(pod)).await
    }
}

/// Returns whether a Pod's steps run.
pub fn runs(pod: &Pod) -> bool {
    let containers = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    containers
        .into_iter()
        .flatten()
        .any(|it| it.state.as_ref().is_some_and(|state| state.running.is_some()))
}
