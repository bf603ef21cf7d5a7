//! What a Pod's status says: pure builders.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Bytes of a termination message that reach the status.
pub const MESSAGE_BYTES: usize = 4096;

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Not started.
    Waiting {
        /// Reason, such as `PodInitializing`.
        reason: String,
        /// Message, for people.
        message: Option<String>,
    },
    /// Started.
    Running {
        /// When.
        since: Timestamp,
    },
    /// Ended.
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Reason: Completed, Error, OOMKilled, DeadlineExceeded, StartError.
    pub reason: String,
    /// Termination message.
    pub message: String,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// One container and where it is in its life.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The container.
    pub container: Container,
    /// Whether it is an init container.
    pub init: bool,
    /// Stage.
    pub stage: Stage,
    /// Restarts.
    pub restarts: i32,
}

fn waiting(reason: &str) -> Stage {
    Stage::Waiting {
        reason: reason.into(),
        message: None,
    }
}

/// Returns every container of `pod`, none of them started.
pub fn unstarted(pod: &Pod) -> Vec<Seen> {
    let spec = pod.spec.clone().unwrap_or_default();
    let has_init = spec
        .init_containers
        .as_ref()
        .is_some_and(|containers| !containers.is_empty());
    let seen = |container: Container, init: bool| Seen {
        container,
        init,
        stage: waiting(if has_init {
            "PodInitializing"
        } else {
            "ContainerCreating"
        }),
        restarts: 0,
    };
    let mut all: Vec<Seen> = spec
        .init_containers
        .into_iter()
        .flatten()
        .map(|container| seen(container, true))
        .collect();
    all.extend(spec.containers.into_iter().map(|container| seen(container, false)));
    all
}

fn container_status(seen: &Seen, uid: &str) -> ContainerStatus {
    let mut state = ContainerState::default();
    let (mut ready, mut started) = (false, false);
    match &seen.stage {
        Stage::Waiting { reason, message } => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            });
        }
        Stage::Running { since } => {
            state.running = Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            });
            (ready, started) = (true, true);
        }
        Stage::Ended(ended) => {
            ready = seen.init && ended.code == 0;
            state.terminated = Some(ContainerStateTerminated {
                exit_code: ended.code,
                signal: None,
                reason: Some(ended.reason.clone()),
                message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
                started_at: Some(Time(ended.started)),
                finished_at: Some(Time(ended.finished)),
                container_id: Some(format!("foreman://{uid}/{}", seen.container.name)),
            });
        }
    }
    ContainerStatus {
        name: seen.container.name.clone(),
        image: seen.container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        container_id: Some(format!("foreman://{uid}/{}", seen.container.name)),
        ready,
        started: Some(started),
        restart_count: seen.restarts,
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// Returns the phase of a Pod whose containers are where `seen` says.
pub fn phase(seen: &[Seen]) -> &'static str {
    let failed_init = seen
        .iter()
        .any(|one| one.init && matches!(&one.stage, Stage::Ended(ended) if ended.code != 0));
    if failed_init {
        return "Failed";
    }
    let main: Vec<&Seen> = seen.iter().filter(|one| !one.init).collect();
    let ended = |one: &&Seen| matches!(one.stage, Stage::Ended(_));
    if main.iter().all(ended) {
        let well = main
            .iter()
            .all(|one| matches!(&one.stage, Stage::Ended(ended) if ended.code == 0));
        return if well { "Succeeded" } else { "Failed" };
    }
    if main.iter().any(|one| !matches!(one.stage, Stage::Waiting { .. })) {
        "Running"
    } else {
        "Pending"
    }
}

/// Builds a Pod's status; `over` names a reason that ends the whole Pod, with its message.
pub fn build(pod: &Pod, seen: &[Seen], over: Option<(&str, &str)>, now: Timestamp) -> PodStatus {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let live = pod.status.clone().unwrap_or_default();
    let phase = if over.is_some() { "Failed" } else { phase(seen) };
    let initialized = seen
        .iter()
        .filter(|one| one.init)
        .all(|one| matches!(&one.stage, Stage::Ended(e) if e.code == 0));
    let ready = phase == "Running"
        && seen
            .iter()
            .filter(|one| !one.init)
            .all(|one| matches!(one.stage, Stage::Running { .. }));
    let done = phase == "Succeeded";
    let condition = |kind: &str, holds: bool, reason: Option<&str>| {
        let status = if holds { "True" } else { "False" };
        let before = live
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind && c.status == status);
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.filter(|_| !holds).map(str::to_owned),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
            ..PodCondition::default()
        }
    };
    let unready = match phase {
        "Succeeded" => "PodCompleted",
        "Failed" => "PodFailed",
        _ => "ContainersNotReady",
    };
    let of = |init: bool| -> Option<Vec<ContainerStatus>> {
        Some(
            seen.iter()
                .filter(|one| one.init == init)
                .map(|one| container_status(one, &uid))
                .collect::<Vec<_>>(),
        )
        .filter(|all| !all.is_empty())
    };
    PodStatus {
        phase: Some(phase.into()),
        reason: over.map(|(reason, _)| reason.to_owned()),
        message: over.map(|(_, message)| message.to_owned()),
        start_time: live.start_time.clone().or(Some(Time(now))),
        host_ip: Some("127.0.0.1".into()),
        conditions: Some(vec![
            condition("Initialized", initialized || done, Some("ContainersNotInitialized")),
            condition("Ready", ready, Some(unready)),
            condition("ContainersReady", ready, Some(unready)),
            condition("PodScheduled", true, None),
        ]),
        init_container_statuses: of(true),
        container_statuses: of(false),
        qos_class: live.qos_class.clone().or(Some("Burstable".into())),
        ..PodStatus::default()
    }
}

/// Cuts a termination message to what a status holds, at a character.
pub fn message(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MESSAGE_BYTES)]).into_owned();
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    fn pod() -> Pod {
        let named = |name: &str| Container {
            name: name.into(),
            ..Container::default()
        };
        let spec = PodSpec {
            init_containers: Some(vec![named("fetch")]),
            containers: vec![named("gate")],
            ..PodSpec::default()
        };
        Pod {
            spec: Some(spec),
            ..Pod::default()
        }
    }

    fn ended(code: i32) -> Stage {
        let at = Timestamp::UNIX_EPOCH;
        Stage::Ended(Ended {
            code,
            reason: "Error".into(),
            message: String::new(),
            started: at,
            finished: at,
        })
    }

    #[test]
    fn a_pods_phase_follows_from_its_containers() {
        let mut seen = unstarted(&pod());
        assert_eq!(phase(&seen), "Pending");
        seen[0].stage = ended(0);
        seen[1].stage = Stage::Running {
            since: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(phase(&seen), "Running");
        seen[1].stage = ended(0);
        assert_eq!(phase(&seen), "Succeeded");
        seen[1].stage = ended(1);
        assert_eq!(phase(&seen), "Failed");
        let mut seen = unstarted(&pod());
        seen[0].stage = ended(2);
        assert_eq!(phase(&seen), "Failed");
    }

    #[test]
    fn what_ends_the_whole_pod_is_named_even_if_its_containers_ended_well() {
        let mut seen = unstarted(&pod());
        seen[0].stage = ended(0);
        seen[1].stage = ended(0);
        let status = build(&pod(), &seen, Some(("NodeLost", "gone")), Timestamp::UNIX_EPOCH);
        assert_eq!(
            (status.phase.as_deref(), status.reason.as_deref()),
            (Some("Failed"), Some("NodeLost"))
        );
    }

    #[test]
    fn a_termination_message_is_cut_at_a_character() {
        let long = "é".repeat(4000);
        assert!(message(long.as_bytes()).len() <= MESSAGE_BYTES);
        assert!(message(b"\xff ok").ends_with(" ok"));
    }
}
