//! `foreman-gate fetch`: the one container that reaches the Git server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use git::{
    Category, Credential, CredentialKind, Fetch, Mirror, Mirrors, Oid, RemoteUrl, Remotes, Repository, Settings,
    WorkTree,
};

use super::{Folders, Trouble, manifest};
use crate::job::PROGRAM;
use crate::pinned::MANIFEST_MAX;
use crate::plan::Plan;
use crate::protected::Protected;
use crate::report::{ErrorReason, Outcome, Report};
use crate::touched::{Touched, touched};

/// Folder of the fetched objects, below the tools folder.
const OBJECTS: &str = "git";
/// Folder of the work tree's index, below the tools folder.
const ADMIN: &str = "admin";

/// Arguments of `foreman-gate fetch`.
#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    #[command(flatten)]
    pub(super) folders: Folders,
    /// Checks the base out instead of the head.
    #[arg(long)]
    base: bool,
    /// Folder with the repository, where it is a local one.
    #[arg(long)]
    source: Option<PathBuf>,
    /// Folder with clone credentials.
    #[arg(long)]
    credentials: Option<PathBuf>,
    /// PEM file with certificates that are trusted.
    #[arg(long)]
    ca_bundle: Option<PathBuf>,
}

/// Fetches head and base, refuses protected changes, checks one of them out.
pub(super) fn fetch(args: &FetchArgs, plan: &Plan) -> Result<Option<Report>, Trouble> {
    let tools = &args.folders.tools;
    copy_program(tools).map_err(|error| Trouble::internal("copy foreman-gate into the Pod", error))?;
    let (url, settings, key) = remote(args, plan)?;
    let remotes = Remotes::new(settings);
    let mirrors = Mirrors::new(tools.join(OBJECTS), remotes);
    let mirror = mirrors.mirror(&url).map_err(|error| clone_failed(&error))?;
    let head = oid(&plan.head)?;
    let base = oid(&plan.base)?;
    bring(&mirror, plan, head, base)?;
    drop(key);
    let repository = mirror.repository();
    if !args.base
        && let Some(report) = refusal(&repository, plan)?
    {
        return Ok(Some(report));
    }
    let commit = if args.base { base } else { head };
    let work = &args.folders.work;
    // The branch decides what its files hold, not what becomes of protected ones on their way to disk.
    WorkTree::materialise_by_attributes_of(base, &repository, commit, work, &tools.join(ADMIN))
        .map_err(|error| clone_failed(&error))?;
    let digest = manifest::digest(work).map_err(|error| Trouble::internal("read the work tree", error))?;
    let name = mirror
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    std::fs::write(tools.join(manifest::MANIFEST), format!("{commit}\n{digest}\n{name}\n"))
        .map_err(|error| Trouble::internal("write the manifest", error))?;
    println!("checked out {commit} of {url}");
    if work.join(".gitmodules").exists() {
        println!("submodules are not checked out: their folders are empty");
    }
    Ok(None)
}

/// What `fetch` left for the main container.
pub(super) struct CheckedOut {
    commit: String,
    digest: String,
    /// Repository with the objects of head and base.
    pub(super) repository: Repository,
}

impl CheckedOut {
    /// Reads it, and checks that the work tree is `commit` and as it was checked out.
    pub(super) fn verify(folders: &Folders, commit: &str) -> Result<Self, Trouble> {
        let mismatch = |detail: String| Trouble::new(ErrorReason::WorkTreeMismatch, detail, true);
        let path = folders.tools.join(manifest::MANIFEST);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| mismatch(format!("failed to read {}: {error}", path.display())))?;
        let mut lines = text.lines().map(str::to_owned);
        let (Some(found), Some(digest), Some(name)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(mismatch(format!("{} is cut off", path.display())));
        };
        let repository =
            Repository::open(&folders.tools.join(OBJECTS).join(name)).map_err(|error| mismatch(error.to_string()))?;
        let checked_out = Self {
            commit: found,
            digest,
            repository,
        };
        if checked_out.commit != commit {
            return Err(mismatch(format!(
                "the work tree is {}, expected {commit}",
                checked_out.commit
            )));
        }
        let now = manifest::digest(&folders.work).map_err(|error| Trouble::internal("read the work tree", error))?;
        if now != checked_out.digest {
            return Err(mismatch("the work tree is not as it was checked out".to_owned()));
        }
        Ok(checked_out)
    }
}

/// Protected paths that a refusal names: a branch may touch any number.
const MOST_REFUSED: usize = 64;

/// Reads the rules of the plan.
pub(super) fn protected(plan: &Plan) -> Result<Protected, Trouble> {
    Protected::new(plan.gate.protected.iter().map(String::as_str))
        .map_err(|error| Trouble::new(ErrorReason::PlanInvalid, error.to_string(), false))
}

/// Reports the protected paths and pinned parts of manifests that the change from base to head touches, if any.
pub(super) fn refusal(repository: &Repository, plan: &Plan) -> Result<Option<Report>, Trouble> {
    let changes = repository
        .changed_paths(Some(oid(&plan.base)?), Some(oid(&plan.head)?), "")
        .map_err(|error| clone_failed(&error))?;
    let read = |blob| repository.read_blob(blob, MANIFEST_MAX as u64);
    let mut refused = touched(&changes, &protected(plan)?, &plan.gate.pinned, &read).map_err(|e| clone_failed(&e))?;
    if refused.is_empty() {
        return Ok(None);
    }
    let more = refused.len().saturating_sub(MOST_REFUSED);
    refused.truncate(MOST_REFUSED);
    for Touched { what, why } in &refused {
        println!("refused: {what} {why}");
    }
    if more > 0 {
        println!("refused: and {more} more");
    }
    Ok(Some(Report {
        refused: refused.into_iter().map(|touched| touched.what).collect(),
        ..Report::new(&plan.head, &plan.base, &plan.digest, Outcome::Refused)
    }))
}

fn copy_program(tools: &Path) -> std::io::Result<()> {
    let folder = tools.join("bin");
    std::fs::create_dir_all(&folder)?;
    let target = folder.join(PROGRAM);
    std::fs::copy("/proc/self/exe", &target)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))
}

fn remote(args: &FetchArgs, plan: &Plan) -> Result<(RemoteUrl, Settings, Option<KeyFile>), Trouble> {
    let mut settings = Settings {
        ca_bundle: args.ca_bundle.clone(),
        ..Settings::default()
    };
    if let Some(source) = &args.source {
        let source = source.canonicalize().map_err(|error| {
            Trouble::new(
                ErrorReason::CloneFailed,
                format!("failed to open the repository: {error}"),
                true,
            )
        })?;
        settings.file_roots = vec![source.clone()];
        let url = RemoteUrl::local(&source).map_err(|error| clone_failed(&error))?;
        return Ok((url, settings, None));
    }
    let url = RemoteUrl::parse(&plan.repository).map_err(|error| clone_failed(&error))?;
    let mut key_file = None;
    if let Some(folder) = &args.credentials {
        let read = |name: &str| {
            std::fs::read_to_string(folder.join(name))
                .ok()
                .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
                .filter(|text| !text.is_empty())
        };
        let kind = if let Some(key) = read("ssh-privatekey") {
            if folder.join("known_hosts").is_file() {
                settings.ssh.known_hosts = Some(folder.join("known_hosts"));
            }
            let file = KeyFile::write(&args.folders.home, &key)?;
            let path = file.0.clone();
            key_file = Some(file);
            Some(CredentialKind::SshKey { path })
        } else if let Some(password) = read("password") {
            Some(CredentialKind::Basic {
                username: read("username").unwrap_or_else(|| "git".to_owned()),
                password: password.into(),
            })
        } else {
            read("token").map(|token| CredentialKind::Token(token.into()))
        };
        let Some(kind) = kind else {
            return Err(Trouble::new(
                ErrorReason::CloneFailed,
                "the Secret with clone credentials has none of the keys ssh-privatekey, password, token",
                false,
            ));
        };
        let credential = Credential::new(&plan.repository, kind).map_err(|error| clone_failed(&error))?;
        settings.credentials.push(credential);
    }
    Ok((url, settings, key_file))
}

/// A clone key where only this user can read it: `ssh` refuses a Secret's file, which its group may
/// read. The file goes before the main container starts.
struct KeyFile(PathBuf);

impl KeyFile {
    fn write(home: &Path, key: &str) -> Result<Self, Trouble> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let fail = |error: std::io::Error| Trouble::internal("store the clone key", error);
        let path = home.join("clone-key");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        let written = Self(path);
        file.write_all(format!("{key}\n").as_bytes()).map_err(fail)?;
        Ok(written)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Brings head and base: by id and without history where the server serves that, else the whole branch.
fn bring(mirror: &Arc<Mirror>, plan: &Plan, head: Oid, base: Oid) -> Result<(), Trouble> {
    let Err(first) = mirror.fetch(&Fetch::oid(head).and_oid(base).shallow()) else {
        return Ok(());
    };
    if matches!(
        first.category(),
        Category::Auth | Category::Timeout | Category::Network | Category::DiskFull
    ) {
        return Err(clone_failed(&first));
    }
    mirror
        .fetch(&Fetch::branch(&plan.branch))
        .map_err(|_| clone_failed(&first))?;
    let repository = mirror.repository();
    for (name, commit) in [("head", head), ("base", base)] {
        if !repository.has(commit) {
            return Err(Trouble::new(
                ErrorReason::CloneFailed,
                format!("{name} {commit} is not on branch {}; {first}", plan.branch),
                true,
            ));
        }
    }
    Ok(())
}

pub(super) fn oid(text: &str) -> Result<Oid, Trouble> {
    text.parse()
        .map_err(|_| Trouble::new(ErrorReason::PlanInvalid, format!("{text:?} is no commit"), false))
}

pub(super) fn clone_failed(error: &git::Error) -> Trouble {
    Trouble::new(ErrorReason::CloneFailed, error.to_string(), true)
}
