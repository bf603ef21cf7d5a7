//! The OpenAPI documents.

use std::sync::Arc;

use axum::response::Response;

use super::{json_response, negotiate};
use crate::admission::openapi::{self, Served};
use crate::kinds::{Kind, Kinds};
use crate::server::Server;
use crate::status::ApiError;

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
