//! One Pod from its start to its end: volumes, containers as processes, status.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::container::{Own, is_own, wanted};
use super::environment::Sources;
use super::logs::{self, LogWriter};
use super::status::{self, Ended, Seen, Stage};
use super::volumes::{self, Roots};
use super::{Desk, FIELD_MANAGER, event, process, sources};

/// What every start of a container shares.
struct Ground {
    sources: Sources,
    volumes: BTreeMap<String, volumes::Placed>,
    folder: PathBuf,
}

/// Runs `pod` to its end; `cancel` ends it early.
pub async fn run(desk: Arc<Desk>, pod: Pod, cancel: CancellationToken) {
    let uid = pod.uid().unwrap_or_default();
    let folder = desk.config.folder.join("pods").join(&uid);
    let carrier = Carrier {
        desk,
        seen: Mutex::new(status::unstarted(&pod)),
        pod,
        cancel,
    };
    let over = carrier.carry(&folder).await;
    // First, since on a full disk it may be what leaves no room for the status.
    let _ = tokio::task::spawn_blocking(move || sandbox::remove_tree(&folder)).await;
    carrier
        .write(over.as_ref().map(|(reason, message)| (*reason, message.as_str())))
        .await;
    if carrier.cancel.is_cancelled() {
        carrier.remove().await;
    }
}

struct Carrier {
    desk: Arc<Desk>,
    pod: Pod,
    seen: Mutex<Vec<Seen>>,
    cancel: CancellationToken,
}

impl Carrier {
    async fn carry(&self, folder: &std::path::Path) -> Option<(&'static str, String)> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let ground = match self.ground(folder).await {
            Ok(ground) => ground,
            Err(why) => {
                self.event("Warning", "FailedMount", &why).await;
                self.fail_all("CreateContainerConfigError", &why).await;
                return Some(("StartError", why));
            }
        };
        let deadline = spec
            .active_deadline_seconds
            .map(|seconds| Duration::from_secs(seconds.max(0) as u64));
        let expired = CancellationToken::new();
        let stop = self.cancel.child_token();
        let watch = {
            let (expired, stop) = (expired.clone(), stop.clone());
            tokio::spawn(async move {
                if let Some(deadline) = deadline {
                    tokio::time::sleep(deadline).await;
                    expired.cancel();
                    stop.cancel();
                }
            })
        };
        for container in spec.init_containers.iter().flatten() {
            let ended = self
                .start(container, &ground, &stop, spec.restart_policy.as_deref())
                .await;
            if ended.code != 0 {
                watch.abort();
                return self.ending(&expired, deadline);
            }
        }
        let all = spec
            .containers
            .iter()
            .map(|container| self.start(container, &ground, &stop, spec.restart_policy.as_deref()));
        join_all(all).await;
        watch.abort();
        self.ending(&expired, deadline)
    }

    fn ending(&self, expired: &CancellationToken, deadline: Option<Duration>) -> Option<(&'static str, String)> {
        if expired.is_cancelled() {
            let seconds = deadline.unwrap_or_default().as_secs();
            return Some((
                "DeadlineExceeded",
                format!("Pod was active on the node longer than the specified deadline of {seconds} s"),
            ));
        }
        None
    }

    async fn fail_all(&self, reason: &str, why: &str) {
        for seen in self.seen.lock().await.iter_mut() {
            seen.stage = Stage::Waiting {
                reason: reason.into(),
                message: Some(why.into()),
            };
        }
    }

    async fn ground(&self, folder: &std::path::Path) -> Result<Ground, String> {
        let sources = sources::sources(&self.desk, &self.pod).await?;
        let roots = Roots {
            pod: folder.to_owned(),
            claims: self.desk.config.folder.join("volumes"),
            host: self.desk.config.host_paths.clone(),
        };
        let pod = self.pod.clone();
        let made = sources.clone();
        let volumes = tokio::task::spawn_blocking(move || {
            // A Pod without volumes needs the folder as well: termination messages lie in it.
            std::fs::create_dir_all(&roots.pod)
                .map_err(|error| format!("failed to make the folder {}: {error}", roots.pod.display()))?;
            volumes::place(&pod, &roots, &made)
        })
        .await
        .map_err(|error| error.to_string())??;
        Ok(Ground {
            sources,
            volumes,
            folder: folder.to_owned(),
        })
    }

    async fn start(
        &self,
        container: &Container,
        ground: &Ground,
        stop: &CancellationToken,
        restart: Option<&str>,
    ) -> Ended {
        let mut restarts = 0;
        loop {
            let ended = self.once(container, ground, stop).await;
            let again = match restart {
                Some("Never") => false,
                Some("OnFailure") => ended.code != 0,
                _ => ended.code != 0 || !self.is_init(&container.name).await,
            };
            if !again || stop.is_cancelled() || restarts >= self.desk.config.most_restarts {
                self.set(&container.name, Stage::Ended(ended.clone()), restarts).await;
                return ended;
            }
            restarts += 1;
            let back_off = Stage::Waiting {
                reason: "CrashLoopBackOff".into(),
                message: Some(ended.message.clone()),
            };
            self.set(&container.name, back_off, restarts).await;
            self.write(None).await;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(10 << (restarts - 1).min(5))) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn is_init(&self, name: &str) -> bool {
        self.seen
            .lock()
            .await
            .iter()
            .any(|seen| seen.init && seen.container.name == name)
    }

    async fn set(&self, name: &str, stage: Stage, restarts: i32) {
        if let Some(seen) = self
            .seen
            .lock()
            .await
            .iter_mut()
            .find(|seen| seen.container.name == name)
        {
            seen.stage = stage;
            seen.restarts = seen.restarts.max(restarts);
        }
    }

    async fn once(&self, container: &Container, ground: &Ground, stop: &CancellationToken) -> Ended {
        let started = Timestamp::now();
        let refused = |reason: &str, why: String| Ended {
            code: 128,
            reason: reason.to_owned(),
            message: status::message(why.as_bytes()),
            started,
            finished: Timestamp::now(),
        };
        let termination = ground.folder.join(format!("{}.termination", container.name));
        let log = logs::path(
            &self.desk.config.folder.join("pod-logs"),
            &self.pod.uid().unwrap_or_default(),
            &container.name,
        );
        let opened = File::create(&termination)
            .and_then(|_| std::fs::create_dir_all(log.parent().unwrap_or(&ground.folder)))
            .and_then(|()| File::create(&log));
        let log_file = match opened {
            Ok(file) => file,
            Err(error) => {
                return refused(
                    "StartError",
                    format!("failed to make the log {}: {error}", log.display()),
                );
            }
        };
        let asked = match wanted(
            &self.pod,
            container,
            &ground.volumes,
            &ground.sources,
            Own {
                images: &self.desk.config.own_images,
                programs: &self.desk.config.own_programs,
            },
            &termination,
        ) {
            Ok(asked) => asked,
            Err(why) => {
                self.event("Warning", "Failed", &why).await;
                return refused("StartError", why);
            }
        };
        self.tell(container).await;
        let command = match process::command(&self.desk, &self.pod.name_any(), &asked).await {
            Ok(command) => command,
            Err(why) => {
                self.event("Warning", "Failed", &why).await;
                return refused("StartError", why);
            }
        };
        self.set(&container.name, Stage::Running { since: started }, 0).await;
        if !self.is_init(&container.name).await {
            self.write(None).await;
        }
        self.desk.growing.begin(&log);
        let mut writer = LogWriter::new(log_file, self.desk.config.log_bytes);
        let output =
            sandbox::Output::discard().together(sandbox::Sink::Call(Box::new(move |bytes| writer.push(bytes))));
        let outcome = match self.desk.config.sandbox.spawn(command, output) {
            Ok(mut child) => {
                let killer = child.killer();
                tokio::select! {
                    outcome = child.wait() => Ok(outcome),
                    () = stop.cancelled() => {
                        killer.kill();
                        Ok(child.wait().await)
                    }
                }
            }
            Err(error) => Err(error.to_string()),
        };
        self.desk.growing.end(&log);
        match outcome {
            Err(why) => refused("StartError", why),
            Ok(outcome) => self.end(container, &termination, &log, outcome, started, stop).await,
        }
    }

    async fn end(
        &self,
        container: &Container,
        termination: &std::path::Path,
        log: &std::path::Path,
        outcome: sandbox::Outcome,
        started: Timestamp,
        stop: &CancellationToken,
    ) -> Ended {
        tracing::debug!(pod = self.pod.name_any(), container = container.name, enforced = ?outcome.enforced, peak = outcome.peak_memory_bytes, "container ended");
        let overrun = stop.is_cancelled() && !self.cancel.is_cancelled();
        let (code, reason) = process::ending(&outcome, overrun);
        let mut message = process::message(termination);
        if let sandbox::Reason::StartError(why) = &outcome.reason {
            message = why.clone();
        } else if message.is_empty()
            && code != 0
            && container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
        {
            message = logs::last_lines(log, 80, 2048);
        }
        self.enforced(container, &outcome).await;
        Ended {
            code,
            reason: reason.into(),
            message: status::message(message.as_bytes()),
            started,
            finished: Timestamp::now(),
        }
    }

    async fn tell(&self, container: &Container) {
        let image = container.image.clone().unwrap_or_default();
        if !is_own(&image, &self.desk.config.own_images) {
            let text = format!("Image {image:?} stands for this host's tools: images are not pulled on one machine");
            self.event("Normal", "HostTools", &text).await;
        }
        if let Some(weakness) = self.desk.config.sandbox.backend().weakness() {
            self.event("Warning", "WeakerSandbox", weakness).await;
        }
    }

    async fn enforced(&self, container: &Container, outcome: &sandbox::Outcome) {
        let key = format!("foreman.llmkube.dev/enforced.{}", container.name);
        let mut value = serde_json::to_value(&outcome.enforced).unwrap_or_default();
        value["peakMemoryBytes"] = json!(outcome.peak_memory_bytes);
        self.desk
            .notes
            .lock()
            .await
            .entry(self.pod.uid().unwrap_or_default())
            .or_default()
            .insert(key, value.to_string());
    }

    /// Writes the Pod's status as it is now.
    async fn write(&self, over: Option<(&str, &str)>) {
        let seen = self.seen.lock().await.clone();
        let built: PodStatus = status::build(&self.pod, &seen, over, Timestamp::now());
        let terminal = matches!(built.phase.as_deref(), Some("Succeeded" | "Failed"));
        let uid = self.pod.uid().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.desk.client.clone(), &self.pod.namespace().unwrap_or_default());
        let name = self.pod.name_any();
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        if terminal && let Some(notes) = self.desk.notes.lock().await.remove(&uid) {
            let patch = json!({ "metadata": { "uid": uid, "annotations": notes } });
            if let Err(error) = pods.patch(&name, &params, &Patch::Merge(patch)).await {
                tracing::debug!(%error, pod = name, "failed to note what was enforced");
            }
        }
        let patch = json!({ "metadata": { "uid": uid }, "status": built });
        for attempt in 0_u32.. {
            match pods.patch_status(&name, &params, &Patch::Merge(&patch)).await {
                Ok(_) => return,
                Err(kube::Error::Api(refused)) if (400..500).contains(&refused.code) => {
                    tracing::debug!(error = refused.message, pod = name, "the pod's status was not taken");
                    return;
                }
                Err(error) => tracing::warn!(%error, pod = name, "failed to write the pod's status; trying again"),
            }
            // An end is written however long it takes: nobody else knows it.
            if attempt >= 20 && (!terminal || self.cancel.is_cancelled()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50 << attempt.min(6))).await;
        }
    }

    async fn remove(&self) {
        let pods: Api<Pod> = Api::namespaced(self.desk.client.clone(), &self.pod.namespace().unwrap_or_default());
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        if let Err(error) = pods.delete(&self.pod.name_any(), &now).await
            && !matches!(&error, kube::Error::Api(status) if status.code == 404)
        {
            tracing::debug!(%error, pod = self.pod.name_any(), "failed to remove the pod");
        }
    }

    async fn event(&self, kind: &str, reason: &str, text: &str) {
        event::write(&self.desk, &self.pod, kind, reason, text).await;
    }
}
