//! The Accept header: JSON, and the forms that an object can be shown in.

use crate::status::ApiError;

/// The form in which objects are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// A table for people.
    Table,
    /// Metadata only.
    Partial,
}

struct Media<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }
}

fn media(accept: &str) -> impl Iterator<Item = Media<'_>> {
    accept.split(',').map(|range| {
        let mut parts = range.split(';').map(str::trim);
        Media {
            kind: parts.next().unwrap_or(""),
            parameters: parts.filter_map(|part| part.split_once('=')).collect(),
        }
    })
}

fn is_json(kind: &str) -> bool {
    matches!(kind, "application/json" | "application/*" | "*/*" | "")
}

/// Picks the form of the first media type that can be served.
pub fn form(accept: &str) -> Result<Form, ApiError> {
    for media in media(accept).filter(|media| is_json(media.kind)) {
        let meta = media.parameter("g") == "meta.k8s.io" && media.parameter("v") == "v1";
        match media.parameter("as") {
            "" => return Ok(Form::Object),
            "Table" if meta => return Ok(Form::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => {
                return Ok(Form::Partial);
            }
            _ => {}
        }
    }
    Err(ApiError::not_acceptable())
}

/// Says whether the first choice is OpenAPI version 2 as protobuf, under either of its two names.
pub fn openapi_protobuf(accept: &str) -> bool {
    media(accept).next().is_some_and(|media| {
        media.kind.starts_with("application/com.github.proto-openapi.spec.v2") && media.kind.ends_with("+protobuf")
    })
}

/// Checks that JSON is accepted.
pub fn json(accept: &str) -> Result<(), ApiError> {
    if media(accept).any(|media| is_json(media.kind)) {
        Ok(())
    } else {
        Err(ApiError::not_acceptable())
    }
}

/// Returns the version of aggregated discovery that is preferred to the plain one.
pub fn aggregated(accept: &str) -> Option<&'static str> {
    for media in media(accept).filter(|media| is_json(media.kind)) {
        match (media.parameter("as"), media.parameter("v")) {
            ("APIGroupDiscoveryList", "v2") => return Some("v2"),
            ("APIGroupDiscoveryList", "v2beta1") => return Some("v2beta1"),
            ("", _) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_form_that_can_be_served_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table).unwrap(), Form::Table);
        assert_eq!(form("").unwrap(), Form::Object);
        assert_eq!(form("*/*").unwrap(), Form::Object);
        assert_eq!(
            form("application/vnd.kubernetes.protobuf, application/json").unwrap(),
            Form::Object
        );
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(form(partial).unwrap(), Form::Partial);
        assert_eq!(form("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert_eq!(
            aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"),
            Some("v2")
        );
        assert_eq!(aggregated("application/json"), None);
    }
}
