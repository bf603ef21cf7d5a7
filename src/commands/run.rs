//! `foreman run`: one piece of work in this repository, followed live.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use schemas::agentic_task::{FailureReason, Payload, TaskKind};
use schemas::shared::{Budget, LocalRef, Verdict};
use schemas::workload::{PipelineStep, WorkloadPhase, WorkloadSpec, WorkloadStatus};
use schemas::{Agent, Workload, names, tools};

use crate::cli::{Global, RunArgs};
use crate::commands::demo::{build_agents, build_provider};
use crate::connect::{self, root};
use crate::local::{Local, LocalConfig};
use crate::place::{Holder, Place};
use crate::project::{self, Project};
use crate::signals::Signals;
use crate::{endpoint, follow};

/// Exit code of work that came to no verdict.
pub const ERROR: u8 = 2;

/// Rounds of a piece of work that does not say.
const ROUNDS: i64 = 3;

/// Does one piece of work.
pub async fn run(global: &Global, args: &RunArgs) -> Result<ExitCode> {
    if args.prompt.trim().is_empty() {
        bail!(
            "the prompt is empty; say what is to be done, such as `foreman run \"fix the failing test in src/lib.rs\"`"
        );
    }
    on_this_machine(global, "run", "apply a Workload there by kubectl")?;
    let root = root(global)?;
    let repository = project::repository(&root)?;
    let Some(branch) = repository.branch.clone() else {
        bail!(
            "HEAD of {} is detached; check out a branch, which the work is cut from",
            root.display()
        );
    };
    if repository.head.is_none() {
        bail!(
            "branch {branch} of {} has no commit yet; commit something first",
            root.display()
        );
    }
    let url = repository.root.display().to_string();
    let mut project = project::load(&root, &url, Some(&branch))?;
    project.queue = None;
    if project.agents.is_empty() {
        let server = match endpoint::find(global, true).await {
            Ok(server) => server,
            Err(missing) => bail!("{missing}; {}", missing.advice()),
        };
        println!("Model      {}", endpoint::describe(&server));
        project.agents = build_agents(build_provider(&server), &tools::CODER);
    }
    let coder = coder(&project, args.agent.as_deref())?;
    let workload = build_workload(args, &url, &branch, &coder, verifier(&project).as_deref());
    if repository.dirty {
        println!("Note       the work starts from the last commit; changes that are not committed are not seen");
    }
    if args.dry_run {
        println!("{}", schemas::yaml::to_string(&serde_json::to_value(&workload)?)?);
        println!("# would be taken by agent {coder} on this machine");
        return Ok(ExitCode::SUCCESS);
    }
    let place = Place::new(&root, global.state.as_deref())?;
    let ended = match connect::lock(&place).await? {
        Err((Holder { pid }, _)) => {
            println!("Server     foreman up, process {pid}");
            let without_effect = of_the_server(args);
            if !without_effect.is_empty() {
                bail!(
                    "{} cannot be set for this work, which process {pid} does as `foreman up` was started; stop that one, or leave them out",
                    without_effect.join(", ")
                );
            }
            let connection = connect::connect(global).await?;
            for name in [Some(coder), verifier(&project)].into_iter().flatten() {
                let agents: Api<Agent> = Api::namespaced(connection.client.clone(), &global.namespace);
                if agents
                    .get_opt(&name)
                    .await
                    .context("failed to look for the agents")?
                    .is_none()
                {
                    bail!(
                        "`foreman up`, process {pid}, does not know agent {name:?}; start it anew, so that it reads {}/agents.yaml",
                        project::FOLDER
                    );
                }
            }
            work(&connection.client, &global.namespace, &workload).await?
        }
        Ok(lock) => {
            let config = LocalConfig {
                // Served, so that `get`, `show` and `logs -f` work meanwhile.
                port: Some(0),
                slots: 1,
                sandbox: args.sandbox.clone(),
                access: args.access.clone(),
                ca_bundle: global.ca_bundle.clone(),
                file_roots: project::file_roots(&repository, &project, &args.access.file_roots),
                user: repository.user.clone(),
            };
            let mut local = Local::start(&place, &global.namespace, config).await?;
            let ended = alone(&mut local, global, &project, &workload).await;
            local.stop().await;
            place.forget_kubeconfig();
            drop(lock);
            ended?
        }
    };
    Ok(end(&ended, &root))
}

/// Refuses the flags that name a cluster, where a command works on this machine alone.
pub fn on_this_machine(global: &Global, command: &str, instead: &str) -> Result<()> {
    let named = [
        ("--kubeconfig", global.kubeconfig.is_some()),
        ("--context", global.context.is_some()),
    ];
    match named.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("`foreman {command}` works on this machine, and {flag} names a cluster; {instead}"),
        None => Ok(()),
    }
}

/// Returns the flags that were given and that only whoever starts the server decides.
fn of_the_server(args: &RunArgs) -> Vec<&'static str> {
    let (sandbox, access) = (&args.sandbox, &args.access);
    let given = [
        ("--unsafe-no-sandbox", sandbox.unsafe_no_sandbox),
        ("--sandbox", sandbox.sandbox.is_some()),
        ("--git-credentials", access.git_credentials.is_some()),
        ("--file-root", !access.file_roots.is_empty()),
        ("--replay-sessions", access.replay_sessions.is_some()),
        ("--git-remote-url", access.git_remote_url.is_some()),
    ];
    given
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(flag, _)| flag)
        .collect()
}

async fn alone(local: &mut Local, global: &Global, project: &Project, workload: &Workload) -> Result<Workload> {
    let mut signals = Signals::listen()?;
    local.accept(&global.namespace, project).await?;
    let client = local.client.clone();
    tokio::select! {
        ended = work(&client, &global.namespace, workload) => ended,
        why = local.broken() => bail!("{why}"),
        _ = signals.next() => bail!("interrupted; the work goes on with the next `foreman up`, or end it with `foreman cancel {}`", workload.name_any()),
    }
}

async fn work(client: &Client, namespace: &str, workload: &Workload) -> Result<Workload> {
    let api: Api<Workload> = Api::namespaced(client.clone(), namespace);
    let made = api
        .create(&PostParams::default(), workload)
        .await
        .context("failed to create the workload")?;
    let name = made.name_any();
    println!("Workload   {name}\n");
    let over = |seen: &HashMap<String, Workload>| {
        seen.get(&name)
            .and_then(|workload| workload.status.as_ref()?.phase)
            .is_some_and(WorkloadPhase::is_terminal)
    };
    let mut seen = follow::until(client, namespace, Some(&name), Duration::from_secs(7 * 86400), over).await?;
    seen.remove(&name).context("the workload is gone")
}

fn coder(project: &Project, wanted: Option<&str>) -> Result<String> {
    let coders: Vec<&Agent> = project
        .agents
        .iter()
        .filter(|agent| agent.spec.role.as_str() == "coder")
        .collect();
    let names = || {
        coders
            .iter()
            .map(|agent| agent.name_any())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match wanted {
        Some(wanted) if coders.iter().any(|agent| agent.name_any() == wanted) => Ok(wanted.to_owned()),
        Some(wanted) => bail!(
            "there is no coder {wanted:?} in {}/agents.yaml; it has {}",
            project::FOLDER,
            names()
        ),
        None => match coders.first() {
            Some(agent) => Ok(agent.name_any()),
            None => bail!(
                "{}/agents.yaml has no agent of role coder; see `foreman init`",
                project::FOLDER
            ),
        },
    }
}

fn verifier(project: &Project) -> Option<String> {
    project
        .agents
        .iter()
        .find(|agent| agent.spec.role.as_str() == "verifier")
        .map(ResourceExt::name_any)
}

/// Priority of work that somebody watches: it goes before what a queue still has to do.
const WATCHED: i64 = 1000;

fn build_workload(args: &RunArgs, repo: &str, base: &str, coder: &str, verifier: Option<&str>) -> Workload {
    let stamp = jiff::Timestamp::now().as_millisecond();
    let hash = names::sha256_hex(format!("{stamp} {} {}", std::process::id(), args.prompt));
    let slug = names::slug(&args.prompt.chars().take(60).collect::<String>());
    let name = names::fit(&format!("{slug}-{}", &hash[..8]));
    let branch = names::default_branch(&name);
    let payload = Payload {
        repo: Some(repo.to_owned()),
        base_branch: Some(base.to_owned()),
        branch: Some(branch),
        open_pull_request: Some(false),
        ..Payload::default()
    };
    let mut pipeline = vec![PipelineStep {
        name: "code".into(),
        kind: TaskKind::IssueFix,
        agent_ref: LocalRef::new(coder),
        payload: payload.clone(),
        ..PipelineStep::default()
    }];
    if let Some(verifier) = verifier {
        pipeline.push(PipelineStep {
            name: "verify".into(),
            kind: TaskKind::Verify,
            agent_ref: LocalRef::new(verifier),
            depends_on: vec![schemas::agentic_task::Dependency::Name("code".into())],
            payload,
            ..PipelineStep::default()
        });
    }
    let title = args
        .prompt
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(100)
        .collect();
    let spec = WorkloadSpec {
        intent: args.prompt.clone(),
        title: Some(title),
        repo: Some(repo.to_owned()),
        base_branch: Some(base.to_owned()),
        open_pull_request: Some(false),
        budget: Some(Budget {
            rounds: Some(args.rounds.unwrap_or(ROUNDS).clamp(1, 20)),
            ..Budget::default()
        }),
        pipeline: Some(pipeline),
        priority: Some(WATCHED),
        ..WorkloadSpec::default()
    };
    Workload::new(&name, spec)
}

/// Returns the exit code of an outcome: 0 PASS, 1 FAIL, 2 ERROR, 3 refused or budget spent.
pub fn exit_code(status: &WorkloadStatus) -> u8 {
    match (status.phase, status.verdict, status.failure_reason) {
        (Some(WorkloadPhase::Completed), Some(Verdict::GatePass), None) => 0,
        (_, Some(Verdict::GateFail), _) | (_, _, Some(FailureReason::GateFailed)) => 1,
        (
            _,
            _,
            Some(
                FailureReason::ConstraintViolated
                | FailureReason::MaxTurnsExhausted
                | FailureReason::BudgetExhausted
                | FailureReason::Timeout
                | FailureReason::Cancelled,
            ),
        ) => 3,
        (_, Some(Verdict::NoGo), None) => 3,
        _ => ERROR,
    }
}

fn end(workload: &Workload, root: &std::path::Path) -> ExitCode {
    let status = workload.status.clone().unwrap_or_default();
    let code = exit_code(&status);
    println!();
    let word = ["PASS", "FAIL", "ERROR", "REFUSED or budget spent"][usize::from(code)];
    println!(
        "{word}: {}",
        crate::table::plain(status.message.as_deref().unwrap_or("no message"))
    );
    if let (Some(branch), Some(head)) = (&status.branch, &status.head_sha) {
        println!("Branch     {branch} at {head}");
        let base = status.base_sha.as_deref().unwrap_or("HEAD");
        println!(
            "Look       git -C {} diff {} {branch}",
            root.display(),
            &base[..base.len().min(12)]
        );
        if code == 0 {
            println!("Take       git -C {} merge {branch}", root.display());
        }
    }
    println!("More       foreman show {}", workload.name_any());
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coder_without_a_file_has_the_time_for_a_reply_that_init_would_give_it() {
        let agents = build_agents(Default::default(), &tools::CODER);
        assert_eq!(agents[0].spec.request_turn_timeout_seconds, 600);
    }

    #[test]
    fn only_a_gate_that_passed_exits_zero() {
        let status = |phase, verdict, reason| WorkloadStatus {
            phase: Some(phase),
            verdict,
            failure_reason: reason,
            ..WorkloadStatus::default()
        };
        use WorkloadPhase::{Completed, Failed};
        let table = [
            (status(Completed, Some(Verdict::GatePass), None), 0),
            (
                status(Failed, Some(Verdict::GateFail), Some(FailureReason::GateFailed)),
                1,
            ),
            (status(Failed, None, Some(FailureReason::ConstraintViolated)), 3),
            (status(Failed, None, Some(FailureReason::MaxTurnsExhausted)), 3),
            (
                status(Failed, Some(Verdict::GateError), Some(FailureReason::GateError)),
                2,
            ),
            (
                status(
                    Failed,
                    Some(Verdict::GatePass),
                    Some(FailureReason::InfrastructureError),
                ),
                2,
            ),
            (status(Completed, Some(Verdict::Go), None), 2),
            (WorkloadStatus::default(), 2),
        ];
        for (status, code) in table {
            assert_eq!(exit_code(&status), code, "{status:?}");
        }
    }
}
