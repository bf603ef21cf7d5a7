//! What a process may reach, with which credentials, and how long it waits.

use std::{fmt, path::PathBuf, time::Duration};

use crate::{
    error::Result,
    url::{RemoteUrl, parse_prefix},
};

/// A password or token. It shows as `***` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(value: T) -> Self {
        Secret(value.into())
    }
}

/// How a credential proves who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialKind {
    /// HTTP basic authentication.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// An access token of a forge; sent as the password of basic authentication.
    Token(Secret),
    /// A private key file for the `ssh` program.
    SshKey {
        /// The file.
        path: PathBuf,
    },
}

/// A credential and the only addresses that it is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    prefix: RemoteUrl,
    kind: CredentialKind,
}

impl Credential {
    /// Binds a credential to a URL prefix: scheme, host, port and leading path segments must match.
    pub fn new(url_prefix: &str, kind: CredentialKind) -> Result<Self> {
        Ok(Credential {
            prefix: parse_prefix(url_prefix)?,
            kind,
        })
    }

    /// Returns the prefix.
    pub fn prefix(&self) -> &RemoteUrl {
        &self.prefix
    }

    /// Returns the kind.
    pub fn kind(&self) -> &CredentialKind {
        &self.kind
    }
}

/// Which server keys the `ssh` program accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostKeys {
    /// Only keys that `known_hosts` holds.
    #[default]
    Known,
    /// Also the key of a host that is seen for the first time; a changed key is refused.
    AcceptNew,
}

/// How the `ssh` program is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// The program; found on PATH when it has no slash.
    pub program: PathBuf,
    /// Which server keys are accepted.
    pub host_keys: HostKeys,
    /// The known-hosts file; the program's own default when `None`.
    pub known_hosts: Option<PathBuf>,
}

impl Default for Ssh {
    fn default() -> Self {
        Ssh {
            program: "ssh".into(),
            host_keys: HostKeys::default(),
            known_hosts: None,
        }
    }
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting to a server.
    pub connect: Duration,
    /// Silence in the middle of a transfer.
    pub idle: Duration,
    /// A whole ref listing.
    pub list: Duration,
    /// A whole fetch.
    pub fetch: Duration,
    /// A whole push.
    pub push: Duration,
    /// Waiting for another process that holds a mirror.
    pub lock: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            list: Duration::from_secs(30),
            fetch: Duration::from_secs(600),
            push: Duration::from_secs(300),
            lock: Duration::from_secs(600),
        }
    }
}

/// Everything that reaching a remote depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Credentials; the one with the longest matching prefix is used, none where none matches.
    pub credentials: Vec<Credential>,
    /// PEM file with certificate authorities that are trusted besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Folders below which local repositories may lie. None: no local repositories.
    pub file_roots: Vec<PathBuf>,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// How the `ssh` program is run.
    pub ssh: Ssh,
    /// The `git` program that serves local repositories; `git` on PATH when `None`.
    pub git_program: Option<PathBuf>,
}

impl Settings {
    /// Finds the credential for `url`: the longest prefix that covers it.
    pub fn credential_for(&self, url: &RemoteUrl) -> Option<&Credential> {
        self.credentials
            .iter()
            .filter(|credential| credential.prefix.covers(url))
            .max_by_key(|credential| credential.prefix.path.split('/').filter(|s| !s.is_empty()).count())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_longest_matching_prefix_wins_and_no_match_gives_none() {
        let token = |prefix: &str, token: &str| Credential::new(prefix, CredentialKind::Token(token.into())).unwrap();
        let settings = Settings {
            credentials: vec![
                token("https://h/", "wide"),
                token("https://h/org", "narrow"),
                token("https://h/org/x", "other"),
            ],
            ..Settings::default()
        };
        let find = |url: &str| {
            settings
                .credential_for(&RemoteUrl::parse(url).unwrap())
                .map(|c| c.kind().clone())
        };
        assert_eq!(find("https://h/org/repo"), Some(CredentialKind::Token("narrow".into())));
        assert_eq!(find("https://h/else/repo"), Some(CredentialKind::Token("wide".into())));
        assert_eq!(find("https://other/org/repo"), None);
    }

    #[test]
    fn secrets_never_show_in_debug_output() {
        let settings = Settings {
            credentials: vec![
                Credential::new("https://h/", CredentialKind::Token("s3cret".into())).unwrap(),
                Credential::new(
                    "https://i/",
                    CredentialKind::Basic {
                        username: "me".into(),
                        password: "s3cret".into(),
                    },
                )
                .unwrap(),
            ],
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
