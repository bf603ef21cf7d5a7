//! A real kubectl against `foreman up`: every verb that a person uses.

use crate::foreman::LIMIT;
use crate::kubectl::{Kubectl, Server, play};
use crate::poll;
use crate::sample::Sample;
use crate::served::Served;
use crate::watch::ended;

fn agent(role: &str, model: &str) -> String {
    format!(
        "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Agent\nmetadata: {{ name: extra }}\n\
         spec: {{ role: {role}, tools: [bash], model: {model} }}\n"
    )
}

#[tokio::test]
#[ignore = "needs kubectl"]
async fn kubectl_gets_applies_describes_edits_deletes_waits_logs_and_explains() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    let up = sample.up();
    let kubectl = Kubectl::new(up.kubeconfig());
    sample.task("note", "Write the note.\n");
    let workload = ended(&up.client().await, "note", 1).await.metadata.name.unwrap();

    let listed = kubectl.run(&["get", "fleetnodes,agentictasks,workloads,taskqueues,agents"]);
    for kind in ["fleetnode", "agentictask", "workload", "taskqueue", "agent"] {
        assert!(
            listed.contains(&format!("{kind}.foreman.llmkube.dev/")),
            "no {kind} in {listed}"
        );
    }
    let columns = kubectl.run(&["get", "fleetnodes"]);
    for column in [
        "PHASE",
        "VERSION",
        "ACCELERATOR",
        "RAM",
        "CURRENT TASK",
        "HEARTBEAT",
        "AGE",
    ] {
        assert!(columns.contains(column), "no {column} in {columns}");
    }
    let name = format!("workload/{workload}");
    kubectl.run(&["wait", "--for=condition=Succeeded", &name, "--timeout=60s"]);
    kubectl.run(&[
        "wait",
        "--for=jsonpath={.status.verdict}=GATE-PASS",
        &name,
        "--timeout=60s",
    ]);
    assert!(kubectl.run(&["describe", &name]).contains("GATE-PASS"));
    let job = kubectl.run(&["get", "jobs", "-o", "name"]);
    assert!(kubectl.run(&["logs", job.trim()]).contains("step note passed"));
    assert!(
        kubectl.run(&["logs", "-f", job.trim()]).contains("step note passed"),
        "a log that ended is followed to its end"
    );

    assert!(
        kubectl
            .run_with(&["apply", "-f", "-"], &agent("coder", "one"))
            .contains("created")
    );
    assert!(
        kubectl
            .run_with(&["apply", "-f", "-"], &agent("coder", "one"))
            .contains("unchanged")
    );
    assert!(
        kubectl
            .run_with(&["apply", "-f", "-"], &agent("coder", "two"))
            .contains("configured")
    );
    assert_eq!(
        kubectl.run(&["get", "agent", "extra", "-o", "jsonpath={.spec.model}"]),
        "two"
    );
    kubectl.run_with(
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        &agent("coder", "three"),
    );
    assert_eq!(
        kubectl.run(&["get", "agent", "extra", "-o", "jsonpath={.spec.model}"]),
        "three"
    );
    assert!(
        kubectl
            .edit(&["edit", "agent", "extra"], "s/three/four/")
            .contains("edited")
    );
    assert_eq!(
        kubectl.run(&["get", "agent", "extra", "-o", "jsonpath={.spec.model}"]),
        "four"
    );
    kubectl.run(&[
        "patch",
        "agent",
        "extra",
        "--type=merge",
        "-p",
        r#"{"spec":{"model":"five"}}"#,
    ]);
    kubectl.run(&["annotate", "agent", "extra", "note=here"]);
    assert!(
        kubectl
            .run(&["get", "agent", "extra", "-o", "yaml"])
            .contains("model: five")
    );
    let error = kubectl.refused(&["apply", "-f", "-"], &agent("king", "x"));
    assert!(error.contains("Unsupported value: \"king\""), "{error}");
    let error = kubectl.refused(&["apply", "-f", "-"], &agent("coder", "x").replace("tools", "tolls"));
    assert!(error.contains("tolls"), "an unknown field is refused: {error}");

    assert!(kubectl.run(&["explain", "workload.spec.budget"]).contains("rounds"));
    assert_eq!(kubectl.run(&["auth", "can-i", "create", "agents"]).trim(), "yes");
    assert!(
        kubectl
            .run(&["api-resources", "--api-group=foreman.llmkube.dev"])
            .contains("taskqueues")
    );
    let error = kubectl.refused(&["get", "deployments"], "");
    assert!(
        error.contains("doesn't have a resource type"),
        "what is not served is refused as unknown: {error}"
    );

    assert!(kubectl.run(&["delete", "agent", "extra"]).contains("deleted"));
    assert!(kubectl.refused(&["get", "agent", "extra"], "").contains("NotFound"));
    // The file is still there: what is deleted by hand is made anew, and is another object.
    let uid = ["get", &name, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}"];
    let before = kubectl.run(&uid);
    // kubectl's own wait would go on for ever where the new object is made between its get and its list.
    kubectl.run(&["delete", &name, "--cascade=foreground", "--wait=false"]);
    let anew = || {
        let now = kubectl.run(&uid);
        (!now.is_empty() && now != before).then_some(())
    };
    poll::until(LIMIT, "a new Workload", anew, || {
        kubectl.run(&["get", "workloads,agentictasks,jobs,pods", "-o", "yaml"])
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn every_verb_that_a_person_types_does_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Served::on_plane(folder.path()).await;
    let kubectl = Kubectl::new(plane.kubeconfig().await);
    let printed = tokio::task::spawn_blocking(move || play(&kubectl, Server::Plane, "verbs"))
        .await
        .unwrap();
    let wrong: Vec<String> = printed
        .iter()
        .filter(|printed| !printed.missing.is_empty())
        .map(|printed| {
            format!(
                "kubectl {}\n  lacks {:?} in:\n{}",
                printed.typed, printed.missing, printed.text
            )
        })
        .collect();
    plane.close().await;
    println!("{} calls of kubectl", printed.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn kubectl_follows_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Served::on_plane(folder.path()).await;
    let kubectl = Kubectl::new(plane.kubeconfig().await);
    let lines = tokio::task::spawn_blocking(move || {
        kubectl.run_with(&["create", "-f", "-"], &agent("coder", "one"));
        kubectl.watched(
            &["get", "agents", "--watch", "--output-watch-events", "-L", "team"],
            &[&["label", "agent", "extra", "team=a"], &["delete", "agent", "extra"]],
        )
    });
    let lines = lines.await.unwrap();
    assert_eq!(
        lines,
        [
            "EVENT NAME ROLE MODEL INFERENCESERVICE VALIDATED AGE TEAM",
            "ADDED extra coder one <age>",
            "MODIFIED extra coder one <age> a",
            "DELETED extra coder one <age> a",
        ]
    );
    plane.close().await;
}

#[test]
#[ignore = "needs kubectl"]
fn kubectl_without_the_token_is_turned_away() {
    let sample = Sample::new();
    let up = sample.up();
    let home = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(up.kubeconfig()).unwrap();
    let without: String = text
        .lines()
        .filter(|line| !line.contains("token"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(text, without, "the kubeconfig has a token");
    let kubeconfig = home.path().join("kubeconfig");
    std::fs::write(&kubeconfig, without).unwrap();
    let kubectl = Kubectl::new(kubeconfig);
    let error = kubectl.refused(&["get", "workloads", "--username=x", "--password=y"], "");
    assert!(error.contains("Unauthorized") || error.contains("logged in"), "{error}");
}
