//! Reviews of who the caller is and what it may do: whoever holds the credential may do everything.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::write::field_validation;
use super::{Call, body, bytes_response, warn};
use crate::admission::error::FieldError;
use crate::admit;
use crate::status::{ApiError, Named};

/// Answers a review.
pub async fn review(call: Call, sent: Body) -> Result<Response, ApiError> {
    let validation = field_validation(&call.query, "CreateOptions")?;
    let sent = body::object(&call.headers, sent).await?;
    let mut warnings = Vec::new();
    let mut answer = admit::decode(
        call.target.view(),
        sent.object,
        &sent.repeated,
        validation,
        &mut warnings,
    )?;
    let given = |field: &str| !answer["spec"][field].is_null();
    if call.kind().kind == "SelfSubjectAccessReview" && given("resourceAttributes") == given("nonResourceAttributes") {
        let wrong = FieldError::invalid(
            "spec.resourceAttributes",
            answer["spec"]["resourceAttributes"].clone(),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
        let named = Named {
            group: "authorization.k8s.io",
            plural: "",
            kind: "",
        };
        return Err(ApiError::invalid(named, "", &[wrong]));
    }
    answer["status"] = match call.kind().kind.as_str() {
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        // There is one credential, and it has no name of a person.
        "SelfSubjectReview" => json!({
            "userInfo": {"username": "foreman", "groups": ["system:masters", "system:authenticated"]},
        }),
        _ => json!({"allowed": true}),
    };
    let response = bytes_response(StatusCode::CREATED, answer.to_string().into());
    Ok(warn(response, &warnings))
}
