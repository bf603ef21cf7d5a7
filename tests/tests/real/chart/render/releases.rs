//! Releases beside each other, and what stays of one.

use serde_json::{Value, json};

use super::super::helm::{chart, find, helm, names, objects, parse, template, template_as};

#[test]
#[ignore = "needs a real helm"]
fn two_releases_of_one_name_share_nothing_of_the_cluster() {
    let cluster_wide = |namespace: &str| -> Vec<String> {
        let said = template_as("foreman", namespace, &["--set", "crds.install=false"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let all = parse(&said.out);
        let named = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
        let wide = all.iter().filter(|object| object["metadata"]["namespace"].is_null());
        wide.map(named).collect()
    };
    let (one, two) = (cluster_wide("one"), cluster_wide("two"));
    assert!(one.len() > 8, "{one:?}");
    assert!(one.iter().all(|name| !two.contains(name)), "{one:?} {two:?}");
}

#[test]
#[ignore = "needs a real helm"]
fn two_releases_of_one_name_share_nothing_of_a_namespace() {
    let named = |namespace: &str, values: &str| -> Vec<String> {
        let said = template_as("foreman", namespace, &["--set", "crds.install=false", "--set", values]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let all = parse(&said.out);
        let name = |object: &Value| {
            let of = &object["metadata"];
            format!("{} {} {}", object["kind"], of["namespace"], of["name"])
        };
        all.iter().map(name).collect()
    };
    let secrets = "agent.secrets[0].namespace=team,agent.secrets[0].name=key";
    let whole = named(
        "foreman-system",
        &format!(
            "operator.moreJobsNamespaces={{gpu-team-jobs}},{secrets},operator.secrets[0].namespace=team,operator.secrets[0].name=key"
        ),
    );
    let agents = named(
        "gpu-team",
        &format!("operator.enabled=false,agent.foremanNamespace=foreman-system,{secrets}"),
    );
    for shared in ["foreman-system", "team"] {
        let there = format!(" \"{shared}\" ");
        assert!(agents.iter().any(|name| name.contains(&there)), "{agents:?}");
    }
    assert!(agents.iter().all(|name| !whole.contains(name)), "{whole:?} {agents:?}");
}

#[test]
#[ignore = "needs a real helm"]
fn a_secret_that_is_named_twice_is_bound_once() {
    let twice = json!([{ "namespace": "team", "name": "git" }, { "namespace": "team", "name": "git" }]);
    let all = objects(&["--set-json", &format!("operator.secrets={twice}")]);
    for kind in ["Role", "RoleBinding"] {
        let named = names(&all, kind);
        let own = named.iter().filter(|name| name.contains("-secret-git"));
        assert_eq!(own.count(), 1, "{kind}: {named:?}");
    }
}

#[test]
#[ignore = "needs a real helm"]
fn a_queue_of_the_values_stays_whatever_becomes_of_the_release() {
    let queue = json!([{ "name": "team", "spec": { "git": { "url": "https://git.example.com/tasks" } } }]);
    let queue = format!("taskQueues={queue}");
    let forge = json!([{ "name": "hub", "spec": { "type": "forgejo", "url": "https://git.example.com" } }]);
    let forge = format!("forges={forge}");
    let values = ["--set-json", &queue, "--set-json", &forge];
    let first = objects(&values);
    let map = find(&first, "ConfigMap", "foreman-bootstrap");
    let first: Vec<Value> = serde_json::from_str(map["data"]["objects.json"].as_str().unwrap()).unwrap();
    let served = ["--api-versions", "foreman.llmkube.dev/v1alpha1/TaskQueue"];
    let later = objects(&[&served[..], &values[..]].concat());
    for (kind, name) in [("TaskQueue", "team"), ("Forge", "hub")] {
        for all in [&first, &later] {
            let said = &find(all, kind, name)["metadata"]["annotations"];
            assert_eq!(said["helm.sh/resource-policy"], "keep", "{kind}");
            assert_eq!(
                said["argocd.argoproj.io/sync-options"], "Delete=false,Prune=false",
                "{kind}"
            );
        }
    }
}

#[test]
#[ignore = "needs a real helm"]
fn a_release_of_agents_alone_has_their_alerts_and_no_log_of_an_operator() {
    let said = template(&[
        "--set",
        "operator.enabled=false,monitoring.prometheusRule.enabled=true",
        "--show-only",
        "templates/monitoring.yaml",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("alert: ForemanModelFailing"), "{}", said.out);
    assert!(!said.out.contains("alert: ForemanNoLeader"), "{}", said.out);
    // Helm shows what it would say to nobody without a cluster: it is rendered as an object.
    let folder = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(chart())
        .arg(folder.path())
        .status();
    assert!(copied.unwrap().success());
    let copy = folder.path().join("foreman");
    let notes = std::fs::read_to_string(copy.join("templates/NOTES.txt")).unwrap();
    let object =
        format!("{{{{- define \"notes\" }}}}{notes}{{{{ end }}}}notes: {{{{ include \"notes\" . | toJson }}}}\n");
    std::fs::write(copy.join("templates/notes.yaml"), object).unwrap();
    let notes = |values: &str| {
        let words = [
            "template",
            "foreman",
            copy.to_str().unwrap(),
            "--kube-version",
            "1.34.4",
        ];
        let only = ["--show-only", "templates/notes.yaml", "--set", values];
        let said = helm(None, &[&words[..], &only[..]].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out
    };
    let logs = |part: &str| format!("logs -l app.kubernetes.io/component={part} ");
    let alone = notes("operator.enabled=false");
    assert!(
        alone.contains(&logs("agent")) && !alone.contains(&logs("operator")),
        "{alone}"
    );
    assert!(notes("operator.enabled=true").contains(&logs("operator")));
}
