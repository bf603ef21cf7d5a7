//! An agent writes what belongs to the node in its token, and nothing else.

use serde_json::{Value, json};

use super::admission::{coder_objects, gate_objects, refusal};
use super::cluster::{Cluster, Release};

fn fleet_node(name: &str) -> Value {
    json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode",
        "metadata": { "name": name }, "spec": { "nodeName": name },
    })
}

fn lease(release: &Release, name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": release.namespace }, "spec": { "holderIdentity": "x" },
    })
}

/// Merges a patch into a status; returns the refusal.
fn status(cluster: &Cluster, kind: &str, name: &str, namespace: &str, status: Value) -> Option<String> {
    let patch = json!({ "status": status }).to_string();
    let said = cluster.call(
        &[
            "patch",
            kind,
            name,
            "--namespace",
            namespace,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ],
        "",
    );
    (said.code != Some(0)).then_some(said.err)
}

fn refused(what: &str, found: Option<String>, words: &[&str]) {
    let found = found.unwrap_or_else(|| panic!("{what} is not refused"));
    for word in words {
        assert!(found.contains(word), "{what}: {word:?} is not in {found}");
    }
}

fn allowed(what: &str, found: Option<String>) {
    assert_eq!(found, None, "{what}");
}

fn claim(node: &str) -> Value {
    json!({ "node": node, "agent": "p", "epoch": 1, "secretSHA256": "0".repeat(64) })
}

/// Makes a task and writes its status as the operator does.
fn task(release: &Release, name: &str, node: &str) {
    let object = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": release.namespace },
        "spec": { "kind": "freeform", "payload": { "prompt": "x" } },
    });
    release.cluster.run(&["create", "--filename", "-"], &object.to_string());
    let assigned = json!({ "phase": "Scheduled", "assignedNode": node, "epoch": 0 });
    allowed(
        "the operator's status",
        status(&release.cluster, "agentictask", name, &release.namespace, assigned),
    );
}

/// Waits until roles and policies are known: what is its own is allowed and what is not is refused by the policy.
fn ready(cluster: &Cluster, own: &str) {
    cluster.until("roles and policies", || {
        refusal(cluster, &fleet_node(own)).is_none()
            && refusal(cluster, &fleet_node("nobodys")).is_some_and(|said| said.contains("is not the one of"))
    });
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn an_agent_in_the_cluster_is_the_node_in_its_token() {
    let release = Release::apply(&["--set", "coder.gitCredentialsSecret=clone"]);
    let (a, b) = (
        format!("{}-a.example", release.name),
        format!("{}-b.example", release.name),
    );
    let (own_a, own_b) = (a.replace('.', "-"), b.replace('.', "-"));
    let (one, two) = (release.on_node("agent", &a), release.on_node("agent", &b));
    ready(&one, &own_a);
    ready(&two, &own_b);

    // Its own FleetNode and Lease.
    one.run(&["create", "--filename", "-"], &fleet_node(&own_a).to_string());
    two.run(&["create", "--filename", "-"], &fleet_node(&own_b).to_string());
    let beat = json!({ "phase": "Ready" });
    allowed("a heartbeat", status(&one, "fleetnode", &own_a, "", beat.clone()));
    refused(
        "another's heartbeat",
        status(&two, "fleetnode", &own_a, "", beat),
        &[
            &format!("FleetNode {own_a} is not the one of"),
            &format!("it may write what belongs to {own_b}"),
        ],
    );
    let update = json!({ "updateRequest": { "sha256": "0".repeat(64), "targetVersion": "9", "url": "http://x" } });
    refused(
        "an update's request",
        status(&one, "fleetnode", &own_a, "", update),
        &["written by the operator"],
    );
    let spec = one.call(
        &[
            "patch",
            "fleetnode",
            &own_b,
            "--type=merge",
            "--patch",
            "{\"spec\":{\"roles\":[\"x\"]}}",
        ],
        "",
    );
    refused(
        "another's spec",
        Some(spec.err).filter(|_| spec.code != Some(0)),
        &["is not the one of"],
    );
    one.run(
        &["create", "--filename", "-"],
        &lease(&release, &format!("foreman-node-{own_a}")).to_string(),
    );
    let other = lease(&release, &format!("foreman-node-{own_a}"));
    let renewed = two.call(&["replace", "--filename", "-"], &other.to_string());
    refused(
        "another's Lease",
        Some(renewed.err).filter(|_| renewed.code != Some(0)),
        &["is not the one of"],
    );
    refused(
        "the operator's Lease",
        refusal(&one, &lease(&release, "foreman-operator.llmkube.dev")),
        &["Lease foreman-operator.llmkube.dev is not the one of"],
    );

    // Its own tasks, in the order in which it writes them.
    task(&release, "mine", &own_a);
    task(&release, "theirs", &own_b);
    let space = release.namespace.as_str();
    let running = |node: &str| json!({ "phase": "Running", "epoch": 1, "claim": claim(node) });
    refused(
        "another's task",
        status(&one, "agentictask", "theirs", space, running(&own_a)),
        &[
            "AgenticTask theirs is assigned to",
            &format!("it may write what belongs to {own_a}"),
        ],
    );
    refused(
        "a claim in another's name",
        status(&one, "agentictask", "mine", space, running(&own_b)),
        &["the claim names"],
    );
    refused(
        "an assignment",
        status(&one, "agentictask", "mine", space, json!({ "assignedNode": own_b })),
        &["assignedNode is written by the operator"],
    );
    refused(
        "a jump of the epoch",
        status(
            &one,
            "agentictask",
            "mine",
            space,
            json!({ "phase": "Running", "epoch": 7, "claim": claim(&own_a) }),
        ),
        &["counts the epoch up by one"],
    );
    allowed("a claim", status(&one, "agentictask", "mine", space, running(&own_a)));
    refused(
        "a task sent back",
        status(&one, "agentictask", "mine", space, json!({ "phase": "Pending" })),
        &["does not move a task from Running to Pending"],
    );
    allowed(
        "Verifying",
        status(&one, "agentictask", "mine", space, json!({ "phase": "Verifying" })),
    );
    refused(
        "a count backwards",
        status(&one, "agentictask", "mine", space, json!({ "epoch": 0 })),
        &["the epoch"],
    );
    allowed(
        "a claim given back",
        status(&one, "agentictask", "mine", space, json!({ "claim": null })),
    );
    let end = json!({ "phase": "Succeeded", "verdict": "GATE-PASS" });
    allowed("the end", status(&one, "agentictask", "mine", space, end));
    refused(
        "an end reopened",
        status(&one, "agentictask", "mine", space, json!({ "phase": "Running" })),
        &["AgenticTask mine has ended as Succeeded"],
    );
    refused(
        "a verdict told anew",
        status(&one, "agentictask", "mine", space, json!({ "verdict": "GATE-FAIL" })),
        &["what its status says stays"],
    );

    // Its own Jobs.
    let job = serde_json::to_value(gate_objects(&release, &own_a, "mine").job).unwrap();
    let uncredentialed = |mut job: Value| {
        let pod = &mut job["spec"]["template"]["spec"];
        pod["volumes"]
            .as_array_mut()
            .unwrap()
            .retain(|volume| volume["name"] != "credentials");
        let mounts = pod["initContainers"][0]["volumeMounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["name"] != "credentials");
        job
    };
    let job = uncredentialed(job);
    refused(
        "a Job in another's name",
        refusal(&two, &job),
        &["has the label foreman.llmkube.dev/node="],
    );
    one.run(&["create", "--filename", "-"], &job.to_string());
    let name = job["metadata"]["name"].as_str().unwrap();
    let gone = two.call(
        &["delete", "job", name, "--namespace", &release.jobs, "--wait=false"],
        "",
    );
    refused(
        "another's Job deleted",
        Some(gone.err).filter(|_| gone.code != Some(0)),
        &["has the label"],
    );
    one.run(
        &["delete", "job", name, "--namespace", &release.jobs, "--wait=false"],
        "",
    );

    // Payloads of its own coders' Jobs, and no other Secret.
    let payload = |node: &str, name: Option<&str>| {
        let mut object = serde_json::to_value(coder_objects(&release, node, "mine").payload).unwrap();
        if let Some(name) = name {
            object["metadata"]["name"] = json!(name);
        }
        object
    };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "clone", "namespace": release.jobs }, "stringData": { "token": "hunter2" },
    });
    release.cluster.run(&["create", "--filename", "-"], &secret.to_string());
    let mine = payload(&own_a, None);
    one.run(&["create", "--filename", "-"], &mine.to_string());
    refused(
        "a payload in another's name",
        refusal(&two, &payload(&own_a, None)),
        &["has the label foreman.llmkube.dev/node="],
    );
    refused(
        "another Secret",
        refusal(&one, &payload(&own_a, Some("token-of-mine"))),
        &["no other Secrets than payloads"],
    );
    let mut elsewhere = payload(&own_a, None);
    elsewhere["metadata"]["namespace"] = json!(space);
    assert!(
        refusal(&one, &elsewhere).is_some(),
        "a payload beside the release's Secrets"
    );
    let name = mine["metadata"]["name"].as_str().unwrap().to_owned();
    let delete = |who: &Cluster, name: &str| {
        let gone = who.call(
            &[
                "delete",
                "--raw",
                &format!("/api/v1/namespaces/{}/secrets/{name}", release.jobs),
            ],
            "",
        );
        assert!(!gone.out.contains("aHVudGVyMg"), "{}", gone.out);
        Some(gone.err).filter(|_| gone.code != Some(0))
    };
    refused("another's payload deleted", delete(&two, &name), &["has the label"]);
    refused(
        "the credential deleted",
        delete(&one, "clone"),
        &["no other Secrets than payloads"],
    );
    allowed("its payload deleted", delete(&one, &name));
    let job = serde_json::to_value(coder_objects(&release, &own_a, "mine").job).unwrap();
    one.run(&["create", "--filename", "-"], &job.to_string());
    let begin = |who: &Cluster, patch: Value| {
        let name = job["metadata"]["name"].as_str().unwrap();
        let words = [
            "patch",
            "job",
            name,
            "--namespace",
            &release.jobs,
            "--type=merge",
            "--patch",
        ];
        let said = who.call(&[&words[..], &[&patch.to_string()]].concat(), "");
        Some(said.err).filter(|_| said.code != Some(0))
    };
    let resume = json!({ "spec": { "suspend": false } });
    let take = json!({ "metadata": { "labels": { (schemas::labels::NODE): own_b } } });
    assert!(begin(&two, resume.clone()).is_some(), "another's Job is begun");
    assert!(begin(&two, take).is_some(), "another's Job is taken over");
    allowed("its own Job", begin(&one, resume));

    // A token that names no node writes nothing.
    let outside = release.outside("agent");
    refused(
        "a token of no node",
        refusal(&outside, &fleet_node(&own_a)),
        &["its token names none"],
    );
    release.cluster.run(&["delete", "fleetnode", &own_a, &own_b], "");
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn a_pool_writes_for_its_part_of_a_node_and_an_agent_outside_for_its_name() {
    let release = Release::apply(&[
        "--set",
        "agents.gpu.roles={coder},agents.cpu.roles={verifier},agents.fixed.fleetNodeName=big-box,hostAgents.studio.coderGitSecret=studio-clone,hostAgents.studio.gateCacheClaim=studio-cache,agents.gpu.coderGitSecret=gpu-clone,agents.cpu.coderGitSecret=cpu-clone",
    ]);
    let node = format!("{}-n", release.name);
    let gpu = release.on_node("gpu-agent", &node);
    let own = format!("{node}-gpu");
    ready(&gpu, &own);
    for other in [node.clone(), format!("{node}-cpu"), "big-box".into(), "studio".into()] {
        refused(&other, refusal(&gpu, &fleet_node(&other)), &["is not the one of"]);
    }
    let cpu = release.on_node("cpu-agent", &node);
    ready(&cpu, &format!("{node}-cpu"));
    refused(
        "the other pool's",
        refusal(&cpu, &fleet_node(&own)),
        &["is not the one of"],
    );
    // A Job of the pool, with the credential and the cache of one.
    let job = |of: &str| {
        let mut job = serde_json::to_value(gate_objects(&release, &format!("{node}-cpu"), "mine").job).unwrap();
        for volume in job["spec"]["template"]["spec"]["volumes"].as_array_mut().unwrap() {
            if volume["name"] == "credentials" {
                volume["secret"]["secretName"] = json!(format!("{of}-clone"));
            }
            if !volume["persistentVolumeClaim"].is_null() {
                volume["persistentVolumeClaim"]["claimName"] = json!(format!("{}-cpu-gate-cache", release.name));
            }
        }
        job
    };
    allowed("its own credential", refusal(&cpu, &job("cpu")));
    refused(
        "the other pool's credential",
        refusal(&cpu, &job("gpu")),
        &["mounts no other Secrets than [cpu-clone]"],
    );
    let cached = job("cpu").to_string().replace("-cpu-gate-cache", "-gpu-gate-cache");
    refused(
        "the other pool's cache",
        refusal(&cpu, &serde_json::from_str(&cached).unwrap()),
        &["mounts no other claims than ["],
    );
    let fixed = release.on_node("fixed-agent", &node);
    ready(&fixed, "big-box");
    refused(
        "its node's",
        refusal(&fixed, &fleet_node(&node)),
        &["may write what belongs to big-box"],
    );
    let studio = release.outside("host-studio");
    ready(&studio, "studio");
    refused(
        "a node of the cluster",
        refusal(&studio, &fleet_node(&own)),
        &["may write what belongs to studio"],
    );
    // Its Jobs have what is named for it, and nothing of a pool.
    let theirs = job("cpu").to_string().replace(&format!("{node}-cpu\""), "studio\"");
    let own_job = theirs
        .replace("\"cpu-clone\"", "\"studio-clone\"")
        .replace(&format!("{}-cpu-gate-cache", release.name), "studio-cache");
    allowed(
        "its own credential and cache",
        refusal(&studio, &serde_json::from_str(&own_job).unwrap()),
    );
    refused(
        "a pool's credential",
        refusal(&studio, &serde_json::from_str(&theirs).unwrap()),
        &["mounts no other Secrets than [studio-clone]"],
    );
    allowed(
        "its own Lease",
        refusal(&studio, &lease(&release, "foreman-node-studio")),
    );
    refused(
        "another's Lease",
        refusal(&studio, &lease(&release, "foreman-node-big-box")),
        &["is not the one of"],
    );
}
