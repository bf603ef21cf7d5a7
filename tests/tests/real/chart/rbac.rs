//! Who may do what, asked of a real API server.

use super::cluster::Release;
use super::render::values;

/// Where a question is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// In all namespaces, or of what has none.
    Everywhere,
    /// In the release's namespace.
    Release,
    /// In the Jobs' namespace.
    Jobs,
    /// In a team's namespace.
    Team,
}
use At::{Everywhere, Jobs, Release as Own, Team};

/// Who, verb, resource, where, and the answer.
const QUESTIONS: &[(&str, &str, &str, At, bool)] = &[
    // The operator: our kinds in every namespace.
    ("operator", "list", "agentictasks.foreman.llmkube.dev", Everywhere, true),
    ("operator", "watch", "workloads.foreman.llmkube.dev", Everywhere, true),
    ("operator", "create", "agentictasks.foreman.llmkube.dev", Team, true),
    ("operator", "delete", "agentictasks.foreman.llmkube.dev", Team, true),
    ("operator", "patch", "workloads.foreman.llmkube.dev", Team, true),
    (
        "operator",
        "patch",
        "agentictasks.foreman.llmkube.dev/status",
        Team,
        true,
    ),
    ("operator", "patch", "taskqueues.foreman.llmkube.dev/status", Team, true),
    (
        "operator",
        "patch",
        "fleetnodes.foreman.llmkube.dev/status",
        Everywhere,
        true,
    ),
    (
        "operator",
        "list",
        "modelprofiles.foreman.llmkube.dev",
        Everywhere,
        true,
    ),
    ("operator", "create", "events", Team, true),
    (
        "operator",
        "get",
        "customresourcedefinitions.apiextensions.k8s.io/workloads.foreman.llmkube.dev",
        Everywhere,
        true,
    ),
    (
        "operator",
        "update",
        "leases.coordination.k8s.io/foreman-operator.llmkube.dev",
        Own,
        true,
    ),
    ("operator", "create", "leases.coordination.k8s.io", Own, true),
    ("operator", "watch", "leases.coordination.k8s.io", Own, true),
    ("operator", "get", "secrets", Own, true),
    ("operator", "get", "secrets/queue-git", Team, true),
    ("operator", "list", "jobs.batch", Jobs, true),
    ("operator", "delete", "jobs.batch", Jobs, true),
    ("operator", "list", "pods", Jobs, true),
    // And nothing else.
    ("operator", "get", "secrets", Team, false),
    ("operator", "get", "secrets", Everywhere, false),
    ("operator", "list", "secrets", Own, false),
    ("operator", "get", "secrets", Jobs, false),
    ("operator", "create", "jobs.batch", Jobs, false),
    ("operator", "list", "jobs.batch", Everywhere, false),
    ("operator", "create", "pods", Own, false),
    ("operator", "create", "pods/exec", Jobs, false),
    (
        "operator",
        "update",
        "leases.coordination.k8s.io/foreman-node-a",
        Own,
        false,
    ),
    (
        "operator",
        "update",
        "customresourcedefinitions.apiextensions.k8s.io",
        Everywhere,
        false,
    ),
    (
        "operator",
        "get",
        "customresourcedefinitions.apiextensions.k8s.io/others.example.com",
        Everywhere,
        false,
    ),
    ("operator", "delete", "taskqueues.foreman.llmkube.dev", Team, false),
    (
        "operator",
        "create",
        "fleetnodes.foreman.llmkube.dev",
        Everywhere,
        false,
    ),
    (
        "operator",
        "create",
        "clusterrolebindings.rbac.authorization.k8s.io",
        Everywhere,
        false,
    ),
    ("operator", "impersonate", "serviceaccounts", Everywhere, false),
    ("operator", "delete", "namespaces", Everywhere, false),
    // A node agent that takes the tasks of all namespaces.
    (
        "wide-agent",
        "list",
        "agentictasks.foreman.llmkube.dev",
        Everywhere,
        true,
    ),
    (
        "wide-agent",
        "patch",
        "agentictasks.foreman.llmkube.dev/status",
        Team,
        true,
    ),
    ("wide-agent", "get", "agents.foreman.llmkube.dev", Team, true),
    ("wide-agent", "get", "workloads.foreman.llmkube.dev", Team, true),
    (
        "wide-agent",
        "create",
        "fleetnodes.foreman.llmkube.dev",
        Everywhere,
        true,
    ),
    (
        "wide-agent",
        "patch",
        "fleetnodes.foreman.llmkube.dev/status",
        Everywhere,
        true,
    ),
    ("wide-agent", "update", "leases.coordination.k8s.io", Own, true),
    ("wide-agent", "create", "jobs.batch", Jobs, true),
    ("wide-agent", "delete", "jobs.batch", Jobs, true),
    ("wide-agent", "create", "configmaps", Jobs, true),
    ("wide-agent", "get", "pods/log", Jobs, true),
    ("wide-agent", "get", "secrets/model-key", Team, true),
    ("wide-agent", "get", "secrets", Team, false),
    ("wide-agent", "get", "secrets", Own, false),
    ("wide-agent", "get", "secrets", Jobs, false),
    ("wide-agent", "list", "secrets", Jobs, false),
    ("wide-agent", "watch", "secrets", Jobs, false),
    ("wide-agent", "patch", "secrets", Jobs, false),
    ("wide-agent", "update", "secrets", Jobs, false),
    ("wide-agent", "create", "secrets", Jobs, true),
    ("wide-agent", "delete", "secrets", Jobs, true),
    ("wide-agent", "create", "secrets", Own, false),
    ("wide-agent", "patch", "jobs.batch", Jobs, true),
    ("wide-agent", "update", "jobs.batch", Jobs, false),
    ("wide-agent", "get", "configmaps", Jobs, false),
    ("wide-agent", "create", "jobs.batch", Own, false),
    ("wide-agent", "create", "jobs.batch", Team, false),
    ("wide-agent", "create", "pods", Jobs, false),
    ("wide-agent", "create", "pods/exec", Jobs, false),
    ("wide-agent", "create", "agentictasks.foreman.llmkube.dev", Team, false),
    ("wide-agent", "patch", "agentictasks.foreman.llmkube.dev", Team, false),
    ("wide-agent", "delete", "agentictasks.foreman.llmkube.dev", Team, false),
    (
        "wide-agent",
        "patch",
        "workloads.foreman.llmkube.dev/status",
        Team,
        false,
    ),
    ("wide-agent", "get", "taskqueues.foreman.llmkube.dev", Team, false),
    ("wide-agent", "get", "forges.foreman.llmkube.dev", Team, false),
    (
        "wide-agent",
        "delete",
        "fleetnodes.foreman.llmkube.dev",
        Everywhere,
        false,
    ),
    ("wide-agent", "create", "serviceaccounts/token", Own, false),
    ("wide-agent", "create", "events", Team, false),
    // One that takes the tasks of a team.
    ("team-agent", "list", "agentictasks.foreman.llmkube.dev", Team, true),
    (
        "team-agent",
        "patch",
        "agentictasks.foreman.llmkube.dev/status",
        Team,
        true,
    ),
    (
        "team-agent",
        "list",
        "agentictasks.foreman.llmkube.dev",
        Everywhere,
        false,
    ),
    (
        "team-agent",
        "patch",
        "agentictasks.foreman.llmkube.dev/status",
        Own,
        false,
    ),
    ("team-agent", "get", "secrets/model-key", Team, false),
    // One outside the cluster.
    (
        "host-studio",
        "create",
        "fleetnodes.foreman.llmkube.dev",
        Everywhere,
        true,
    ),
    ("host-studio", "list", "agentictasks.foreman.llmkube.dev", Team, true),
    (
        "host-studio",
        "list",
        "agentictasks.foreman.llmkube.dev",
        Everywhere,
        false,
    ),
    ("host-studio", "get", "secrets", Own, false),
    // What a Job runs as may do nothing.
    ("gate", "get", "secrets", Jobs, false),
    ("gate", "create", "jobs.batch", Jobs, false),
    ("gate", "list", "agentictasks.foreman.llmkube.dev", Everywhere, false),
    ("coder", "get", "secrets", Jobs, false),
    ("coder", "list", "pods", Jobs, false),
];

#[test]
#[ignore = "needs a real kube-apiserver"]
fn every_account_may_do_what_it_needs_and_nothing_else() {
    let (_folder, file) = values(
        "agents:\n  wide:\n    secrets: [{namespace: RELEASE, name: model-key}]\n  team:\n    taskNamespace: RELEASE\nhostAgents:\n  studio:\n    taskNamespace: RELEASE\noperator:\n  secrets: [{namespace: RELEASE, name: queue-git}]\n",
    );
    // The team's namespace is called as the release is.
    let name = format!("foreman-{:06x}", rand::random::<u32>() & 0xff_ffff);
    let text = std::fs::read_to_string(&file).unwrap().replace("RELEASE", &name);
    std::fs::write(&file, text).unwrap();
    let release = Release::apply_as(&name, &["--values", &file], &[&name]);
    let ask = |(who, verb, resource, at, _): &(&str, &str, &str, At, bool)| {
        let account = match *who {
            "gate" | "coder" => format!("system:serviceaccount:{}:foreman-{who}", release.jobs),
            who => release.account(who),
        };
        let user = format!("--as={account}");
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, part @ ("status" | "log" | "exec" | "token"))) => {
                (resource.to_owned(), Some(format!("--subresource={part}")))
            }
            _ => ((*resource).to_owned(), None),
        };
        let mut words = vec!["auth", "can-i", *verb, resource.as_str(), user.as_str()];
        words.extend(subresource.as_deref());
        match at {
            At::Everywhere => words.push("--all-namespaces"),
            At::Release => words.extend(["--namespace", release.namespace.as_str()]),
            At::Jobs => words.extend(["--namespace", release.jobs.as_str()]),
            At::Team => words.extend(["--namespace", name.as_str()]),
        }
        release.cluster.call(&words, "").out.trim() == "yes"
    };
    // The authorizer learns of new roles a moment after they are stored; what it was last told of is the last binding.
    for question in QUESTIONS.iter().filter(|question| question.4) {
        release.cluster.until(&format!("{question:?}"), || ask(question));
    }
    let wrong: Vec<_> = QUESTIONS
        .iter()
        .filter(|question| ask(question) != question.4)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let no = QUESTIONS.iter().filter(|question| !question.4).count();
    assert!(no >= 20 && QUESTIONS.len() - no >= 20, "{no} of {}", QUESTIONS.len());
}
