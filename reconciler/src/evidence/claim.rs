//! Who may store evidence: whoever has the secret of a claim of its epoch, of a task that goes on.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use schemas::AgenticTask;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Address;
use super::http::{Serving, refuse};
use crate::cache::{Cache, Cached};
use crate::metrics::EVIDENCE;

/// Compares without telling by time how much is equal.
fn same(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len() && one.iter().zip(two).fold(0u8, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Says whether `hash` is that of the secret of a claim of this epoch: of the live one, or of one that was lost while
/// the task goes on, since a Job that was made for it goes on as well.
fn is_claim(task: &Value, epoch: i64, hash: &str) -> bool {
    let status = &task["status"];
    let ended = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    let earlier = status["earlierClaims"].as_array().filter(|_| !ended);
    let mut claims = std::iter::once(&status["claim"]).chain(earlier.into_iter().flatten());
    claims.any(|claim| {
        let stored = claim["secretSHA256"].as_str().unwrap_or_default();
        claim["epoch"].as_i64() == Some(epoch) && stored.len() == 64 && same(stored.as_bytes(), hash.as_bytes())
    })
}

async fn may_write(serving: &Serving, address: &Address, headers: &HeaderMap) -> Result<bool, kube::Error> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(secret) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
        return Ok(false);
    };
    let hash = hex::encode(Sha256::digest(secret.trim().as_bytes()));
    let Some(known) = find(&serving.tasks, address.task()) else {
        return Ok(false);
    };
    let cached = known
        .readable()
        .and_then(|task| serde_json::to_value(task).ok())
        .unwrap_or_default();
    if is_claim(&cached, address.epoch(), &hash) {
        return Ok(true);
    }
    // The claim may be newer than the cache.
    let namespace = known.meta().namespace.clone().unwrap_or_default();
    let resource = ApiResource::erase::<AgenticTask>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(serving.client.clone(), &namespace, &resource);
    let found = api.get_opt(known.meta().name.as_deref().unwrap_or_default()).await?;
    let found = found.filter(|task| task.metadata.uid.as_deref() == Some(address.task()));
    Ok(found.is_some_and(|task| is_claim(&task.data, address.epoch(), &hash)))
}

fn find(tasks: &Cache<AgenticTask>, uid: &str) -> Option<Arc<Cached<AgenticTask>>> {
    tasks.by_uid(uid)
}

/// Answers whoever may not write here.
pub(super) async fn admit(serving: &Serving, address: &Address, headers: &HeaderMap) -> Result<(), Box<Response>> {
    match may_write(serving, address, headers).await {
        Ok(true) => Ok(()),
        // Whoever has just begun does not know all tasks yet; the sender tries again.
        Ok(false) if !serving.tasks.is_synced() && find(&serving.tasks, address.task()).is_none() => {
            Err(Box::new(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the tasks are not all known yet; try again",
            )))
        }
        Ok(false) => {
            serving
                .metrics
                .count(EVIDENCE, &[("verb", "put"), ("result", "refused")]);
            Err(Box::new(refuse(
                StatusCode::FORBIDDEN,
                "the secret of a claim of this epoch is needed, of a task that goes on",
            )))
        }
        Err(error) => {
            tracing::warn!(%error, "a claim could not be checked");
            Err(Box::new(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the claim could not be checked; try again",
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_live_claims_secret_of_this_epoch_counts() {
        let hash = hex::encode(Sha256::digest(b"secret"));
        let task = json!({ "status": { "claim": { "epoch": 2, "secretSHA256": hash } } });
        assert!(is_claim(&task, 2, &hash));
        assert!(!is_claim(&task, 1, &hash));
        assert!(!is_claim(&task, 2, &hex::encode(Sha256::digest(b"other"))));
        assert!(!is_claim(
            &json!({ "status": { "claim": { "epoch": 2, "secretSHA256": "" } } }),
            2,
            ""
        ));
        assert!(!is_claim(&json!({}), 0, ""));
    }

    #[test]
    fn the_job_of_a_lost_claim_stores_what_it_has_until_the_task_ends() {
        let hash = |secret: &str| hex::encode(Sha256::digest(secret.as_bytes()));
        let mut task = json!({ "status": {
            "phase": "Running",
            "claim": { "epoch": 3, "secretSHA256": hash("third") },
            "earlierClaims": [
                { "epoch": 1, "secretSHA256": hash("first") },
                { "epoch": 2, "secretSHA256": hash("second") },
            ],
        } });
        for (epoch, secret, may) in [
            (1, "first", true),
            (2, "second", true),
            (3, "third", true),
            (1, "third", false),
        ] {
            assert_eq!(is_claim(&task, epoch, &hash(secret)), may, "{epoch} {secret}");
        }
        task["status"]["phase"] = json!("Failed");
        assert!(!is_claim(&task, 1, &hash("first")));
    }
}
