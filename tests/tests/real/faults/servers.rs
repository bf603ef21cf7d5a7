//! Kubernetes' own servers are stopped, killed and started again, while tasks are written, pushed and proved.
//!
//! Operator and agent stand beside the cluster, as processes that a test sees go on or end; gates are pods on its node.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::foreman::program;
use crate::real::chart::helm::needed;
use crate::real::node::outside::{Outside, Seen, gate};
use crate::real::site::condition;

/// How long a server stays away at least.
const AWAY: Duration = Duration::from_secs(30);

/// Calls `cargo xtask real` on the servers that the tests were given.
pub fn real(arguments: &[&str]) {
    let kubeconfig = needed("FOREMAN_REAL_KUBECONFIG");
    let ran = Command::new(program().with_file_name("xtask"))
        .arg("real")
        .args(arguments)
        .arg("--state")
        .arg(kubeconfig.parent().unwrap_or(Path::new("/")))
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "real {arguments:?}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A server that was taken away; it is back when this goes.
pub struct Away(&'static str);

impl Away {
    /// Stops a server, by `term`, `kill` or `freeze`.
    pub fn stop(name: &'static str, by: &str) -> Self {
        let away = Self(name);
        tokio::task::block_in_place(|| real(&["stop", name, "--by", by]));
        away
    }

    /// Starts the server, and waits until the API answers.
    pub fn back(self) {
        drop(self);
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| real(&["start", self.0]));
    }
}

/// Fails unless operator and agent say that they lack the API.
async fn lack_the_api(outside: &mut Outside) {
    let [operator, agent] = outside.until_ready(false).await;
    assert!(operator.contains("[-] api:"), "{operator}");
    assert!(agent.contains("[-] heartbeat:"), "{agent}");
    outside.assert_alive().await;
}

/// Fails unless all is as it was before: both are ready, and the queue says that it reads.
async fn all_is_well(outside: &mut Outside, seen: &mut Seen) {
    outside.until_ready(true).await;
    outside.assert_alive().await;
    outside.assert_each_done_once(seen).await;
    let queue: schemas::TaskQueue = outside.api().get("queue").await.unwrap();
    let ready = condition(&queue, "Ready").unwrap();
    assert!(ready.starts_with("True "), "{ready}");
}

/// Takes a server away from tasks in every stage, by what `while_away` does meanwhile, and looks on until all is done.
async fn costs_time_only(server: &'static str, by: &str, while_away: impl AsyncFnOnce()) {
    let mut outside = Outside::open(&gate("sleep 4", 600), &[]).await;
    let mut seen = Seen::of(&outside);
    outside.ask(&["one", "two"]);
    seen.gate_runs(None).await;
    outside.ask(&["pushed-just-before"]);
    let begin = Instant::now();
    let away = Away::stop(server, by);
    outside.ask(&["pushed-meanwhile"]);
    while_away().await;
    lack_the_api(&mut outside).await;
    println!("both said so after {:.1} s", begin.elapsed().as_secs_f64());
    tokio::time::sleep(AWAY.saturating_sub(begin.elapsed())).await;
    away.back();
    println!("{server} was gone for {:.1} s", begin.elapsed().as_secs_f64());
    all_is_well(&mut outside, &mut seen).await;
    println!("all was done after {:.1} s", begin.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn etcd_that_is_gone_for_half_a_minute_costs_time_only() {
    costs_time_only("etcd", "freeze", async || {
        tokio::time::sleep(Duration::from_secs(12)).await;
        // It was slow, and now it crashes.
        tokio::task::block_in_place(|| real(&["stop", "etcd", "--by", "kill"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_kube_apiserver_that_is_killed_and_comes_back_costs_time_only() {
    costs_time_only("kube-apiserver", "kill", async || {}).await;
}
