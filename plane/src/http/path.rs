//! The API's paths.

use crate::status::ApiError;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`: which of them
    Health(String),
    /// `/`
    Paths,
    /// `/api`
    Api,
    /// `/apis`
    Apis,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`; the core group is empty
    GroupVersion(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiV3,
    /// `/openapi/v3/…`
    OpenApiV3Document(String),
    /// Objects.
    Resource(ResourcePath),
}

/// The path of a collection, an object or a subresource.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// The API group, empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace, if the path has one.
    pub namespace: Option<String>,
    /// The plural resource name.
    pub resource: String,
    /// The object's name, if the path has one.
    pub name: Option<String>,
    /// The subresource, if the path has one.
    pub subresource: Option<String>,
}

/// Reads a path.
pub fn parse(path: &str) -> Result<Route, ApiError> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    // A slash at the end is as none, but for what is no part of the API's tree.
    let whole = ["healthz", "livez", "readyz", "openapi"];
    let inner = match inner.strip_suffix('/') {
        Some(cut) if !whole.iter().any(|first| cut.starts_with(first)) => cut,
        _ => inner,
    };
    let parts = inner.split('/').filter(|_| !inner.is_empty());
    let decoded: Vec<String> = parts
        .map(|part| decode(part).filter(|part| !part.is_empty()))
        .collect::<Option<_>>()
        .ok_or_else(ApiError::unknown_path)?;
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Ok(Route::Paths),
        ["version"] => Ok(Route::Version),
        [asked @ ("healthz" | "livez" | "readyz")] | [asked @ ("healthz" | "livez" | "readyz"), "ping"] => {
            Ok(Route::Health((*asked).into()))
        }
        ["openapi", "v2"] => Ok(Route::OpenApiV2),
        ["openapi", "v3"] => Ok(Route::OpenApiV3),
        ["openapi", "v3", rest @ ..] => Ok(Route::OpenApiV3Document(rest.join("/"))),
        ["api"] => Ok(Route::Api),
        ["api", version] => Ok(Route::GroupVersion(String::new(), (*version).into())),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis"] => Ok(Route::Apis),
        ["apis", group] => Ok(Route::Group((*group).into())),
        ["apis", group, version] => Ok(Route::GroupVersion((*group).into(), (*version).into())),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Err(ApiError::unknown_path()),
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Result<Route, ApiError> {
    let text = |part: &&str| Some((*part).to_owned());
    let mut path = ResourcePath {
        group: group.into(),
        version: version.into(),
        ..ResourcePath::default()
    };
    let rest = match rest {
        // A namespace itself, and its own subresources.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] if group.is_empty() => rest,
        ["namespaces", "." | "..", _, ..] => return Err(ApiError::unknown_path()),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
            path.namespace = text(namespace);
            rest
        }
        rest => rest,
    };
    match rest {
        [resource] => path.resource = (*resource).into(),
        [resource, name] => {
            path.resource = (*resource).into();
            path.name = text(name);
        }
        [resource, name, subresource] => {
            path.resource = (*resource).into();
            path.name = text(name);
            path.subresource = text(subresource);
        }
        _ => return Err(ApiError::unknown_path()),
    }
    Ok(Route::Resource(path))
}

/// Decodes percent signs; a slash or a control character inside a part is refused.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            let text = std::str::from_utf8(&pair).ok()?;
            bytes.push(u8::from_str_radix(text, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(['/', '\0'])).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn path(text: &str) -> ResourcePath {
        match parse(text).unwrap() {
            Route::Resource(path) => path,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_group_namespace_object_and_subresource() {
        let rows: [(&str, [&str; 6]); 8] = [
            ("/api/v1/pods", ["", "v1", "-", "pods", "-", "-"]),
            ("/api/v1/namespaces", ["", "v1", "-", "namespaces", "-", "-"]),
            ("/api/v1/namespaces/a", ["", "v1", "-", "namespaces", "a", "-"]),
            (
                "/api/v1/namespaces/a/status",
                ["", "v1", "-", "namespaces", "a", "status"],
            ),
            ("/api/v1/namespaces/a/pods", ["", "v1", "a", "pods", "-", "-"]),
            ("/api/v1/namespaces/a/pods/p/log", ["", "v1", "a", "pods", "p", "log"]),
            ("/apis/g.io/v1/things/t", ["g.io", "v1", "-", "things", "t", "-"]),
            (
                "/apis/g.io/v1/namespaces/a/things/t%2dx",
                ["g.io", "v1", "a", "things", "t-x", "-"],
            ),
        ];
        for (text, [group, version, namespace, resource, name, subresource]) in rows {
            let some = |value: &str| (value != "-").then(|| value.to_owned());
            let expected = ResourcePath {
                group: group.into(),
                version: version.into(),
                namespace: some(namespace),
                resource: resource.into(),
                name: some(name),
                subresource: some(subresource),
            };
            assert_eq!(path(text), expected, "{text}");
        }
    }

    #[test]
    fn a_slash_cannot_be_smuggled_into_a_name() {
        for bad in [
            "/api/v1/pods/a%2fb",
            "/api/v1/pods/%zz",
            "/api/v1/pods/%00",
            "/nothing",
            "//api/v1/pods",
            "/api/v1//pods",
            "/healthz/",
            "/api/v1/namespaces/../pods",
            "/api/v1/namespaces/%2e%2e/pods/a",
        ] {
            assert_eq!(parse(bad).unwrap_err().code, 404, "{bad}");
        }
    }
}
