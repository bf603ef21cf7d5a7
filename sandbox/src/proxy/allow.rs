//! Which hosts a command may reach.

use std::str::FromStr;

use super::authority::{is_plain, split_port};

/// Names the hosts that may be reached: `host`, `host:port`, `*.suffix` or `*.suffix:port`.
///
/// Without a port, 80 and 443 are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    host: String,
    /// Whether any name below `host` is meant, and not itself.
    below: bool,
    port: Option<u16>,
}

/// Says what is wrong with an entry of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to read the allow-list entry {entry:?}: {found}; expected `host`, `host:port`, `*.domain` or \
     `*.domain:port`"
)]
pub struct ParseAllowError {
    entry: String,
    found: &'static str,
}

impl AllowList {
    /// Reads entries.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<AllowList, ParseAllowError> {
        let entries = entries
            .into_iter()
            .map(|entry| entry.as_ref().parse())
            .collect::<Result<_, _>>()?;
        Ok(AllowList { entries })
    }

    /// Tells whether a target is allowed: `None` when not, `Some(true)` when an entry names exactly
    /// this host and port.
    pub(super) fn permits(&self, host: &str, port: u16) -> Option<bool> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let hits: Vec<&Entry> = self.entries.iter().filter(|entry| entry.matches(&host, port)).collect();
        if hits.is_empty() {
            return None;
        }
        Some(hits.iter().any(|entry| !entry.below && entry.port == Some(port)))
    }
}

impl Entry {
    fn matches(&self, host: &str, port: u16) -> bool {
        let named = if self.below {
            host.strip_suffix(&self.host)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            host == self.host
        };
        named && self.port.map_or(port == 80 || port == 443, |own| own == port)
    }
}

impl FromStr for Entry {
    type Err = ParseAllowError;

    fn from_str(text: &str) -> Result<Entry, ParseAllowError> {
        let wrong = |found| ParseAllowError {
            entry: text.to_owned(),
            found,
        };
        let (host, port) = split_port(text.trim()).ok_or_else(|| wrong("a port that is no number"))?;
        let (host, below) = match host.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (host, false),
        };
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        if below && !host.contains('.') {
            return Err(wrong("a whole top-level domain"));
        }
        if !is_plain(host) {
            return Err(wrong("characters that no host name has"));
        }
        Ok(Entry {
            host: host.trim_end_matches('.').to_ascii_lowercase(),
            below,
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn entries_permit_what_they_name_and_nothing_else() {
        let list = AllowList::parse([
            "crates.io",
            "*.crates.io",
            "registry.example:8080",
            "127.0.0.1:9000",
            "[::1]:9001",
        ])
        .unwrap();
        let cases = [
            ("crates.io", 443, Some(false)),
            ("CRATES.io.", 80, Some(false)),
            ("crates.io", 8443, None),
            ("static.crates.io", 443, Some(false)),
            ("evilcrates.io", 443, None),
            (".crates.io", 443, None),
            ("crates.io.evil.example", 443, None),
            ("registry.example", 8080, Some(true)),
            ("registry.example", 443, None),
            ("127.0.0.1", 9000, Some(true)),
            ("127.0.0.1", 9002, None),
            ("::1", 9001, Some(true)),
            ("", 443, None),
        ];
        for (host, port, expected) in cases {
            assert_eq!(list.permits(host, port), expected, "{host}:{port}");
        }
    }

    #[test]
    fn broken_entries_are_named() {
        for entry in [
            "",
            "*.",
            "*.com",
            "a b",
            "https://crates.io",
            "host:port",
            "host:99999",
            "*",
        ] {
            let error = AllowList::parse([entry]).unwrap_err();
            assert!(error.to_string().contains(&format!("{entry:?}")), "{error}");
        }
    }
}
