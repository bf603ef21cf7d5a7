//! YAML request bodies.

use serde_json::Value;

/// Parses one YAML document.
pub fn parse(_text: &str) -> Result<Value, String> {
    Err("YAML bodies that are no JSON are not read".into())
}
