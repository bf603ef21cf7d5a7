//! The OpenAPI documents.

use std::sync::Arc;

use axum::response::Response;

use super::{json_response, negotiate};
use crate::admission::openapi::{self, Served};
use crate::kinds::{Kind, Kinds};
use crate::server::Server;
use crate::status::ApiError;

/// Media type of `/openapi/v2` as protobuf.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Writes an OpenAPI document with a head and nothing in it.
///
/// kubectl asks for this form when version 3 does not have a kind, and in no other. A document without that kind lets it
/// say that the kind is not served; a refusal makes it speak of content types instead.
fn head_as_protobuf(server: &Server) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).unwrap_or(0).min(127);
        let mut field = vec![number << 3 | 2, length];
        field.extend(&bytes[..usize::from(length)]);
        field
    };
    let info = [field(1, b"Foreman"), field(2, server.git_version.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

fn with_served<T>(kinds: &Kinds, f: impl FnOnce(&[Served<'_>]) -> T) -> T {
    let mut list = Vec::new();
    for kind in kinds.iter() {
        list.extend(versions(kind));
    }
    f(&list)
}

fn versions(kind: &Arc<Kind>) -> impl Iterator<Item = Served<'_>> {
    kind.versions.iter().map(|served| Served {
        group: &kind.group,
        version: &served.name,
        kind: &kind.kind,
        plural: &kind.plural,
        namespaced: kind.namespaced,
        status: served.status,
        schema: served.raw_schema.as_deref(),
    })
}

/// Answers `/openapi/v2`.
pub fn v2(server: &Server, accept: &str) -> Result<Response, ApiError> {
    if negotiate::openapi_protobuf(accept) {
        return Ok(super::typed_response(PROTOBUF, head_as_protobuf(server)));
    }
    negotiate::json(accept)?;
    Ok(json_response(&with_served(&server.catalog.kinds(), openapi::v2)))
}

/// Answers `/openapi/v3`.
pub fn v3_index(server: &Server, accept: &str) -> Result<Response, ApiError> {
    negotiate::json(accept)?;
    Ok(json_response(&with_served(&server.catalog.kinds(), openapi::v3_index)))
}

/// Answers `/openapi/v3/…`.
pub fn v3(server: &Server, path: &str, accept: &str) -> Result<Response, ApiError> {
    negotiate::json(accept)?;
    with_served(&server.catalog.kinds(), |served| {
        openapi::v3_group_version(path, served)
    })
    .map(|document| json_response(&document))
    .ok_or_else(ApiError::unknown_path)
}
