//! Repositories: one ref listing per repository and tick, whatever the number of queues.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use git::{Credential, CredentialKind, Git, Oid, RemoteUrl, Settings};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::problem::Problem;
use super::validate::Valid;
use crate::cache::Key;
use crate::clock::lock;
use crate::metrics::{GIT_REQUESTS, Metrics, TICKS};
use crate::work_queue::WorkQueue;

/// Longest time between two looks at a repository that fails.
const LONGEST: Duration = Duration::from_secs(600);

/// A repository under certain credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SourceId {
    url: String,
    /// Namespace and name of the Secret.
    secret: Option<Key>,
}

struct Member {
    branch: String,
    interval: Duration,
    /// Request (annotation) that was made, and the one that the last listing served.
    requested: Option<String>,
    served: Option<String>,
    tip: Option<Result<Oid, Problem>>,
}

struct Poller {
    id: SourceId,
    url: RemoteUrl,
    members: Mutex<HashMap<Key, Member>>,
    git: Mutex<Option<Git>>,
    nudged: Notify,
    stop: CancellationToken,
}

/// What a queue's repository showed last.
pub struct Found {
    /// Tip of the branch, or why there is none.
    pub tip: Result<Oid, Problem>,
    /// Request that the listing served.
    pub requested: Option<String>,
    /// Access to the repository.
    pub git: Git,
    /// The repository.
    pub url: RemoteUrl,
}

type Pollers = HashMap<SourceId, Arc<Poller>>;

/// All repositories that queues name.
pub struct Sources {
    pollers: Mutex<Pollers>,
    of_queue: Mutex<HashMap<Key, SourceId>>,
    settings: Settings,
    state_dir: PathBuf,
    client: Client,
    metrics: Arc<Metrics>,
    queue: Arc<WorkQueue<Key>>,
    stop: CancellationToken,
}

/// Asks for a look at repositories now: what a webhook does.
#[derive(Clone)]
pub struct Nudge {
    sources: Weak<Sources>,
}

impl Nudge {
    /// Brings the next look at every repository whose URL is `url` forward.
    pub fn nudge(&self, url: &str) {
        let Some(sources) = self.sources.upgrade() else { return };
        let wanted = RemoteUrl::parse(url).map_or_else(|_| url.to_owned(), |url| url.to_string());
        for poller in lock(&sources.pollers).values().filter(|poller| poller.id.url == wanted) {
            poller.nudged.notify_one();
        }
    }
}

impl Sources {
    /// Polls under `settings` and wakes queues on `queue`, until `stop`.
    pub fn new(
        settings: Settings,
        state_dir: PathBuf,
        client: Client,
        metrics: Arc<Metrics>,
        queue: Arc<WorkQueue<Key>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pollers: Mutex::default(),
            of_queue: Mutex::default(),
            settings,
            state_dir,
            client,
            metrics,
            queue,
            stop,
        }
    }

    /// Returns a handle that brings looks forward.
    pub fn nudge(self: &Arc<Self>) -> Nudge {
        Nudge {
            sources: Arc::downgrade(self),
        }
    }

    /// Follows a queue's repository and returns what it showed last; `None` before the first look.
    pub fn join(self: &Arc<Self>, _ctx: &Context, key: &Key, valid: &Valid, requested: Option<&str>) -> Option<Found> {
        let id = SourceId {
            url: valid.url.to_string(),
            secret: valid
                .secret
                .as_ref()
                .map(|name| Key::new(key.namespace.clone(), name.clone())),
        };
        let moved = lock(&self.of_queue).insert(key.clone(), id.clone());
        if let Some(old) = moved.filter(|old| *old != id) {
            self.part(key, &old);
        }
        let mut pollers = lock(&self.pollers);
        let poller = self.poller(&mut pollers, &id, &valid.url);
        // One whose last member leaves is stopped: this queue is a member before that can happen.
        let mut members = lock(&poller.members);
        drop(pollers);
        let fresh = || Member {
            branch: valid.branch.clone(),
            interval: valid.interval,
            requested: None,
            served: None,
            tip: None,
        };
        let member = members.entry(key.clone()).or_insert_with(fresh);
        let mut look = member.tip.is_none();
        if member.branch != valid.branch {
            member.branch.clone_from(&valid.branch);
            member.tip = None;
            look = true;
        }
        if member.interval != valid.interval {
            member.interval = valid.interval;
            look = true;
        }
        if requested.is_some() && member.requested.as_deref() != requested {
            member.requested = requested.map(str::to_owned);
            look = true;
        }
        if look {
            poller.nudged.notify_one();
        }
        let git = lock(&poller.git).clone()?;
        Some(Found {
            tip: member.tip.clone()?,
            requested: member.served.clone(),
            git,
            url: valid.url.clone(),
        })
    }

    /// Stops following for a queue that is gone, or rests.
    pub fn leave(&self, key: &Key) {
        if let Some(id) = lock(&self.of_queue).remove(key) {
            self.part(key, &id);
        }
    }

    fn part(&self, key: &Key, id: &SourceId) {
        let mut pollers = lock(&self.pollers);
        let Some(poller) = pollers.get(id) else { return };
        let empty = {
            let mut members = lock(&poller.members);
            members.remove(key);
            members.is_empty()
        };
        if empty {
            poller.stop.cancel();
            pollers.remove(id);
        }
    }

    fn poller(self: &Arc<Self>, pollers: &mut Pollers, id: &SourceId, url: &RemoteUrl) -> Arc<Poller> {
        if let Some(poller) = pollers.get(id) {
            return poller.clone();
        }
        let poller = Arc::new(Poller {
            id: id.clone(),
            url: url.clone(),
            members: Mutex::default(),
            git: Mutex::default(),
            nudged: Notify::new(),
            stop: self.stop.child_token(),
        });
        pollers.insert(id.clone(), poller.clone());
        let (sources, running) = (Arc::downgrade(self), poller.clone());
        tokio::spawn(async move { poll(sources, running).await });
        poller
    }

    /// Prepares access under the credentials of the Secret, if one is named.
    async fn access(&self, poller: &Poller) -> Result<Git, Problem> {
        let mut settings = self.settings.clone();
        if let Some(secret) = &poller.id.secret {
            let kind = self.credential(secret).await?;
            let credential = Credential::new(&poller.url.to_string(), kind).map_err(|error| Problem::of(&error))?;
            settings.credentials.push(credential);
        }
        Ok(Git::new(self.state_dir.join("mirrors"), settings))
    }

    async fn credential(&self, secret: &Key) -> Result<CredentialKind, Problem> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &secret.namespace);
        let found = api.get_opt(&secret.name).await;
        let found = found
            .map_err(|error| Problem::new("SecretUnavailable", format!("failed to read Secret {secret}: {error}")))?;
        let Some(found) = found else {
            return Err(Problem::new(
                "SecretMissing",
                format!("Secret {secret} does not exist; create it or change spec.git.secretRef"),
            ));
        };
        let data = found.data.unwrap_or_default();
        let text = |name: &str| data.get(name).and_then(|value| String::from_utf8(value.0.clone()).ok());
        if let Some(token) = text("token") {
            return Ok(CredentialKind::Token(token.trim().to_owned().into()));
        }
        if let (Some(username), Some(password)) = (text("username"), text("password")) {
            return Ok(CredentialKind::Basic {
                username,
                password: password.into(),
            });
        }
        if let Some(key) = text("sshKey") {
            let path = self.write_key(secret, &key).map_err(|error| {
                Problem::new(
                    "SecretUnavailable",
                    format!("failed to keep the key of Secret {secret}: {error}"),
                )
            })?;
            return Ok(CredentialKind::SshKey { path });
        }
        let message = format!("Secret {secret} has none of: token; username and password; sshKey");
        Err(Problem::new("SecretIncomplete", message))
    }

    fn write_key(&self, secret: &Key, key: &str) -> std::io::Result<PathBuf> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let folder = self.state_dir.join("keys");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(schemas::names::label_value(&format!(
            "{}.{}",
            secret.namespace, secret.name
        )));
        let written = path.with_extension("new");
        let _ = std::fs::remove_file(&written);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&written)?;
        file.write_all(key.trim_end().as_bytes())?;
        file.write_all(b"\n")?;
        std::fs::rename(&written, &path)?;
        Ok(path)
    }
}

/// Looks at one repository until no queue names it any more.
async fn poll(sources: Weak<Sources>, poller: Arc<Poller>) {
    let _watcher = watch_local(&poller);
    let mut failures: u32 = 0;
    while !poller.stop.is_cancelled() {
        let interval = {
            let Some(sources) = sources.upgrade() else { return };
            let failed = tick(&sources, &poller).await;
            failures = if failed { failures.saturating_add(1) } else { 0 };
            let members = lock(&poller.members);
            let intervals = members.values().map(|member| member.interval);
            intervals.min().unwrap_or(LONGEST)
        };
        let wait = match failures {
            0 => interval,
            _ => interval
                .saturating_mul(1 << failures.min(10))
                .min(LONGEST.max(interval)),
        };
        tokio::select! {
            () = poller.stop.cancelled() => {}
            () = poller.nudged.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Watches a repository on this machine, so that a commit is seen at once.
fn watch_local(poller: &Arc<Poller>) -> Option<RecommendedWatcher> {
    let path = poller.url.local_path()?;
    let folder = if path.join(".git").is_dir() {
        path.join(".git")
    } else {
        path
    };
    let told = Arc::downgrade(poller);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let relevant = match &event {
            // Events were lost.
            Ok(event) if event.need_rescan() => true,
            Ok(event) => {
                !event.kind.is_access()
                    && event
                        .paths
                        .iter()
                        .any(|path| path.extension().is_none_or(|e| e != "lock"))
            }
            Err(_) => true,
        };
        if relevant && let Some(poller) = told.upgrade() {
            poller.nudged.notify_one();
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(repository = %poller.url, %error, "commits are seen by polling only");
            return None;
        }
    };
    // Branches live below refs/heads, or in packed-refs, which is replaced in the folder itself.
    for (path, mode) in [
        (folder.join("refs/heads"), RecursiveMode::Recursive),
        (folder, RecursiveMode::NonRecursive),
    ] {
        if let Err(error) = watcher.watch(&path, mode) {
            tracing::debug!(path = %path.display(), %error, "a folder is not watched");
        }
    }
    Some(watcher)
}

/// Lists the refs once and wakes the queues whose branch moved. Says whether it failed.
async fn tick(sources: &Arc<Sources>, poller: &Arc<Poller>) -> bool {
    let prefixes: Vec<String> = {
        let members = lock(&poller.members);
        if members.is_empty() {
            return false;
        }
        let mut prefixes: Vec<String> = members
            .values()
            .map(|member| format!("refs/heads/{}", member.branch))
            .collect();
        prefixes.sort();
        prefixes.dedup();
        prefixes
    };
    let asked: HashMap<Key, Option<String>> = lock(&poller.members)
        .iter()
        .map(|(key, member)| (key.clone(), member.requested.clone()))
        .collect();
    let known = lock(&poller.git).clone();
    let access = match known {
        Some(git) => Ok(git),
        None => sources.access(poller).await,
    };
    let listed = match access {
        Ok(git) => {
            *lock(&poller.git) = Some(git.clone());
            sources.metrics.count(GIT_REQUESTS, &[("operation", "list")]);
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let listed = git.list_refs(&poller.url, &prefixes).await;
            if listed
                .as_ref()
                .is_err_and(|error| error.category() == git::Category::Auth)
            {
                // The Secret may have changed: it is read again before the next look.
                if poller.id.secret.is_some() {
                    lock(&poller.members)
                        .values_mut()
                        .for_each(|member| member.served = None);
                }
            }
            listed.map_err(|error| Problem::of(&error))
        }
        Err(problem) => {
            let plain = Git::new(sources.state_dir.join("mirrors"), sources.settings.clone());
            lock(&poller.git).get_or_insert(plain);
            Err(problem)
        }
    };
    let failed = listed.is_err();
    if failed && poller.id.secret.is_some() {
        // Access is prepared anew, with what the Secret holds then.
        let again = sources.access(poller).await.ok();
        if again.is_some() {
            *lock(&poller.git) = again;
        }
    }
    let mut woken = Vec::new();
    {
        let mut members = lock(&poller.members);
        for (key, member) in members.iter_mut() {
            let name = format!("refs/heads/{}", member.branch);
            let tip = match &listed {
                Err(problem) => Err(problem.clone()),
                Ok(refs) => match refs.iter().find(|found| found.name == name) {
                    Some(found) => Ok(found.commit()),
                    None => Err(no_branch(&poller.url, &member.branch)),
                },
            };
            let request = asked.get(key).cloned().flatten();
            if member.tip.as_ref() != Some(&tip) || member.served != request {
                member.tip = Some(tip);
                member.served = request;
                woken.push(key.clone());
            }
        }
    }
    let result = if failed {
        "failed"
    } else if woken.is_empty() {
        "unchanged"
    } else {
        "changed"
    };
    sources.metrics.count(TICKS, &[("result", result)]);
    for key in woken {
        sources.queue.add(key);
    }
    failed
}

fn no_branch(url: &RemoteUrl, branch: &str) -> Problem {
    let message = format!(
        "{url} has no branch {branch:?}; push it, or change spec.git.branch (an empty repository has no branches)"
    );
    Problem::new("BranchMissing", message)
}
