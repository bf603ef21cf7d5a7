//! A thousand task files in one commit, until their objects are there; then one of them changed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use git::FileEdit;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::AgenticTask;
use serde_json::{Value, json};

use crate::site::{Site, Tasks, manifest, needed, parallel};
use crate::{median, ratio, requests, say, seconds};

const FILES: usize = 1_000;
/// In every second of them the bare client comes first: a server is busy with what was before for a while.
const ROUNDS: usize = 6;
/// kubectl takes so long that it is told from the others in few rounds.
const KUBECTL_ROUNDS: usize = 3;
/// Applies that a bare client has under way at once.
const CLIENTS: usize = 64;

fn edit(n: usize, text: &str) -> FileEdit {
    FileEdit::write(format!("tasks/t{n:05}.yaml"), manifest(n, text))
}

/// Waits until so many tasks of a namespace please `is_one`; the watch is under way before `begin` is called.
async fn until(
    client: &Client,
    namespace: &str,
    wanted: usize,
    is_one: impl Fn(&AgenticTask) -> bool,
    begin: impl FnOnce(),
) {
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), namespace);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut seen = std::collections::HashSet::new();
    let mut begin = Some(begin);
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            watcher::Event::Apply(task) | watcher::Event::InitApply(task) if is_one(&task) => {
                seen.insert(task.name_any());
            }
            watcher::Event::InitDone => {
                if let Some(begin) = begin.take() {
                    begin();
                }
            }
            _ => {}
        }
        if begin.is_none() && seen.len() >= wanted {
            return;
        }
    }
}

#[derive(Default)]
struct Times {
    operator: Vec<Duration>,
    operator_again: Vec<Duration>,
    bare: Vec<Duration>,
    kubectl: Vec<Duration>,
    kubectl_again: Vec<Duration>,
}

/// Has the operator do it, and tells what else it took in the last round; returns the objects that it made.
async fn by_operator(site: &Site, is_last: bool, times: &mut Times) -> (String, Vec<Value>) {
    let namespace = site.namespace().await;
    let mut tasks = Tasks::new(
        &site.folder.path().join(format!("tasks-{namespace}.git")),
        &[FileEdit::write("README.md", "Tasks.\n")],
    );
    let operator = site.operator(&namespace);
    site.queue(&namespace, &tasks, false).await;
    site.acted_on(&namespace, tasks.head).await;
    let idle = operator.settled().await;
    let resting = operator.memory("VmRSS");

    let all: Vec<FileEdit> = (0..FILES).map(|n| edit(n, "Write the note.")).collect();
    tasks.prepare(&all);
    let used = operator.processor_time();
    let mut begin = Instant::now();
    until(
        &site.client,
        &namespace,
        FILES,
        |_| true,
        || {
            begin = Instant::now();
            tasks.publish();
        },
    )
    .await;
    times.operator.push(begin.elapsed());
    let used = operator.processor_time() - used;
    let meanwhile = operator.counters().await;
    site.acted_on(&namespace, tasks.head).await;
    let made = operator.settled().await;

    tasks.prepare(&[edit(500, "Write the note twice.")]);
    let mut begin = Instant::now();
    let changed = |task: &AgenticTask| {
        task.spec
            .payload
            .prompt
            .as_deref()
            .is_some_and(|text| text.contains("twice"))
    };
    until(&site.client, &namespace, 1, changed, || {
        begin = Instant::now();
        tasks.publish();
    })
    .await;
    times.operator_again.push(begin.elapsed());
    if is_last {
        let (now, most) = (operator.memory("VmRSS"), operator.memory("VmHWM"));
        say(
            "memory of the operator with nothing to do, with the tasks, at most",
            &format!("{resting:.0}, {now:.0}, {most:.0} MiB (goal ≤ 128)"),
        );
        say("processor time of the operator for the objects", &seconds(used));
        requests("before the last object was there", &idle, &meanwhile, FILES);
        requests("until nothing was left to do", &idle, &made, FILES);
    }
    operator.kill();
    let api: Api<AgenticTask> = Api::namespaced(site.client.clone(), &namespace);
    let found = api.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(found.len(), FILES);
    let plain = |task: AgenticTask| {
        json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": {
                "name": task.name_any(), "labels": task.metadata.labels, "annotations": task.metadata.annotations,
                "ownerReferences": task.metadata.owner_references,
            },
            "spec": task.spec,
        })
    };
    (namespace, found.into_iter().map(plain).collect())
}

/// Applies the same objects by a client that does nothing else.
async fn by_bare_client(site: &Site, objects: Vec<Value>, times: &mut Times) -> String {
    let namespace = site.namespace().await;
    let tasks = Tasks::new(
        &site.folder.path().join(format!("{namespace}.git")),
        &[FileEdit::write("README.md", "Tasks.\n")],
    );
    let owner = site.queue(&namespace, &tasks, true).await.uid().unwrap();
    let objects = objects.into_iter().map(|mut object| {
        if object["metadata"]["ownerReferences"].is_array() {
            object["metadata"]["ownerReferences"][0]["uid"] = json!(owner);
        }
        object
    });
    let objects: Vec<Value> = objects.collect();
    let api: Api<AgenticTask> = Api::namespaced(site.client.clone(), &namespace);
    let applied = parallel(objects, CLIENTS, move |object| {
        let api = api.clone();
        async move {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let params = PatchParams::apply("bench").force();
            api.patch(&name, &params, &Patch::Apply(&object)).await.unwrap();
        }
    });
    // Seen by the same watch as what the operator makes, which the server has to serve in both.
    let (start, started) = tokio::sync::oneshot::channel();
    let mut begin = Instant::now();
    let seen = until(
        &site.client,
        &namespace,
        FILES,
        |_| true,
        || {
            begin = Instant::now();
            start.send(()).unwrap();
        },
    );
    let applied = async {
        started.await.unwrap();
        applied.await;
    };
    tokio::join!(seen, applied);
    times.bare.push(begin.elapsed());
    namespace
}

/// Applies the same files by kubectl, twice, with one of them changed between.
async fn by_kubectl(site: &Site, times: &mut Times) -> String {
    let namespace = site.namespace().await;
    let folder = site.folder.path().join(&namespace);
    std::fs::create_dir(&folder).unwrap();
    for n in 0..FILES {
        std::fs::write(folder.join(format!("t{n:05}.yaml")), manifest(n, "Write the note.")).unwrap();
    }
    // What it learns of the API once is not counted.
    kubectl(site, &namespace, &["api-resources", "--output", "name"]);
    let folder_of = folder.clone();
    let apply = move |site: &Site, namespace: &str| {
        let begin = Instant::now();
        kubectl(site, namespace, &["apply", "--filename", path(&folder_of)]);
        begin.elapsed()
    };
    times.kubectl.push(apply(site, &namespace));
    std::fs::write(folder.join("t00500.yaml"), manifest(500, "Write the note twice.")).unwrap();
    times.kubectl_again.push(apply(site, &namespace));
    namespace
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn kubectl(site: &Site, namespace: &str, arguments: &[&str]) {
    let done = Command::new(needed("FOREMAN_KUBECTL"))
        .args(["--kubeconfig", path(&site.kubeconfig), "--namespace", namespace])
        .args(arguments)
        .env("HOME", site.folder.path())
        .env_remove("KUBECONFIG")
        .stdout(Stdio::null())
        .status();
    assert!(done.unwrap().success(), "kubectl {arguments:?}");
}

/// Prints the times of all, round by round in turn, and their ratios.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let site = Site::open().await;
        // What the bare client applies; the server meets these kinds for the first time here.
        let (made, objects) = by_operator(&site, false, &mut Times::default()).await;
        site.clear(&made).await;
        let mut times = Times::default();
        for round in 0..ROUNDS {
            let is_last = round + 1 == ROUNDS;
            let mut used = Vec::new();
            if round % 2 == 1 {
                used.push(by_bare_client(&site, objects.clone(), &mut times).await);
            }
            used.push(by_operator(&site, is_last, &mut times).await.0);
            if round % 2 == 0 {
                used.push(by_bare_client(&site, objects.clone(), &mut times).await);
            }
            let last = |times: &[Duration]| seconds(*times.last().unwrap());
            let found = format!(
                "{}, {}; {}",
                last(&times.operator),
                last(&times.operator_again),
                last(&times.bare)
            );
            say("operator the first time and again; bare client", &found);
            if round < KUBECTL_ROUNDS {
                used.push(by_kubectl(&site, &mut times).await);
                let found = format!("{}, {}", last(&times.kubectl), last(&times.kubectl_again));
                say("kubectl apply the first time and again", &found);
            }
            for namespace in used {
                site.clear(&namespace).await;
            }
        }
        let [operator, again, bare, first, second] = [
            &times.operator,
            &times.operator_again,
            &times.bare,
            &times.kubectl,
            &times.kubectl_again,
        ]
        .map(|times| median(times));
        say(
            &format!("{FILES} task files, commit to objects, median of {ROUNDS}"),
            &seconds(operator),
        );
        say(
            &format!("the same objects by a bare client, {CLIENTS} at once"),
            &seconds(bare),
        );
        say("the same files by kubectl apply", &seconds(first));
        say("one of them changed, commit to object", &seconds(again));
        say("one of them changed, kubectl apply", &seconds(second));
        ratio("operator to bare client", operator, bare, "≤ 1.3");
        ratio("kubectl apply to operator, first time", first, operator, "≥ 3");
        ratio("kubectl apply to operator, one changed", second, again, "≥ 20");
    });
}
