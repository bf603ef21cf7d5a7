//! What each value changes.

use super::super::helm::{parse, template};

/// Values, and what must stand in the rendering because of them.
const CHANGES: &[(&str, &str)] = &[
    (
        "operator.image.registry=reg.example:5000",
        "image: \"reg.example:5000/ghcr.io/foreman-ci/foreman-operator:",
    ),
    ("operator.image.tag=v9", "foreman-operator:v9\""),
    (
        "operator.image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "foreman-operator@sha256:aaaa",
    ),
    ("operator.image.pullPolicy=Never", "imagePullPolicy: Never"),
    ("operator.logLevel=debug", "value: \"debug\""),
    ("operator.leaderElection.enabled=false", "--leader-elect=false"),
    ("operator.metrics.port=9999", "port: 9999"),
    (
        "operator.metrics.serviceMonitor.enabled=true",
        "kind: ServiceMonitor\nmetadata:\n  name: foreman-operator",
    ),
    (
        "operator.metrics.serviceMonitor.enabled=true,operator.metrics.serviceMonitor.labels.release=prom",
        "kind: ServiceMonitor\nmetadata:\n  name: foreman-agent\n  namespace: foreman-system\n  labels:\n    release: prom",
    ),
    ("monitoring.prometheusRule.enabled=true", "alert: ForemanTaskStuck"),
    (
        "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.labels.release=prom",
        "release: prom",
    ),
    ("monitoring.dashboard.enabled=true", "grafana_dashboard: \"1\""),
    (
        "monitoring.dashboard.enabled=true,monitoring.dashboard.labels.team=a",
        "team: a",
    ),
    (
        "monitoring.dashboard.enabled=true,monitoring.dashboard.annotations.folder=Agents",
        "folder: Agents",
    ),
    ("operator.health.port=9090", "--evidence-listen=0.0.0.0:9090"),
    ("operator.health.port=9091", "containerPort: 9091"),
    ("logFormat=text", "--log-format=text"),
    ("foreman.allowCloudProviders=false", "--allow-cloud-providers=false"),
    (
        "foreman.allowCloudProviders=false",
        "foreman.allowCloudProviders is false here",
    ),
    ("agent.foremanNamespace=elsewhere", "--foreman-namespace=elsewhere"),
    (
        "agent.foremanNamespace=elsewhere",
        "kind: Role\nmetadata:\n  name: foreman-agent.foreman-system\n  namespace: elsewhere",
    ),
    ("agent.metrics.port=9092", "--metrics-listen=0.0.0.0:9092"),
    ("operator.watchNamespaces={one,two}", "--namespace=one,two"),
    (
        "operator.gitRemoteURL=https://git.example",
        "--git-remote-url=https://git.example",
    ),
    ("operator.taskTTLSeconds=3600", "--task-ttl-seconds=3600"),
    (
        "operator.gitCredentials.secretName=git",
        "--git-credentials=/etc/foreman/git/credentials",
    ),
    ("operator.podLabels.team=a", "team: a"),
    ("operator.podAnnotations.note=b", "note: b"),
    ("operator.nodeSelector.disk=ssd", "disk: ssd"),
    ("operator.tolerations[0].operator=Exists", "tolerations:"),
    (
        "operator.env[0].name=HTTPS_PROXY,operator.env[0].value=http://proxy",
        "name: HTTPS_PROXY",
    ),
    (
        "operator.securityContext.readOnlyRootFilesystem=false",
        "readOnlyRootFilesystem: false",
    ),
    ("operator.podSecurityContext.runAsUser=1234", "runAsUser: 1234"),
    ("operator.resources.limits.memory=1Gi", "memory: 1Gi"),
    ("operator.serviceAccount.annotations.role=x", "role: x"),
    ("operator.serviceAccount.name=mine", "serviceAccountName: mine"),
    (
        "operator.secrets[0].namespace=team,operator.secrets[0].name=git",
        "name: foreman-operator-secret-git.foreman-system\n  namespace: team",
    ),
    ("evidence.keepDays=7", "--evidence-keep-days=7"),
    ("evidence.readAny=true", "--evidence-read-any"),
    ("evidence.storage=77Gi", "storage: 77Gi"),
    ("evidence.storageClass=fast", "storageClassName: fast"),
    ("evidence.accessModes={ReadWriteMany}", "- ReadWriteMany"),
    ("agent.mode=native", "--agent-mode=native"),
    ("agent.roles={worker,verifier}", "--roles=worker,verifier"),
    ("agent.nodeLabels.zone=a", "--node-labels=zone=a"),
    ("agent.nodeLabels.example/zone=", "--node-labels=example/zone="),
    ("agent.fleetNodeName=studio", "value: \"studio\""),
    ("agent.taskNamespace=team", "--task-namespace=team"),
    ("agent.logLevel=trace", "value: \"trace\""),
    ("agent.heartbeatInterval=11s", "--heartbeat-interval=11s"),
    ("agent.heartbeatInterval=0.5m", "--heartbeat-interval=0.5m"),
    ("agent.taskPollInterval=12s", "--task-poll-interval=12s"),
    ("agent.stubSleep=13s", "--stub-sleep=13s"),
    ("agent.slots=14", "--slots=14"),
    ("agent.accelerator=cuda", "--accelerator=cuda"),
    ("agent.installedModels={a,b}", "--installed-models=a,b"),
    ("agent.maxContextTokens=131072", "--max-context-tokens=131072"),
    ("agent.tokensPerSecond=42", "--tokens-per-second=42"),
    ("agent.totalRAMGB=128", "--total-ram-gb=128"),
    (
        "agent.inferenceBaseURLOverride=http://gpu:8080/v1",
        "--inference-base-url-override=http://gpu:8080/v1",
    ),
    (
        "agent.inferenceBaseURLHostOverride=gpu",
        "--inference-base-url-host-override=gpu",
    ),
    ("agent.workspaceDir=/data", "mountPath: \"/data\""),
    ("agent.keepWorkspace=true", "--keep-workspace=true"),
    (
        "agent.gitRemoteURL=https://git.example",
        "--git-remote-url=https://git.example",
    ),
    ("agent.commitAuthorName=Bot", "--commit-author-name=Bot"),
    (
        "agent.commitAuthorEmail=bot@example.com",
        "--commit-author-email=bot@example.com",
    ),
    (
        "agent.commitCommitterEmail=c@example.com,agent.commitCommitterName=C",
        "--commit-committer-name=C",
    ),
    (
        "agent.gitCredentials.secretName=git",
        "--git-credentials=/etc/foreman/git/credentials",
    ),
    (
        "agent.githubToken.secretName=hub",
        "--git-token=https://github.com=/etc/foreman/token/token",
    ),
    ("agent.coderGitSecret=clone", "--coder-git-secret=clone"),
    (
        "agent.secrets[0].namespace=team,agent.secrets[0].name=key",
        "name: foreman-agent-secret-key.foreman-system\n  namespace: team",
    ),
    ("agent.gateCache.size=33Gi", "storage: 33Gi"),
    ("agent.gateCache.storageClass=slow", "storageClassName: slow"),
    ("agent.gateCache.name=shared", "--gate-cache-pvc=shared"),
    ("agent.gateCache.annotations.backup=no-thanks", "backup: no-thanks"),
    ("agent.replicaCount=3", "replicas: 3"),
    (
        "operator.replicaCount=2,evidence.accessModes={ReadWriteMany}",
        "type: RollingUpdate",
    ),
    ("agent.image.repository=example/agent", "image: \"example/agent:"),
    (
        "gate.image.repository=host:5000/a/b--c",
        "--gate-image=host:5000/a/b--c:",
    ),
    ("agent.affinity.nodeAffinity.x=y", "nodeAffinity:"),
    ("hostAgents.studio.taskNamespace=team", "name: foreman-host-studio"),
    (
        "hostAgents.studio.coderGitSecret=own",
        "foreman-host-studio' ? ['own'] : []",
    ),
    (
        "hostAgents.studio.gateCacheClaim=fast",
        "foreman-host-studio' ? ['fast'] : []",
    ),
    (
        "agent.evidenceURL=http://elsewhere:8484",
        "--evidence-url=http://elsewhere:8484",
    ),
    (
        "operator.moreJobsNamespaces={gpu-jobs}",
        "kind: Role\nmetadata:\n  name: foreman-operator.foreman-system\n  namespace: gpu-jobs",
    ),
    ("operator.watchNamespaces={one,two}", "operator: In, values: [one,two]"),
    ("evidence.existingClaim=mine", "claimName: mine"),
    (
        "operator.moreJobsNamespaces={gpu-jobs}",
        "--jobs-namespace=foreman-system-jobs,gpu-jobs",
    ),
    ("agents.4090.roles={coder}", "foreman.llmkube.dev/pool: 4090"),
    ("gate.image.repository=example/gate", "--gate-image=example/gate:"),
    ("gate.serviceAccount.name=judge", "--gate-service-account=judge"),
    ("coder.serviceAccount.name=writer", "name: writer"),
    ("coder.startupTimeout=20m", "--coder-startup-timeout=20m"),
    ("coder.ttlSecondsAfterFinished=60", "--coder-ttl-seconds=60"),
    ("coder.moreServiceAccounts={gpu}", "[\"foreman-coder\",\"gpu\"]"),
    ("coder.pullSecrets={registry}", "s.name in [\"registry\"]"),
    (
        "coder.gitCredentialsSecret=clone,coder.gitCredentialsSecretKey=pass",
        "--coder-git-secret-key=pass",
    ),
    ("imagePullSecrets[0].name=pull", "- name: pull"),
    (
        "networkPolicies.enabled=true",
        "name: foreman-operator\n  namespace: foreman-system",
    ),
    (
        "networkPolicies.enabled=true,networkPolicies.apiPorts={8443}",
        "port: 8443",
    ),
    // An agent asks model servers itself.
    ("networkPolicies.enabled=true,networkPolicies.jobs=false", "port: 11434"),
    (
        "networkPolicies.enabled=true,networkPolicies.additionalEgressCIDRs={10.9.0.0/16}",
        "cidr: \"10.9.0.0/16\"",
    ),
    ("networkPolicies.fetchPorts={3000}", "port: 3000"),
    ("webhook.failurePolicy=Ignore", "failurePolicy: Ignore"),
    ("admissionPolicies.failurePolicy=Ignore", "failurePolicy: Ignore"),
    ("admissionPolicies.jobSecrets={extra}", r#"[\"extra\"]"#),
    ("jobsNamespace=elsewhere", "--jobs-namespace=elsewhere"),
    ("namespace=other", "--jobs-namespace=other-jobs"),
    ("nameOverride=forge", "name: foreman-forge-operator"),
    ("fullnameOverride=fm", "name: fm-operator"),
];

/// Values, and what must be gone because of them.
const REMOVALS: &[(&str, &str)] = &[
    ("agent.gateCache.enabled=false", "gate-cache"),
    ("agent.enabled=false", "name: foreman-agent"),
    ("operator.enabled=false", "component: operator"),
    ("operator.metrics.enabled=false", "foreman-operator-metrics"),
    ("agent.metrics.enabled=false", "--metrics-listen"),
    ("agent.metrics.enabled=false", "foreman-agent-metrics"),
    (
        "operator.serviceAccount.create=false,operator.serviceAccount.name=x",
        "kind: ServiceAccount\nmetadata:\n  name: x",
    ),
    ("createJobsNamespace=false", "kind: Namespace"),
    ("crds.install=false", "kind: CustomResourceDefinition"),
    ("webhook.enabled=false", "foreman-specs"),
    ("admissionPolicies.enabled=false", "foreman-jobs.foreman-system"),
    ("networkPolicies.jobs=false", "kind: NetworkPolicy"),
    (
        "gate.serviceAccount.create=false",
        "kind: ServiceAccount\nmetadata:\n  name: foreman-gate",
    ),
    (
        "coder.serviceAccount.create=false",
        "kind: ServiceAccount\nmetadata:\n  name: foreman-coder",
    ),
    ("coder.enabled=false", "--coder-service-account"),
    ("evidence.existingClaim=mine", "name: foreman-evidence"),
];

#[test]
#[ignore = "needs a real helm"]
fn every_value_changes_what_is_rendered() {
    let plain = template(&[]);
    assert_eq!(plain.code, Some(0), "{}", plain.err);
    // What is quoted is the same, and where it has to be is said by what reads it.
    let bare = |text: &str| text.replace(['"', '\\'], "");
    for (set, wanted) in CHANGES {
        let said = template(&["--set", set]);
        assert_eq!(said.code, Some(0), "{set}: {}", said.err);
        assert!(
            bare(&said.out).contains(&bare(wanted)),
            "{set} does not lead to {wanted:?}"
        );
        assert!(said.out != plain.out, "{set} changes nothing");
        parse(&said.out);
    }
    for (set, gone) in REMOVALS {
        let said = template(&["--set", set]);
        assert_eq!(said.code, Some(0), "{set}: {}", said.err);
        assert!(!bare(&said.out).contains(&bare(gone)), "{set} leaves {gone:?}");
        assert!(said.out != plain.out, "{set} changes nothing");
        parse(&said.out);
    }
}
