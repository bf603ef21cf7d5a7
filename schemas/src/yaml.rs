//! YAML text to JSON values and back; the one module that uses serde_yaml.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// Why YAML could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("failed to read YAML{}: {message}", place(*.line, *.column))]
pub struct YamlError {
    /// Line, from 1, where known.
    pub line: Option<usize>,
    /// Column, from 1, where known.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
}

fn place(line: Option<usize>, column: Option<usize>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(" at line {line}, column {column}"),
        (Some(line), None) => format!(" at line {line}"),
        _ => String::new(),
    }
}

impl From<serde_yaml::Error> for YamlError {
    fn from(error: serde_yaml::Error) -> Self {
        let location = error.location();
        let text = error.to_string();
        // The parser repeats the place at the end of its message.
        let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
        Self {
            line: location.as_ref().map(serde_yaml::Location::line),
            column: location.as_ref().map(serde_yaml::Location::column),
            message,
        }
    }
}

/// Reads one YAML document (JSON included) as a JSON value; an empty text is null, several documents are an error.
pub fn parse_value(text: &str) -> Result<Value, YamlError> {
    let mut documents = parse_documents(text)?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => Ok(documents.swap_remove(0)),
        several => Err(YamlError {
            line: None,
            column: None,
            message: format!("found {several} documents, expected one"),
        }),
    }
}

/// Reads every document of a YAML text as a JSON value; documents without content are left out.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, YamlError> {
    use serde::Deserialize;
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Reads one YAML document as a value of type `T`.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    Ok(serde_yaml::from_str(text)?)
}

/// Writes a value as one YAML document, without a document marker.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, YamlError> {
    Ok(serde_yaml::to_string(value)?)
}

/// Writes values as a stream of YAML documents.
pub fn documents_to_string<T: Serialize>(values: &[T]) -> Result<String, YamlError> {
    let parts: Result<Vec<String>, YamlError> = values.iter().map(to_string).collect();
    Ok(parts?.join("---\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn yaml_and_json_both_become_json_values() {
        assert_eq!(
            parse_value("a: [1, x, null]\n1: true\n").unwrap(),
            json!({"a": [1, "x", null], "1": true})
        );
        assert_eq!(parse_value("{\"a\": {\"b\": 1.5}}").unwrap(), json!({"a": {"b": 1.5}}));
        assert_eq!(parse_value("").unwrap(), Value::Null);
    }

    #[test]
    fn documents_without_content_are_left_out() {
        assert_eq!(
            parse_documents("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n").unwrap(),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert!(
            parse_value("a: 1\n---\nb: 2\n")
                .unwrap_err()
                .message
                .contains("2 documents")
        );
    }

    #[test]
    fn an_error_says_where_it_is() {
        let error = parse_value("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line.is_some(), "{error}");
        assert!(
            error.to_string().contains(&format!("line {}", error.line.unwrap())),
            "{error}"
        );
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, earlier) in "bcdefghij".chars().zip("abcdefghi".chars()) {
            let list = vec![format!("*{earlier}"); 9].join(", ");
            text.push_str(&format!("{name}: &{name} [{list}]\n"));
        }
        assert!(parse_value(&text).is_err());
    }

    proptest! {
        #[test]
        fn text_survives_writing_and_reading(text in any::<String>()) {
            // A carriage return or another control character may be normalised only where YAML cannot hold it.
            let value = json!({"text": text});
            prop_assert_eq!(parse_value(&to_string(&value).unwrap()).unwrap(), value);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = parse_documents(&text);
        }
    }
}
