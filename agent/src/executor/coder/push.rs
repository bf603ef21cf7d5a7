//! The coder's pushes: each a compare-and-set, and a marker first where an earlier claim may still push.

use git::{Expected, Identity, Oid, PushOutcome, Repository};
use k8s_openapi::jiff::Timestamp;
use schemas::agentic_task::FailureReason;
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use crate::executor::{Run, source};
use crate::outcome::Outcome;

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
    let pushed = source::reached(cancel, || {
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

fn push_failed(error: &git::Error) -> Outcome {
    let reason = match error.category() {
        git::Category::Auth => FailureReason::AuthUnavailable,
        _ => FailureReason::InfrastructureError,
    };
    Outcome::failed(reason, error.to_string())
}
