//! Listing the refs of a remote.

use gix::{
    bstr::BString,
    progress::Discard,
    protocol::{LsRefsCommand, handshake::Ref as ServerRef, ls_refs::RefPrefixes, transport::Service},
};

use crate::{
    Oid,
    connect::{Remotes, Session},
    error::{Result, chain},
    url::RemoteUrl,
};

/// A ref of a remote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ref {
    /// Full name, such as `refs/heads/main` or `HEAD`.
    pub name: String,
    /// What it points at: a commit, or the tag object of an annotated tag.
    pub target: Oid,
    /// What an annotated tag leads to.
    pub peeled: Option<Oid>,
    /// The ref that a symbolic ref names.
    pub symbolic: Option<String>,
}

impl Ref {
    /// Returns the commit that the ref leads to.
    pub fn commit(&self) -> Oid {
        self.peeled.unwrap_or(self.target)
    }
}

impl Remotes {
    /// Lists the refs whose names begin with one of `prefixes` (all without prefixes), sorted by name. An empty
    /// repository has none. The call returns within `timeouts.list` whatever the server does.
    pub fn list_refs(&self, url: &RemoteUrl, prefixes: &[&str]) -> Result<Vec<Ref>> {
        let timeouts = &self.settings().timeouts;
        let session = Session::new(url, "list the refs of", timeouts.list, timeouts.idle);
        let mut transport = self.gix_transport(&session)?;
        let fail = |e: gix::Error| session.error(&chain(&e));
        let no_helpers = |_| Ok(None);
        let mut handshake = gix::protocol::handshake(
            &mut transport,
            Service::UploadPack,
            no_helpers,
            Vec::new(),
            &mut Discard,
        )
        .map_err(fail)?;
        let found = match handshake.refs.take() {
            Some(refs) => refs,
            None => {
                let wanted = (!prefixes.is_empty()).then(|| {
                    let mut wanted = RefPrefixes::new();
                    wanted.extend(prefixes.iter().map(|p| BString::from(*p)));
                    wanted
                });
                let agent = ("agent", Some(concat!("foreman/", env!("CARGO_PKG_VERSION")).to_owned()));
                LsRefsCommand::new(wanted, &handshake.capabilities, agent)
                    .invoke_blocking(&mut transport, &mut Discard, false)
                    .map_err(fail)?
            }
        };
        let mut refs: Vec<Ref> = found.into_iter().filter_map(from_server).collect();
        // Servers that speak an older protocol send everything, and newer ones may send more than asked for.
        refs.retain(|r| prefixes.is_empty() || prefixes.iter().any(|prefix| r.name.starts_with(prefix)));
        refs.sort();
        Ok(refs)
    }

    /// Finds where one ref of a remote points; `None` if it has no such ref.
    pub fn find_ref(&self, url: &RemoteUrl, refname: &str) -> Result<Option<Oid>> {
        let refs = self.list_refs(url, &[refname])?;
        Ok(refs.into_iter().find(|r| r.name == refname).map(|r| r.target))
    }
}

fn from_server(found: ServerRef) -> Option<Ref> {
    let name = |name: BString| String::from_utf8(name.into()).ok();
    Some(match found {
        ServerRef::Peeled {
            full_ref_name,
            tag,
            object,
        } => Ref {
            name: name(full_ref_name)?,
            target: tag,
            peeled: Some(object),
            symbolic: None,
        },
        ServerRef::Direct { full_ref_name, object } => Ref {
            name: name(full_ref_name)?,
            target: object,
            peeled: None,
            symbolic: None,
        },
        ServerRef::Symbolic {
            full_ref_name,
            target,
            tag,
            object,
        } => Ref {
            name: name(full_ref_name)?,
            target: tag.unwrap_or(object),
            peeled: tag.map(|_| object),
            symbolic: name(target),
        },
        ServerRef::Unborn { .. } => return None,
    })
}
