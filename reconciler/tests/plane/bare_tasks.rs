//! Tasks that no Workload made.

use serde_json::json;

use super::support::{World, node, run_on_n1};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_makes_one_other_task_that_goes_with_the_first() {
    let world = World::start().await;
    node(&world, "n1", 1).await;
    world
        .create(
            "agentictasks",
            json!({ "kind": "AgenticTask", "metadata": { "name": "t" }, "spec": { "kind": "freeform", "payload": { "prompt": "do it" } } }),
        )
        .await;
    world
        .wait("agentictasks", "an assignment", |t| t["status"]["phase"] == "Scheduled")
        .await;
    // It has not ended: the request ends it first.
    let asked = json!({ "metadata": { "annotations": { "foreman.llmkube.dev/retry": "r1" } } });
    world.patch("agentictasks", "t", asked.clone()).await;
    let first = world
        .wait("agentictasks", "the echo", |t| {
            t["metadata"]["name"] == "t" && t["status"]["handledRetry"] == "r1"
        })
        .await;
    assert_eq!(
        (&first["status"]["phase"], &first["status"]["failureReason"]),
        (&json!("Failed"), &json!("Cancelled"))
    );
    let other = world
        .wait("agentictasks", "the other", |t| {
            t["metadata"]["name"] == "t-x2" && t["status"]["phase"] == "Scheduled"
        })
        .await;
    assert_eq!(
        (&other["spec"]["run"], &other["spec"]["payload"]["prompt"]),
        (&json!(2), &json!("do it"))
    );
    // The same request again changes nothing.
    world.patch("agentictasks", "t", asked).await;
    world.settled().await;
    world.wait_count("agentictasks", 2).await;
    world.delete("agentictasks", "t").await;
    world.wait_count("agentictasks", 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_given_back_before_the_lease_is_not_lost() {
    let world = World::start().await;
    node(&world, "n1", 1).await;
    world
        .create(
            "agentictasks",
            json!({ "kind": "AgenticTask", "metadata": { "name": "t" }, "spec": { "kind": "freeform", "payload": {} } }),
        )
        .await;
    world
        .wait("agentictasks", "an assignment", |t| t["status"]["phase"] == "Scheduled")
        .await;
    run_on_n1(&world).await;
    node(&world, "n2", 1).await;
    world.patch_status("agentictasks", "t", json!({ "claim": null })).await;
    world.lease("n1", "").await;
    let moved = world
        .wait("agentictasks", "another node", |t| t["status"]["assignedNode"] == "n2")
        .await;
    assert!(moved["status"]["lostClaims"].is_null(), "{moved:#}");
    assert_eq!(world.metrics().sum(reconciler::metrics::LOST_CLAIMS, &[]), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_acts_on_is_said_by_the_object_itself() {
    let world = World::start().await;
    let says = |field: &'static str| {
        move |object: &serde_json::Value| {
            let conditions = object["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|condition| {
                condition["type"] == "NotSupportedYet"
                    && condition["status"] == "True"
                    && condition["message"].as_str().is_some_and(|said| said.contains(field))
            })
        }
    };
    let forge = json!({ "kind": "Forge", "metadata": { "name": "f" }, "spec": { "type": "gitea", "url": "https://git.example" } });
    world.create("forges", forge).await;
    world.wait("forges", "a Forge that says so", says("kind Forge")).await;
    let profile =
        json!({ "kind": "ModelProfile", "metadata": { "name": "p" }, "spec": { "restrictReadsInForcingPhase": true } });
    world.create("modelprofiles", profile).await;
    let said = says("spec.restrictReadsInForcingPhase");
    world.wait("modelprofiles", "a ModelProfile that says so", said).await;
    world.delete("modelprofiles", "p").await;
    let task = json!({
        "kind": "AgenticTask", "metadata": { "name": "t" },
        "spec": { "kind": "freeform", "mcpEnabled": true, "payload": { "prompt": "x", "contract": "c" } },
    });
    world.create("agentictasks", task).await;
    let said = says("spec.mcpEnabled, spec.payload.contract");
    world.wait("agentictasks", "a task that says so", said).await;
}
