//! Builds repositories and runs the containers of a gate's Jobs.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gate::cache::CacheKey;
use gate::definition::{ResolvedGate, ResolvedPrepare, ResolvedResources, ResolvedStep, Source};
use gate::job::{CacheMount, GateObjects, GateRequest, PROGRAM, TERMINATION_PATH, build_job};
use gate::plan::PLAN_KEY;
use gate::verdict::{ContainerEnd, JobEnd, JobOutcome, Terminated, judge};
use gate::{Report, Verdict};
use git::{FileEdit, Identity, Oid, Repository};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Container;

/// A repository with a base and a head, and everything a Job would have around it.
pub struct Bench {
    pub root: tempfile::TempDir,
    repository: Repository,
    base: Oid,
    head: Oid,
    pub gate: ResolvedGate,
    /// Variables of the containers, beside those of the Job.
    pub env: BTreeMap<String, String>,
    cache: Option<CacheKey>,
    pods: usize,
    /// Sandbox that the containers run in; unset means none.
    pub sandbox: Option<sandbox::Sandbox>,
    /// Memory of the main container, where it is sandboxed.
    pub memory_bytes: Option<u64>,
}

/// How one Pod ended.
pub struct Ran {
    pub outcome: JobOutcome,
    pub verdict: Verdict,
    pub printed: String,
    pub folder: PathBuf,
}

impl Ran {
    pub fn report(&self) -> Report {
        let ContainerEnd::Terminated(end) = &self.outcome.main else {
            panic!("the main container has not run: {:?}", self.outcome);
        };
        Report::parse(end.message.as_bytes()).unwrap_or_else(|error| panic!("{error}: {end:?}\n{}", self.printed))
    }

    pub fn assert_passed(&self) {
        let passed = matches!(self.verdict, Verdict::Pass { .. });
        assert!(passed, "{:?}\n{}", self.verdict, self.printed);
    }

    pub fn error(&self) -> (String, bool) {
        match &self.verdict {
            Verdict::Error(failure) => (failure.reason.clone(), failure.retry),
            other => panic!("expected an error, found {other:?}\n{}", self.printed),
        }
    }
}

pub fn step(name: &str, command: &str) -> ResolvedStep {
    ResolvedStep {
        name: name.to_owned(),
        command: command.to_owned(),
        timeout_seconds: 120,
        advisory: false,
    }
}

impl Bench {
    pub fn new(base: &[(&str, &str)], head: &[FileEdit], steps: Vec<ResolvedStep>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(&root.path().join("repo.git"), "main").unwrap();
        let who = Identity::new("Tester", "tester@example.com", 1_700_000_000);
        let edits: Vec<FileEdit> = base
            .iter()
            .map(|(path, text)| FileEdit::write(*path, text.as_bytes().to_vec()))
            .collect();
        let base = repository.commit_files(None, &edits, "base", &who).unwrap();
        let head = repository.commit_files(Some(base), head, "head", &who).unwrap();
        repository.set_ref("refs/heads/main", Some(base)).unwrap();
        repository.set_ref("refs/heads/work", Some(head)).unwrap();
        let path = std::env::var("PATH").unwrap();
        Self {
            root,
            repository,
            base,
            head,
            gate: ResolvedGate {
                image: "host".into(),
                prepare: None,
                steps,
                protected: vec![".foreman/**".into(), "ci/**".into()],
                pinned: Vec::new(),
                resources: ResolvedResources::default(),
                deadline_seconds: 600,
                source: Source::File,
            },
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            cache: None,
            pods: 0,
            sandbox: None,
            memory_bytes: None,
        }
    }

    pub fn prepare(&mut self, command: &str) {
        self.gate.prepare = Some(ResolvedPrepare {
            command: command.to_owned(),
            allow_hosts: vec!["127.0.0.1".into()],
            timeout_seconds: 300,
            cache_key: Vec::new(),
        });
        self.cache = Some(CacheKey {
            repository: "0".repeat(16),
            key: "1".repeat(32),
        });
    }

    pub fn objects(&self) -> GateObjects {
        let roots = vec![self.root.path().to_owned()];
        let request = GateRequest {
            task_name: "task".into(),
            task_uid: "uid".into(),
            epoch: 1,
            attempt: 1,
            namespace: "default".into(),
            labels: BTreeMap::new(),
            repository: format!("file://{}", self.repository.path().display()),
            branch: "work".into(),
            head_sha: self.head.to_string(),
            base_sha: self.base.to_string(),
            file_roots: roots,
            credentials: None,
            ca_bundle: None,
            cache: self.cache.clone().map(|key| CacheMount {
                claim: "cache".into(),
                key,
            }),
            service_account: None,
            runtime_class: None,
            program_image: None,
            ttl_seconds: 60,
            user: 65532,
        };
        build_job(&self.gate, &request).unwrap()
    }

    /// Runs the gate's Job.
    pub fn run(&mut self) -> Ran {
        self.run_with(|_, _| {})
    }

    /// Runs the gate's Job; `between` is called after the init container with the Pod's folder.
    pub fn run_with(&mut self, between: impl Fn(&Path, &GateObjects)) -> Ran {
        let objects = self.objects();
        let job = objects.job.clone();
        self.pod(&objects, &job, between)
    }

    /// Runs the prepare Job.
    pub fn run_prepare(&mut self) -> Ran {
        let objects = self.objects();
        let job = objects.prepare_job.clone().unwrap();
        self.pod(&objects, &job, |_, _| {})
    }

    fn pod(&mut self, objects: &GateObjects, job: &Job, between: impl Fn(&Path, &GateObjects)) -> Ran {
        self.pods += 1;
        let folder = self.root.path().join(format!("pod-{}", self.pods));
        let spec = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let mut printed = String::new();
        let mut run = |container: &Container| {
            let (end, text) = self.container(&folder, objects, container);
            printed.push_str(&text);
            end
        };
        let init = run(&spec.init_containers.as_ref().unwrap()[0]);
        let init_good = matches!(&init, ContainerEnd::Terminated(end) if end.exit_code == 0);
        let main = if init_good {
            between(&folder, objects);
            run(&spec.containers[0])
        } else {
            ContainerEnd::Missing
        };
        let good = matches!(&main, ContainerEnd::Terminated(end) if end.exit_code == 0 && end.signal.is_none());
        let outcome = JobOutcome {
            job: if good { JobEnd::Complete } else { JobEnd::Failed },
            job_reason: if good {
                String::new()
            } else {
                "BackoffLimitExceeded".into()
            },
            pods: 1,
            pod_phase: if good { "Succeeded" } else { "Failed" }.into(),
            init,
            main,
            ..JobOutcome::default()
        };
        Ran {
            verdict: judge(&outcome, &objects.plan.binding()),
            outcome,
            printed,
            folder,
        }
    }

    /// Runs a container: volumes are folders, and their paths are put into arguments and variables.
    fn container(&self, folder: &Path, objects: &GateObjects, container: &Container) -> (ContainerEnd, String) {
        let mut places: Vec<(String, PathBuf)> = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let mut place = match mount.name.as_str() {
                "source" => self.repository.path().to_owned(),
                "cache" => self.root.path().join("cache"),
                name => folder.join(name),
            };
            if let Some(sub_path) = &mount.sub_path {
                place.push(sub_path);
            }
            std::fs::create_dir_all(&place).unwrap();
            if mount.name == "plan" {
                let text = &objects.config_map.data.as_ref().unwrap()[PLAN_KEY];
                std::fs::write(place.join(PLAN_KEY), text).unwrap();
            }
            places.push((mount.mount_path.clone(), place));
        }
        let message = folder.join(format!("message-{}", container.name));
        std::fs::write(&message, "").unwrap();
        places.push((TERMINATION_PATH.to_owned(), message.clone()));
        if let Some(sandbox) = &self.sandbox {
            return self.sandboxed(sandbox, container, &places, &message);
        }
        let placed = |text: &String| {
            places
                .iter()
                .find_map(|(mount, place)| {
                    let rest = text.strip_prefix(mount.as_str())?;
                    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{}{rest}", place.display()))
                })
                .unwrap_or_else(|| text.clone())
        };
        let program = match &container.command.as_ref().unwrap()[0] {
            name if name == PROGRAM => env!("CARGO_BIN_EXE_foreman-gate").to_owned(),
            path => placed(path),
        };
        let mut command = Command::new(program);
        command.args(container.args.iter().flatten().map(placed)).env_clear();
        for variable in container.env.iter().flatten() {
            command.env(&variable.name, placed(variable.value.as_ref().unwrap()));
        }
        command.envs(&self.env).current_dir(folder);
        let output = command.output().unwrap();
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let signal = output.status.signal();
        let exit_code = output.status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        (ended(exit_code, signal, reason, &message), printed)
    }

    /// Runs a container as the Job runner of one machine does: in a sandbox, with the host's tools.
    fn sandboxed(
        &self,
        sandbox: &sandbox::Sandbox,
        container: &Container,
        places: &[(String, PathBuf)],
        message: &Path,
    ) -> (ContainerEnd, String) {
        let program = &container.command.as_ref().unwrap()[0];
        let own = program == PROGRAM;
        let tools = sandbox::Toolchain::host();
        let mut command = sandbox::Command::new(if own { "/foreman-gate" } else { program })
            .args(container.args.iter().flatten().cloned())
            .toolchain(&tools)
            .cwd(if own { "/" } else { "/workspace" });
        if own {
            command = command.ro(env!("CARGO_BIN_EXE_foreman-gate"), "/foreman-gate");
        }
        for (target, source) in places {
            let read_only = container
                .volume_mounts
                .iter()
                .flatten()
                .any(|mount| &mount.mount_path == target && mount.read_only == Some(true));
            command = if read_only {
                command.ro(source, target)
            } else {
                command.rw(source, target)
            };
        }
        for variable in container.env.iter().flatten() {
            command = command.env(&variable.name, variable.value.as_ref().unwrap());
        }
        command.limits.memory_bytes = self.memory_bytes.filter(|_| !own);
        let outcome = sandbox.run_blocking(command, sandbox::Output::captured_together());
        let (code, signal) = match outcome.exit {
            sandbox::Exit::Code(code) => (code, None),
            sandbox::Exit::Signal(signal) => (128 + signal, Some(signal)),
        };
        let printed = format!(
            "{}\n{:?} {:?}, peak {} bytes, {:?}\n",
            outcome.stdout.text(),
            outcome.reason,
            outcome.message,
            outcome.peak_memory_bytes,
            outcome.enforced
        );
        (ended(code, signal, outcome.reason.name(), message), printed)
    }
}

fn ended(exit_code: i32, signal: Option<i32>, reason: &str, message: &Path) -> ContainerEnd {
    let mut bytes = std::fs::read(message).unwrap_or_default();
    bytes.truncate(4096);
    ContainerEnd::Terminated(Terminated {
        exit_code,
        signal,
        reason: reason.to_owned(),
        message: String::from_utf8_lossy(&bytes).into_owned(),
    })
}
