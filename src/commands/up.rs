//! `foreman up`: serves a repository until Ctrl-C.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::{Global, UpArgs};
use crate::connect::root;
use crate::follow;
use crate::local::{Local, LocalConfig};
use crate::place::Place;
use crate::project::{self, Project};
use crate::signals::{Asked, Signals};

/// Serves the repository.
pub async fn run(global: &Global, args: &UpArgs) -> Result<ExitCode> {
    super::run::on_this_machine(
        global,
        "up",
        "the operator does there what `up` does here: see docs/runbook.md",
    )?;
    let root = root(global)?;
    let repository = project::repository(&root)?;
    let url = repository.root.display().to_string();
    let project = project::load(&root, &url, repository.branch.as_deref())?;
    if project.queue.is_none() {
        bail!(
            "{} has no {}/queue.yaml; run `foreman init` first",
            root.display(),
            project::FOLDER
        );
    }
    let place = Place::new(&root, global.state.as_deref())?;
    if args.dry_run {
        return super::dry_run::run(global, &place, &project, &args.access).await;
    }
    let lock = place.lock_for_server()?;
    let config = LocalConfig {
        port: Some(args.port),
        slots: args.slots,
        sandbox: args.sandbox.clone(),
        access: args.access.clone(),
        ca_bundle: global.ca_bundle.clone(),
        file_roots: project::file_roots(&repository, &project, &args.access.file_roots),
        user: repository.user.clone(),
    };
    let mut local = Local::start(&place, &global.namespace, config).await?;
    let served = serve(&mut local, global, &place, &project).await;
    local.stop().await;
    place.forget_kubeconfig();
    drop(lock);
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(local: &mut Local, global: &Global, place: &Place, project: &Project) -> Result<()> {
    let mut signals = Signals::listen()?;
    let changed = local.accept(&global.namespace, project).await?;
    let queue = project.queue.as_ref().and_then(|queue| queue.spec.git.as_ref());
    if let Some(git) = queue {
        println!(
            "Serving    {} of {} ({})",
            git.path,
            git::redact(&git.url),
            git.branch.as_deref().unwrap_or("main")
        );
    }
    println!("Sandbox    {}", local.sandbox.backend());
    if let Some(weakness) = local.sandbox.backend().weakness() {
        println!("           {weakness}");
    }
    if !changed.is_empty() {
        println!(
            "Agents     changed since they were last accepted: {}",
            changed.join(", ")
        );
    }
    for agent in &project.agents {
        let provider = agent.spec.provider_config.as_ref();
        if let Some(url) = provider.and_then(|provider| provider.base_url.as_ref()) {
            println!(
                "           {} asks {}",
                agent.metadata.name.as_deref().unwrap_or_default(),
                git::redact(url)
            );
        }
    }
    println!("Evidence   {}", local.evidence_url);
    println!(
        "kubectl    --kubeconfig {} get workloads,agentictasks",
        place.kubeconfig().display()
    );
    println!("Ready. Commit a task file; Ctrl-C drains, Ctrl-C twice stops at once.");
    let client = local.client.clone();
    let live = follow::live(&client, &global.namespace);
    tokio::pin!(live);
    let asked = tokio::select! {
        why = local.broken() => bail!("{why}"),
        asked = signals.next() => asked,
        () = &mut live => Asked::Drain,
    };
    if asked == Asked::Drain {
        say("Draining: running tasks end first; Ctrl-C again stops at once.");
        tokio::select! {
            () = local.drain() => {
                say("Drained; what is not done yet goes on with the next `foreman up`.");
                return Ok(());
            }
            () = &mut live => {}
            _ = signals.next() => {}
        }
    }
    say("Stopping; running tasks go back to the queue.");
    Ok(())
}

/// Prints a line. The terminal may be gone, which must not keep anything from its end.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
