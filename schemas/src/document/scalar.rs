//! Scalars, read by the core schema of YAML 1.2.

use saphyr_parser::{ScalarStyle, Tag};
use serde_json::{Number, Value};

/// Reads a scalar; `None` where a tag does not fit it.
pub(super) fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let plain = if style == ScalarStyle::Plain {
        resolve(text)
    } else {
        Value::String(text.to_owned())
    };
    let Some(tag) = tag else { return Some(plain) };
    if tag.handle == "!" && tag.suffix.is_empty() {
        return Some(Value::String(text.to_owned()));
    }
    if !tag.is_yaml_core_schema() {
        return None;
    }
    match (tag.suffix.as_str(), resolve(text)) {
        ("str", _) => Some(Value::String(text.to_owned())),
        ("null", Value::Null) => Some(Value::Null),
        ("bool", value @ Value::Bool(_)) => Some(value),
        ("int", Value::Number(number)) if !number.is_f64() => Some(Value::Number(number)),
        ("float", value @ Value::Number(_)) => Some(value),
        _ => None,
    }
}

/// Reads a plain scalar by the core schema of YAML 1.2. Digits after a leading zero stay text, as they are no number
/// in JSON.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().map(Number::from);
    let number = if let Some(digits) = text.strip_prefix("0x") {
        radix(digits, 16)
    } else if let Some(digits) = text.strip_prefix("0o") {
        radix(digits, 8)
    } else if unsigned.starts_with('0') && unsigned[1..].starts_with(|c: char| c.is_ascii_digit()) {
        None
    } else if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = text.strip_prefix('+').unwrap_or(text);
        digits
            .parse::<i64>()
            .map(Number::from)
            .or_else(|_| digits.parse::<u64>().map(Number::from))
            .ok()
    } else {
        decimal(unsigned)
            .then(|| text.parse::<f64>().ok())
            .flatten()
            .and_then(Number::from_f64)
    };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// Says whether a text is a decimal with a point or an exponent: `1.5`, `.5`, `1e3`.
fn decimal(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let mantissa_fits =
        (digits(whole) && (fraction.is_empty() || digits(fraction))) || (whole.is_empty() && digits(fraction));
    mantissa_fits && exponent.is_none_or(digits)
}
