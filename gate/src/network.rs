//! What network a container of a gate's Job asks for.
//!
//! The wish stands in an annotation of the Pod template, `foreman.llmkube.dev/network.<container>`.
//! A runner that starts containers itself reads it with [`Network::of`], enforces it, and refuses the
//! Pod where it cannot. On a cluster a Pod has one network: there the label [`KIND_LABEL`] lets a
//! NetworkPolicy pick the Pods, and `foreman-gate` keeps the steps offline as far as it may.

use std::collections::BTreeMap;
use std::fmt;

/// Prefix of the annotation; the container's name follows.
pub const ANNOTATION_PREFIX: &str = "foreman.llmkube.dev/network.";
/// Label of Job and Pod: `gate`, `prepare` or [`CODER`].
pub const KIND_LABEL: &str = "foreman.llmkube.dev/job-kind";
/// Value of that label for the Job of a coder.
pub const CODER: &str = "coder";

/// The network of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// None but its own loopback.
    None,
    /// What reaching the Git server of the task takes.
    Fetch,
    /// Only these hosts, through a proxy: `host`, `host:port` or `*.suffix`.
    AllowList(Vec<String>),
}

impl Network {
    /// Reads the wish of `container`; a container that says nothing, or something unknown, gets none.
    pub fn of(annotations: Option<&BTreeMap<String, String>>, container: &str) -> Self {
        let value = annotations.and_then(|all| all.get(&format!("{ANNOTATION_PREFIX}{container}")));
        match value.map(String::as_str) {
            Some("fetch") => Self::Fetch,
            Some(other) => match other.strip_prefix("allow:") {
                Some(hosts) => Self::AllowList(
                    hosts
                        .split(',')
                        .map(str::trim)
                        .filter(|host| !host.is_empty())
                        .map(str::to_owned)
                        .collect(),
                ),
                None => Self::None,
            },
            None => Self::None,
        }
    }

    /// Returns the annotation that says this of `container`.
    pub fn annotation(&self, container: &str) -> (String, String) {
        (format!("{ANNOTATION_PREFIX}{container}"), self.to_string())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Fetch => f.write_str("fetch"),
            Self::AllowList(hosts) => write!(f, "allow:{}", hosts.join(",")),
        }
    }
}

/// Tells whether `host` can stand in an allow-list: `host`, `host:port` or `*.suffix`.
pub fn is_allowable(host: &str) -> bool {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return false;
    }
    let name = name.strip_prefix("*.").unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_survives_its_annotation() {
        for network in [
            Network::None,
            Network::Fetch,
            Network::AllowList(vec![
                "index.crates.io".into(),
                "*.example.com".into(),
                "127.0.0.1:8080".into(),
            ]),
        ] {
            let annotations = BTreeMap::from([network.annotation("steps")]);
            assert_eq!(Network::of(Some(&annotations), "steps"), network);
            assert_eq!(Network::of(Some(&annotations), "other"), Network::None);
        }
    }

    #[test]
    fn an_unknown_wish_is_no_network() {
        let annotations = BTreeMap::from([(format!("{ANNOTATION_PREFIX}steps"), "everything".to_owned())]);
        assert_eq!(Network::of(Some(&annotations), "steps"), Network::None);
    }

    #[test]
    fn hosts_that_would_break_the_list_are_refused() {
        for good in ["crates.io", "*.pythonhosted.org", "localhost:3000", "10.0.0.1"] {
            assert!(is_allowable(good), "{good}");
        }
        for bad in [
            "", "*", "a,b", "a b", "http://a", "a:0", "a:x", "*.", "a..b", "-a.b", "a/b",
        ] {
            assert!(!is_allowable(bad), "{bad}");
        }
    }
}
