//! The HTTP face of the API: one handler that reads the path and finds the kind.

mod body;
mod discovery;
mod evict;
mod logs;
mod negotiate;
mod openapi;
mod patch;
mod path;
mod pretty;
mod protobuf;
mod query;
mod read;
mod repeated;
mod review;
mod watch;
mod write;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::admission::names::NameRule;
use crate::kinds::Kind;
use crate::server::Server;
use crate::server::write::Target;
use crate::status::{ApiError, warn};

use path::{ResourcePath, Route};
use query::Query;

/// Builds the router that serves the whole API, without authentication.
pub fn router(server: Arc<Server>) -> Router {
    Router::new().fallback(handle).with_state(server)
}

/// A request for a resource, read.
struct Call {
    server: Arc<Server>,
    target: Target,
    /// The namespace of the path; none means all namespaces.
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    query: Query,
    headers: HeaderMap,
}

/// Answers a request; one that makes the server panic fails alone, and its client is told.
async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let pretty = pretty::wanted(&request);
    // What a request shares with others is the store, which its own thread writes, and locks that outlive a panic.
    let answered = AssertUnwindSafe(route(server, request)).catch_unwind().await;
    let response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(_) => {
            tracing::error!(%asked, "a request made the server panic");
            ApiError::internal(format!(
                "{asked} made the server panic; its log says where, please report it"
            ))
            .into_response()
        }
    };
    if pretty {
        pretty::indent(response).await
    } else {
        response
    }
}

async fn route(server: Arc<Server>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let get = parts.method == Method::GET || parts.method == Method::HEAD;
    let route = path::parse(parts.uri.path())?;
    let allowed = match route {
        Route::Resource(_) | Route::Health(_) | Route::Apis => true,
        Route::Version => parts.method == Method::GET,
        _ => get,
    };
    if !allowed {
        return Err(ApiError::method_not_allowed());
    }
    let accept = parts.headers.get(header::ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    match route {
        Route::Version => Ok(json_response(&version(&server))),
        Route::Health(asked) => {
            let query = Query::parse(parts.uri.query().unwrap_or(""));
            Ok(health(&asked, query.flag("verbose")).into_response())
        }
        Route::Paths => Ok(json_response(
            &json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        )),
        Route::Api => discovery::core(&server, accept),
        Route::Apis => discovery::groups(&server, accept),
        Route::Group(group) => discovery::group(&server, &group),
        Route::GroupVersion(group, version) => discovery::resources(&server, &group, &version),
        Route::OpenApiV2 => openapi::v2(&server, accept),
        Route::OpenApiV3 => openapi::v3_index(&server, accept),
        Route::OpenApiV3Document(path) => openapi::v3(&server, &path, accept),
        Route::Resource(path) => {
            let call = find(server, path, parts.uri.query().unwrap_or(""), parts.headers)?;
            call.query.check_timeout()?;
            let deprecation = call.target.view().served.deprecation.clone();
            let answered = dispatch(call, parts.method, body).await;
            answered.map_err(|error| error.with_warnings(deprecation.into_iter().collect()))
        }
    }
}

/// Answers a question for health; whoever can ask is answered by a server that is well.
fn health(asked: &str, verbose: bool) -> String {
    if verbose {
        format!("[+]ping ok\n{asked} check passed\n")
    } else {
        "ok".to_owned()
    }
}

fn version(server: &Server) -> Value {
    let mut numbers = server.git_version.trim_start_matches('v').split(['.', '+', '-']);
    let major = numbers.next().unwrap_or("1");
    let minor = numbers.next().unwrap_or("34");
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": server.git_version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": concat_platform(),
    })
}

fn concat_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

fn find(server: Arc<Server>, path: ResourcePath, query: &str, headers: HeaderMap) -> Result<Call, ApiError> {
    let kinds = server.catalog.kinds();
    let unknown = || discovery::unknown(&kinds, &path.group);
    let kind = kinds.resource(&path.group, &path.resource).ok_or_else(unknown)?;
    let version = kind
        .versions
        .iter()
        .position(|served| served.name == path.version)
        .ok_or_else(unknown)?;
    let scoped = path.namespace.is_some();
    if let Some(name) = &path.name {
        let wrong = NameRule::Segment.check(name);
        if !wrong.is_empty() {
            let wrong = wrong.join(";");
            return Err(ApiError::bad_request(format!(
                "Name parameter invalid: {name:?}: {wrong}"
            )));
        }
    }
    // A namespaced object is reached through its namespace only, any other never.
    if (kind.namespaced && path.name.is_some() && !scoped) || (!kind.namespaced && scoped) {
        return Err(unknown());
    }
    Ok(Call {
        target: Target {
            kind: Arc::clone(kind),
            version,
            namespace: path.namespace.clone().unwrap_or_default(),
        },
        namespace: path.namespace,
        name: path.name,
        subresource: path.subresource,
        query: Query::parse(query),
        headers,
        server,
    })
}

impl Call {
    fn kind(&self) -> &Kind {
        &self.target.kind
    }

    fn accept(&self) -> &str {
        self.headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    fn count(&self, verb: &'static str) {
        let kind = self.kind();
        let group = if kind.group.is_empty() { "core" } else { &kind.group };
        let mut resource = format!("{group}/{}", kind.plural);
        if let Some(subresource) = &self.subresource {
            resource.push('/');
            resource.push_str(subresource);
        }
        self.server.counters.count(verb, resource);
    }
}

async fn dispatch(call: Call, method: Method, body: Body) -> Result<Response, ApiError> {
    let served = call.target.view().served;
    let stored = call.kind().builtin().is_none_or(|builtin| builtin.stored);
    match call.subresource.as_deref() {
        None => {}
        Some("status") if served.status => {}
        Some("log") if call.kind().prefix == "core/pods/" => {
            call.count("get");
            if method != Method::GET {
                return Err(ApiError::method_not_allowed());
            }
            return logs::log(call).await;
        }
        Some("eviction") if call.kind().prefix == "core/pods/" => {
            call.count("create");
            if method != Method::POST {
                return Err(ApiError::method_not_allowed());
            }
            return evict::evict(call, body).await;
        }
        Some("finalize") if call.kind().prefix == "core/namespaces/" => {
            call.count("update");
            if method != Method::PUT {
                return Err(ApiError::method_not_allowed());
            }
            return write::finalize(call, body).await;
        }
        Some(_) if call.kind().builtin().is_none() => {
            let name = call.name.as_deref().unwrap_or("");
            return Err(ApiError::not_found(call.kind().named(), name));
        }
        Some(_) => return Err(ApiError::no_such_resource()),
    }
    if !stored {
        call.count("create");
        if method != Method::POST || call.name.is_some() {
            return Err(ApiError::method_not_allowed());
        }
        return review::review(call, body).await;
    }
    let custom = call.kind().builtin().is_none();
    let named = call.name.is_some();
    // One object is got, whatever else is said; it is watched by a selector.
    let watch = call.query.flag("watch") && !named;
    match method {
        Method::GET if named => {
            call.count("get");
            read::get(&call)
        }
        Method::GET if watch => {
            call.count("watch");
            watch::watch(call)
        }
        Method::GET => {
            call.count("list");
            read::list(&call)
        }
        Method::POST if !named => {
            call.count("create");
            write::create(call, body).await
        }
        Method::PUT if named => {
            call.count("update");
            write::replace(call, body).await
        }
        Method::PATCH if named => {
            call.count("patch");
            patch::patch(call, body).await
        }
        Method::DELETE if custom && call.subresource.is_some() => {
            Err(ApiError::not_supported(call.kind().named(), "delete"))
        }
        Method::POST if custom && call.subresource.is_some() => {
            Err(ApiError::not_supported(call.kind().named(), "create"))
        }
        Method::PUT | Method::PATCH if custom => Err(ApiError::bad_request("name must be provided")),
        Method::DELETE if call.subresource.is_some() => Err(ApiError::method_not_allowed()),
        Method::DELETE if named => {
            call.count("delete");
            write::delete(call, body).await
        }
        Method::DELETE if call.kind().builtin().is_some_and(|builtin| !builtin.deleted_together) => {
            Err(ApiError::method_not_allowed())
        }
        Method::DELETE => {
            call.count("deletecollection");
            write::delete_collection(call, body).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn json_response(value: &Value) -> Response {
    bytes_response(StatusCode::OK, value.to_string().into())
}

/// Answers with a stream; one that panics ends with an error and takes nothing else along.
fn streamed<S, E>(media: &'static str, stream: S) -> Response
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<BoxError>,
{
    let guarded = AssertUnwindSafe(stream).catch_unwind().map(|item| match item {
        Ok(item) => item.map_err(Into::into),
        Err(_) => {
            tracing::error!("an answer made the server panic while it was streamed");
            Err(BoxError::from("the server panicked while it answered"))
        }
    });
    let mut response = Body::from_stream(guarded).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn typed_response(media: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = bytes_response(StatusCode::OK, bytes.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn bytes_response(code: StatusCode, bytes: Bytes) -> Response {
    let mut response = (code, Body::from(bytes)).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_panics_ends_with_an_error() {
        let stream = futures::stream::iter(0..2).map(|item| match item {
            0 => Ok::<_, Infallible>(Bytes::from_static(b"first")),
            _ => panic!("the second"),
        });
        let mut body = streamed("text/plain", stream).into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "first");
        assert!(body.next().await.unwrap().is_err());
        assert!(body.next().await.is_none());
    }
}
