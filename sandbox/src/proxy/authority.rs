//! Names of hosts and ports, as requests and lists spell them.

use std::net::IpAddr;

/// Splits `host`, `host:port` or `[v6]:port`; `None` when the port is no number.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(number(port)?))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match text.rsplit_once(':') {
        // More than one colon: an IPv6 address without brackets, hence without a port.
        Some((host, _)) if host.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(number(port)?))),
        None => Some((text, None)),
    }
}

/// Reads digits and nothing else: a sign would be read differently elsewhere.
fn number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Tells whether a text has no character but those of names and addresses of hosts.
pub(super) fn is_plain(host: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-._:".contains(character);
    !host.is_empty() && host.chars().all(plain)
}

/// Returns the address that a host name spells out, if it is one.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

/// Spells a host and a port, an IPv6 address in brackets.
pub(super) fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_split_from_their_ports() {
        for (text, expected) in [
            ("a.example", Some(("a.example", None))),
            ("a.example:80", Some(("a.example", Some(80)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("::1", Some(("::1", None))),
            ("a.example:", None),
            ("a.example:+80", None),
            ("a.example:65536", None),
            ("[::1]80", None),
            ("[::1", None),
        ] {
            assert_eq!(split_port(text), expected, "{text}");
        }
    }
}
