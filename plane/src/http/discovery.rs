//! What is served: groups, versions and resources, plain and aggregated.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::{json_response, negotiate};
use crate::kinds::{Kind, Kinds, Served, api_version, versions_of};
use crate::server::Server;
use crate::status::ApiError;

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Those of a kind whose objects are deleted one by one.
const SINGLE_VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];
/// The same, in the order in which kube-apiserver tells them of custom kinds.
const CUSTOM_VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// Answers `/api`.
pub fn core(server: &Server, accept: &str) -> Result<Response, ApiError> {
    if let Some(version) = negotiate::aggregated(accept) {
        return Ok(aggregated(&server.catalog.kinds(), version, |group| group.is_empty()));
    }
    negotiate::json(accept)?;
    Ok(json_response(&json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })))
}

/// Answers `/apis`.
pub fn groups(server: &Server, accept: &str) -> Result<Response, ApiError> {
    let kinds = server.catalog.kinds();
    if let Some(version) = negotiate::aggregated(accept) {
        return Ok(aggregated(&kinds, version, |group| !group.is_empty()));
    }
    negotiate::json(accept)?;
    let groups: Vec<Value> = kinds
        .groups()
        .filter(|(group, kinds)| !group.is_empty() && is_served(kinds))
        .map(|(group, kinds)| describe_group(group, kinds))
        .collect();
    Ok(json_response(
        &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
    ))
}

/// Answers `/apis/GROUP`.
pub fn group(server: &Server, group: &str) -> Result<Response, ApiError> {
    let kinds = server.catalog.kinds();
    let known = kinds.group(group).filter(|kinds| is_served(kinds));
    let known = known.ok_or_else(ApiError::unknown_path)?;
    let mut answer = describe_group(group, known);
    answer["kind"] = "APIGroup".into();
    answer["apiVersion"] = "v1".into();
    Ok(json_response(&answer))
}

/// Refuses a path: below a group of built-in kinds with a Status, elsewhere in plain text.
pub fn unknown(kinds: &Kinds, group: &str) -> ApiError {
    let built_in = |kinds: &[Arc<Kind>]| kinds.iter().any(|kind| kind.builtin().is_some());
    if kinds.group(group).is_some_and(built_in) {
        ApiError::no_such_resource()
    } else {
        ApiError::unknown_path()
    }
}

/// Tells whether any version of a group is served: definitions may have ceased to serve all of theirs.
fn is_served(kinds: &[Arc<Kind>]) -> bool {
    !versions_of(kinds).is_empty()
}

fn describe_group(group: &str, kinds: &[Arc<Kind>]) -> Value {
    let versions: Vec<Value> = versions_of(kinds)
        .into_iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

/// Answers `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resources(server: &Server, group: &str, version: &str) -> Result<Response, ApiError> {
    let kinds = server.catalog.kinds();
    let known = kinds.group(group).ok_or_else(ApiError::unknown_path)?;
    let mut found = false;
    let mut list = Vec::new();
    for kind in known {
        let Some(served) = kind.version(version) else {
            continue;
        };
        found = true;
        list.push(with_optional(
            json!({
                "name": kind.plural,
                "singularName": kind.singular,
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": verbs(kind),
            }),
            kind,
        ));
        for below in subresources(kind, served) {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, below.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": below.verbs,
            });
            if let Some((group, version, kind)) = below.speaks {
                entry["group"] = group.into();
                entry["version"] = version.into();
                entry["kind"] = kind.into();
            }
            list.push(entry);
        }
    }
    if !found {
        return Err(unknown(&kinds, group));
    }
    Ok(json_response(&json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": list,
    })))
}

fn with_optional(mut entry: Value, kind: &Kind) -> Value {
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    entry
}

fn verbs(kind: &Kind) -> &'static [&'static str] {
    match kind.builtin() {
        Some(builtin) if !builtin.stored => &VERBS[..1],
        Some(builtin) if !builtin.deleted_together => &SINGLE_VERBS,
        Some(_) => &VERBS,
        None => &CUSTOM_VERBS,
    }
}

/// A subresource as discovery tells of it.
struct Subresource {
    name: &'static str,
    verbs: &'static [&'static str],
    /// Group, version and kind of what is sent to it, where that is another than the object's.
    speaks: Option<(&'static str, &'static str, &'static str)>,
}

fn subresources(kind: &Kind, served: &Served) -> Vec<Subresource> {
    let plain = |name, verbs| Subresource {
        name,
        verbs,
        speaks: None,
    };
    let mut list = Vec::new();
    match kind.prefix.as_str() {
        "core/namespaces/" => list.push(plain("finalize", &["update"])),
        "core/pods/" => {
            list.push(Subresource {
                name: "eviction",
                verbs: &["create"],
                speaks: Some(("policy", "v1", "Eviction")),
            });
            list.push(plain("log", &["get"]));
        }
        _ => {}
    }
    if served.status {
        list.push(plain("status", &STATUS_VERBS));
    }
    list
}

fn aggregated(kinds: &Kinds, version: &str, wanted: impl Fn(&str) -> bool) -> Response {
    let items: Vec<Value> = kinds
        .groups()
        .filter(|(group, kinds)| wanted(group) && is_served(kinds))
        .map(|(group, kinds)| {
            let versions: Vec<Value> = versions_of(kinds)
                .into_iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "resources": aggregated_resources(group, version, kinds),
                        "freshness": "Current",
                    })
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let api = format!("apidiscovery.k8s.io/{version}");
    let mut response = json_response(&json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": api,
        "metadata": {},
        "items": items,
    }));
    let kind = if version == "v2" {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn aggregated_resources(group: &str, version: &str, kinds: &[Arc<Kind>]) -> Vec<Value> {
    kinds
        .iter()
        .filter_map(|kind| Some((kind, kind.version(version)?)))
        .map(|(kind, served)| {
            let response = json!({"group": group, "version": version, "kind": kind.kind});
            let subresources: Vec<Value> = subresources(kind, served)
                .into_iter()
                .map(|below| {
                    let speaks = below
                        .speaks
                        .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}));
                    json!({
                        "subresource": below.name,
                        "responseKind": speaks.unwrap_or_else(|| response.clone()),
                        "verbs": below.verbs,
                    })
                })
                .collect();
            let mut entry = json!({
                "resource": kind.plural,
                "responseKind": response,
                "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": kind.singular,
                "verbs": verbs(kind),
            });
            if !subresources.is_empty() {
                entry["subresources"] = Value::Array(subresources);
            }
            with_optional(entry, kind)
        })
        .collect()
}
