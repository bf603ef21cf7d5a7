//! Kubernetes quantities.

fn number(text: &str) -> Option<f64> {
    let (digits, factor) = match text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+')) {
        None => (text, 1.0),
        Some(at) => {
            let factor = match &text[at..] {
                "n" => 1e-9,
                "u" => 1e-6,
                "m" => 1e-3,
                "k" => 1e3,
                "M" => 1e6,
                "G" => 1e9,
                "T" => 1e12,
                "P" => 1e15,
                "E" => 1e18,
                "Ki" => 1024.0,
                "Mi" => 1024.0 * 1024.0,
                "Gi" => 1024.0 * 1024.0 * 1024.0,
                "Ti" => 1024.0_f64.powi(4),
                "Pi" => 1024.0_f64.powi(5),
                "Ei" => 1024.0_f64.powi(6),
                exponent if exponent.starts_with(['e', 'E']) => return text.parse().ok(),
                _ => return None,
            };
            (&text[..at], factor)
        }
    };
    let value: f64 = digits.parse().ok()?;
    Some(value * factor).filter(|value| value.is_finite() && *value >= 0.0)
}

/// Reads an amount of memory in bytes.
pub fn bytes(text: &str) -> Option<u64> {
    number(text).map(|value| value.ceil() as u64)
}

/// Reads a number of processors.
pub fn cpus(text: &str) -> Option<f64> {
    number(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_every_unit() {
        for (text, wanted) in [
            ("128", 128),
            ("1Ki", 1024),
            ("8Gi", 8 << 30),
            ("2M", 2_000_000),
            ("1e3", 1000),
            ("1.5Mi", 1_572_864),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ei", 1 << 60),
        ] {
            assert_eq!(bytes(text), Some(wanted), "{text}");
        }
        assert_eq!(cpus("500m"), Some(0.5));
        for text in ["", "x", "1X", "-1"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
