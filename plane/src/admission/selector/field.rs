//! Field selectors.

use serde_json::Value;

use crate::admission::gofmt;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

/// A field selector, parsed; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Parses the text of `fieldSelector=`.
    ///
    /// # Errors
    /// kube-apiserver's message (400).
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let Some((start, length)) = operator_at(part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let equal = !part[start..].starts_with('!');
            terms.push(Term {
                field: part[..start].to_owned(),
                equal,
                value: unescape(&part[start + length..])?,
            });
        }
        Ok(Self { terms })
    }

    /// Refuses fields that the kind does not select by. `selectable` holds paths
    /// without a leading dot besides `metadata.name` and `metadata.namespace`.
    ///
    /// # Errors
    /// kube-apiserver's message (400).
    pub fn check(&self, api_version: &str, kind: &str, selectable: &[&str]) -> Result<(), String> {
        for term in &self.terms {
            let field = term.field.as_str();
            if matches!(field, "metadata.name" | "metadata.namespace") || selectable.contains(&field) {
                continue;
            }
            return Err(match (api_version, kind) {
                ("batch/v1", "Job") => {
                    format!("field label {} not supported for Job", gofmt::quote(field))
                }
                ("v1", "ConfigMap" | "PersistentVolumeClaim")
                | ("coordination.k8s.io/v1" | "apiextensions.k8s.io/v1", _) => {
                    format!(
                        "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        gofmt::quote(field)
                    )
                }
                _ => format!("field label not supported: {field}"),
            });
        }
        Ok(())
    }

    /// Matches an object's fields; an absent one is the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|t| (field_text(object, &t.field) == t.value) == t.equal)
    }

    /// Returns the value that the selector demands of a field, if it demands one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equal && t.field == field)
            .map(|t| t.value.as_str())
    }

    /// Says whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

fn field_text(object: &Value, field: &str) -> String {
    let mut at = object;
    // An Event's `source` field is its reporting component's name.
    let path = match field {
        "source" if object["kind"] == "Event" => "source.component",
        other => other,
    };
    for key in path.split('.') {
        at = &at[key];
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        _ if path == "status.successful" || path == "status.succeeded" => "0".to_owned(),
        _ if path == "spec.hostNetwork" => "false".to_owned(),
        _ => String::new(),
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            terms.push(&text[start..i]);
            start = i + 1;
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Finds the first operator: its start and length.
fn operator_at(part: &str) -> Option<(usize, usize)> {
    part.char_indices().find_map(|(i, _)| {
        let rest = &part[i..];
        if rest.starts_with("!=") || rest.starts_with("==") {
            Some((i, 2))
        } else if rest.starts_with('=') {
            Some((i, 1))
        } else {
            None
        }
    })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(format!("invalid field selector: invalid escape sequence: \\{c}"));
                }
                None => {
                    return Err("invalid field selector: invalid escape sequence: \\".to_owned());
                }
            },
            ',' | '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {}",
                    c as u32
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_are_compared_as_text() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x,y"}, "status": {"phase": "Running"}});
        let table = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,status.phase!=Failed", true),
            ("metadata.name!=a", false),
            (r"spec.nodeName=x\,y", true),
            ("spec.missing=", true),
        ];
        for (text, expected) in table {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(&pod), expected, "{text}");
        }
    }

    #[test]
    fn broken_and_unknown_fields_are_refused() {
        assert_eq!(
            FieldSelector::parse("abc").unwrap_err(),
            "invalid selector: 'abc'; can't understand 'abc'"
        );
        assert_eq!(
            FieldSelector::parse(r"a=\x").unwrap_err(),
            r"invalid field selector: invalid escape sequence: \x"
        );
        assert_eq!(
            FieldSelector::parse("a=b=c").unwrap_err(),
            "invalid field selector: unescaped character in value: 61"
        );
        let s = FieldSelector::parse("spec.x=1").unwrap();
        assert_eq!(
            s.check("v1", "ConfigMap", &[]).unwrap_err(),
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            s.check("v1", "Pod", &[]).unwrap_err(),
            "field label not supported: spec.x"
        );
        assert!(s.check("example.com/v1", "Widget", &["spec.x"]).is_ok());
        assert!(
            FieldSelector::parse("status.phase=x")
                .unwrap()
                .check("v1", "Pod", &["spec.nodeName", "status.phase"])
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
