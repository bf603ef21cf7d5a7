//! The static `foreman-gate`, in a root that holds nothing: no C library, no shell, no certificates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use gate::Report;
use gate::definition::{ResolvedGate, ResolvedResources, ResolvedStep, Source};
use gate::job::{GateObjects, GateRequest, PROGRAM, TERMINATION_PATH, build_job};
use gate::plan::PLAN_KEY;
use gate::report::{ErrorReason, Outcome};
use k8s_openapi::api::core::v1::Container;

use crate::git_server::GitServer;
use crate::stage::{commit, git};

/// A shell that knows one command, linked statically: what a step needs in an image without anything else.
const SHELL: &str = r#"
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {
    char text[16] = "";
    FILE *file = fopen("answer", "r");
    if (count != 3 || strcmp(words[1], "-c") || strcmp(words[2], "check") || !file) return 3;
    fgets(text, sizeof text, file);
    printf("the answer is %s", text);
    return strcmp(text, "42\n") ? 1 : 0;
}
"#;

/// Returns the program that `cargo xtask test --tools` built.
fn program() -> PathBuf {
    let named = std::env::var_os("FOREMAN_STATIC_GATE")
        .expect("FOREMAN_STATIC_GATE names the program; run this by `cargo xtask test --tools`");
    PathBuf::from(named)
}

/// The volumes of one Pod, as folders.
struct Pod {
    folder: tempfile::TempDir,
    objects: GateObjects,
}

impl Pod {
    /// Plans the gate of the tip of `main` against the commit before it.
    fn new(clone: &Path, url: &str) -> Self {
        let commit = |name: &str| git(clone, &["rev-parse", name]).trim().to_owned();
        let gate = ResolvedGate {
            image: "empty".into(),
            prepare: None,
            steps: vec![ResolvedStep {
                name: "check".into(),
                command: "check".into(),
                timeout_seconds: 60,
                advisory: false,
            }],
            protected: vec![".foreman/**".into()],
            pinned: Vec::new(),
            resources: ResolvedResources::default(),
            deadline_seconds: 600,
            source: Source::File,
        };
        let request = GateRequest {
            task_name: "task".into(),
            task_uid: "uid".into(),
            epoch: 1,
            attempt: 1,
            namespace: "default".into(),
            labels: BTreeMap::new(),
            repository: url.to_owned(),
            branch: "main".into(),
            head_sha: commit("HEAD"),
            base_sha: commit("HEAD~1"),
            file_roots: Vec::new(),
            credentials: None,
            ca_bundle: None,
            cache: None,
            service_account: None,
            runtime_class: None,
            program_image: None,
            ttl_seconds: 60,
            user: 65532,
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            objects: build_job(&gate, &request).unwrap(),
        }
    }

    /// Runs both containers in roots that hold the volumes, `more` files and nothing else; returns the report.
    fn run(&self, more: &[(&Path, &str)]) -> Report {
        let spec = self.objects.job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let (code, printed, _) = self.container(&spec.init_containers.as_ref().unwrap()[0], &[]);
        assert_eq!(code, 0, "{printed}");
        let (code, printed, message) = self.container(&spec.containers[0], more);
        let report = Report::parse(&message).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(code, i32::from(report.outcome.exit_code()), "{printed}");
        assert_eq!(report.head, self.objects.plan.head);
        report
    }

    fn container(&self, container: &Container, more: &[(&Path, &str)]) -> (i32, String, Vec<u8>) {
        let fetches = container.command.as_deref() == Some(&[PROGRAM.to_owned()]);
        let first = &container.command.as_ref().unwrap()[0];
        let mut command = sandbox::Command::new(if fetches { "/foreman-gate" } else { first })
            .args(container.args.iter().flatten().cloned())
            .env("PATH", "/bin")
            .network(if fetches {
                sandbox::Network::Host
            } else {
                sandbox::Network::None
            });
        if fetches {
            command = command.ro(program(), "/foreman-gate");
        }
        for (source, target) in more {
            command = command.ro(*source, *target);
        }
        for mount in container.volume_mounts.iter().flatten() {
            let place = self.folder.path().join(&mount.name);
            std::fs::create_dir_all(&place).unwrap();
            if mount.name == "plan" {
                let text = &self.objects.config_map.data.as_ref().unwrap()[PLAN_KEY];
                std::fs::write(place.join(PLAN_KEY), text).unwrap();
            }
            command = if mount.read_only == Some(true) {
                command.ro(place, &mount.mount_path)
            } else {
                command.rw(place, &mount.mount_path)
            };
        }
        let message = self.folder.path().join(format!("message-{}", container.name));
        std::fs::write(&message, "").unwrap();
        command = command.rw(&message, TERMINATION_PATH);
        for variable in container.env.iter().flatten() {
            command = command.env(&variable.name, variable.value.as_ref().unwrap());
        }
        // The other backend shows the host's root, which is not empty.
        let sandbox = sandbox::Sandbox::detect_with_helper(crate::foreman::program()).unwrap();
        assert_eq!(sandbox.backend(), sandbox::Backend::Namespaces);
        let outcome = sandbox.run_blocking(command, sandbox::Output::captured_together());
        let printed = format!("{:?} {:?}\n{}", outcome.reason, outcome.message, outcome.stdout.text());
        (outcome.exit.code(), printed, std::fs::read(message).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the static foreman-gate, a static C library and user namespaces"]
async fn the_static_gate_needs_nothing_of_the_image_that_it_runs_in() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::write(root.join("sh.c"), SHELL).unwrap();
    let built = Command::new("cc")
        .args(["-static", "-o", "sh", "sh.c"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let shell = root.join("sh");
    git(root, &["init", "-q", "--bare", "sample.git"]);
    let (clone, bare) = (root.join("clone"), root.join("sample.git"));
    commit(&clone, &bare, &[("answer", "7\n")]);
    let server = GitServer::start(root.to_owned(), None).await;
    let url = format!("{}/sample.git", server.url);

    for (answer, expected) in [("42\n", Outcome::Pass), ("41\n", Outcome::Fail)] {
        commit(&clone, &bare, &[("answer", answer)]);
        let pod = Pod::new(&clone, &url);
        let known = [(shell.as_path(), "/bin/sh"), (shell.as_path(), "/bin/check")];
        let report = tokio::task::block_in_place(|| pod.run(&known));
        assert_eq!(report.outcome, expected, "{report:?}");
        let log = std::fs::read_to_string(pod.folder.path().join("evidence/gate.log")).unwrap();
        assert!(log.contains(&format!("the answer is {answer}")), "{log}");
    }

    // Without even a shell there is a report all the same, and it says so.
    let pod = Pod::new(&clone, &url);
    let report = tokio::task::block_in_place(|| pod.run(&[]));
    assert_eq!(report.outcome, Outcome::Error, "{report:?}");
    let error = report.error.unwrap();
    assert_eq!(error.reason, ErrorReason::ProgramMissing, "{error:?}");
    assert!(server.seen().iter().any(|request| request.contains("git-upload-pack")));
}
