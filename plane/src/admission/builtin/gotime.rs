//! Times as Go reads and writes them in built-in kinds: `Time` in seconds, `MicroTime` with exactly six digits more.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::admission::gofmt::quote;

/// Go's layouts, in the parts that its parser knows.
const SECONDS: [&str; 12] = ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", "Z07:00"];
const MICROS: [&str; 13] = [
    "2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", ".000000", "Z07:00",
];

/// Why a part of a time cannot be read.
enum Fault {
    Unreadable,
    OutOfRange(&'static str),
}

/// Reads a time of `Time`, or of `MicroTime`, and returns it as the server writes it.
///
/// # Errors
/// Go's words.
pub(super) fn canonical(text: &str, micro: bool) -> Result<String, String> {
    let layout: &[&str] = if micro { &MICROS } else { &SECONDS };
    let time = read(text, layout).map_err(|said| match said {
        Said::CannotParse(rest, part) => format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quote(text),
            quote(&layout.concat()),
            quote(rest),
            quote(part)
        ),
        Said::Else(words) => format!("parsing time {}: {words}", quote(text)),
    })?;
    let format = if micro {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(time.strftime(format).to_string())
}

/// What is wrong with a time: a part that cannot be read as one of the layout's, or something else.
enum Said<'a> {
    CannotParse(&'a str, &'static str),
    Else(String),
}

fn read<'a>(text: &'a str, layout: &[&'static str]) -> Result<Timestamp, Said<'a>> {
    let mut rest = text;
    // Year, month, day, hour, minute, second.
    let mut fields = [0i64; 6];
    let mut nanos = 0;
    let mut offset = 0;
    let mut next = 0;
    for part in layout {
        let before = rest;
        let done = match *part {
            "-" | "T" | ":" => strip(&mut rest, part),
            "Z07:00" => zone(&mut rest).map(|seconds| offset = seconds),
            ".000000" => fraction(&mut rest, Some(6)).map(|found| nanos = found),
            _ => {
                let field = number(&mut rest, part).map(|found| fields[next] = found);
                next += 1;
                field
            }
        };
        done.map_err(|fault| match fault {
            Fault::Unreadable => Said::CannotParse(before, part),
            Fault::OutOfRange(what) => Said::Else(format!("{what} out of range")),
        })?;
        // Seconds may have a fraction that the layout does not speak of.
        if *part == "05" && !layout.contains(&".000000") && has_fraction(rest) {
            nanos = fraction(&mut rest, None).map_err(|_| Said::CannotParse(before, part))?;
        }
    }
    if !rest.is_empty() {
        return Err(Said::Else(format!("extra text: {}", quote(rest))));
    }
    let small = |at: usize| i8::try_from(fields[at]).unwrap_or(-1);
    let year = i16::try_from(fields[0]).unwrap_or(-1);
    // All but the day were held to their range before.
    let civil = DateTime::new(year, small(1), small(2), small(3), small(4), small(5), nanos)
        .map_err(|_| Said::Else("day out of range".to_owned()))?;
    civil
        .to_zoned(TimeZone::UTC)
        .ok()
        .and_then(|zoned| zoned.timestamp().checked_sub(SignedDuration::from_secs(offset)).ok())
        .ok_or_else(|| Said::Else("year out of range".to_owned()))
}

fn strip(rest: &mut &str, part: &str) -> Result<(), Fault> {
    *rest = rest.strip_prefix(part).ok_or(Fault::Unreadable)?;
    Ok(())
}

/// Takes so many digits off the head.
fn digits(rest: &mut &str, width: usize) -> Result<i64, Fault> {
    let head = rest.get(..width).ok_or(Fault::Unreadable)?;
    if !head.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Unreadable);
    }
    *rest = &rest[width..];
    head.parse().map_err(|_| Fault::Unreadable)
}

fn number(rest: &mut &str, part: &str) -> Result<i64, Fault> {
    let (width, least, most, what) = match part {
        "2006" => (4, 0, 9999, "year"),
        "01" => (2, 1, 12, "month"),
        "02" => (2, 0, 99, "day"),
        // Go takes an hour of one digit as well.
        "15" => (2, 0, 23, "hour"),
        "04" => (2, 0, 59, "minute"),
        _ => (2, 0, 59, "second"),
    };
    let single = part == "15" && !rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let found = digits(rest, if single { 1 } else { width })?;
    if (least..=most).contains(&found) {
        Ok(found)
    } else {
        Err(Fault::OutOfRange(what))
    }
}

fn has_fraction(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    matches!(bytes.first(), Some(b'.' | b',')) && bytes.get(1).is_some_and(u8::is_ascii_digit)
}

/// Reads a fraction of a second in nanoseconds: of so many digits, or of all that there are.
fn fraction(rest: &mut &str, width: Option<usize>) -> Result<i32, Fault> {
    let after = rest.strip_prefix(['.', ',']).ok_or(Fault::Unreadable)?;
    let all = after.bytes().take_while(u8::is_ascii_digit).count();
    let width = width.unwrap_or(all);
    if all < width {
        return Err(Fault::Unreadable);
    }
    let (head, tail) = after.split_at(width);
    *rest = tail;
    let nanos = format!("{head:0<9}");
    nanos[..9].parse().map_err(|_| Fault::Unreadable)
}

/// Reads a zone as its offset in seconds.
fn zone(rest: &mut &str) -> Result<i64, Fault> {
    if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        return Ok(0);
    }
    let mut after = *rest;
    let sign = match after.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Err(Fault::Unreadable),
    };
    after = &after[1..];
    let hours = digits(&mut after, 2)?;
    strip(&mut after, ":")?;
    let minutes = digits(&mut after, 2)?;
    *rest = after;
    // Go's bounds, which some write as the end of a day or an hour.
    match (hours, minutes) {
        (25.., _) => Err(Fault::OutOfRange("time zone offset hour")),
        (_, 61..) => Err(Fault::OutOfRange("time zone offset minute")),
        _ => Ok(sign * (hours * 60 + minutes) * 60),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_as_go_reads_them_and_written_in_utc() {
        let table = [
            ("2020-01-02T03:04:05Z", Some("2020-01-02T03:04:05Z"), None),
            ("2020-01-02T03:04:05.999Z", Some("2020-01-02T03:04:05Z"), None),
            ("2020-01-02T03:04:05+02:30", Some("2020-01-02T00:34:05Z"), None),
            (
                "2020-01-02T03:04:05.123456-01:00",
                Some("2020-01-02T04:04:05Z"),
                Some("2020-01-02T04:04:05.123456Z"),
            ),
            (
                "2020-01-02T03:04:05.000000Z",
                Some("2020-01-02T03:04:05Z"),
                Some("2020-01-02T03:04:05.000000Z"),
            ),
            ("2020-01-02T03:04:05.1234567Z", Some("2020-01-02T03:04:05Z"), None),
            ("2020-01-02T3:04:05Z", Some("2020-01-02T03:04:05Z"), None),
            ("2020-01-02t03:04:05Z", None, None),
            ("2020-01-02 03:04:05Z", None, None),
            ("2020-01-02T03:04:05z", None, None),
            ("2020-01-02T03:04:05", None, None),
            ("2020-01-02T03:04Z", None, None),
            ("2020-01-02T03:04:05+02", None, None),
            ("2020-01-02T03:04:05Z[UTC]", None, None),
            ("+002020-01-02T03:04:05Z", None, None),
            ("2020-02-30T03:04:05Z", None, None),
            ("2020-01-02T03:04:60Z", None, None),
        ];
        for (text, seconds, micros) in table {
            assert_eq!(canonical(text, false).ok().as_deref(), seconds, "{text}");
            assert_eq!(canonical(text, true).ok().as_deref(), micros, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_gos_words() {
        let table = [
            (
                "yesterday",
                true,
                r#"parsing time "yesterday" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "yesterday" as "2006""#,
            ),
            (
                "2020-01-02T03:04:05Z",
                true,
                r#"parsing time "2020-01-02T03:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
            ),
            (
                "2020-01-02",
                false,
                r#"parsing time "2020-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
            ),
            (
                "2020-13-02T03:04:05Z",
                false,
                r#"parsing time "2020-13-02T03:04:05Z": month out of range"#,
            ),
            (
                "2020-02-30T03:04:05Z",
                false,
                r#"parsing time "2020-02-30T03:04:05Z": day out of range"#,
            ),
            (
                "2020-01-02T03:04:05Zx",
                false,
                r#"parsing time "2020-01-02T03:04:05Zx": extra text: "x""#,
            ),
        ];
        for (text, micro, expected) in table {
            assert_eq!(canonical(text, micro).unwrap_err(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_time(text in ".{0,30}|[0-9TZ:.,+-]{0,40}") {
            let _ = canonical(&text, false);
            let _ = canonical(&text, true);
        }

        #[test]
        fn what_is_written_is_read_as_the_same(seconds in 0i64..253_402_300_799, micros in 0i32..1_000_000) {
            let time = Timestamp::new(seconds, micros * 1000).unwrap();
            let text = canonical(&time.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string(), true).unwrap();
            prop_assert_eq!(text.parse::<Timestamp>().unwrap(), time);
            prop_assert_eq!(canonical(&text, true).unwrap(), text);
        }
    }
}
