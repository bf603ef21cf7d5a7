//! What `.foreman/` in a repository says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use schemas::file_error::FileError;
use schemas::{Agent, TaskQueue};

/// Folder of a repository's settings.
pub const FOLDER: &str = ".foreman";

/// What `.foreman/` says, with `.` in addresses resolved.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Queue, from `queue.yaml`.
    pub queue: Option<TaskQueue>,
    /// Agents, from `agents.yaml`.
    pub agents: Vec<Agent>,
}

/// Reads a file below `.foreman/`, if it is there.
pub fn read(root: &Path, name: &str) -> Result<Option<(String, Vec<u8>)>> {
    let path = root.join(FOLDER).join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some((format!("{FOLDER}/{name}"), bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

/// Turns errors of a file into one for people.
pub fn report(errors: &[FileError]) -> anyhow::Error {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("{}\nSee `foreman validate`.", lines.join("\n"))
}

/// Reads `.foreman/` of the repository at `root`, whose address is `url` and whose branch is `branch`.
pub fn load(root: &Path, url: &str, branch: Option<&str>) -> Result<Project> {
    let mut project = Project::default();
    if let Some((path, bytes)) = read(root, "queue.yaml")? {
        let mut queue = schemas::config::parse_queue(&path, &bytes).map_err(|errors| report(&errors))?;
        resolve(&mut queue, root, url, branch);
        project.queue = Some(queue);
    }
    if let Some((path, bytes)) = read(root, "agents.yaml")? {
        project.agents = schemas::config::parse_agents(&path, &bytes)
            .map_err(|errors| report(&errors))?
            .agents;
    }
    Ok(project)
}

/// Replaces `.` and relative paths by addresses, and an unset branch by the one that is checked out.
fn resolve(queue: &mut TaskQueue, root: &Path, url: &str, branch: Option<&str>) {
    let address = |text: &str| -> String {
        match text {
            "." => url.to_owned(),
            text if text.starts_with("./") || text.starts_with("../") => {
                let path = root.join(text);
                path.canonicalize().unwrap_or(path).display().to_string()
            }
            text => text.to_owned(),
        }
    };
    if let Some(git) = &mut queue.spec.git {
        let own = git.url == ".";
        git.url = address(&git.url);
        if git.branch.is_none() && own {
            git.branch = branch.map(str::to_owned);
        }
    }
    let defaults = queue.spec.defaults.get_or_insert_default();
    let repo = defaults.repo.get_or_insert_with(|| ".".into());
    let own = repo == ".";
    *repo = address(repo);
    if defaults.base_branch.is_none() && own {
        defaults.base_branch = branch.map(str::to_owned);
    }
}

/// Finds the repository that a command works in.
pub fn repository(root: &Path) -> Result<git::Local> {
    if !root.is_dir() {
        bail!("{} is not a folder; name one with --directory", root.display());
    }
    match git::Local::discover(root).context("failed to look for a Git repository")? {
        Some(local) => Ok(local),
        None => bail!(
            "{} is not in a Git repository; run `git init` and commit something first",
            root.display()
        ),
    }
}

/// Returns the roots below which local repositories may lie: the repository itself, and what the queue names.
pub fn file_roots(local: &git::Local, project: &Project, more: &[PathBuf]) -> Vec<PathBuf> {
    let mut roots = vec![local.root.clone(), local.git_dir.clone()];
    roots.extend(more.iter().cloned());
    if let Some(queue) = &project.queue {
        let defaults = queue.spec.defaults.as_ref();
        let named = queue
            .spec
            .git
            .iter()
            .map(|git| &git.url)
            .chain(defaults.and_then(|defaults| defaults.repo.as_ref()));
        for url in named {
            if let Some(path) = git::RemoteUrl::parse(url).ok().and_then(|url| url.local_path()) {
                roots.push(path);
            }
        }
    }
    roots.sort();
    roots.dedup();
    roots
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::task_queue::{GitSource, TaskQueueSpec};

    #[test]
    fn a_folder_that_is_not_there_is_told_from_one_without_a_repository() {
        let folder = tempfile::tempdir().unwrap();
        let said = |root: &Path| repository(root).map(drop).unwrap_err().to_string();
        assert!(said(folder.path()).contains("`git init`"));
        let missing = folder.path().join("missing");
        assert!(said(&missing).ends_with("missing is not a folder; name one with --directory"));
    }

    #[test]
    fn a_dot_is_the_repository_itself_and_an_unset_branch_the_one_checked_out() {
        let git = GitSource {
            url: ".".into(),
            ..GitSource::default()
        };
        let mut queue = TaskQueue::new(
            "q",
            TaskQueueSpec {
                git: Some(git),
                ..TaskQueueSpec::default()
            },
        );
        resolve(&mut queue, Path::new("/r"), "/r", Some("trunk"));
        let source = queue.spec.git.unwrap();
        assert_eq!((source.url.as_str(), source.branch.as_deref()), ("/r", Some("trunk")));
        let defaults = queue.spec.defaults.unwrap();
        assert_eq!(
            (defaults.repo.as_deref(), defaults.base_branch.as_deref()),
            (Some("/r"), Some("trunk"))
        );
    }
}
