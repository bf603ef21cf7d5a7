//! One task file changed in a large repository beside a small one, from the commit to the object.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use git::FileEdit;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::AgenticTask;

use crate::site::{Site, Tasks, manifest};
use crate::{median, ratio, say, seconds};

const TASKS: usize = 500;
const FEW: usize = 1_000;
const MANY: usize = 100_000;
const FOLDER: usize = 1_000;
const ROUNDS: usize = 9;

/// Makes a repository of so many files, the first of which are task files and the others what lies beside them.
fn repository(site: &Site, files: usize) -> Tasks {
    let file = |n: usize| {
        if n < TASKS {
            FileEdit::write(format!("tasks/d000/t{n:05}.yaml"), manifest(n, "Write the note."))
        } else {
            FileEdit::write(format!("tasks/d{:03}/n{n}.txt", n / FOLDER), format!("note {n}\n"))
        }
    };
    let edits: Vec<FileEdit> = (0..files).map(file).collect();
    Tasks::new(&site.folder.path().join(format!("files-{files}.git")), &edits)
}

/// Changes one file and waits for its object.
async fn change(client: &Client, namespace: &str, tasks: &mut Tasks, round: usize) -> Duration {
    let text = format!("Write the note {round} times.");
    let n = round * 7;
    tasks.prepare(&[FileEdit::write(format!("tasks/d000/t{n:05}.yaml"), manifest(n, &text))]);
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), namespace);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut begin = None;
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            watcher::Event::InitDone => {
                begin = Some(Instant::now());
                tasks.publish();
            }
            watcher::Event::Apply(task)
                if task.name_any().contains(&format!("task-{n:05}"))
                    && task
                        .spec
                        .payload
                        .prompt
                        .as_deref()
                        .is_some_and(|prompt| prompt.contains(&text)) =>
            {
                return begin.unwrap().elapsed();
            }
            _ => {}
        }
    }
    panic!("the watch ended");
}

/// Prints the median cost of one change for each size, with their ratio.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let site = Site::open().await;
        let namespace = [site.namespace().await, site.namespace().await];
        let mut both = [repository(&site, FEW), repository(&site, MANY)];
        let mut operators = Vec::new();
        for (tasks, namespace) in both.iter().zip(&namespace) {
            let operator = site.operator(namespace);
            let begin = Instant::now();
            site.queue(namespace, tasks, false).await;
            site.acted_on(namespace, tasks.head).await;
            operator.settled().await;
            say("the first look, with Git's fetch", &seconds(begin.elapsed()));
            operators.push(operator);
        }
        let mut times: [Vec<Duration>; 2] = Default::default();
        for round in 1..=ROUNDS {
            for ((tasks, namespace), times) in both.iter_mut().zip(&namespace).zip(&mut times) {
                times.push(change(&site.client, namespace, tasks, round).await);
            }
        }
        let [few, many] = times.map(|times| median(&times));
        say(
            &format!("one of {TASKS} task files among {FEW} files changed"),
            &seconds(few),
        );
        say(
            &format!("one of {TASKS} task files among {MANY} files changed"),
            &seconds(many),
        );
        ratio("large to small, with Git's fetch", many, few, "≤ 1.5");
        for (operator, files) in operators.iter().zip([FEW, MANY]) {
            say(
                &format!("memory of the operator, {files} files, at most"),
                &format!("{:.0} MiB", operator.memory("VmHWM")),
            );
        }
        drop(operators);
        for namespace in &namespace {
            site.clear(namespace).await;
        }
    });
}
