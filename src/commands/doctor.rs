//! `foreman doctor`: what is there, what is missing.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::cli::{DoctorArgs, Global, ReportFormat};
use crate::connect::root;
use crate::endpoint;
use crate::place::{Holder, Place};
use crate::project;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn check(name: &'static str, level: Level, found: impl Into<String>, advice: &str) -> Check {
    Check {
        name,
        level,
        found: found.into(),
        advice: Some(advice.to_owned()).filter(|advice| !advice.is_empty()),
    }
}

/// Runs every check and prints what each found.
pub async fn run(global: &Global, args: &DoctorArgs) -> Result<ExitCode> {
    let mut checks = vec![git_program()];
    checks.extend(sandbox_checks());
    let root = root(global)?;
    checks.extend(state(global, &root));
    checks.extend(repository(&root));
    checks.extend(models(global, &root).await);
    checks.push(ports());
    let worst = checks.iter().any(|check| check.level == Level::Error);
    match args.output {
        ReportFormat::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
        ReportFormat::Text => {
            for check in &checks {
                let mark = match check.level {
                    Level::Ok => "ok     ",
                    Level::Warning => "warning",
                    Level::Error => "ERROR  ",
                };
                println!("{mark}  {:<12} {}", check.name, crate::table::plain(&check.found));
                if let Some(advice) = &check.advice {
                    println!("{:>22} {advice}", "→");
                }
            }
        }
    }
    Ok(if worst { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn git_program() -> Check {
    match std::process::Command::new("git").arg("--version").output() {
        Ok(output) if output.status.success() => {
            check("git", Level::Ok, String::from_utf8_lossy(&output.stdout).trim(), "")
        }
        Ok(output) => check(
            "git",
            Level::Error,
            format!("`git --version` ended with {}", output.status),
            "repair the Git installation",
        ),
        Err(error) => check(
            "git",
            Level::Error,
            format!("git was not found: {error}"),
            "install Git and have it on PATH",
        ),
    }
}

fn sandbox_checks() -> Vec<Check> {
    let probe = sandbox::probe();
    let mut checks: Vec<Check> = [("namespaces", &probe.namespaces), ("landlock", &probe.landlock)]
        .into_iter()
        .map(|(name, found)| {
            let level = if found.works() { Level::Ok } else { Level::Warning };
            check(name, level, found.explain(), "")
        })
        .collect();
    checks.push(match probe.best() {
        Some(backend) => match backend.weakness() {
            None => check("sandbox", Level::Ok, format!("{backend}"), ""),
            Some(weakness) => check(
                "sandbox",
                Level::Warning,
                format!("{backend}: {weakness}"),
                "allow user namespaces for the full sandbox",
            ),
        },
        None => check(
            "sandbox",
            Level::Error,
            "no backend works on this machine",
            "allow user namespaces, or use a kernel with Landlock; --unsafe-no-sandbox runs without any",
        ),
    });
    checks
}

fn state(global: &Global, root: &std::path::Path) -> Vec<Check> {
    let place = match Place::new(root, global.state.as_deref()) {
        Ok(place) => place,
        Err(error) => return vec![check("state", Level::Error, format!("{error:#}"), "")],
    };
    match place.lock() {
        Err(error) => vec![check(
            "state",
            Level::Error,
            format!("{error:#}"),
            "name a folder that can be written with --state",
        )],
        Ok(Err(Holder { pid })) => {
            vec![check(
                "state",
                Level::Ok,
                format!("{} is served by process {pid}", place.state.display()),
                "",
            )]
        }
        Ok(Ok(_lock)) => vec![check(
            "state",
            Level::Ok,
            format!("{} can be written; nothing serves it", place.state.display()),
            "",
        )],
    }
}

fn repository(root: &std::path::Path) -> Vec<Check> {
    let local = match git::Local::discover(root) {
        Ok(Some(local)) => local,
        Ok(None) => {
            return vec![check(
                "repository",
                Level::Warning,
                format!("{} is not in a Git repository", root.display()),
                "`git init`, or name one with -C",
            )];
        }
        Err(error) => return vec![check("repository", Level::Error, error.to_string(), "")],
    };
    let branch = local.branch.clone().unwrap_or_else(|| "a detached HEAD".into());
    let mut checks = vec![check(
        "repository",
        Level::Ok,
        format!("{} on {branch}", local.root.display()),
        "",
    )];
    let url = local.root.display().to_string();
    checks.push(match project::load(root, &url, local.branch.as_deref()) {
        Err(error) => check(
            "settings",
            Level::Error,
            format!("{error:#}").replace('\n', "; "),
            "`foreman validate` names every place",
        ),
        Ok(project) if project.queue.is_none() => check(
            "settings",
            Level::Warning,
            "there is no .foreman/queue.yaml",
            "`foreman init` writes it",
        ),
        Ok(project) => check(
            "settings",
            Level::Ok,
            format!(".foreman/ has a queue and {} agents", project.agents.len()),
            "",
        ),
    });
    checks
}

async fn models(global: &Global, root: &std::path::Path) -> Vec<Check> {
    let agents = project::load(root, ".", None)
        .map(|project| project.agents)
        .unwrap_or_default();
    let mut urls: Vec<(String, Option<String>)> = Vec::new();
    for agent in &agents {
        let Some(provider) = &agent.spec.provider_config else {
            continue;
        };
        let Some(url) = provider.base_url.clone() else { continue };
        let entry = (url, provider.model.clone());
        if !entry.0.starts_with(agent::executor::endpoint::REPLAY) && !urls.contains(&entry) {
            urls.push(entry);
        }
    }
    let mut checks = Vec::new();
    for (url, model) in urls {
        let server = endpoint::look(global, url, model, true, true).await;
        checks.extend(model_checks(&server, Level::Error));
    }
    if checks.is_empty() {
        match endpoint::find(global, true).await {
            Ok(server) => checks.extend(model_checks(&server, Level::Warning)),
            Err(missing) => checks.push(check("model", Level::Warning, missing.to_string(), &missing.advice())),
        }
    }
    checks
}

fn model_checks(server: &endpoint::Server, broken: Level) -> Vec<Check> {
    let Ok(report) = &server.report else {
        return vec![check(
            "model",
            broken,
            endpoint::describe(server),
            "start the server, or correct baseURL in .foreman/agents.yaml",
        )];
    };
    let mut checks = vec![match report.refusal(agent::executor::endpoint::WINDOW_FLOOR) {
        Some(refusal) => check("model", broken, refusal, "serve the model with a larger context window"),
        None => check("model", Level::Ok, endpoint::describe(server), ""),
    }];
    checks.extend(
        report
            .warnings
            .iter()
            .map(|warning| check("model", Level::Warning, warning.clone(), "")),
    );
    checks
}

fn ports() -> Check {
    match std::net::TcpListener::bind(("127.0.0.1", 0)) {
        Ok(_) => check("ports", Level::Ok, "loopback ports can be opened", ""),
        Err(error) => check(
            "ports",
            Level::Error,
            format!("no port on 127.0.0.1 can be opened: {error}"),
            "allow processes to listen on loopback",
        ),
    }
}
