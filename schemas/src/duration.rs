//! Durations as Kubernetes and Go write them: `90s`, `5m`, `1h30m`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("failed to read {text:?} as a duration: expected numbers with the units ms, s, m or h, such as 90s or 1h30m")]
pub struct DurationError {
    /// Text that was found.
    pub text: String,
}

const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration such as `90s`, `5m`, `1h30m` or `1.5h`; a bare `0` is allowed, other bare numbers are not.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError { text: text.to_owned() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, scale)| *scale)
            .ok_or_else(error)?;
        let part = decimal(number, scale).ok_or_else(error)?;
        nanos = nanos.checked_add(part).ok_or_else(error)?;
        rest = next;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| error())?;
    let subsecond = u32::try_from(nanos % 1_000_000_000).map_err(|_| error())?;
    Ok(Duration::new(seconds, subsecond))
}

fn decimal(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 15 || fraction.len() > 15 {
        return None;
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<u128>().ok()
        }
    };
    let power = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?
        .checked_mul(scale)?
        .checked_add(digits(fraction)?.checked_mul(scale)? / power)
}

/// Writes a duration with the units h, m, s and ms, such as `1h30m`.
pub fn format(duration: Duration) -> String {
    let mut text = String::new();
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
    ];
    for (count, unit) in parts {
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_of_every_unit_are_read() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("0", 0),
            (".5s", 500),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "",
            "5",
            "s",
            "5 m",
            "-5s",
            "5x",
            "1h30",
            ".s",
            "5s ",
            "99999999999999999999h",
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(
                message.contains("1h30m") && message.contains(&format!("{text:?}")),
                "{message}"
            );
        }
    }

    proptest! {
        #[test]
        fn written_durations_read_back(millis in 0u64..1_000_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)).unwrap(), duration);
        }

        #[test]
        fn no_text_makes_the_reader_fail_otherwise(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
