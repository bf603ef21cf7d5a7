//! The base for those without Helm: what the chart renders, and what `kubectl apply -k` makes of it.

use std::path::Path;
use std::process::Command;

use super::alone::Alone;
use super::chart::helm::needed;
use crate::foreman::{Said, program};

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

#[test]
#[ignore = "needs Helm"]
fn the_base_is_what_the_chart_renders() {
    let mut command = Command::new(program().with_file_name("xtask"));
    command
        .args(["kustomize", "--check"])
        .env("FOREMAN_HELM", needed("FOREMAN_HELM"));
    let said: Said = command.output().unwrap().into();
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
}

#[test]
#[ignore = "needs a real control plane"]
fn the_base_is_applied_by_kubectl_alone_and_its_operator_works() {
    let mut alone = Alone::open("kustomize");
    // The base has names of its own.
    alone.release = "foreman".to_owned();
    alone.namespace = "foreman-system".to_owned();
    alone.jobs = "foreman-system-jobs".to_owned();
    let base = root().join("kustomize/base");
    let base = base.to_str().unwrap();
    let apply = ["apply", "--server-side", "--force-conflicts", "--kustomize", base];
    alone.cluster.run(&apply, "");
    let again = alone.cluster.run(&apply, "");
    assert!(
        again.contains("deployment.apps/foreman-operator serverside-applied"),
        "{again}"
    );
    let diff = ["diff", "--server-side", "--force-conflicts", "--kustomize", base];
    let said = alone.cluster.call(&diff, "");
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{}", said.err);
    let made = alone.find("deployment", "foreman-operator").unwrap();
    assert_eq!(made["metadata"]["labels"].get("app.kubernetes.io/managed-by"), None);
    // It needs no more than what the base grants.
    let operator = alone.operator();
    assert!(!operator.log().contains("forbidden"), "{}", operator.log());
}
