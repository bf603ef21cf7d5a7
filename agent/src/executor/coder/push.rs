//! The coder's pushes: each a compare-and-set, and a marker first where an earlier claim may still push.

use std::time::Duration;

use git::{Category, Expected, Identity, Oid, PushOutcome, Repository};
use k8s_openapi::jiff::Timestamp;
use schemas::agentic_task::FailureReason;
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use crate::executor::{Run, source};
use crate::outcome::Outcome;

/// Pauses between tries to reach a Git server that is away, as one is that is being restarted. Together they leave
/// [`crate::executor::HAND_IN_TIME`] room for the push itself.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

pub(super) fn identity(run: &Run, committer: bool) -> Identity {
    let who = &run.services.config.identities;
    let now = Timestamp::now().as_second();
    if committer {
        Identity::new(who.committer_name.clone(), who.committer_email.clone(), now)
    } else {
        Identity::new(who.author_name.clone(), who.author_email.clone(), now)
    }
}

/// Pushes a marker where an earlier claim may still push, so that it can only lose.
pub(super) async fn fence(run: &Run, ground: &mut Ground) -> Result<(), Outcome> {
    if ground.claim.epoch <= 1 {
        return Ok(());
    }
    let (claim, start, who) = (ground.claim.clone(), ground.start, identity(run, true));
    let marker = ground
        .git
        .read(&ground.url, move |repository| {
            repository.build_marker(start, &claim, &who)
        })
        .await
        .map_err(|error| source::clone_failed(&error))?;
    let repository = ground
        .git
        .read(&ground.url, |repository| Ok(repository.clone()))
        .await
        .map_err(|error| source::clone_failed(&error))?;
    push(ground, &repository, marker, &run.cancel).await?;
    ground.expected = Expected::At(marker);
    ground.marker = Some(marker);
    Ok(())
}

/// Moves the branch to `commit`, replacing what an earlier claim of this task pushed meanwhile. A server that cannot be
/// reached is tried again: all of the work hangs on it.
pub(super) async fn push(
    ground: &Ground,
    repository: &Repository,
    commit: Oid,
    cancel: &CancellationToken,
) -> Result<(), Outcome> {
    let refname = ground.refname();
    let (git, url, claim) = (&ground.git, &ground.url, &ground.claim);
    // A push that was carried out and not answered is found to be won by the next try.
    let pushed = reached(&PAUSES, cancel, || {
        git.push_fenced(repository, url, &refname, ground.expected, commit, claim)
    });
    let pushed = pushed.await.map_err(|error| push_failed(&error))?;
    let branch = &ground.branch;
    let why = match pushed {
        PushOutcome::Won => return Ok(()),
        PushOutcome::Refused(message) => format!("the Git server refused the push to {branch}: {message}"),
        PushOutcome::Lost { found: None } => {
            format!("branch {branch} was deleted while the task ran; nothing was pushed")
        }
        PushOutcome::Lost { found: Some(found) } => format!(
            "branch {branch} was moved to {} by somebody else while the task ran; nothing was pushed",
            &found.to_string()[..10]
        ),
    };
    Err(Outcome::failed(FailureReason::PushRejected, why))
}

/// Asks a Git server, and again while it cannot be reached.
async fn reached<T, F>(pauses: &[Duration], cancel: &CancellationToken, mut ask: impl FnMut() -> F) -> git::Result<T>
where
    F: Future<Output = git::Result<T>>,
{
    for pause in pauses {
        let error = match ask().await {
            Err(error) if error.category() == Category::Network => error,
            answered => return answered,
        };
        tracing::warn!(%error, "the Git server cannot be reached; pushing again in {pause:?}");
        tokio::select! {
            () = cancel.cancelled() => return Err(error),
            () = tokio::time::sleep(*pause) => {}
        }
    }
    ask().await
}

fn push_failed(error: &git::Error) -> Outcome {
    let reason = match error.category() {
        git::Category::Auth => FailureReason::AuthUnavailable,
        _ => FailureReason::InfrastructureError,
    };
    Outcome::failed(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a server that is away for the first `away` tries, or refuses; returns how often it was asked and the answer.
    async fn asked(away: u32, refuses: bool, cancel: &CancellationToken) -> (u32, bool) {
        let mut tries = 0;
        let answered = reached(&[Duration::ZERO; 3], cancel, || {
            tries += 1;
            let (action, url, reason) = ("push to", String::new(), String::new());
            std::future::ready(match (refuses, tries > away) {
                (true, _) => Err(git::Error::Refused { action, url, reason }),
                (false, false) => Err(git::Error::Network { action, url, reason }),
                (false, true) => Ok(()),
            })
        });
        let answered = answered.await.is_ok();
        (tries, answered)
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_tried_again_and_one_that_refuses_is_not() {
        let cancel = CancellationToken::new();
        assert_eq!(asked(0, false, &cancel).await, (1, true));
        assert_eq!(asked(3, false, &cancel).await, (4, true));
        assert_eq!(asked(9, false, &cancel).await, (4, false));
        assert_eq!(asked(0, true, &cancel).await, (1, false));
    }

    #[tokio::test]
    async fn a_run_that_is_cancelled_waits_for_no_server() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let always = || {
            let (action, url, reason) = ("push to", String::new(), String::new());
            std::future::ready(Err::<(), _>(git::Error::Network { action, url, reason }))
        };
        // The pause never ends by itself.
        assert!(reached(&[Duration::MAX], &cancel, always).await.is_err());
    }
}
