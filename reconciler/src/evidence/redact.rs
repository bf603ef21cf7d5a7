//! Taking secrets out of what is stored.

use bytes::Bytes;

const MARK: &[u8] = b"[REDACTED]";
/// Shorter values are words, not secrets.
const SHORTEST: usize = 8;

/// Beginnings of tokens that are secret wherever they stand, with the least number of characters that follow.
const TOKENS: [(&[u8], usize); 14] = [
    (b"ghp_", 30),
    (b"gho_", 30),
    (b"ghs_", 30),
    (b"ghu_", 30),
    (b"ghr_", 30),
    (b"github_pat_", 20),
    (b"glpat-", 16),
    (b"sk-", 20),
    (b"xoxb-", 20),
    (b"xoxp-", 20),
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"hf_", 30),
    (b"npm_", 30),
];

/// Knows secret values and what tokens look like.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Takes out these values, beside everything that looks like a token. Values below eight bytes are left.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<Vec<u8>> = secrets
            .into_iter()
            .map(String::into_bytes)
            .filter(|s| s.len() >= SHORTEST)
            .collect();
        // A secret that holds another goes first.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// Replaces every secret; the same text always gives the same result.
    pub fn redact(&self, text: &Bytes) -> Bytes {
        self.redact_part(&[], text, &[])
    }

    /// Replaces every secret in `text` as it stands between `before` and `after`, so that a secret which begins or
    /// ends outside goes as well. The mark stands where the secret begins.
    pub fn redact_part(&self, before: &[u8], text: &Bytes, after: &[u8]) -> Bytes {
        let joined: Vec<u8>;
        let whole: &[u8] = if before.is_empty() && after.is_empty() {
            text
        } else {
            joined = [before, text, after].concat();
            &joined
        };
        let (start, end) = (before.len(), before.len() + text.len());
        let mut out: Option<Vec<u8>> = None;
        let mut copied = start;
        let mut at = 0;
        while at < end {
            let length = self.secret_at(whole, at);
            if length == 0 {
                at += 1;
                continue;
            }
            if at + length > start {
                let out = out.get_or_insert_with(|| Vec::with_capacity(text.len()));
                if at >= start {
                    out.extend_from_slice(&whole[copied..at]);
                    out.extend_from_slice(MARK);
                }
                copied = (at + length).min(end);
            }
            at += length;
        }
        match out {
            None => text.clone(),
            Some(mut out) => {
                out.extend_from_slice(&whole[copied..end]);
                out.into()
            }
        }
    }

    /// Returns the length of the secret that begins at `at`; 0 for none.
    fn secret_at(&self, text: &[u8], at: usize) -> usize {
        let rest = &text[at..];
        if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
            return secret.len();
        }
        let info = user_info(rest);
        if info > 0 {
            return info;
        }
        // A transcript is JSON, where a line ends in a backslash and a letter.
        let escaped = at > 1 && text[at - 2] == b'\\' && matches!(text[at - 1], b'n' | b'r' | b't');
        let inside = at > 0 && !escaped && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
        if inside {
            return 0;
        }
        for (prefix, least) in TOKENS {
            if rest.starts_with(prefix) {
                let token = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'_' | b'-');
                let follows = rest[prefix.len()..].iter().take_while(token).count();
                if follows >= least {
                    return prefix.len() + follows;
                }
            }
        }
        if rest.starts_with(b"-----BEGIN ") {
            return private_key(rest);
        }
        0
    }
}

/// Returns the length of a PEM private key; one that is cut off goes to the end.
fn private_key(rest: &[u8]) -> usize {
    let line_end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    if !contains(&rest[..line_end], b"PRIVATE KEY-----") {
        return 0;
    }
    let end = b"PRIVATE KEY-----";
    let found = rest[line_end..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |found| line_end + found + end.len())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Longest that stands before a host: a token may be a signed document.
const USER_INFO: usize = 4096;

/// Returns the length of `https://user:password@` up to the last `@` before the host; 0 where a URL names no user. Over
/// http a user may be a token; over ssh only a password is secret.
fn user_info(rest: &[u8]) -> usize {
    let schemes = [&b"https://"[..], b"http://", b"ssh://"];
    let matches = |scheme: &&&[u8]| {
        rest.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let Some(scheme) = schemes.iter().find(matches) else {
        return 0;
    };
    let ends = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'<' | b'>' | b'`' | b'\\');
    let host = &rest[scheme.len()..];
    let host = &host[..host.len().min(USER_INFO)];
    let address = &host[..host.iter().position(ends).unwrap_or(host.len())];
    let path = address.iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
    let authority = &address[..path.unwrap_or(address.len())];
    let port = authority
        .iter()
        .rposition(|b| *b == b':')
        .map(|at| &authority[at + 1..]);
    let port = port.filter(|port| !port.contains(&b']'));
    let end = match (authority.iter().rposition(|b| *b == b'@'), port) {
        (Some(at), _) => at,
        // A port is a number: this is a password with a slash in it.
        (None, Some(port)) if !port.iter().all(u8::is_ascii_digit) => match address.iter().rposition(|b| *b == b'@') {
            Some(at) => at,
            None => return 0,
        },
        _ => return 0,
    };
    let secret = *scheme != schemes[2] || address[..end].contains(&b':');
    if secret && end > 0 { scheme.len() + end } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn redact(text: &str) -> String {
        let redactor = Redactor::new(["hunter2hunter2".to_owned(), "short".to_owned()]);
        String::from_utf8(redactor.redact(&Bytes::copy_from_slice(text.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn known_values_and_tokens_go_and_the_rest_stays() {
        assert_eq!(redact("a hunter2hunter2 b short"), "a [REDACTED] b short");
        let token = format!("x=ghp_{}.", "a".repeat(36));
        assert_eq!(redact(&token), "x=[REDACTED].");
        assert_eq!(
            redact("ghp_short and task-sk-not-a-token"),
            "ghp_short and task-sk-not-a-token"
        );
        assert_eq!(
            redact("git clone https://me:pw@h/r and https://h/r@v1"),
            "git clone [REDACTED]@h/r and https://h/r@v1"
        );
        for (text, shown) in [
            ("clone https://t0ken@h/r now", "clone [REDACTED]@h/r now"),
            ("HTTPS://t0ken@h/r", "[REDACTED]@h/r"),
            ("http://me:p@ss@h/r", "[REDACTED]@h/r"),
            ("https://me:pa/ss@h/r", "[REDACTED]@h/r"),
            (r#""said\nhttps://t0ken@h/r""#, r#""said\n[REDACTED]@h/r""#),
            (
                "https://h:8080/a@b and https://h/@scope/p",
                "https://h:8080/a@b and https://h/@scope/p",
            ),
            ("https://h/r me@example.com", "https://h/r me@example.com"),
            ("ssh://git@h/r ssh://me:pw@h/r", "ssh://git@h/r [REDACTED]@h/r"),
            ("https://@h/r", "https://@h/r"),
            (
                "https://[::1]:80/a@b https://[::1]/a@b",
                "https://[::1]:80/a@b https://[::1]/a@b",
            ),
        ] {
            assert_eq!(redact(text), shown);
        }
        let escaped = format!(r#""one\nghp_{}""#, "a".repeat(36));
        assert_eq!(redact(&escaped), r#""one\n[REDACTED]""#);
        let long = format!("https://x:{}@h/r", "a.".repeat(1000));
        assert_eq!(redact(&long), "[REDACTED]@h/r");
        let key = "a\n-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nb";
        assert_eq!(redact(key), "a\n[REDACTED]\nb");
        assert_eq!(
            redact("-----BEGIN CERTIFICATE-----\nabc"),
            "-----BEGIN CERTIFICATE-----\nabc"
        );
    }

    proptest! {
        #[test]
        fn parts_cut_anywhere_come_out_as_the_whole(cuts in (0..200usize, 0..200usize)) {
            let redactor = Redactor::new(["hunter2hunter2".to_owned()]);
            let key = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----";
            let text = format!("a hunter2hunter2 b ghp_{} c https://me:pw@h/r\n{key}\nd", "a".repeat(36)).into_bytes();
            let (one, two) = (cuts.0.min(text.len()), cuts.1.min(text.len()));
            let (one, two) = (one.min(two), one.max(two));
            let part = |from: usize, to: usize| {
                redactor.redact_part(&text[..from], &Bytes::copy_from_slice(&text[from..to]), &text[to..])
            };
            let joined = [part(0, one), part(one, two), part(two, text.len())].concat();
            prop_assert_eq!(joined, redactor.redact(&Bytes::from(text)).to_vec());
        }

        #[test]
        fn a_known_secret_never_survives(before in ".{0,40}", after in ".{0,40}") {
            let text = format!("{before}hunter2hunter2{after}");
            prop_assert!(!redact(&text).contains("hunter2hunter2"));
        }
    }
}
