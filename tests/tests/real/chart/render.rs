//! The chart through a real Helm: what values make of it.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::helm::{arguments, chart, find, helm, names, objects, parse, template, template_as};

mod changes;
mod pools;
mod releases;

/// Values in the shape of the published chart's own test of pools.
pub const POOLS: &str = "\
agents:
  default:
    enabled: true
    replicaCount: 3
    roles: [worker, coder, verifier]
    gitRemoteURL: \"\"
  fork:
    replicaCount: 1
    roles: [coder-fork]
    gitRemoteURL: https://git.example.com/fork/repo
    commitAuthorName: Fork Bot
    commitAuthorEmail: fork@example.com
    githubToken: {secretName: fork-token, secretKey: GITHUB_TOKEN}
    coderGitSecret: fork-credentials
    coderGitSecretKey: token
    gateCache: {enabled: false}
    accelerator: vulkan
  inherits:
    replicaCount: 5
    roles: [worker]
  disabled:
    enabled: false
    roles: [worker]
";

/// Writes values to a file that lives as long as what is returned.
pub fn values(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
#[ignore = "needs a real helm"]
fn the_chart_passes_lint_with_every_set_of_values() {
    let (_folder, pools) = values(POOLS);
    for more in [
        vec![],
        vec!["--values", &pools],
        vec!["--set", "operator.enabled=false,agent.enabled=false"],
    ] {
        let chart = chart();
        let mut all = vec!["lint", "--strict", chart.to_str().unwrap()];
        all.extend(more);
        let said = helm(None, &all);
        assert_eq!(said.code, Some(0), "{said:#?}");
        assert!(said.out.contains("0 chart(s) failed"), "{}", said.out);
    }
}

#[test]
#[ignore = "needs a real helm"]
fn the_published_commands_install_and_change_a_release() {
    let cluster = Cluster::new();
    let chart = chart();
    let chart = chart.to_str().unwrap();
    let call = |words: &[&str]| {
        let said = helm(Some(cluster.kubeconfig()), words);
        assert_eq!(said.code, Some(0), "helm {words:?}: {}", said.err);
        said.out
    };
    // What an earlier run left may still be going.
    let spaces = ["foreman-system", "foreman-system-jobs"];
    cluster.delete_namespaces(&spaces);
    for space in spaces {
        cluster.run(
            &["wait", "--for=delete", "--timeout=120s", &format!("namespace/{space}")],
            "",
        );
    }
    // Other tests of this tier may have made the kinds, which belong to no release then.
    let notes = call(&[
        "upgrade",
        "--install",
        "foreman",
        chart,
        "--namespace",
        "foreman-system",
        "--create-namespace",
        "--set",
        "agent.mode=native",
        "--set",
        "agent.roles={worker,verifier}",
        "--take-ownership",
    ]);
    for command in [
        "kubectl -n foreman-system rollout status deployment",
        "kubectl -n foreman-system logs -l app.kubernetes.io/component=operator -f",
        "kubectl get fleetnodes",
    ] {
        assert!(notes.contains(command), "{notes}");
    }
    let agent = || {
        let found = cluster.get(&["deployment", "foreman-agent", "--namespace", "foreman-system"]);
        arguments(&[found], "foreman-agent")
    };
    let first = agent();
    assert!(first.contains(&"--agent-mode=native".to_owned()), "{first:?}");
    assert!(first.contains(&"--roles=worker,verifier".to_owned()), "{first:?}");
    call(&[
        "upgrade",
        "--reuse-values",
        "foreman",
        chart,
        "-n",
        "foreman-system",
        "--set",
        "agent.mode=stub",
    ]);
    let second = agent();
    assert!(second.contains(&"--agent-mode=stub".to_owned()), "{second:?}");
    assert!(second.contains(&"--roles=worker,verifier".to_owned()), "{second:?}");
    // A queue of the values is made once the API serves its kind.
    let queue = json!([{ "name": "team", "spec": { "git": { "url": "https://git.example.com/tasks" } } }]);
    let queue = format!("taskQueues={queue}");
    let upgrade = ["upgrade", "--reuse-values", "foreman", chart, "-n", "foreman-system"];
    let with_queue = [&upgrade[..], &["--set-json", &queue]].concat();
    let team = || cluster.get(&["taskqueue", "team", "--namespace", "foreman-system"]);
    call(&with_queue);
    let made = team();
    assert_eq!(made["spec"]["git"]["url"], "https://git.example.com/tasks");
    // The kinds, and with them everybody's work, outlive the release; so do the queues of its values.
    let stays = |after: &str| assert_eq!(team()["metadata"]["uid"], made["metadata"]["uid"], "after {after}");
    call(&[&upgrade[..], &["--set-json", "taskQueues=[]"]].concat());
    stays("an upgrade without it");
    call(&with_queue);
    call(&["rollback", "foreman", "1", "-n", "foreman-system"]);
    stays("a rollback");
    call(&with_queue);
    call(&["uninstall", "foreman", "-n", "foreman-system"]);
    stays("an uninstall");
    cluster.get(&["crd", "agentictasks.foreman.llmkube.dev"]);
    cluster.get(&["pvc", "foreman-evidence", "--namespace", "foreman-system"]);
    cluster.delete_namespaces(&["foreman-system", "foreman-system-jobs"]);
}

#[test]
#[ignore = "needs a real helm"]
fn every_pool_has_its_own_deployment_account_and_cache() {
    let (_folder, file) = values(POOLS);
    let all = objects(&["--values", &file, "--set", "coder.gitCredentialsSecret=clone"]);
    let mut deployments = names(&all, "Deployment");
    deployments.sort();
    assert_eq!(
        deployments,
        [
            "foreman-default-agent",
            "foreman-fork-agent",
            "foreman-inherits-agent",
            "foreman-operator"
        ]
    );
    let mut claims = names(&all, "PersistentVolumeClaim");
    claims.sort();
    assert_eq!(
        claims,
        [
            "foreman-default-gate-cache",
            "foreman-evidence",
            "foreman-inherits-gate-cache"
        ]
    );
    let fork = arguments(&all, "foreman-fork-agent");
    for argument in [
        "--roles=coder-fork",
        "--git-remote-url=https://git.example.com/fork/repo",
        "--commit-author-name=Fork Bot",
        "--commit-author-email=fork@example.com",
        "--coder-git-secret=fork-credentials",
        "--coder-git-secret-key=token",
        "--accelerator=vulkan",
        "--git-token=https://github.com=/etc/foreman/token/token",
    ] {
        assert!(fork.contains(&argument.to_owned()), "{argument}: {fork:?}");
    }
    assert!(
        !fork.iter().any(|argument| argument.starts_with("--gate-cache-pvc")),
        "{fork:?}"
    );
    let inherits = arguments(&all, "foreman-inherits-agent");
    assert!(
        inherits.contains(&"--coder-git-secret=clone".to_owned()),
        "{inherits:?}"
    );
    let deployment = find(&all, "Deployment", "foreman-inherits-agent");
    assert_eq!(deployment["spec"]["replicas"], 5);
    assert_eq!(
        deployment["spec"]["template"]["spec"]["serviceAccountName"],
        "foreman-inherits-agent"
    );
    let selectors: Vec<&Value> = all
        .iter()
        .filter(|object| object["kind"] == "Deployment")
        .map(|object| &object["spec"]["selector"]["matchLabels"])
        .collect();
    for (index, one) in selectors.iter().enumerate() {
        for other in &selectors[index + 1..] {
            let within = |a: &Value, b: &Value| {
                a.as_object()
                    .unwrap()
                    .iter()
                    .all(|(key, value)| b.get(key) == Some(value))
            };
            assert!(!within(one, other) && !within(other, one), "{one} and {other} overlap");
        }
    }
}

/// Finds what is no text where the API takes nothing else: names, and the values of labels, selectors and annotations.
fn not_text<'a>(value: &'a Value, at: &str, found: &mut Vec<String>) {
    const TEXTS: &[&str] = &["labels", "matchLabels", "annotations", "nodeSelector"];
    const NAMES: &[&str] = &["name", "namespace", "serviceAccountName", "secretName", "claimName"];
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                let here = format!("{at}/{key}");
                let texts: Vec<&'a Value> = match below {
                    Value::Object(map) if TEXTS.contains(&key.as_str()) => map.values().collect(),
                    below if NAMES.contains(&key.as_str()) => vec![below],
                    _ => vec![],
                };
                if texts.iter().any(|text| !text.is_string()) && !at.contains("openAPIV3Schema") {
                    found.push(format!("{here}: {below}"));
                }
                not_text(below, &here, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| not_text(item, at, found)),
        _ => {}
    }
}

#[test]
#[ignore = "needs a real helm"]
fn names_that_look_like_numbers_stay_names() {
    let sets = "agents.4090.roles={coder},agents.4090.serviceAccount.name=77,namespace=12,jobsNamespace=13,\
                fullnameOverride=f12,coder.gitCredentialsSecret=14,operator.gitCredentials.secretName=15,imagePullSecrets[0].name=x";
    let said = template_as("123", "12", &["--set-string", sets]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mut found = Vec::new();
    for object in parse(&said.out) {
        not_text(&object, object["kind"].as_str().unwrap(), &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
#[ignore = "needs a real helm"]
fn pools_of_one_account_share_its_rights() {
    let (_folder, file) = values(
        "agent:\n  serviceAccount: {create: false, name: shared}\n  secrets: [{namespace: team, name: key}]\n\
         agents:\n  a: {}\n  b:\n    serviceAccount: {create: true, name: shared}\n",
    );
    let all = objects(&["--values", &file]);
    let count = |kind: &str, name: &str| names(&all, kind).iter().filter(|found| *found == name).count();
    assert_eq!(count("ServiceAccount", "shared"), 1);
    assert_eq!(count("Role", "shared-secret-key.foreman-system"), 1);
    assert_eq!(count("RoleBinding", "shared-secret-key.foreman-system"), 1);
}

#[test]
#[ignore = "needs a real helm"]
fn what_published_values_say_of_a_webhook_is_taken() {
    let said = template(&["--set", "webhook.port=9443,webhook.certValidityDays=3650"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
}

/// Returns the Pod templates of all Deployments by name.
fn templates(objects: &[Value]) -> std::collections::BTreeMap<String, Value> {
    names(objects, "Deployment")
        .into_iter()
        .map(|name| {
            let template = find(objects, "Deployment", &name)["spec"]["template"].clone();
            (name, template)
        })
        .collect()
}

#[test]
#[ignore = "needs a real helm"]
fn what_is_looked_at_by_prometheus_and_grafana_is_what_the_files_say() {
    let all = objects(&[
        "--set",
        "monitoring.prometheusRule.enabled=true,monitoring.dashboard.enabled=true,operator.metrics.serviceMonitor.enabled=true",
    ]);
    let file = |name: &str| std::fs::read_to_string(chart().join("files").join(name)).unwrap();
    let alerts = file("alerts.yaml").replace("RELEASE_NAMESPACE", "foreman-system");
    let alerts = schemas::yaml::parse_value(&alerts).unwrap();
    assert_eq!(
        find(&all, "PrometheusRule", "foreman")["spec"],
        alerts,
        "texts of alerts are no templates"
    );
    let map = find(&all, "ConfigMap", "foreman-dashboard");
    let shown: Value = serde_json::from_str(map["data"]["foreman.json"].as_str().unwrap()).unwrap();
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    assert_eq!(shown, dashboard);
    // Each ServiceMonitor finds one Service, and each Service finds the Pods of one Deployment.
    for name in ["foreman-operator", "foreman-agent"] {
        let monitor = find(&all, "ServiceMonitor", name);
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let fits = |labels: &Value, wanted: &serde_json::Map<String, Value>| {
            wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let services: Vec<&Value> = all
            .iter()
            .filter(|object| object["kind"] == "Service" && fits(&object["metadata"]["labels"], wanted))
            .collect();
        assert_eq!(services.len(), 1, "{name}");
        let port = &services[0]["spec"]["ports"][0];
        assert_eq!(port["name"], monitor["spec"]["endpoints"][0]["port"], "{name}");
        let pod = &find(&all, "Deployment", name)["spec"]["template"];
        let selector = services[0]["spec"]["selector"].as_object().unwrap();
        assert!(fits(&pod["metadata"]["labels"], selector), "{name}");
        let container = &pod["spec"]["containers"][0];
        let ports = container["ports"].as_array().unwrap();
        assert!(ports.iter().any(|found| found["name"] == port["targetPort"]), "{name}");
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            assert_eq!(container[probe]["httpGet"]["path"], path, "{name}");
        }
    }
}

#[test]
#[ignore = "needs a real helm"]
fn a_change_rolls_exactly_those_who_use_it() {
    let (_folder, file) = values(POOLS);
    let pem = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----";
    let other = "-----BEGIN CERTIFICATE-----\\nBBBB\\n-----END CERTIFICATE-----";
    let base = ["--values", &file, "--set", &format!("caBundle={pem}")].map(str::to_owned);
    let all = ["default", "fork", "inherits"].map(|pool| format!("foreman-{pool}-agent"));
    let operator = "foreman-operator".to_owned();
    let everyone: Vec<String> = all.iter().cloned().chain([operator.clone()]).collect();
    let table: Vec<(String, Vec<String>)> = vec![
        (format!("caBundle={other}"), everyone.clone()),
        ("operator.logLevel=debug".into(), vec![operator.clone()]),
        ("evidence.keepDays=3".into(), vec![operator.clone()]),
        ("agents.fork.mode=native".into(), vec![all[1].clone()]),
        ("agent.heartbeatInterval=10s".into(), all.to_vec()),
        ("gate.image.tag=v2".into(), all.to_vec()),
        ("agents.default.gateCache.size=30Gi".into(), vec![]),
        ("admissionPolicies.jobSecrets={more}".into(), vec![]),
        ("networkPolicies.enabled=true".into(), vec![]),
        ("operator.metrics.port=9000".into(), vec![]),
        ("logFormat=text".into(), everyone.clone()),
        ("operator.health.port=9090".into(), vec![operator.clone()]),
        ("monitoring.dashboard.enabled=true".into(), vec![]),
        ("monitoring.prometheusRule.enabled=true".into(), vec![]),
        ("hostAgents.studio.taskNamespace=team".into(), vec![]),
    ];
    let render = |more: &[&str]| {
        let mut words: Vec<&str> = base.iter().map(String::as_str).collect();
        words.extend(more);
        templates(&objects(&words))
    };
    let before = render(&[]);
    for (set, rolled) in table {
        let after = render(&["--set", &set]);
        let mut changed: Vec<&String> = before
            .iter()
            .filter(|(name, template)| after.get(*name) != Some(*template))
            .map(|(name, _)| name)
            .collect();
        changed.sort();
        let mut rolled: Vec<&String> = rolled.iter().collect();
        rolled.sort();
        assert_eq!(changed, rolled, "{set}");
    }
}

#[test]
#[ignore = "needs a real helm"]
fn no_rule_has_a_wildcard_and_no_role_for_all_namespaces_reads_secrets() {
    let (_folder, file) = values(POOLS);
    for more in [
        vec![],
        vec![
            "--values",
            file.as_str(),
            "--set",
            "hostAgents.studio.taskNamespace=team",
        ],
    ] {
        let all = objects(&more);
        let roles = all
            .iter()
            .filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
        let mut seen = 0;
        for role in roles {
            for rule in role["rules"].as_array().unwrap() {
                seen += 1;
                let text = rule.to_string();
                assert!(!text.contains('*'), "{}: {text}", role["metadata"]["name"]);
                let secrets = rule["resources"].as_array().unwrap().contains(&json!("secrets"));
                assert!(
                    !(secrets && role["kind"] == "ClusterRole"),
                    "{}: {text}",
                    role["metadata"]["name"]
                );
            }
        }
        assert!(seen > 15, "{seen} rules");
    }
}
