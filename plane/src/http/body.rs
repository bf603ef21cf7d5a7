//! Request bodies.

use axum::body::Body;
use http::{HeaderMap, header};
use serde_json::Value;

use super::{protobuf, repeated};
use crate::server::BODY_LIMIT;
use crate::status::ApiError;

/// Returns the media type of the body in small letters, without parameters.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map_or_else(String::new, |kind| kind.trim().to_ascii_lowercase())
}

/// Reads a body, up to the limit.
pub async fn read(body: Body) -> Result<bytes::Bytes, ApiError> {
    axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        loop {
            if cause.is::<http_body_util::LengthLimitError>() {
                return ApiError::too_large(BODY_LIMIT);
            }
            match cause.source() {
                Some(next) => cause = next,
                None => {
                    return ApiError::bad_request(format!("failed to read the body: {error}"));
                }
            }
        }
    })
}

/// An object that was sent.
pub struct Sent {
    /// The object.
    pub object: Value,
    /// What its text gave more than once, in words.
    pub repeated: Vec<String>,
}

/// Reads a body as its media type says: JSON, YAML, or protobuf of some built-in kinds.
pub async fn object(headers: &HeaderMap, body: Body) -> Result<Sent, ApiError> {
    let kind = content_type(headers);
    let (object, repeated) = match kind.as_str() {
        "" | "application/json" | "*/*" => {
            let bytes = read(body).await?;
            (parse_json(&bytes)?, repeated::in_json(&bytes))
        }
        "application/yaml" => {
            let bytes = read(body).await?;
            (parse_yaml(&bytes)?, repeated::in_yaml(&bytes))
        }
        protobuf::MEDIA => {
            let parsed = protobuf::parse(&read(body).await?).map_err(|error| match error {
                // The client is told to use JSON: nothing that it sent may be lost.
                protobuf::Unreadable::Unknown => ApiError::unsupported_media(&["application/json", "application/yaml"]),
                protobuf::Unreadable::Malformed => ApiError::bad_request("the body is no Kubernetes protobuf message"),
            })?;
            (parsed, Vec::new())
        }
        _ => return Err(ApiError::unsupported_media(&["application/json", "application/yaml"])),
    };
    Ok(Sent { object, repeated })
}

/// Parses JSON.
pub fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type JSON): {error}"
        ))
    })
}

/// Parses YAML, of which JSON is a part.
pub fn parse_yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    schemas::yaml::parse_value(text).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}
