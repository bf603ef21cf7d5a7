//! What a queue asks for, checked. Pure.

use std::time::Duration;

use git::RemoteUrl;
use schemas::{TaskQueue, duration};

use super::problem::Problem;

/// Shortest time between two looks at a remote repository.
const SHORTEST: Duration = Duration::from_secs(1);

/// A queue that can be served.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Repository.
    pub url: RemoteUrl,
    /// Branch.
    pub branch: String,
    /// Folder, without slashes at its ends; empty is the root.
    pub folder: String,
    /// Time between two looks.
    pub interval: Duration,
    /// Name of the Secret with credentials.
    pub secret: Option<String>,
    /// Whether the queue rests.
    pub suspend: bool,
}

/// Checks a queue; the error needs a person.
pub fn validate(queue: &TaskQueue) -> Result<Valid, Problem> {
    let Some(source) = &queue.spec.git else {
        return Err(Problem::new(
            "NotSupportedYet",
            "spec.issues is not supported yet; set spec.git",
        ));
    };
    let url = RemoteUrl::parse(&source.url).map_err(|error| Problem::new("InvalidURL", error.to_string()))?;
    let branch = source
        .branch
        .clone()
        .filter(|branch| !branch.is_empty())
        .unwrap_or_else(|| "main".to_owned());
    schemas::names::check_branch(&branch).map_err(|reason| {
        Problem::new(
            "InvalidBranch",
            format!("spec.git.branch {branch:?} cannot be used: {reason}"),
        )
    })?;
    let parts: Vec<&str> = source
        .path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        let message = format!(
            "spec.git.path {:?} leads out of the repository; expected a folder inside it",
            source.path
        );
        return Err(Problem::new("InvalidPath", message));
    }
    let interval = duration::parse(&source.interval).map_err(|error| {
        Problem::new(
            "InvalidInterval",
            format!("spec.git.interval {:?}: {error}", source.interval),
        )
    })?;
    let secret = source
        .secret_ref
        .as_ref()
        .and_then(|secret| secret.named())
        .map(str::to_owned);
    Ok(Valid {
        url,
        branch,
        folder: parts.join("/"),
        interval: interval.max(SHORTEST),
        secret,
        suspend: queue.spec.suspend,
    })
}
