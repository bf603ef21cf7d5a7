//! The `eviction` subresource of Pods, by which nodes are drained.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::write::delete_options;
use super::{Call, body, bytes_response};
use crate::object::meta_str;
use crate::status::ApiError;

/// Answers an eviction.
pub async fn evict(call: Call, sent: Body) -> Result<Response, ApiError> {
    let dry_run = call.query.dry_run("CreateOptions")?;
    let bytes = body::read(sent).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request(
            "the object provided is unrecognized (must be of type Eviction): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
        ));
    }
    let eviction = body::parse_yaml(&bytes)?;
    let name = call.name.clone().unwrap_or_default();
    check(&eviction, &name, &call.target.namespace)?;
    let mut options = delete_options(&eviction["deleteOptions"])?;
    options.dry_run |= dry_run;
    call.server.evict(&call.target, &name, &options).await?;
    let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(bytes_response(StatusCode::CREATED, answer.to_string().into()))
}

/// Checks what an eviction says of itself against the path.
fn check(eviction: &Value, name: &str, namespace: &str) -> Result<(), ApiError> {
    let said = |field: &str, wanted: &str| match eviction[field].as_str() {
        None | Some("") => wanted.to_owned(),
        Some(text) => text.to_owned(),
    };
    let (api_version, kind) = (said("apiVersion", "policy/v1"), said("kind", "Eviction"));
    if !matches!(api_version.as_str(), "policy/v1" | "policy/v1beta1") || kind != "Eviction" {
        let (_, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        return Err(ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a Eviction: converting ({version}.{kind}) to (policy.Eviction): unknown conversion"
        )));
    }
    let found = meta_str(eviction, "namespace");
    if !found.is_empty() && found != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if meta_str(eviction, "name") != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    Ok(())
}
