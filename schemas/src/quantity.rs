//! Kubernetes quantities: `500m`, `4`, `8Gi`, `1e9`.

use thiserror::Error;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("failed to read {text:?} as a quantity: expected a number with an optional unit, such as 500m, 4 or 8Gi")]
pub struct QuantityError {
    /// Text that was found.
    pub text: String,
}

/// An amount, exact to a billionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

impl Quantity {
    /// Returns the amount in thousandths, rounded up: millicores of a processor.
    pub fn milli(self) -> i64 {
        round_up(self.nanos, 1_000_000)
    }

    /// Returns the amount in whole units, rounded up: bytes of memory.
    pub fn value(self) -> i64 {
        round_up(self.nanos, NANO)
    }

    /// Returns how many of `unit` there are in it, rounded up; a unit of nothing counts as one.
    pub fn in_units_of(self, unit: Quantity) -> i64 {
        round_up(self.nanos, if unit.nanos > 0 { unit.nanos } else { NANO })
    }
}

/// Rounds an amount up to whole units of so many billionths.
fn round_up(nanos: i128, unit: i128) -> i64 {
    let whole = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

const NANO: i128 = 1_000_000_000;

/// Reads a quantity in decimal (`n u m k M G T P E`), binary (`Ki` … `Ei`) or exponent (`1e9`) form.
pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
    read(text).ok_or_else(|| QuantityError { text: text.to_owned() })
}

/// Returns the smaller of two quantities; `ceiling` where either cannot be read.
pub fn at_most(text: &str, ceiling: &str) -> String {
    match (parse(text), parse(ceiling)) {
        (Ok(amount), Ok(most)) if amount <= most => text.to_owned(),
        _ => ceiling.to_owned(),
    }
}

fn read(text: &str) -> Option<Quantity> {
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let scale = scale(suffix)?;
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<i128>().ok()
        }
    };
    let power = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let nanos = digits(whole)?
        .checked_mul(scale)?
        .checked_add(digits(fraction)?.checked_mul(scale)?.checked_div(power)?)?;
    Some(Quantity { nanos: sign * nanos })
}

fn scale(suffix: &str) -> Option<i128> {
    let binary = |power: u32| Some(NANO * 1024i128.pow(power));
    let decimal = |power: u32| Some(NANO * 10i128.pow(power));
    match suffix {
        "" => Some(NANO),
        "n" => Some(1),
        "u" => Some(1_000),
        "m" => Some(1_000_000),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            match exponent {
                0..=18 => decimal(exponent.unsigned_abs()),
                -9..=-1 => Some(NANO / 10i128.pow(exponent.unsigned_abs())),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smaller_of_two_amounts_is_taken_as_it_was_written() {
        assert_eq!(at_most("4Gi", "512Mi"), "512Mi");
        assert_eq!(at_most("2", "8"), "2");
        assert_eq!(at_most("1500m", "1.5"), "1500m");
        assert_eq!(at_most("much", "8"), "8");
    }

    #[test]
    fn processors_are_read_in_millicores() {
        for (text, milli) in [
            ("4", 4000),
            ("500m", 500),
            ("0.5", 500),
            ("1.5", 1500),
            ("100u", 1),
            ("2e0", 2000),
        ] {
            assert_eq!(parse(text).unwrap().milli(), milli, "{text}");
        }
    }

    #[test]
    fn memory_is_read_in_bytes() {
        for (text, bytes) in [
            ("8Gi", 8 << 30),
            ("512Mi", 512 << 20),
            ("1G", 1_000_000_000),
            ("1.5Ki", 1536),
            ("1e9", 1_000_000_000),
            ("128", 128),
            ("1Ei", 1 << 60),
        ] {
            assert_eq!(parse(text).unwrap().value(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "Gi", "4 Gi", "4GiB", "four", "1e99", "1.2.3", "--1", "4gi"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_read_as_themselves(number in 0i64..i64::MAX) {
            prop_assert_eq!(parse(&number.to_string()).unwrap().value(), number);
        }

        #[test]
        fn no_text_makes_the_reader_fail_otherwise(text in "[0-9eEiKMGm.+-]{0,24}") {
            let _ = parse(&text);
        }
    }
}
