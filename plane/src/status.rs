//! Refusals, as a Kubernetes `Status` object and in the words of kube-apiserver.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::admission::error::{FieldError, invalid_status};
use crate::object::Unreadable;
use crate::storage::{CommitError, Expired};

/// Makes an error about a value that is none of `supported`.
pub fn unsupported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> FieldError {
    let supported: Vec<String> = supported.iter().map(|name| (*name).to_owned()).collect();
    FieldError::not_supported(path, value, &supported)
}

/// The names by which an error refers to a kind.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// The API group, empty for the core group.
    pub group: &'a str,
    /// The plural resource name.
    pub plural: &'a str,
    /// The kind.
    pub kind: &'a str,
}

impl Named<'_> {
    fn resource(&self) -> String {
        qualified(self.plural, self.group)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// A refusal with its HTTP code.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The HTTP code.
    pub code: u16,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// The message for a person.
    pub message: String,
    /// The `details` of the Status, if any.
    pub details: Option<Value>,
    /// What the writer is told beside the refusal.
    pub warnings: Vec<String>,
    plain: bool,
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            reason,
            message: message.into(),
            details: None,
            warnings: Vec::new(),
            plain: false,
        }
    }

    /// Tells the writer of `warnings` too, before those that are told already.
    pub fn with_warnings(mut self, warnings: Vec<String>) -> ApiError {
        self.warnings.splice(0..0, warnings);
        self
    }

    fn about(mut self, named: Named<'_>, name: &str) -> ApiError {
        let mut details = Map::new();
        details.insert("name".into(), name.into());
        if !named.group.is_empty() {
            details.insert("group".into(), named.group.into());
        }
        details.insert("kind".into(), named.plural.into());
        self.details = Some(Value::Object(details));
        self
    }

    /// A path that nothing is served at, answered the way kube-apiserver does.
    pub fn unknown_path() -> ApiError {
        ApiError {
            plain: true,
            ..ApiError::new(404, "NotFound", "404 page not found\n")
        }
    }

    /// An object that does not exist.
    pub fn not_found(named: Named<'_>, name: &str) -> ApiError {
        ApiError::new(404, "NotFound", format!("{} \"{name}\" not found", named.resource())).about(named, name)
    }

    /// A subresource or verb target that a served kind does not have.
    pub fn no_such_resource() -> ApiError {
        ApiError {
            details: Some(json!({})),
            ..ApiError::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// An object that exists already.
    pub fn already_exists(named: Named<'_>, name: &str) -> ApiError {
        ApiError::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", named.resource()),
        )
        .about(named, name)
    }

    /// A write against an older state of the object.
    pub fn conflict(named: Named<'_>, name: &str) -> ApiError {
        ApiError::conflict_because(
            named,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A write that conflicts for the reason given.
    pub fn conflict_because(named: Named<'_>, name: &str, why: &str) -> ApiError {
        ApiError::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                named.resource()
            ),
        )
        .about(named, name)
    }

    /// An object with fields that are refused.
    pub fn invalid(named: Named<'_>, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::from_status(&invalid_status(named.group, named.kind, name, errors))
    }

    /// Takes over a `Status` object.
    pub fn from_status(status: &Value) -> ApiError {
        const REASONS: [&str; 5] = [
            "Invalid",
            "Conflict",
            "BadRequest",
            "RequestEntityTooLarge",
            "InternalError",
        ];
        let said = status["reason"].as_str().unwrap_or("");
        let reason = REASONS.into_iter().find(|reason| *reason == said).unwrap_or("");
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let mut error = ApiError::new(code.unwrap_or(500), reason, status["message"].as_str().unwrap_or(""));
        error.details = status.get("details").cloned();
        error
    }

    /// A request that cannot be read.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// A write that is not allowed.
    pub fn forbidden(named: Named<'_>, name: &str, why: &str) -> ApiError {
        ApiError::new(
            403,
            "Forbidden",
            format!("{} \"{name}\" is forbidden: {why}", named.resource()),
        )
        .about(named, name)
    }

    /// A write of a custom kind whose definition changed while it was under way: kube-apiserver says so too while it
    /// takes up a definition.
    pub fn changed(named: Named<'_>) -> ApiError {
        ApiError {
            details: Some(json!({"retryAfterSeconds": 1})),
            ..ApiError::new(
                503,
                "ServiceUnavailable",
                format!(
                    "the definition of {} changed while the request was under way; try again",
                    named.resource()
                ),
            )
        }
    }

    /// New content for a namespace that is going away.
    pub fn terminating(named: Named<'_>, name: &str, namespace: &str) -> ApiError {
        let mut error = ApiError::forbidden(
            named,
            name,
            &format!("unable to create new content in namespace {namespace} because it is being terminated"),
        );
        if let Some(Value::Object(details)) = &mut error.details {
            details.insert(
                "causes".into(),
                json!([{"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]),
            );
        }
        error
    }

    /// A request without the right credential.
    pub fn unauthorized() -> ApiError {
        ApiError::new(401, "Unauthorized", "Unauthorized")
    }

    /// A version that is no longer known.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// A verb that the resource does not have.
    pub fn method_not_allowed() -> ApiError {
        ApiError {
            details: Some(json!({})),
            ..ApiError::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        }
    }

    /// A verb that a subresource of a custom kind does not have.
    pub fn not_supported(named: Named<'_>, verb: &str) -> ApiError {
        let mut details = Map::new();
        if !named.group.is_empty() {
            details.insert("group".into(), named.group.into());
        }
        details.insert("kind".into(), named.plural.into());
        ApiError {
            details: Some(Value::Object(details)),
            ..ApiError::new(
                405,
                "MethodNotAllowed",
                format!("{verb} is not supported on resources of kind \"{}\"", named.resource()),
            )
        }
    }

    /// An Accept header that cannot be served.
    pub fn not_acceptable() -> ApiError {
        ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    /// A body in a media type that is not read.
    pub fn unsupported_media(supported: &[&str]) -> ApiError {
        ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                supported.join(", ")
            ),
        )
    }

    /// A body that is too large.
    pub fn too_large(limit: usize) -> ApiError {
        ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// A request that ran into a wait that has a limit.
    pub fn timeout(message: impl Into<String>) -> ApiError {
        ApiError::new(504, "Timeout", message)
    }

    /// A configuration that cannot be applied: kube-apiserver gives no reason for it.
    pub fn cannot_apply(message: impl Into<String>) -> ApiError {
        ApiError::new(500, "", message)
    }

    /// Options of a request that are refused; `options` names their kind, such as
    /// `PatchOptions`.
    pub fn options(options: &str, error: FieldError) -> ApiError {
        let named = Named {
            group: "meta.k8s.io",
            plural: "",
            kind: options,
        };
        ApiError::invalid(named, "", &[error])
    }

    /// The same for several errors.
    pub fn all_options(options: &str, errors: &[FieldError]) -> ApiError {
        let named = Named {
            group: "meta.k8s.io",
            plural: "",
            kind: options,
        };
        ApiError::invalid(named, "", errors)
    }

    /// A failure of the server itself.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(
            500,
            "InternalError",
            format!("Internal error occurred: {}", message.into()),
        )
    }

    /// The error as a `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        });
        if let Value::Object(map) = &mut status {
            if !self.reason.is_empty() {
                map.insert("reason".into(), self.reason.into());
            }
            if let Some(details) = &self.details {
                map.insert("details".into(), details.clone());
            }
            map.insert("code".into(), self.code.into());
        }
        status
    }
}

impl From<Unreadable> for ApiError {
    fn from(error: Unreadable) -> Self {
        ApiError::internal(error.to_string())
    }
}

impl From<Expired> for ApiError {
    fn from(error: Expired) -> Self {
        ApiError::expired(format!("too old resource version: {} ({})", error.asked, error.oldest))
    }
}

impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        match &error {
            CommitError::Full { .. } => ApiError::new(507, "InsufficientStorage", error.to_string()),
            CommitError::Precondition { .. } => ApiError::new(409, "Conflict", error.to_string()),
            CommitError::Closed => ApiError::new(503, "ServiceUnavailable", error.to_string()),
            CommitError::Database { .. } => ApiError::internal(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (kind, body) = if self.plain {
            ("text/plain; charset=utf-8", self.message.into_bytes())
        } else {
            ("application/json", self.to_status().to_string().into_bytes())
        };
        let mut response = (code, body).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        warn(response, &self.warnings)
    }
}

/// Adds one Warning header for each warning.
pub fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let text: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .flat_map(|c| {
                let escaped = matches!(c, '"' | '\\').then_some('\\');
                escaped.into_iter().chain(std::iter::once(c))
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: Named<'static> = Named {
        group: "batch",
        plural: "jobs",
        kind: "Job",
    };

    #[test]
    fn a_core_kind_is_named_without_a_group() {
        let pods = Named {
            group: "",
            plural: "pods",
            kind: "Pod",
        };
        assert_eq!(ApiError::not_found(pods, "x").message, "pods \"x\" not found");
        assert_eq!(
            ApiError::already_exists(JOBS, "x").message,
            "jobs.batch \"x\" already exists"
        );
    }
}
