//! `foreman doctor`: its exit code follows what it finds.

use crate::foreman::command;
use crate::sample::Sample;

fn doctor(sample: &Sample, change: impl Fn(&mut std::process::Command)) -> (Option<i32>, serde_json::Value) {
    let mut command = command(&sample.repository());
    command
        .arg("--state")
        .arg(sample.state())
        .args(["doctor", "-o", "json"]);
    change(&mut command);
    let output = command.output().unwrap();
    let checks = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), checks)
}

fn level<'a>(checks: &'a serde_json::Value, name: &str) -> &'a str {
    let found = checks.as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name:?} in {checks}"))["level"]
        .as_str()
        .unwrap()
}

#[test]
fn a_machine_with_what_is_needed_passes() {
    let sample = Sample::new();
    let (code, checks) = doctor(&sample, |_| {});
    assert_eq!(code, Some(0), "{checks:#}");
    for name in ["git", "state", "repository", "settings", "ports"] {
        assert_eq!(level(&checks, name), "ok", "{checks:#}");
    }
}

#[test]
fn a_git_that_is_missing_is_an_error() {
    let sample = Sample::new();
    let empty = tempfile::tempdir().unwrap();
    let (code, checks) = doctor(&sample, |command| {
        command.env("PATH", empty.path());
    });
    assert_eq!((code, level(&checks, "git")), (Some(1), "error"), "{checks:#}");
}

#[test]
fn settings_that_are_broken_are_an_error_and_name_the_place() {
    let sample = Sample::new();
    sample.commit(&[(
        ".foreman/queue.yaml",
        "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: TaskQueue\nmetdata: {}\n",
    )]);
    let (code, checks) = doctor(&sample, |_| {});
    assert_eq!((code, level(&checks, "settings")), (Some(1), "error"), "{checks:#}");
    assert!(checks.to_string().contains("queue.yaml:3:1"), "{checks:#}");
}

#[test]
fn a_model_server_that_an_agent_names_and_that_is_gone_is_an_error() {
    let sample = Sample::new();
    let agents = std::fs::read_to_string(sample.repository().join(".foreman/agents.yaml")).unwrap();
    let agents = agents.replace("'replay:'", "'http://127.0.0.1:9/v1'");
    sample.commit(&[(".foreman/agents.yaml", &agents)]);
    let (code, checks) = doctor(&sample, |_| {});
    assert_eq!((code, level(&checks, "model")), (Some(1), "error"), "{checks:#}");
    assert!(checks.to_string().contains("127.0.0.1:9"), "{checks:#}");
}

#[test]
fn a_state_folder_that_is_served_is_said_with_the_process() {
    let sample = Sample::new();
    let up = sample.up();
    let (code, checks) = doctor(&sample, |_| {});
    assert_eq!(code, Some(0), "{checks:#}");
    assert!(
        checks.to_string().contains(&format!("process {}", up.pid())),
        "{checks:#}"
    );
}
