//! Remote addresses: parsing, showing, and telling which credential belongs to which.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::error::{Error, Result};

/// How a remote is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// HTTP in clear text.
    Http,
    /// The `ssh` program.
    Ssh,
    /// The anonymous daemon.
    Git,
    /// A folder on this machine.
    File,
}

impl Scheme {
    /// Names the scheme as it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
            Scheme::Ssh => "ssh",
            Scheme::Git => "git",
            Scheme::File => "file",
        }
    }

    fn default_port(self) -> Option<u16> {
        match self {
            Scheme::Https => Some(443),
            Scheme::Http => Some(80),
            Scheme::Ssh => Some(22),
            Scheme::Git => Some(9418),
            Scheme::File => None,
        }
    }
}

/// The address of a remote repository. It never holds a secret: only addresses of ssh name a user, and none a password.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemoteUrl {
    pub(crate) scheme: Scheme,
    pub(crate) user: Option<String>,
    /// Lower case; empty for files; an IPv6 address in brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Starts with `/`, except for `~…` and the relative path of `user@host:path`.
    pub(crate) path: String,
}

/// Why an address with a password or token is refused.
const CREDENTIAL: &str = "it holds a user, a password or a token; take out what stands before '@' and bind it to the \
     URL's prefix, as a line of the file of Git credentials or in the Secret that is named for them (an '@' of the path itself \
     is written %40)";

impl RemoteUrl {
    /// Parses a URL, an scp-like `user@host:path` or an absolute path.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |reason: &str| Error::Url {
            url: redact(text),
            reason: reason.into(),
        };
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() && c != ' ') {
            return Err(refuse("it contains control characters"));
        }
        if text.starts_with('/') {
            return Self::local(Path::new(text));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::parse_scp(text).ok_or_else(|| refuse("it has no scheme and is not an absolute path"))?;
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            "ssh" | "git+ssh" | "ssh+git" => Scheme::Ssh,
            "git" => Scheme::Git,
            "file" => Scheme::File,
            other => return Err(refuse(&format!("the scheme {other:?} is not supported"))),
        };
        if rest.contains(' ') && scheme != Scheme::File {
            return Err(refuse("it contains a space"));
        }
        if scheme == Scheme::File {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(refuse("a file URL needs an absolute path, file:///folder"));
            }
            return Self::local(Path::new(
                &percent_decode(path).ok_or_else(|| refuse("its path is not UTF-8"))?,
            ));
        }
        if rest.contains(['?', '#']) {
            return Err(refuse("a repository's URL has no query and no fragment"));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        // What stands there in an https URL is as often a token as a name, and this is shown to everybody.
        if user.is_some_and(|u| u.contains(':') || scheme != Scheme::Ssh) {
            return Err(refuse(CREDENTIAL));
        }
        // A slash in a password or token ends the host early.
        let web = matches!(scheme, Scheme::Https | Scheme::Http);
        if web
            && path
                .split('/')
                .any(|segment| segment.rfind('@').is_some_and(|at| at > 0))
        {
            return Err(refuse(CREDENTIAL));
        }
        let (host, port) = split_port(host_port).ok_or_else(|| refuse("its port is not a number"))?;
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            return Err(refuse("it names no repository"));
        }
        let url = RemoteUrl {
            scheme,
            user: user.filter(|u| !u.is_empty()).map(str::to_owned),
            host: host.to_ascii_lowercase(),
            port: port.filter(|p| Some(*p) != scheme.default_port()),
            path: path.to_owned(),
        };
        url.checked().map_err(|reason| refuse(&reason))
    }

    /// Names a folder on this machine.
    pub fn local(path: &Path) -> Result<Self> {
        let text = path.to_str().ok_or_else(|| Error::Url {
            url: path.display().to_string(),
            reason: "the path is not UTF-8".into(),
        })?;
        if !text.starts_with('/') {
            return Err(Error::Url {
                url: text.into(),
                reason: "the path is not absolute".into(),
            });
        }
        let trimmed = text.trim_end_matches('/');
        RemoteUrl {
            scheme: Scheme::File,
            user: None,
            host: String::new(),
            port: None,
            path: if trimmed.is_empty() { "/".into() } else { trimmed.into() },
        }
        .checked()
        .map_err(|reason| Error::Url {
            url: text.into(),
            reason,
        })
    }

    fn parse_scp(text: &str) -> Option<Result<Self>> {
        let (before, path) = text.split_once(':')?;
        if before.contains('/') || path.is_empty() || text.contains(' ') {
            return None;
        }
        let refuse = |reason: String| Error::Url {
            url: redact(text),
            reason,
        };
        if !before.contains('@') && path.contains('@') {
            // `me:password@host/path`, or `https:` without its slashes.
            return Some(Err(refuse(CREDENTIAL.into())));
        }
        let (user, host) = match before.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, before),
        };
        let url = RemoteUrl {
            scheme: Scheme::Ssh,
            user: user.filter(|u| !u.is_empty()),
            host: host.to_ascii_lowercase(),
            port: None,
            path: path.trim_end_matches('/').to_owned(),
        };
        Some(url.checked().map_err(refuse))
    }

    fn checked(self) -> Result<Self, String> {
        if self.scheme != Scheme::File {
            if self.host.is_empty() {
                return Err("it names no host".into());
            }
            let fits = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
            if self.host.starts_with('-') || !self.host.chars().all(fits) {
                return Err(format!("the host {:?} is not a host name", self.host));
            }
        }
        if let Some(user) = &self.user {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
            if user.starts_with('-') || !user.chars().all(fits) {
                return Err("the user name has characters other than letters, digits, '-', '.', '_' and '+'".into());
            }
        }
        if self.path.starts_with('-') {
            return Err("the path begins with '-'".into());
        }
        // An HTTP client takes it for a slash, and what stands between two for a segment that no prefix was held against.
        if matches!(self.scheme, Scheme::Http | Scheme::Https) && self.path.contains('\\') {
            return Err("the path contains a backslash".into());
        }
        for segment in self.path.split('/') {
            let decoded = percent_decode(segment).ok_or("the path is not UTF-8")?;
            if decoded == "." || decoded == ".." {
                return Err("the path contains '.' or '..'".into());
            }
            if self.scheme != Scheme::File && decoded != segment && decoded.contains(['/', '\\']) {
                return Err("the path contains an escaped slash".into());
            }
            if decoded.contains(['\0', '\n', '\r']) {
                return Err("the path contains control characters".into());
            }
        }
        Ok(self)
    }

    /// Says how the remote is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host, lower case; empty for a local path.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the path on the host; for a local repository the folder.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the folder of a local repository.
    pub fn local_path(&self) -> Option<PathBuf> {
        (self.scheme == Scheme::File).then(|| PathBuf::from(&self.path))
    }

    pub(crate) fn port_or_default(&self) -> Option<u16> {
        self.port.or(self.scheme.default_port())
    }

    /// Says whether two addresses share scheme, host and port.
    pub(crate) fn same_origin(&self, other: &RemoteUrl) -> bool {
        self.scheme == other.scheme && self.host == other.host && self.port_or_default() == other.port_or_default()
    }

    /// Says whether this address, taken as a prefix, covers `url`: same scheme, host and port, and whole path
    /// segments. A prefix's user, where it names one, must be the same too.
    pub fn covers(&self, url: &RemoteUrl) -> bool {
        if !self.same_origin(url) || (self.user.is_some() && self.user != url.user) {
            return false;
        }
        let name = |segment: &str| segment.strip_suffix(".git").unwrap_or(segment).to_owned();
        let mut segments = url.path.split('/').filter(|s| !s.is_empty());
        let mut wanted = self.path.split('/').filter(|s| !s.is_empty());
        // Forges serve a repository with and without `.git`.
        wanted.all(|want| segments.next().is_some_and(|found| name(found) == name(want)))
    }
}

/// Parses a URL prefix of a credential, where the path may be empty: `https://forge.example/`.
pub(crate) fn parse_prefix(text: &str) -> Result<RemoteUrl> {
    let trimmed = text.trim_end_matches('/');
    let has_path = trimmed.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if has_path || !trimmed.contains("://") {
        return RemoteUrl::parse(trimmed);
    }
    let mut url = RemoteUrl::parse(&format!("{trimmed}/x"))?;
    url.path = "/".into();
    Ok(url)
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path of `user@host:path` begins at the user's home there: no URL says that.
        let from_home = self.scheme == Scheme::Ssh && !self.path.starts_with('/');
        if !from_home {
            write!(f, "{}://", self.scheme.as_str())?;
        }
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if from_home {
            f.write_str(":")?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RemoteUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        RemoteUrl::parse(text)
    }
}

impl serde::Serialize for RemoteUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for RemoteUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        RemoteUrl::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Resolves a repository as tasks name it: a URL, an scp-like address or an absolute path as they stand, and `owner/name`
/// below `base`, with `.git` at its end, as every forge serves it. `None` where `owner/name` has no base to stand below.
///
/// Whoever reads `payload.repo` resolves it here, so that agent and operator mean the same repository.
pub fn of_repository(base: Option<&str>, repo: &str) -> Result<Option<RemoteUrl>> {
    let is_short = !repo.contains(':') && !repo.starts_with(['/', '.', '~']) && repo.split('/').count() == 2;
    match (base, is_short) {
        (Some(base), true) => {
            let (base, name) = (base.trim_end_matches('/'), repo.trim_end_matches(".git"));
            RemoteUrl::parse(&format!("{base}/{name}.git")).map(Some)
        }
        (None, true) => Ok(None),
        (_, false) => RemoteUrl::parse(repo).map(Some),
    }
}

fn split_port(host_port: &str) -> Option<(&str, Option<u16>)> {
    let after_bracket = host_port.rfind(']').map_or(0, |at| at + 1);
    match host_port[after_bracket..].rfind(':') {
        Some(at) => {
            let at = after_bracket + at;
            let port = &host_port[at + 1..];
            if port.is_empty() {
                return Some((&host_port[..at], None));
            }
            Some((&host_port[..at], Some(port.parse().ok()?)))
        }
        None => Some((host_port, None)),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// Returns any text that may be a URL with what may be a credential taken out: all before its last `@` but for the user
/// of an ssh address, and all after `?` or `#`. Rather too much goes than too little.
pub fn redact(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let local = scheme.is_none() && text.starts_with('/');
    let shown = match rest.rfind('@') {
        Some(at) if !local && !is_ssh_user(scheme, &rest[..at], rest) => format!("***@{}", &rest[at + 1..]),
        _ => rest.to_owned(),
    };
    let shown = match shown.find(['?', '#']) {
        Some(at) if !local => format!("{}…", &shown[..at]),
        _ => shown,
    };
    let whole = scheme.map_or(shown.clone(), |scheme| format!("{scheme}://{shown}"));
    whole
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

/// Tells whether what stands before the last `@` is only the user of an ssh address, which is no secret.
fn is_ssh_user(scheme: Option<&str>, before: &str, rest: &str) -> bool {
    let user = !before.is_empty() && before.chars().all(|c| c.is_ascii_alphanumeric() || "-._+".contains(c));
    match scheme {
        Some(scheme) => user && scheme.to_ascii_lowercase().contains("ssh"),
        // `git@host:path`, where the first colon comes before any slash.
        None => {
            user && rest[before.len()..]
                .find([':', '/'])
                .is_some_and(|at| rest[before.len() + at..].starts_with(':'))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parse(text: &str) -> RemoteUrl {
        RemoteUrl::parse(text).unwrap()
    }

    #[test]
    fn every_scheme_is_read_and_shown_again() {
        for (text, shown) in [
            ("https://Forge.example/a/b.git", "https://forge.example/a/b.git"),
            ("https://forge.example:443/a/b/", "https://forge.example/a/b"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
            ("ssh://git@host:2222/a", "ssh://git@host:2222/a"),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("git@host:/a/b.git", "ssh://git@host/a/b.git"),
            ("git://host/a", "git://host/a"),
            ("https://[::1]:8443/a", "https://[::1]:8443/a"),
            ("https://host/@scope/a%40b", "https://host/@scope/a%40b"),
            ("/srv/a b.git", "file:///srv/a b.git"),
            ("file:///srv/a%20b.git/", "file:///srv/a b.git"),
        ] {
            assert_eq!(parse(text).to_string(), shown, "{text}");
            assert_eq!(parse(shown), parse(text), "what is shown is read as the same");
        }
    }

    #[test]
    fn a_repository_is_resolved_below_the_base_where_it_is_only_named() {
        let base = Some("https://forge.example/base/");
        for (base, repo, url) in [
            (base, "acme/tool", Some("https://forge.example/base/acme/tool.git")),
            (base, "acme/tool.git", Some("https://forge.example/base/acme/tool.git")),
            (Some("git@host:work"), "a/b", Some("git@host:work/a/b.git")),
            (Some("/srv/git"), "a/b", Some("file:///srv/git/a/b.git")),
            (base, "https://other.example/a/b", Some("https://other.example/a/b")),
            (base, "git@host:a/b", Some("git@host:a/b")),
            (base, "host:a/b", Some("host:a/b")),
            (base, "/srv/a", Some("file:///srv/a")),
            (None, "/srv/a/b", Some("file:///srv/a/b")),
            (None, "acme/tool", None),
        ] {
            let resolved = of_repository(base, repo).unwrap().map(|url| url.to_string());
            assert_eq!(resolved.as_deref(), url, "{repo}");
        }
        for repo in ["", "tool", "a/b/c", "../a", "./a", "~/a"] {
            assert!(of_repository(base, repo).is_err(), "{repo:?}");
        }
    }

    #[test]
    fn what_could_reach_somewhere_else_is_refused() {
        for text in [
            "",
            "relative/path",
            "ext::sh -c id",
            "ftp://host/a",
            "ssh://-oProxyCommand=id/a",
            "-oProxyCommand=id:a",
            "ssh://-l@host/a",
            "https://host/a/../b",
            "https://host/a/%2e%2e/b",
            "https://host/a%2fb",
            "https://host/a/..\\b",
            "http://host/a\\b",
            "https://host/a?x=1",
            "https://host",
            "file://host/a",
            "https://host:port/a",
            "git@host:-x",
            "https://ho st/a",
            "https://host/a\nb",
        ] {
            assert!(RemoteUrl::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_credential_in_a_url_is_refused_and_not_repeated() {
        let long = format!("https://{}SECRET@host/a/b", "x".repeat(600));
        for text in [
            "https://SECRET@host/a/b",
            "https://SECRET@host",
            "http://SECRET@host:8080/a/b",
            "HTTPS://SECRET@host/a/b",
            "git://SECRET@host/a/b",
            "https://me:SECRET@host/a",
            "https://me:pa/ssSECRET@host/x",
            "https://me:pa?ssSECRET@host/x",
            "https://me:pa#ssSECRET@host/x",
            "https://me:12/ssSECRET@host/x",
            "https://tok/enSECRET@host/x",
            "https://me:p@SECRET@host/x",
            "https://me:SECRET two@host/x",
            "https://host/a?token=SECRET",
            "ssh://me:SECRET@host/a",
            "file://SECRET@host/a",
            "me:SECRET@host/a",
            "https:me:SECRET@host/a",
            "https:/me:SECRET@host/a",
            "SECRET@host/a/b",
            "ext::https://SECRET@host/a",
            &long,
        ] {
            let error = RemoteUrl::parse(text).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}"), redact(text)] {
                assert!(!shown.contains("SECRET") && !shown.contains("ssS"), "{text}: {shown}");
            }
        }
        let error = RemoteUrl::parse("https://t0ken@host/a/b").unwrap_err().to_string();
        assert!(error.contains("https://***@host/a/b"), "{error}");
        assert!(error.contains("credentials"), "{error}");
        assert!(parse_prefix("https://t0ken@host").is_err());
    }

    #[test]
    fn what_holds_no_secret_is_shown_whole() {
        for text in [
            "https://host:8443/a/b.git",
            "ssh://git@host:2222/a",
            "git@host:a/b.git",
            "/srv/a@b.git",
            "not a URL",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn a_prefix_covers_whole_segments_of_one_origin() {
        let covers = |prefix: &str, url: &str| parse_prefix(prefix).unwrap().covers(&parse(url));
        assert!(covers("https://h/", "https://h/a/b"));
        assert!(covers("https://h", "https://h:443/a/b"));
        assert!(covers("https://h/a", "https://h/a/b"));
        assert!(covers("https://h/a/b", "https://h/a/b.git"));
        assert!(covers("ssh://git@h/a", "git@h:a/b"));
        assert!(!covers("https://h/a", "https://h/ab"));
        assert!(!covers("https://h/a", "http://h/a"));
        assert!(!covers("https://h/a", "https://h.evil/a"));
        assert!(!covers("https://h/a", "https://h:8443/a"));
        assert!(!covers("https://h/a/b", "https://h/a"));
        assert!(!covers("ssh://git@h/a", "ssh://root@h/a"));
    }
}
