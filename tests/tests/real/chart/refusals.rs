//! Values that cannot work are refused, by words that say which and why.

use super::helm::{template, template_as};

/// Values, and what the refusal must say.
const REFUSED: &[(&str, &[&str])] = &[
    ("logFormat=xml", &["/logFormat", "json", "text"]),
    ("operator.health.port=80", &["/operator/health/port", "minimum"]),
    ("agent.foremanNamespace=Upper", &["/agent/foremanNamespace"]),
    (
        "foreman.allowCloudProviders=perhaps",
        &["/foreman/allowCloudProviders", "boolean"],
    ),
    ("monitoring.alerts=true", &["/monitoring", "alerts"]),
    (
        "operator.image.repository=",
        &["/operator/image/repository", "minLength: got 0, want 1"],
    ),
    (
        "agent.image.repository=",
        &["/agent/image/repository", "minLength: got 0, want 1"],
    ),
    (
        "gate.image.repository=",
        &["/gate/image/repository", "minLength: got 0, want 1"],
    ),
    ("agent.mode=fast", &["/agent/mode", "stub", "native"]),
    ("agents.gpu.mode=fast", &["/agents/gpu/mode", "stub", "native"]),
    ("agents.GPU_1.mode=stub", &["agents.GPU_1", "lower case"]),
    (
        "operator.moreJobsNamespaces={foreman-system}",
        &["operator.moreJobsNamespaces", "foreman-system"],
    ),
    ("agents.gpu--1.mode=stub", &["agents.gpu--1", "single hyphens"]),
    (
        "hostAgents.gpu--1.taskNamespace=",
        &["hostAgents.gpu--1", "single hyphens"],
    ),
    ("agent.fleetNodeName=gpu--1", &["agent.fleetNodeName", "single hyphens"]),
    (
        "agent.fleetNodeName=studio,agents.a.mode=stub,agents.b.mode=stub",
        &["agents.b.fleetNodeName", "studio", "agents.a has too"],
    ),
    ("agent.workspaceDir=/tmp", &["agent.workspaceDir", "/workspace"]),
    (
        "agent.workspaceDir=/etc/foreman/git",
        &["agent.workspaceDir", "/workspace"],
    ),
    (
        "operator.image.digest=sha256:abc",
        &["/operator/image/digest", "sha256"],
    ),
    (
        "operator.image.pullPolicy=Sometimes",
        &["/operator/image/pullPolicy", "IfNotPresent"],
    ),
    ("operator.replicaCount=0", &["/operator/replicaCount", "minimum"]),
    (
        "operator.replicaCount=2,operator.leaderElection.enabled=false,evidence.accessModes={ReadWriteMany}",
        &[
            "operator.replicaCount is 2",
            "operator.leaderElection.enabled",
            "operator.replicaCount=1",
        ],
    ),
    (
        "operator.replicaCount=2",
        &["operator.replicaCount is 2", "evidence.accessModes", "ReadWriteMany"],
    ),
    (
        "agent.fleetNodeName=studio,agent.replicaCount=2",
        &["agent.replicaCount is 2", "agent.fleetNodeName", "studio"],
    ),
    (
        "operator.gitCredentials.secretName=git,operator.gitCredentials.secretKey=",
        &[
            "operator.gitCredentials.secretName",
            "\"git\"",
            "operator.gitCredentials.secretKey is empty",
        ],
    ),
    (
        "agent.gitCredentials.secretName=git,agent.gitCredentials.secretKey=",
        &["agent.gitCredentials.secretKey is empty"],
    ),
    (
        "agents.gpu.githubToken.secretName=hub,agents.gpu.githubToken.secretKey=",
        &["agents.gpu.githubToken.secretKey is empty"],
    ),
    (
        "coder.gitCredentialsSecret=clone,coder.gitCredentialsSecretKey=",
        &["\"clone\"", "coder.gitCredentialsSecretKey"],
    ),
    (
        "agent.coderGitSecretKey=token",
        &["agent.coderGitSecretKey", "no Secret is named"],
    ),
    (
        "agent.commitCommitterName=C",
        &["agent.commitCommitterName", "agent.commitCommitterEmail is empty"],
    ),
    ("agent.commitAuthorEmail=nobody", &["/agent/commitAuthorEmail"]),
    (
        "agent.serviceAccount.create=false",
        &["agent.serviceAccount.name is empty"],
    ),
    (
        "operator.serviceAccount.create=false",
        &["operator.serviceAccount.name is empty"],
    ),
    ("agent.heartbeatInterval=soon", &["/agent/heartbeatInterval"]),
    ("agent.heartbeatInterval=0s", &["/agent/heartbeatInterval", "[1-9]"]),
    (
        "agents.gpu.taskPollInterval=0ms",
        &["/agents/gpu/taskPollInterval", "[1-9]"],
    ),
    ("agent.stubSleep=0.0s", &["/agent/stubSleep", "[1-9]"]),
    ("coder.startupTimeout=0h0m", &["/coder/startupTimeout", "[1-9]"]),
    (
        "operator.metrics.serviceMonitor.interval=0s",
        &["/operator/metrics/serviceMonitor/interval", "[1-9]"],
    ),
    // Prometheus reads no fractions.
    (
        "operator.metrics.serviceMonitor.interval=0.5m",
        &["/operator/metrics/serviceMonitor/interval"],
    ),
    (
        "operator.image.repository=registry.example.com/foreman-operator:1.0",
        &["/operator/image/repository"],
    ),
    ("agent.image.repository=foreman-agent:1.0", &["/agent/image/repository"]),
    (
        "operator.env[0].name=A,operator.env[0].value=1",
        &["/operator/env/0/value", "got number, want string"],
    ),
    (
        "agent.env[0].name=A,agent.env[0].value=true",
        &["/agent/env/0/value", "got boolean, want string"],
    ),
    ("agent.nodeLabels.zone=b c", &["/agent/nodeLabels/zone"]),
    (
        "agent.nodeLabels.zone=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        &["/agent/nodeLabels/zone", "maxLength"],
    ),
    ("agent.nodeLabels.-zone=a", &["'-zone'"]),
    // Names with nothing but remarks below them.
    ("operator=null", &["operator is null", "operator: {}"]),
    ("coder=null", &["coder is null"]),
    ("agent.gateCache=null", &["agent.gateCache is null"]),
    (
        "operator.metrics.serviceMonitor=null",
        &["operator.metrics.serviceMonitor is null"],
    ),
    ("crds=null", &["missing property 'crds'"]),
    (
        "fullnameOverride=2foreman",
        &["\"2foreman\"", "begins with a letter", "fullnameOverride"],
    ),
    (
        "namespace=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        &["set jobsNamespace", "aaa-jobs"],
    ),
    (
        "operator.watchNamespaces={team},taskQueues[0].name=q,taskQueues[0].spec.suspend=true",
        &["taskQueues", "\"q\"", "\"foreman-system\"", "operator.watchNamespaces"],
    ),
    (
        "operator.watchNamespaces={team},forges[0].name=hub,forges[0].namespace=other,forges[0].spec.type=forgejo",
        &["forges", "\"hub\"", "\"other\"", "operator.watchNamespaces"],
    ),
    (
        "operator.serviceAccount.name=one,agent.serviceAccount.name=one",
        &["agent.serviceAccount.name", "\"one\"", "operator's account"],
    ),
    (
        "operator.serviceAccount.name=foreman-host-x,hostAgents.x.taskNamespace=",
        &["operator.serviceAccount.name", "hostAgents.x"],
    ),
    (
        "agents.host-x.mode=stub,hostAgents.x-agent.taskNamespace=",
        &["agents.host-x", "foreman-host-x-agent", "hostAgents.x-agent"],
    ),
    ("agent.slots=0", &["/agent/slots", "minimum"]),
    ("agent.gateCache.size=lots", &["/agent/gateCache/size"]),
    ("agent.workspaceDir=relative", &["/agent/workspaceDir"]),
    ("agent.gitRemoteURL=github.com", &["/agent/gitRemoteURL"]),
    ("agent.roles={Worker}", &["/agent/roles/0"]),
    ("agent.accelerator=tpu", &["/agent/accelerator", "cuda"]),
    ("jobsNamespace=foreman-system", &["jobsNamespace", "release's own"]),
    (
        "webhook.failurePolicy=Maybe",
        &["/webhook/failurePolicy", "Fail", "Ignore"],
    ),
    (
        "networkPolicies.fetchPorts={70000}",
        &["/networkPolicies/fetchPorts/0", "want 65,535"],
    ),
    (
        "networkPolicies.additionalEgressCIDRs={everywhere}",
        &["/networkPolicies/additionalEgressCIDRs/0"],
    ),
    ("imagePullSecrets[0].nam=x", &["/imagePullSecrets/0"]),
    ("operator.secrets[0].name=x", &["/operator/secrets/0", "namespace"]),
    ("agent.rolls={worker}", &["rolls"]),
    ("operater.enabled=true", &["operater"]),
    ("caBundle=hello", &["caBundle", "--set-file"]),
    (
        "operator.metrics.enabled=false,operator.metrics.serviceMonitor.enabled=true",
        &["operator.metrics.serviceMonitor.enabled"],
    ),
    (
        "agent.fleetNodeName=studio,hostAgents.studio.taskNamespace=a",
        &["hostAgents", "studio"],
    ),
    (
        "agents.a.gateCache.name=one,agents.b.gateCache.name=one,agents.b.gateCache.size=1Gi",
        &["agents.b.gateCache.name", "\"one\""],
    ),
];

#[test]
#[ignore = "needs a real helm"]
fn a_release_whose_name_makes_no_names_of_services_is_refused() {
    let said = template_as("fore.man", "foreman-system", &[]);
    assert_ne!(said.code, Some(0));
    assert!(said.err.contains("set fullnameOverride"), "{}", said.err);
    let named = template_as("fore.man", "foreman-system", &["--set", "fullnameOverride=foreman"]);
    assert_eq!(named.code, Some(0), "{}", named.err);
}

#[test]
#[ignore = "needs a real helm"]
fn values_that_cannot_work_are_refused_by_name() {
    for (set, words) in REFUSED {
        let said = template(&["--set", set]);
        assert_ne!(said.code, Some(0), "{set} is not refused");
        assert!(said.out.is_empty(), "{set} renders something");
        for word in *words {
            assert!(said.err.contains(word), "{set}: {word:?} is not in\n{}", said.err);
        }
    }
}
