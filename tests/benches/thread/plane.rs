//! The plane beside kube-apiserver with etcd, over TLS: creates and updates per second, lists, watches, memory.
//!
//! Both are processes of their own, wait for the disk at every write (SQLite with `synchronous=FULL` and group commit, etcd
//! with fsync; their files lie in one file system), and are asked the same in turn by the same clients. Beside
//! kube-apiserver runs a kube-controller-manager that collects garbage, as the plane does itself.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ::plane::{Plane, PlaneConfig};
use futures::{Stream, StreamExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::served::define;
use crate::{milliseconds, quantile};

/// The argument with which this program is a plane and nothing else.
pub const SERVE: &str = "serve-plane";
/// How many clients write at a time, and how many objects they make together: 10,000 in all.
const CLIENTS: [(usize, usize); 3] = [(1, 500), (8, 2000), (64, 7500)];
const LISTS: usize = 7;
const WATCHED: usize = 500;
/// Objects that are made before anything is measured.
const WARM: usize = 200;

/// Serves a plane whose state lies in a folder until the standard input ends; prints its kubeconfig.
pub fn serve(runtime: &tokio::runtime::Runtime, folder: &Path) {
    runtime.block_on(async {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let config = PlaneConfig::new(folder, "0.1.0").listening((Ipv4Addr::LOCALHOST, 0).into());
        let plane = Plane::open(config).await.unwrap();
        println!("{}", plane.serve_tls().await.unwrap().kubeconfig.display());
        let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        ended.await.unwrap().unwrap();
        plane.shutdown().await;
    });
}

/// One of the two servers.
struct Server {
    url: String,
    roots: Vec<Vec<u8>>,
    token: String,
    /// Its processes.
    ids: Vec<u32>,
}

impl Server {
    async fn new(kubeconfig: &Path, ids: Vec<u32>) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
        let url = config.cluster_url.to_string();
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let file = schemas::yaml::parse_value(&text).unwrap();
        let server = Self {
            url: url.trim_end_matches('/').to_owned(),
            roots: config.root_cert.clone().unwrap(),
            token: file["users"][0]["user"]["token"].as_str().unwrap().to_owned(),
            ids,
        };
        let client = kube::Client::try_from(config).unwrap();
        for crd in schemas::crds::all() {
            define(&client, &crd).await;
        }
        let space = |name: &str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        for name in ["warm", "made", "watched"] {
            let url = format!("{}/api/v1/namespaces", server.url);
            send(&server.client(), Method::POST, &url, space(name).to_string()).await;
        }
        server
    }

    /// Returns a client with a connection of its own.
    fn client(&self) -> Client {
        let roots = self.roots.iter();
        let roots = roots.map(|root| reqwest::Certificate::from_der(root).unwrap());
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        let client = Client::builder().tls_certs_only(roots).no_proxy().http1_only();
        client.default_headers(headers).build().unwrap()
    }

    fn tasks(&self, namespace: &str) -> String {
        format!(
            "{}/apis/foreman.llmkube.dev/v1alpha1/namespaces/{namespace}/agentictasks",
            self.url
        )
    }

    /// Makes so many tasks with so many clients; returns how many a second.
    async fn create(&self, namespace: &str, clients: usize, count: usize) -> f64 {
        let url = self.tasks(namespace);
        self.each(clients, count, move |client, name| {
            let url = url.clone();
            async move {
                send(&client, Method::POST, &url, task(&name).to_string()).await;
            }
        })
        .await
    }

    /// Reads and replaces that many tasks; returns how many replacements a second, the reading not counted.
    async fn update(&self, clients: usize, count: usize) -> f64 {
        let url = self.tasks("made");
        let all = send(&self.client(), Method::GET, &url, String::new()).await;
        let all: Value = serde_json::from_slice(&all).unwrap();
        let bodies: std::collections::HashMap<String, String> = all["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| {
                let mut task = task.clone();
                task["metadata"]["labels"] = json!({ "written-by": format!("{clients}-clients") });
                (task["metadata"]["name"].as_str().unwrap().to_owned(), task.to_string())
            })
            .collect();
        let bodies = std::sync::Arc::new(bodies);
        self.each(clients, count, move |client, name| {
            let (url, bodies) = (format!("{url}/{name}"), bodies.clone());
            async move {
                send(&client, Method::PUT, &url, bodies[&name].clone()).await;
            }
        })
        .await
    }

    /// Lets clients do something, one time for each name; the clients' connections are there before the clock starts.
    async fn each<F>(&self, clients: usize, count: usize, what: impl Fn(Client, String) -> F) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ready = Vec::new();
        for number in 0..clients {
            let client = self.client();
            send(&client, Method::GET, &format!("{}/version", self.url), String::new()).await;
            let names = (0..count / clients).map(|n| format!("c{clients}-{number}-{n}"));
            let work: Vec<F> = names.map(|name| what(client.clone(), name)).collect();
            ready.push(work);
        }
        let begin = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        let mut done = 0;
        for work in ready {
            done += work.len();
            running.spawn(async move {
                for one in work {
                    one.await;
                }
            });
        }
        running.join_all().await;
        done as f64 / begin.elapsed().as_secs_f64()
    }

    /// Returns the times of whole lists of all tasks.
    async fn lists(&self) -> (usize, Vec<Duration>) {
        let (client, url) = (self.client(), self.tasks("made"));
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..LISTS {
            let begin = Instant::now();
            bytes = send(&client, Method::GET, &url, String::new()).await.len();
            times.push(begin.elapsed());
        }
        (bytes, times)
    }

    /// Returns the times from the start of a create to its event.
    async fn watch(&self) -> Vec<Duration> {
        let (client, url) = (self.client(), self.tasks("watched"));
        let list = send(&client, Method::GET, &url, String::new()).await;
        let list: Value = serde_json::from_slice(&list).unwrap();
        let version = list["metadata"]["resourceVersion"].as_str().unwrap();
        let events = client.get(format!("{url}?watch=true&resourceVersion={version}"));
        let mut lines = lines(events.send().await.unwrap().bytes_stream());
        let writer = self.client();
        let mut times = Vec::new();
        for n in 0..WATCHED {
            let name = format!("w-{n}");
            let body = task(&name).to_string();
            let begin = Instant::now();
            let create = send(&writer, Method::POST, &url, body);
            let seen = async {
                let line = lines.next().await.unwrap();
                assert!(line.contains(&format!("\"name\":\"{name}\"")), "{line}");
                begin.elapsed()
            };
            times.push(tokio::join!(create, seen).1);
        }
        times
    }

    /// Returns resident memory of its processes together, now and at most.
    fn memory(&self) -> (f64, f64) {
        let mut sums = (0.0, 0.0);
        for id in &self.ids {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            let of = |line: &str| -> f64 {
                let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
                found.trim().trim_end_matches(" kB").parse().unwrap()
            };
            sums.0 += of("VmRSS:") / 1024.0;
            sums.1 += of("VmHWM:") / 1024.0;
        }
        sums
    }
}

fn task(name: &str) -> Value {
    json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1",
        "kind": "AgenticTask",
        "metadata": { "name": name, "labels": { "foreman.llmkube.dev/queue": "bench" } },
        "spec": {
            "kind": "freeform",
            "timeoutSeconds": 600,
            "requiredCapability": { "roles": ["coder"] },
            "payload": { "prompt": "Please mend what is broken. ".repeat(40) },
        },
    })
}

/// Asks, and returns the body of an answer that is a success.
async fn send(client: &Client, method: Method, url: &str, body: String) -> Vec<u8> {
    let answer = client.request(method, url).body(body).send().await.unwrap();
    let status = answer.status();
    let body = answer.bytes().await.unwrap();
    // A namespace may be there from an earlier run.
    let fine = status.is_success() || (status == StatusCode::CONFLICT && url.ends_with("/namespaces"));
    assert!(fine, "{url}: {status}: {}", String::from_utf8_lossy(&body));
    body.into()
}

/// Cuts a stream into its lines.
fn lines(
    bytes: impl Stream<Item = Result<bytes::Bytes, reqwest::Error>> + Send + 'static,
) -> impl Stream<Item = String> + Unpin {
    let state = (bytes.boxed(), Vec::<u8>::new());
    futures::stream::unfold(state, |(mut bytes, mut held)| async move {
        loop {
            if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let rest = held.split_off(end + 1);
                return Some((String::from_utf8(held).unwrap(), (bytes, rest)));
            }
            held.extend_from_slice(&bytes.next().await?.unwrap());
        }
    })
    .boxed()
}

/// A plane as a process of its own.
struct Own {
    child: Child,
    kubeconfig: PathBuf,
}

impl Own {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(SERVE)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        Self {
            child,
            kubeconfig: line.trim().into(),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It ends when nobody holds its input any more.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Prints both servers' numbers beside each other, with their ratios and the goals.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let Some(kubeconfig) = crate::served::real_kubeconfig() else {
        panic!("FOREMAN_REAL_KUBECONFIG names no kube-apiserver; run this by `cargo xtask bench plane`");
    };
    // Beside the other server's state, so that both write to one disk.
    let folder = tempfile::tempdir_in(kubeconfig.parent().unwrap()).unwrap();
    let ids = std::env::var("FOREMAN_REAL_PROCESSES").unwrap();
    let ids = ids.split(',').map(|id| id.parse().unwrap()).collect();
    let own = Own::start(folder.path());
    runtime.block_on(async {
        let plane = Server::new(&own.kubeconfig, vec![own.child.id()]).await;
        let peer = Server::new(&kubeconfig, ids).await;
        compare(&plane, &peer).await;
    });
}

async fn compare(plane: &Server, peer: &Server) {
    println!("  both wait for the disk at every write; tasks of some 2 KB, clients over TLS on the same machine");
    row("", "plane", "kube-apiserver + etcd", "ratio");
    for server in [plane, peer] {
        server.create("warm", 8, WARM).await;
    }
    for (clients, count) in CLIENTS {
        let (own, other) = (
            plane.create("made", clients, count).await,
            peer.create("made", clients, count).await,
        );
        let goal = (clients == 64).then_some(5.0);
        rates(&format!("creates, clients: {clients}"), own, other, goal);
    }
    for (clients, count) in CLIENTS {
        let (own, other) = (plane.update(clients, count).await, peer.update(clients, count).await);
        rates(&format!("updates, clients: {clients}"), own, other, None);
    }
    let ((bytes, mut own), (other_bytes, mut other)) = (plane.lists().await, peer.lists().await);
    let what = format!(
        "list of 10,000 ({:.0} MB, {:.0} MB), p50",
        bytes as f64 / 1e6,
        other_bytes as f64 / 1e6
    );
    times(&what, quantile(&mut own, 0.5), quantile(&mut other, 0.5), None);
    let (mut own, mut other) = (plane.watch().await, peer.watch().await);
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let (own, other) = (quantile(&mut own, share), quantile(&mut other, share));
        times(
            &format!("from a create's start to its event, {name}"),
            own,
            other,
            Some(3.0),
        );
    }
    let (own, other) = (plane.memory(), peer.memory());
    for (what, own, other) in [("at the end", own.0, other.0), ("at most", own.1, other.1)] {
        let what = format!("resident memory, 10,000 tasks, {what}");
        row(
            &what,
            &format!("{own:.0} MiB"),
            &format!("{other:.0} MiB"),
            &ratio(other / own, Some(4.0)),
        );
    }
}

fn rates(what: &str, own: f64, other: f64, goal: Option<f64>) {
    row(
        what,
        &format!("{own:.0}/s"),
        &format!("{other:.0}/s"),
        &ratio(own / other, goal),
    );
}

fn times(what: &str, own: Duration, other: Duration, goal: Option<f64>) {
    let found = other.as_secs_f64() / own.as_secs_f64();
    row(what, &milliseconds(own), &milliseconds(other), &ratio(found, goal));
}

fn ratio(found: f64, goal: Option<f64>) -> String {
    let mut text = format!("{found:.1} x");
    if let Some(goal) = goal {
        let word = if found >= goal { "met" } else { "missed" };
        write!(text, "  (goal {goal:.0} x, {word})").unwrap();
    }
    text
}

fn row(what: &str, own: &str, other: &str, ratio: &str) {
    println!("  {what:<46} {own:>12} {other:>22}  {ratio}");
    std::io::stdout().flush().unwrap();
}
