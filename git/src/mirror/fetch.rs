//! Bringing objects from the remote into a mirror.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use gix::{
    progress::Discard,
    remote::{Direction, fetch::Shallow, ref_map},
};

use super::{Mirror, OBJECT_REFS, lock};
use crate::{
    Oid,
    connect::{Failure, Session},
    error::{Error, Result, chain, says_disk_full},
    repository::{Repository, check_refname},
};

/// What to bring from the remote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetch {
    refs: Vec<String>,
    oids: Vec<Oid>,
    depth: Option<NonZeroU32>,
}

impl Fetch {
    /// Asks for one ref by its full name, or for many by a pattern with one `*` (`refs/heads/*`).
    pub fn refname(refname: impl Into<String>) -> Self {
        Fetch {
            refs: vec![refname.into()],
            ..Fetch::default()
        }
    }

    /// Asks for a branch by its short name.
    pub fn branch(branch: &str) -> Self {
        Fetch::refname(format!("refs/heads/{branch}"))
    }

    /// Asks for a commit by its id; the server must be willing to serve it.
    pub fn oid(oid: Oid) -> Self {
        Fetch {
            oids: vec![oid],
            ..Fetch::default()
        }
    }

    /// Asks for another commit too.
    pub fn and_oid(mut self, oid: Oid) -> Self {
        self.oids.push(oid);
        self
    }

    /// Asks for the tips only, without their history. A mirror that has history keeps it, and gets what is missing;
    /// one that was cut off gets its history by the first fetch that does not say this.
    pub fn shallow(mut self) -> Self {
        self.depth = Some(NonZeroU32::MIN);
        self
    }
}

/// What was brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The refs that were asked for and that the remote has: name there → object. A ref that it does not have is
    /// not listed.
    pub refs: BTreeMap<String, Oid>,
}

impl Mirror {
    /// Brings what `wanted` names. Refs of the remote are kept under [`Mirror::local_name`]. A damaged mirror is
    /// rebuilt first, so that what other work trees still need of it must be fetched again.
    pub fn fetch(&self, wanted: &Fetch) -> Result<Fetched> {
        for refname in &wanted.refs {
            check_refname(&refname.replacen('*', "x", 1))?;
        }
        let timeouts = &self.remotes.settings().timeouts;
        let _one = crate::lock(&self.fetching);
        let _held = lock::acquire(&self.lock_path, Instant::now() + timeouts.lock)?;
        if self.repository().is_damaged() || !self.path.join("HEAD").exists() {
            tracing::warn!(mirror = %self.path.display(), url = %self.url, "rebuilding a damaged mirror");
            self.rebuild()?;
        }
        let fetched = match self.fetch_once(wanted) {
            Err(error) if matches!(error, Error::Corrupt { .. }) => {
                tracing::warn!(mirror = %self.path.display(), url = %self.url, %error, "rebuilding a damaged mirror");
                self.rebuild()?;
                self.fetch_once(wanted)
            }
            other => other,
        }?;
        self.tidy();
        Ok(fetched)
    }

    /// Brings a branch and says where it points.
    pub fn fetch_branch(&self, branch: &str, shallow: bool) -> Result<Oid> {
        let wanted = Fetch::branch(branch);
        let wanted = if shallow { wanted.shallow() } else { wanted };
        let refname = format!("refs/heads/{branch}");
        let found = self.fetch(&wanted)?.refs.get(&refname).copied();
        found.ok_or_else(|| Error::NotFound {
            action: "fetch from",
            url: self.url.to_string(),
            what: format!("branch {branch}"),
            reason: String::new(),
        })
    }

    /// Brings a branch with its history unless `tip`, where a listing just saw it, is here, and says where it points.
    pub fn fetch_branch_at(&self, branch: &str, tip: Oid) -> Result<Oid> {
        if self.holds(tip, false) {
            return Ok(tip);
        }
        self.fetch_branch(branch, false)
    }

    /// Brings a commit by its id, unless it is here.
    pub fn fetch_oid(&self, oid: Oid, shallow: bool) -> Result<()> {
        if self.holds(oid, shallow) {
            return Ok(());
        }
        let wanted = Fetch::oid(oid);
        self.fetch(&if shallow { wanted.shallow() } else { wanted })?;
        Ok(())
    }

    /// Says whether a commit is here, with its history unless `shallow`, in a mirror that nothing is wrong with.
    fn holds(&self, oid: Oid, shallow: bool) -> bool {
        let repository = self.repository();
        (shallow || !self.is_cut())
            && !repository.is_damaged()
            && repository.has(oid)
            && repository.tree_of(oid).is_ok_and(|tree| repository.has(tree))
    }

    /// Says whether history is cut off somewhere.
    fn is_cut(&self) -> bool {
        std::fs::metadata(self.path.join("shallow")).is_ok_and(|m| m.len() > 0)
    }

    /// Says whether anything was fetched ever.
    fn has_refs(&self) -> bool {
        ["refs/foreman", "packed-refs"]
            .iter()
            .any(|name| self.path.join(name).exists())
    }

    fn fetch_once(&self, wanted: &Fetch) -> Result<Fetched> {
        let timeouts = &self.remotes.settings().timeouts;
        let session = Session::new(&self.url, "fetch from", timeouts.fetch, timeouts.idle);
        let repository = self.repository();
        let mut repo = repository.gix();
        repo.committer_or_set_generic_fallback()
            .map_err(|e| repository.fail("configure", &e))?;
        let transport = self.remotes.gix_transport(&session)?;
        let fail = |e: gix::Error| self.fetch_error(&session, &repository, &e);

        let mut specs: Vec<String> = wanted
            .refs
            .iter()
            .map(|name| format!("+{name}:{}", Mirror::local_name(name)))
            .collect();
        specs.extend(wanted.oids.iter().map(|oid| format!("+{oid}:{OBJECT_REFS}{oid}")));
        let remote = repo
            .remote_at_without_url_rewrite(self.url.to_string())
            .map_err(|e| Error::Url {
                url: self.url.to_string(),
                reason: chain(&e),
            })?
            .with_fetch_tags(gix::remote::fetch::Tags::None)
            .with_refspecs(specs.iter().map(String::as_str), Direction::Fetch)
            .map_err(|e| Error::Invalid {
                action: "fetch",
                reason: chain(&e),
            })?;
        let options = ref_map::Options {
            prefix_from_spec_as_filter_on_remote: true,
            ..Default::default()
        };
        let prepared = remote
            .to_connection_with_transport(transport)
            .with_credentials(|_| Ok(None))
            .prepare_fetch(Discard, options)
            .map_err(fail)?;

        let mut fetched = Fetched::default();
        for mapping in &prepared.ref_map().mappings {
            if let (Some(name), Some(oid)) = (mapping.remote.as_name(), mapping.remote.as_id()) {
                fetched
                    .refs
                    .insert(String::from_utf8_lossy(name).into_owned(), oid.to_owned());
            }
        }
        if prepared.ref_map().mappings.is_empty() {
            return Ok(fetched);
        }
        let here = |oid: &Oid| repository.has(*oid) && repository.tree_of(*oid).is_ok_and(|tree| repository.has(tree));
        let all_here = fetched.refs.values().chain(&wanted.oids).all(here);
        let cut = self.is_cut();
        let empty = !cut && !self.has_refs();
        if wanted.depth.is_some() && all_here {
            // A depth makes the server send the tips again, so what is here is not asked for.
            for (name, oid) in &fetched.refs {
                repository.set_ref(&Mirror::local_name(name), Some(*oid))?;
            }
            return Ok(fetched);
        }
        let shallow = match wanted.depth {
            // Cutting off a mirror that has its history would take it from those who need it.
            Some(depth) if cut || empty => Shallow::DepthAtRemote(depth),
            None if cut => Shallow::undo(),
            _ => Shallow::NoChange,
        };
        let never = AtomicBool::new(false);
        prepared.with_shallow(shallow).receive(Discard, &never).map_err(fail)?;
        for oid in fetched.refs.values().chain(&wanted.oids) {
            if !here(oid) && !is_tag(&repository, *oid) {
                return Err(repository.damaged_by("fetch into", format!("{oid} is not whole after a fetch")));
            }
        }
        Ok(fetched)
    }

    /// Tells a failure of the connection from damage and a full disk on this side.
    fn fetch_error(&self, session: &Arc<Session>, repository: &Repository, error: &gix::Error) -> Error {
        let text = chain(error);
        if says_disk_full(&text) {
            return Error::DiskFull {
                action: "fetch into",
                path: self.path.clone(),
            };
        }
        let lower = text.to_ascii_lowercase();
        if lower.contains("not our ref") || lower.contains("unadvertised object") {
            return session.fail(Failure::NotFound {
                what: "commit".into(),
                reason: text,
            });
        }
        // gix does not tell objects that it cannot read on this side from what it cannot read on the wire.
        if !session.failed() && self.damage_confirmed() {
            return repository.damaged_by("fetch into", text);
        }
        session.error(&text)
    }

    fn damage_confirmed(&self) -> bool {
        let repository = self.repository();
        super::check::sound(&self.path).is_err() || repository.refs_are_readable().is_err()
    }
}

fn is_tag(repository: &Repository, oid: Oid) -> bool {
    repository.has(oid) && repository.tree_of(oid).is_err()
}

impl Repository {
    /// Reads what every ref points at and its tree.
    pub(crate) fn refs_are_readable(&self) -> Result<()> {
        let repo = self.gix();
        let fail = |e: &(dyn std::error::Error + 'static)| self.fail("read the refs of", e);
        let platform = repo.references().map_err(|e| fail(&e))?;
        for reference in platform.all().map_err(|e| fail(&e))? {
            let mut reference = reference.map_err(|e| self.damaged_by("read the refs of", e.to_string()))?;
            let oid = reference.peel_to_id().map_err(|e| fail(&e))?.detach();
            self.tree_of(oid)?;
        }
        Ok(())
    }
}
