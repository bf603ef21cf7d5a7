//! Formats of strings that kube-apiserver checks; every other one is ignored.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

/// Formats known, with dashes left out as the server compares them.
const KNOWN: [&str; 25] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "",
];

/// Says whether strings of this format are checked.
pub fn is_known(format: &str) -> bool {
    !format.is_empty() && (KNOWN.contains(&plain(format).as_str()) || KNOWN.contains(&format))
}

/// Tells whether a format is one that Kubernetes names, checked or not.
pub fn is_named(format: &str) -> bool {
    let unchecked = [
        "int32",
        "int64",
        "float",
        "double",
        "password",
        "k8s-short-name",
        "k8s-long-name",
    ];
    is_known(format) || unchecked.contains(&format)
}

fn plain(format: &str) -> String {
    format.replace('-', "")
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern compiles")
}

// Digits and spaces are spelt out: `\d` and `\s` mean those of every script here, and ASCII's in Go.
static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    )
});
static UUID: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?([0-9a-f])[0-9a-f]{3}-?([0-9a-f])[0-9a-f]{3}-?[0-9a-f]{12}$")
});
static COLOR: LazyLock<Regex> = LazyLock::new(|| pattern(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB: LazyLock<Regex> = LazyLock::new(|| {
    let part = r"[\t\n\f\r ]*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])[\t\n\f\r ]*";
    pattern(&format!(r"^rgb\({part},{part},{part}\)$"))
});
static SSN: LazyLock<Regex> = LazyLock::new(|| pattern("^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"));
static CARD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
    )
});
static HEX24: LazyLock<Regex> = LazyLock::new(|| pattern("^[0-9a-fA-F]{24}$"));
static BASE64: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"));
static DATE_TIME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^[0-9]{4}-[0-9]{2}-[0-9]{2}t[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$")
});
static AMOUNT: LazyLock<Regex> = LazyLock::new(|| pattern(r"[0-9]+[\t\n\f\r ]*([A-Za-zµ]+)"));

/// Units of time in words: those that are meant as they stand, and the one that others begin with.
const UNITS: [(&[&str], &str); 8] = [
    (&["ns"], "nano"),
    (&["us", "µs"], "micro"),
    (&["ms"], "milli"),
    (&["s"], "sec"),
    (&["m"], "min"),
    (&["h", "hr"], "hour"),
    (&["d"], "day"),
    (&["w", "wk"], "week"),
];

/// Checks a string; a format that is not known accepts everything.
pub fn matches(format: &str, text: &str) -> bool {
    match plain(format).as_str() {
        "bsonobjectid" => HEX24.is_match(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => {
            HOSTNAME.is_match(text) && text.len() <= 255 && text.split('.').all(|p| !p.is_empty() && p.len() <= 63)
        }
        "ipv4" => is_ipv4(text),
        "ipv6" => Ipv6Addr::from_str(text).is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => version(text).is_some_and(|(v, _)| v == '3'),
        "uuid4" => version(text).is_some_and(|(v, r)| v == '4' && matches!(r, '8' | '9' | 'a' | 'b')),
        "uuid5" => version(text).is_some_and(|(v, r)| v == '5' && matches!(r, '8' | '9' | 'a' | 'b')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_card(text),
        "ssn" => text.len() == 11 && SSN.is_match(text),
        "hexcolor" => COLOR.is_match(text),
        "rgbcolor" => RGB.is_match(text),
        "byte" => BASE64.is_match(text),
        "date" => text.len() == 10 && jiff::civil::Date::strptime("%Y-%m-%d", text).is_ok(),
        "duration" => duration_nanos(text).is_some() || has_amount_of_time(text),
        "datetime" => is_date_time(text),
        _ => true,
    }
}

/// Reads a Go duration such as `1h30m` or `-1.5s` as nanoseconds.
pub fn duration_nanos(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ns", 1.0),
            ("us", 1e3),
            ("µs", 1e3),
            ("μs", 1e3),
            ("ms", 1e6),
            ("s", 1e9),
            ("m", 6e10),
            ("h", 3.6e12),
        ];
        let (unit, scale) = units.into_iter().find(|(unit, _)| {
            rest.strip_prefix(unit)
                .is_some_and(|after| after.is_empty() || after.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        })?;
        rest = &rest[unit.len()..];
        total += number * scale;
    }
    if total >= i64::MAX as f64 {
        return None;
    }
    let total = total as i64;
    Some(if negative { -total } else { total })
}

/// Says in Go's words why a text is no duration, if it is none.
pub fn wrong_duration(text: &str) -> Option<String> {
    if duration_nanos(text).is_some() {
        return None;
    }
    let invalid = format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    while !rest.is_empty() {
        let digit = |c: char| c.is_ascii_digit();
        let number = rest.find(|c| !digit(c) && c != '.').unwrap_or(rest.len());
        let (amount, after) = rest.split_at(number);
        if !amount.contains(digit) || amount.matches('.').count() > 1 {
            return Some(invalid);
        }
        let (unit, next) = after.split_at(after.find(|c| digit(c) || c == '.').unwrap_or(after.len()));
        if unit.is_empty() {
            return Some(format!("time: missing unit in duration {text:?}"));
        }
        if !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&unit) {
            return Some(format!("time: unknown unit {unit:?} in duration {text:?}"));
        }
        rest = next;
    }
    Some(invalid)
}

fn is_date_time(text: &str) -> bool {
    if text.len() < 4 || !DATE_TIME.is_match(text) {
        return false;
    }
    let day = text.get(..10).unwrap_or_default();
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|t| t.parse::<u8>().ok()).unwrap_or(u8::MAX);
    jiff::civil::Date::strptime("%Y-%m-%d", day).is_ok()
        && number(11..13) < 24
        && number(14..16) < 60
        && number(17..19) < 60
}

/// Tells whether any part of a text is an amount of time in words, as `1 day 2 hours` has two.
fn has_amount_of_time(text: &str) -> bool {
    AMOUNT.captures_iter(text).any(|found| {
        let unit = found[1].to_lowercase();
        UNITS
            .iter()
            .any(|(exact, start)| exact.contains(&unit.as_str()) || unit.starts_with(start))
    })
}

/// Reads zeros in front of numbers over, and takes an IPv4 address in the clothes of an IPv6 one.
fn is_ipv4(text: &str) -> bool {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let parts: Vec<String> = text.split('.').map(plain).collect();
    Ipv4Addr::from_str(&parts.join(".")).is_ok() || (text.contains('.') && Ipv6Addr::from_str(text).is_ok())
}

fn is_uri(text: &str) -> bool {
    if text.starts_with('/') {
        return !text.contains(char::is_control);
    }
    let spaced = text.contains(|c: char| c.is_whitespace() || c.is_control());
    let no_host = text.strip_suffix("//").unwrap_or(text).strip_suffix(':');
    let scheme = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    !spaced && (url::Url::parse(text).is_ok() || no_host.is_some_and(scheme))
}

/// Takes an address as mails have them: alone, after a name in angle brackets, or before a comment.
fn is_email(text: &str) -> bool {
    let text = text.trim();
    let text = match text.strip_suffix(')').and_then(|rest| rest.rsplit_once('(')) {
        Some((address, _)) => address.trim_end(),
        None => text,
    };
    let address = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((_, address)) => address,
        None => text,
    };
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '(' | ')' | ',');
        let dotted = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
        let plain = !local.contains(odd) && dotted(local) && !local.contains('@');
        !local.is_empty() && (quoted || plain) && !domain.is_empty() && !domain.contains(odd) && dotted(domain)
    })
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let Ok(bits) = bits.parse::<u8>() else {
        return false;
    };
    (Ipv4Addr::from_str(address).is_ok() && bits <= 32) || (Ipv6Addr::from_str(address).is_ok() && bits <= 128)
}

fn is_mac(text: &str) -> bool {
    let hex = |part: &str, width: usize| part.len() == width && part.bytes().all(|b| b.is_ascii_hexdigit());
    let grouped = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|p| hex(p, width))
    };
    grouped(':', 2, &[6, 8, 20]) || grouped('-', 2, &[6, 8, 20]) || grouped('.', 4, &[3, 4, 10])
}

fn version(text: &str) -> Option<(char, char)> {
    let found = UUID.captures(text)?;
    let letter = |i: usize| {
        found
            .get(i)
            .and_then(|m| m.as_str().chars().next())
            .map(|c| c.to_ascii_lowercase())
    };
    Some((letter(1)?, letter(2)?))
}

fn compact(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = compact(text);
    if text.len() != 10 || !text.is_ascii() {
        return false;
    }
    let mut sum = 0;
    for (i, c) in text.chars().enumerate() {
        let value = match c.to_digit(10) {
            Some(d) => d,
            None if i == 9 && c == 'X' => 10,
            None => return false,
        };
        sum += (i as u32 + 1) * value;
    }
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = compact(text);
    if text.len() != 13 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = text
        .bytes()
        .enumerate()
        .map(|(i, b)| u32::from(b - b'0') * if i % 2 == 0 { 1 } else { 3 })
        .sum();
    sum.is_multiple_of(10)
}

fn is_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !CARD.is_match(&digits) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let d = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
            if d > 9 { d - 9 } else { d }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn formats_accept_and_refuse() {
        let table = [
            ("date-time", "2024-02-29T10:00:00Z", true),
            ("date-time", "2023-02-29T10:00:00Z", false),
            ("date-time", "2024-02-29T25:00:00Z", false),
            ("date-time", "yesterday", false),
            ("date-time", "२०२४-०२-२९T10:00:00Z", false),
            ("date-time", "2024-02-29\u{a0}10:00:00Z", false),
            ("duration", "३ days", false),
            ("ssn", "१२३-45-6789", false),
            ("rgbcolor", "rgb(1, 2, 3)", true),
            ("rgbcolor", "rgb(1, 2, १२)", false),
            ("date", "2024-02-29", true),
            ("date", "2024-2-29", false),
            ("duration", "1h30m", true),
            ("duration", "3 days", true),
            ("duration", "soon", false),
            ("ipv4", "10.0.0.1", true),
            ("ipv4", "10.0.0.256", false),
            ("ipv6", "::1", true),
            ("cidr", "10.0.0.0/8", true),
            ("cidr", "10.0.0.0/33", false),
            ("uuid", "123E4567-e89b-12d3-a456-426614174000", true),
            ("uuid4", "123e4567-e89b-12d3-a456-426614174000", false),
            ("email", "a@b.example", true),
            ("email", "a b@c", false),
            ("hostname", "a.example", true),
            ("hostname", "-a", false),
            ("byte", "aGk=", true),
            ("byte", "a", false),
            ("mac", "00:11:22:33:44:55", true),
            ("uri", "https://example.com/x", true),
            ("uri", "not a uri", false),
            ("isbn", "978-0321751041", true),
            ("hexcolor", "#FFF", true),
            ("date-time", "2024-02-29t10:00:00.1234567890z", true),
            ("date-time", "2024-02-29 10:00:00Z", false),
            ("date-time", "2024-02-29T10:00:00", false),
            ("date-time", "2024-02-29T10:00:00+0100", false),
            ("duration", "1 Day 2 hours", true),
            ("duration", "1.5d", true),
            ("duration", "1 fortnight", false),
            ("email", "a b <a@b>", true),
            ("email", "<a b@c>", false),
            ("email", "\"a b\"@c", true),
            ("email", "a@b (x)", true),
            ("uri", "http://", true),
            ("uri", "/a b", true),
            ("uri", "foo", false),
            ("ssn", "123-45-6789", true),
            ("ssn", "123456789", false),
            ("ipv4", "01.2.3.4", true),
            ("ipv4", "::ffff:1.2.3.4", true),
            ("ipv4", "::1", false),
            ("ipv4", "1..2.3", false),
            ("k8s-short-name", "a.b", true),
            ("int32", "anything", true),
        ];
        for (format, text, expected) in table {
            assert_eq!(matches(format, text), expected, "{format} {text}");
        }
        assert!(is_known("date-time"));
        assert!(!is_known("int32") && !is_known("k8s-short-name"));
    }

    #[test]
    fn durations_are_read_in_nanoseconds() {
        assert_eq!(duration_nanos("1h1.5s"), Some(3_601_500_000_000));
        assert_eq!(duration_nanos("-2ms"), Some(-2_000_000));
        assert_eq!(duration_nanos("5"), None);
        assert_eq!(duration_nanos("s"), None);
        let wrong = |text| wrong_duration(text).unwrap_or_default();
        assert_eq!(wrong("1h"), "");
        assert_eq!(wrong("1"), "time: missing unit in duration \"1\"");
        assert_eq!(wrong("1h2"), "time: missing unit in duration \"1h2\"");
        assert_eq!(wrong("1d"), "time: unknown unit \"d\" in duration \"1d\"");
        for text in ["", "h", "-", "1.2.3s", "."] {
            assert_eq!(wrong(text), format!("time: invalid duration {text:?}"));
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_format(text in ".{0,40}", i in 0..KNOWN.len()) {
            let _ = matches(KNOWN[i], &text);
        }
        #[test]
        fn no_time_like_text_breaks_a_format(
            text in "[0-9TZ:.+-]{0,30}|[0-9.a-zµ ]{0,12}|\\d{4}-\\d{2}-\\d{2}[T\\s]\\d{2}:\\d{2}:\\d{2}(\\.\\d{1,9})?Z?",
        ) {
            let _ = matches("date-time", &text);
            let _ = matches("duration", &text);
        }
    }
}
