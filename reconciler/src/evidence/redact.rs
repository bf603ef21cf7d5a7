//! Taking secrets out of what is stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

const MARK: &[u8] = b"[REDACTED]";
/// Shorter values are words, not secrets.
const SHORTEST: usize = 8;
/// Longest that stands before a host: a token may be a signed document.
const USER_INFO: usize = 4096;
/// Longest line that begins or ends a private key; its label is a few words.
const PEM_LINE: usize = 128;
/// Longest private key that is looked for across the edge of a segment.
const LONGEST_KEY: usize = 16 * 1024;
/// Bytes after a place by which it is known whether a secret begins there, but not where it ends.
const AHEAD: usize = 2 * USER_INFO;

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

/// Where the reading of a text stands.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Next byte to judge.
    at: usize,
    /// Secret that has begun and goes on there.
    open: Option<Open>,
    /// Up to here it is known that no `@` follows what URLs have for a host: nothing is looked through twice.
    clear: usize,
}

/// A secret whose end is nowhere near its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Token,
    Key,
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
        let shown = self.pass(text, &mut Place::default(), true, &(0..text.len()));
        shown.map_or_else(|| text.clone(), Bytes::from)
    }

    /// Replaces every secret of a segment, also the rest of a key that began in the one before it.
    pub fn redact_segment(&self, text: &Bytes) -> Bytes {
        if !ends_a_key(text) {
            return self.redact(text);
        }
        let mut inside = Place {
            open: Some(Open::Key),
            ..Place::default()
        };
        let rest = self.pass(text, &mut inside, true, &(0..text.len()));
        [MARK, &rest.unwrap_or_default()].concat().into()
    }

    /// Reads `text` on from `place` and returns what may be shown of it within `window`; `None` for all of it. The mark
    /// stands where a secret begins. Unless this is the `last` of the text, its end is left for when more is there.
    ///
    /// The work is linear in the text, whatever is in it.
    fn pass(&self, text: &[u8], place: &mut Place, last: bool, window: &Range<usize>) -> Option<Vec<u8>> {
        let ahead = self.secrets.first().map_or(AHEAD, |longest| AHEAD.max(longest.len()));
        let sure = if last {
            text.len()
        } else {
            text.len().saturating_sub(ahead)
        };
        let mut out = place.open.is_some().then(Vec::new);
        let mut copied = place.at;
        while place.at < sure || place.open.is_some() {
            match place.open {
                None => {
                    let Some((length, open)) = self.secret_at(text, place) else {
                        place.at += 1;
                        continue;
                    };
                    let out = out.get_or_insert_with(|| Vec::with_capacity(text.len()));
                    out.extend_from_slice(&text[clip(copied..place.at, window)]);
                    if window.contains(&place.at) {
                        out.extend_from_slice(MARK);
                    }
                    place.at += length;
                    place.open = open;
                }
                Some(open) => {
                    let (length, ended) = open.length(&text[place.at..]);
                    place.at += length;
                    if !ended && !last {
                        copied = place.at;
                        break;
                    }
                    if !ended {
                        place.at = text.len();
                    }
                    place.open = None;
                }
            }
            copied = place.at;
        }
        if let Some(out) = &mut out {
            out.extend_from_slice(&text[clip(copied..place.at, window)]);
        }
        out
    }

    /// Returns the length of the secret that begins at `place`, or of its beginning where it goes on.
    fn secret_at(&self, text: &[u8], place: &mut Place) -> Option<(usize, Option<Open>)> {
        let at = place.at;
        let rest = &text[at..];
        if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
            return Some((secret.len(), None));
        }
        if let Some(info) = user_info(text, place) {
            return Some((info, None));
        }
        if let Some(line) = key_begin(rest) {
            return Some((line, Some(Open::Key)));
        }
        // A transcript is JSON, where a line ends in a backslash and a letter.
        let escaped = at > 1 && text[at - 2] == b'\\' && matches!(text[at - 1], b'n' | b'r' | b't');
        let inside = at > 0 && !escaped && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
        if inside {
            return None;
        }
        let token = |&(prefix, least): &(&[u8], usize)| {
            let end = prefix.len() + least;
            let whole = rest.starts_with(prefix) && rest.len() >= end && rest[prefix.len()..end].iter().all(is_token);
            whole.then_some((end, Some(Open::Token)))
        };
        TOKENS.iter().find_map(token)
    }
}

impl Open {
    /// Returns how much of `rest` belongs to the secret for sure, and whether it ends there.
    fn length(self, rest: &[u8]) -> (usize, bool) {
        match self {
            Self::Token => {
                let length = rest.iter().take_while(|b| is_token(b)).count();
                (length, length < rest.len())
            }
            // The line that ends a key may be here in part.
            Self::Key => match key_end(rest) {
                Some(length) => (length, true),
                None => (rest.len().saturating_sub(PEM_LINE), false),
            },
        }
    }
}

/// Takes secrets out of a text that comes in pieces, and holds no more of it than it takes to judge them.
///
/// What comes out is what [`Redactor::redact`] makes of the whole text.
#[derive(Debug)]
pub struct Redaction {
    redactor: Arc<Redactor>,
    window: Range<u64>,
    held: Vec<u8>,
    place: Place,
    /// Bytes of the text before those that are held.
    gone: u64,
}

impl Redaction {
    /// Begins a text of which only `window` is shown; the rest says where secrets begin and end.
    pub fn new(redactor: Arc<Redactor>, window: Range<u64>) -> Self {
        Self {
            redactor,
            window,
            held: Vec::new(),
            place: Place::default(),
            gone: 0,
        }
    }

    /// Takes the next piece and returns what may be shown by now; with the `last` piece, all that is left.
    pub fn push(&mut self, piece: &[u8], last: bool) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let here = |at: u64| usize::try_from(at.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        let window = here(self.window.start)..here(self.window.end);
        let from = self.place.at;
        let shown = self.redactor.pass(&self.held, &mut self.place, last, &window);
        let shown = shown.unwrap_or_else(|| self.held[clip(from..self.place.at, &window)].to_vec());
        // Whether a token begins can be seen from the two bytes before it.
        let done = self.place.at.saturating_sub(2);
        self.held.drain(..done);
        self.place.at -= done;
        self.place.clear = self.place.clear.saturating_sub(done);
        self.gone += done as u64;
        shown
    }
}

/// Returns the part of `range` that lies within `window`.
fn clip(range: Range<usize>, window: &Range<usize>) -> Range<usize> {
    let start = window.start.clamp(range.start, range.end);
    start..window.end.clamp(start, range.end)
}

fn is_token(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(*b, b'_' | b'-')
}

/// Returns the length of the line that begins a PEM private key, up to the end of its label.
fn key_begin(rest: &[u8]) -> Option<usize> {
    const LABEL: &[u8] = b"PRIVATE KEY-----";
    if !rest.starts_with(b"-----BEGIN ") {
        return None;
    }
    let line = &rest[..rest.len().min(PEM_LINE)];
    let line = &line[..line.iter().position(|b| *b == b'\n').unwrap_or(line.len())];
    find(line, LABEL).map(|label| label + LABEL.len())
}

/// Returns where a PEM private key ends, after the line that ends it.
fn key_end(rest: &[u8]) -> Option<usize> {
    const BEGINS: &[u8] = b"-----END ";
    const ENDS: &[u8] = b"-----";
    let mut at = 0;
    while let Some(found) = find(&rest[at..], BEGINS) {
        let label = at + found + BEGINS.len();
        let line = &rest[label..rest.len().min(at + found + PEM_LINE)];
        let label = find(line, ENDS).map(|length| (label + length, &line[..length]));
        if let Some((end, label)) = label
            && label.ends_with(b"PRIVATE KEY")
            && !label.contains(&b'\n')
        {
            return Some(end + ENDS.len());
        }
        at += found + BEGINS.len();
    }
    None
}

/// Says whether a text begins within a private key: near its beginning one ends that did not begin in it.
fn ends_a_key(text: &[u8]) -> bool {
    let start = &text[..text.len().min(LONGEST_KEY)];
    let begins = |at: usize| key_begin(&text[at..]).is_some();
    key_end(start).is_some_and(|end| !(0..end).any(begins))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Returns the length of `https://user:password@` up to the last `@` before the host, where a URL at `place` names a
/// user. Over http a user may be a token; over ssh only a password is secret.
fn user_info(text: &[u8], place: &mut Place) -> Option<usize> {
    let schemes = [&b"https://"[..], b"http://", b"ssh://"];
    let rest = &text[place.at..];
    let matches = |scheme: &&&[u8]| {
        rest.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let scheme = schemes.iter().find(matches)?;
    let host = &rest[scheme.len()..];
    let host = &host[..host.len().min(USER_INFO)];
    let path = |b: &u8| ends_address(b) || matches!(b, b'/' | b'?' | b'#');
    let authority = &host[..host.iter().position(path).unwrap_or(host.len())];
    let port = authority
        .iter()
        .rposition(|b| *b == b':')
        .map(|at| &authority[at + 1..]);
    let port = port.filter(|port| !port.contains(&b']'));
    let end = match (authority.iter().rposition(|b| *b == b'@'), port) {
        (Some(at), _) => at,
        // A port is a number: this is a password with a slash in it.
        (None, Some(port)) if !port.iter().all(u8::is_ascii_digit) => {
            let start = place.at + scheme.len();
            last_at(text, start + authority.len()..start + host.len(), &mut place.clear)? - start
        }
        _ => return None,
    };
    let secret = *scheme != schemes[2] || host[..end].contains(&b':');
    (secret && end > 0).then_some(scheme.len() + end)
}

/// Returns where the last `@` of an address is that goes on in `range`. Nothing before `clear` is one or ends the
/// address; since the ranges asked for only ever move on, all of them together are looked through once.
fn last_at(text: &[u8], range: Range<usize>, clear: &mut usize) -> Option<usize> {
    let mut last = None;
    let mut at = range.start.max(*clear);
    while at < range.end && !ends_address(&text[at]) {
        if text[at] == b'@' {
            last = Some(at);
        }
        at += 1;
    }
    if last.is_none() {
        *clear = at;
    }
    last
}

fn ends_address(b: &u8) -> bool {
    b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'<' | b'>' | b'`' | b'\\')
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
    fn a_key_that_the_edge_of_a_segment_cuts_goes_on_both_sides() {
        let (first, second) = (
            "a\n-----BEGIN PRIVATE KEY-----\nMIIE",
            "vQIB\n-----END PRIVATE KEY-----\nb",
        );
        let segment = |text: &str| {
            let shown = Redactor::default().redact_segment(&Bytes::copy_from_slice(text.as_bytes()));
            String::from_utf8(shown.to_vec()).unwrap()
        };
        assert_eq!(segment(first), "a\n[REDACTED]");
        assert_eq!(segment(second), "[REDACTED]\nb");
        assert_eq!(segment(&format!("{first}{second}")), "a\n[REDACTED]\nb");
        assert_eq!(
            segment("a\n-----END CERTIFICATE-----\n"),
            "a\n-----END CERTIFICATE-----\n"
        );
        let far = format!("{}{second}", "x".repeat(LONGEST_KEY));
        assert_eq!(segment(&far), far, "no key is that long");
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

    #[test]
    fn a_key_goes_on_to_the_line_that_ends_it() {
        // In a transcript a key is one line.
        assert_eq!(
            redact(r#"{"a":"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\nb"}"#),
            r#"{"a":"[REDACTED]\nb"}"#
        );
        for key in [
            "-----BEGIN PRIVATE KEY-----\nabc\n-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n-----END CERTIFICATE-----\nabc\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n-----END \nPRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
        ] {
            assert_eq!(redact(&format!("a {key} b")), "a [REDACTED] b");
        }
        assert_eq!(redact("a\n-----BEGIN PRIVATE KEY-----\nabc\n"), "a\n[REDACTED]");
    }

    #[test]
    fn no_text_takes_longer_than_others_of_its_length() {
        const MIB: usize = 1 << 20;
        let key = "-----BEGIN PRIVATE KEY-----\n";
        let texts = [
            ("", "-----BEGIN "),
            ("", "-----BEGIN RSA-----"),
            ("", "http://a:b/"),
            ("", "ssh://git@h"),
            ("", "https://"),
            ("", "sk-sk-. "),
            (key, "-----BEGIN "),
            (key, "-----END "),
            (key, "-----END RSA PRIVATE KEY\n"),
        ];
        let (told, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for (start, again) in texts {
                let text = Bytes::from(format!("{start}{}", again.repeat(2 * MIB / again.len())));
                let shown = Redactor::default().redact(&text);
                told.send(if start.is_empty() { shown == text } else { shown == MARK })
                    .unwrap();
            }
        });
        // Each takes a second or so; where the rest of a text is looked through from each of its places, hours.
        for (start, again) in texts {
            let right = done.recv_timeout(std::time::Duration::from_secs(120));
            assert_eq!(right, Ok(true), "{start:?}, then {again:?} again and again");
        }
    }

    /// Redacts a text that comes in pieces which end at `cuts`.
    fn in_pieces(redactor: &Redactor, text: &[u8], window: Range<u64>, cuts: &[usize]) -> Vec<u8> {
        let mut redaction = Redaction::new(Arc::new(redactor.clone()), window);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut at = 0;
        let mut shown = Vec::new();
        for cut in cuts {
            shown.extend(redaction.push(&text[at..cut], false));
            at = cut;
        }
        shown.extend(redaction.push(&text[at..], true));
        shown
    }

    proptest! {
        #[test]
        fn parts_cut_anywhere_come_out_as_the_whole(cuts in (0..200u64, 0..200u64)) {
            let redactor = Redactor::new(["hunter2hunter2".to_owned()]);
            let key = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----";
            let text = format!("a hunter2hunter2 b ghp_{} c https://me:pw@h/r\n{key}\nd", "a".repeat(36)).into_bytes();
            let length = text.len() as u64;
            let (one, two) = (cuts.0.min(length), cuts.1.min(length));
            let (one, two) = (one.min(two), one.max(two));
            let part = |from: u64, to: u64| in_pieces(&redactor, &text, from..to, &[]);
            let joined = [part(0, one), part(one, two), part(two, length)].concat();
            prop_assert_eq!(joined, redactor.redact(&Bytes::from(text)).to_vec());
        }

        #[test]
        fn pieces_cut_anywhere_come_out_as_the_whole(
            words in prop::collection::vec(0..16usize, 0..40),
            cuts in prop::collection::vec(0..100_000usize, 0..8),
        ) {
            let far = "/a ".repeat(AHEAD / 2);
            let long = "x".repeat(AHEAD);
            let known = [
                "hunter2hunter2", "hunter2", "ghp_", "sk-", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &long, &far, "https://me:", "ssh://",
                "@h", "/", "\n", "-----BEGIN ", "-----END ", "RSA PRIVATE KEY-----", "-----",
            ];
            let text: String = words.iter().map(|word| known[*word]).collect();
            let redactor = Redactor::new(["hunter2hunter2".to_owned()]);
            let whole = redactor.redact(&Bytes::from(text.clone()));
            prop_assert_eq!(in_pieces(&redactor, text.as_bytes(), 0..u64::MAX, &cuts), whole.to_vec());
        }

        #[test]
        fn a_known_secret_never_survives(before in ".{0,40}", after in ".{0,40}") {
            let text = format!("{before}hunter2hunter2{after}");
            prop_assert!(!redact(&text).contains("hunter2hunter2"));
        }
    }
}
