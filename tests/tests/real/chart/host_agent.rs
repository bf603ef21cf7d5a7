//! `docs/host-agent.md`: its own commands, and its unit's own command line, on a real API server.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::cluster::Release;
use super::helm::needed;
use crate::foreman::program;

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/host-agent.md")).unwrap()
}

/// Returns the block of the page that begins with this fence.
fn block(page: &str, fence: &str) -> String {
    let (_, rest) = page
        .split_once(&format!("```{fence}\n"))
        .unwrap_or_else(|| panic!("the page has no block {fence}"));
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn the_page_on_agents_outside_the_cluster_does_what_it_says() {
    let page = page();
    let node = format!("studio-{:06x}", rand::random::<u32>() & 0xff_ffff);
    let value = block(&page, "sh helm");
    let value = value.split("--set ").nth(1).unwrap().trim().replace("studio", &node);
    let release = Release::apply(&["--set", &value]);
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let own = |text: &str| {
        text.replace("studio", &node)
            .replace("/etc/foreman", at.to_str().unwrap())
            .replace("foreman-system", &release.namespace)
            .replace("foreman-host-", &format!("{}-host-", release.name))
    };
    let tools = at.join("bin");
    std::fs::create_dir(&tools).unwrap();
    std::os::unix::fs::symlink(needed("FOREMAN_KUBECTL"), tools.join("kubectl")).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let shell = |script: &str| {
        let ran = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(at)
            .env("PATH", &path)
            .env("HOME", at)
            .env("KUBECONFIG", release.cluster.kubeconfig())
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{script}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8(ran.stdout).unwrap()
    };
    shell(&own(&block(&page, "sh kubeconfig")));
    let token = std::fs::read_to_string(at.join("token")).unwrap();
    let kubeconfig = std::fs::read_to_string(at.join("agent.kubeconfig")).unwrap();
    assert!(
        !kubeconfig.contains(token.trim()),
        "the token lies in its own file alone"
    );

    // The unit's command line, with its folders and its port moved.
    let unit = block(&page, "ini").replace("\\\n", " ");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let line = own(line)
        .replace("/var/lib/foreman-agent", at.join("work").to_str().unwrap())
        .replace("127.0.0.1:8485", &format!("127.0.0.1:{port}"));
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/foreman-agent"));
    release.cluster.until("the account's roles", || {
        let account = format!("--as={}", release.account(&format!("host-{node}")));
        let asked = ["auth", "can-i", "create", "fleetnodes.foreman.llmkube.dev", &account];
        release.cluster.call(&asked, "").code == Some(0)
    });
    let log = std::fs::File::create(at.join("log")).unwrap();
    let mut agent = Command::new(program().with_file_name("foreman-agent"))
        .args(words)
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(at.join("log")).unwrap();
    let ready = format!("http://127.0.0.1:{port}/readyz");
    let mut answer = String::new();
    for _ in 0..600 {
        if let Ok(asked) = reqwest::get(&ready).await {
            let well = asked.status().is_success();
            answer = asked.text().await.unwrap();
            if well {
                break;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(
        answer.ends_with("ready\n") && !answer.contains("[-]"),
        "{answer}\n{}",
        said()
    );
    let shown = shell(&own(&block(&page, "sh check")));
    assert!(
        shown.contains("Ready") && shown.contains(&format!("foreman-node-{node}")),
        "{shown}"
    );
    let found = release.cluster.get(&["fleetnode", &node]);
    assert_eq!(found["spec"]["roles"], json!(["coder", "verifier"]));
    assert!(
        said().lines().all(|line| line.starts_with('{')),
        "the log is JSON: {}",
        said()
    );
    let metrics = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap();
    let kind = metrics.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let metrics = metrics.text().await.unwrap();
    assert!(
        telemetry::metrics::sum(&metrics, "foreman_agent_name_held", &[]) == 1.0,
        "{metrics}"
    );

    // It takes what is assigned to it, and leaves as its service stops.
    let task = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": "smoke", "namespace": release.namespace },
        "spec": { "kind": "freeform", "requiredCapability": { "roles": ["verifier"] }, "payload": { "prompt": "Say that you are there." } },
    });
    release.cluster.run(&["create", "--filename", "-"], &task.to_string());
    let assigned = json!({ "status": { "phase": "Scheduled", "assignedNode": node, "epoch": 0 } }).to_string();
    let in_space = ["--namespace", release.namespace.as_str()];
    let patch = [
        &[
            "patch",
            "agentictask",
            "smoke",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &assigned,
        ][..],
        &in_space,
    ]
    .concat();
    release.cluster.run(&patch, "");
    release.cluster.until_or(
        "the task's end",
        || release.cluster.get(&["agentictask", "smoke", in_space[0], in_space[1]])["status"]["phase"] == "Succeeded",
        said,
    );
    let stopped = Command::new("kill")
        .args(["-TERM", &agent.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    assert!(agent.wait().unwrap().success(), "{}", said());
    assert_eq!(
        release.cluster.get(&["fleetnode", &node])["status"]["phase"],
        "Draining"
    );
    release.cluster.run(&["delete", "fleetnode", &node], "");
}
