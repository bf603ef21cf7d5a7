//! Quantities as the server writes them: `500m` for `0.5`, `1Gi` for `1024Mi`.
//!
//! The rules are those of Kubernetes' `resource.Quantity`: nothing finer than a billionth is kept (it is rounded away
//! from zero), nothing larger than 2⁶³-1, and the suffix keeps its family.

/// Nothing finer than one of so many parts is kept.
const NANO: i128 = 1_000_000_000;
/// What a thousandth is of that: lists of resources keep nothing finer.
const MILLI: i128 = 1_000_000;
/// Nothing larger than this is kept.
const MOST: i128 = i64::MAX as i128;

/// The family of a suffix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Decimal,
    Exponent,
    Binary,
}

const FORMAT: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX: &str = "unable to parse quantity's suffix";

/// Returns a quantity as the server writes it; `listed` tells whether it stands in a list of resources, which keeps
/// nothing finer than a thousandth.
///
/// # Errors
/// The server's words where the text is no quantity.
pub(super) fn canonical(text: &str, listed: bool) -> Result<String, &'static str> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) || !is_suffix(suffix) {
        return Err(FORMAT);
    }
    let (family, power) = interpret(suffix).ok_or(SUFFIX)?;
    let mut nanos = in_nanos(whole, fraction, family, power);
    if listed && nanos % MILLI != 0 {
        nanos += MILLI - nanos % MILLI;
    }
    let nanos = if negative { -nanos } else { nanos };
    Ok(write(nanos, family))
}

/// Tells whether a suffix is made of what suffixes are made of.
fn is_suffix(text: &str) -> bool {
    let rest = text.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a suffix as its family and the power of ten, or of 1024, that it stands for.
fn interpret(suffix: &str) -> Option<(Family, i64)> {
    const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(at) = DECIMAL.iter().position(|known| *known == suffix) {
        return Some((Family::Decimal, 3 * (at as i64 - 3)));
    }
    if let Some(at) = BINARY.iter().position(|known| *known == suffix) {
        return Some((Family::Binary, at as i64 + 1));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = exponent.parse().ok()?;
    Some((Family::Exponent, power.into()))
}

/// Returns a number in billionths, rounded up and held to the most that is kept.
fn in_nanos(whole: &str, fraction: &str, family: Family, power: i64) -> i128 {
    let capped = MOST * NANO;
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let (binary, ten) = match family {
        Family::Binary => (power, 0),
        Family::Decimal | Family::Exponent => (0, power),
    };
    // The value is the digits, times a power of ten, times one of 1024.
    let ten = ten + 9 - fraction.len() as i64;
    // Digits that stand for less than a billionth are dropped, but count.
    let finer = match family {
        Family::Decimal | Family::Exponent => usize::try_from(-ten).unwrap_or(0),
        Family::Binary => 0,
    };
    let (kept, dropped) = digits.split_at(digits.len().saturating_sub(finer));
    if kept.len() > 38 {
        return capped;
    }
    let mut value: i128 = if kept.is_empty() {
        0
    } else {
        kept.parse().unwrap_or(capped)
    };
    if dropped.bytes().any(|digit| digit != b'0') {
        value += 1;
    }
    for _ in 0..binary {
        value = value.saturating_mul(1024);
    }
    if ten > 0 {
        let factor = u32::try_from(ten).ok().and_then(|ten| 10i128.checked_pow(ten));
        value = factor.map_or(i128::MAX, |factor| value.saturating_mul(factor));
    } else if ten < 0 && family == Family::Binary {
        let divisor = u32::try_from(-ten).ok().and_then(|ten| 10i128.checked_pow(ten));
        value = divisor.map_or(1, |divisor| value / divisor + i128::from(value % divisor != 0));
    }
    value.min(capped)
}

fn write(nanos: i128, family: Family) -> String {
    if nanos == 0 {
        return "0".to_owned();
    }
    if family == Family::Binary && nanos % NANO == 0 && (nanos / NANO).abs() >= 1024 {
        let mut value = nanos / NANO;
        let mut power = 0;
        while value % 1024 == 0 {
            value /= 1024;
            power += 1;
        }
        let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(power).unwrap_or(&"");
        return format!("{value}{suffix}");
    }
    let mut value = nanos;
    let mut power = -9;
    while value % 10 == 0 {
        value /= 10;
        power += 1;
    }
    while power % 3 != 0 {
        value *= 10;
        power -= 1;
    }
    match (family, power) {
        (_, 0) => value.to_string(),
        (Family::Exponent, _) => format!("{value}e{power}"),
        _ => {
            let suffix = match power {
                -9 => "n",
                -6 => "u",
                -3 => "m",
                3 => "k",
                6 => "M",
                9 => "G",
                12 => "T",
                15 => "P",
                _ => "E",
            };
            format!("{value}{suffix}")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_written_as_the_server_writes_them() {
        let table = [
            ("0", Some("0")),
            ("-0.0", Some("0")),
            ("1", Some("1")),
            ("+1.50", Some("1500m")),
            ("0.5", Some("500m")),
            (".5", Some("500m")),
            ("5.", Some("5")),
            ("500m", Some("500m")),
            ("1000m", Some("1")),
            ("-2000m", Some("-2")),
            ("1000", Some("1k")),
            ("1500000", Some("1500k")),
            ("1024Mi", Some("1Gi")),
            ("1000Ki", Some("1000Ki")),
            ("0.5Gi", Some("512Mi")),
            ("1Ki", Some("1Ki")),
            ("0.1Ki", Some("102400m")),
            ("0.5Ki", Some("512")),
            ("1.0001Ki", Some("1024102400u")),
            ("1e3", Some("1e3")),
            ("12E2", Some("1200")),
            ("1e-3", Some("1e-3")),
            ("1E", Some("1E")),
            ("0.0000000001", Some("1n")),
            ("-0.0000000001", Some("-1n")),
            ("1.0000000001", Some("1000000001n")),
            ("100E", Some("9223372036854775807")),
            ("9Ei", Some("9223372036854775807")),
            ("1e400", Some("9223372036854775807")),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("1KiB", None),
            ("1 Gi", None),
            ("Gi", None),
            ("1e", None),
        ];
        for (text, expected) in table {
            assert_eq!(canonical(text, false).ok().as_deref(), expected, "{text}");
        }
        assert_eq!(canonical("0.00015", true).as_deref(), Ok("1m"));
        assert_eq!(canonical("1.0001Ki", true).as_deref(), Ok("1024103m"));
        assert_eq!(canonical("1KiB", true), Err(FORMAT));
        assert_eq!(canonical("1KK", true), Err(SUFFIX));
    }

    proptest! {
        #[test]
        fn what_is_written_stands_for_itself(text in "[+-]?[0-9]{0,24}(\\.[0-9]{0,14})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE]-?[0-9]{1,2})?") {
            for listed in [true, false] {
                if let Ok(once) = canonical(&text, listed) {
                    prop_assert_eq!(canonical(&once, listed).unwrap(), once);
                }
            }
        }

        #[test]
        fn no_text_breaks_a_quantity(text in ".{0,30}") {
            let _ = canonical(&text, true);
        }
    }
}
