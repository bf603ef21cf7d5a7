//! Values that cannot work are refused, by words that say which and why.

use super::helm::template;

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
