//! Reviews of who the caller is and what it may do: whoever holds the credential may do everything.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Call, body, bytes_response, warn};
use crate::admission::error::FieldError;
use crate::admit;
use crate::status::{ApiError, Named};

/// Answers a review.
pub async fn review(call: Call, sent: Body) -> Result<Response, ApiError> {
    let options = call.write_options("CreateOptions")?;
    let sent = body::object(&call.headers, sent).await?;
    let mut warnings = Vec::new();
    let mut answer = admit::decode(
        call.target.view(),
        sent.object,
        &sent.repeated,
        options.validation,
        &mut warnings,
    )?;
    let empty = answer["metadata"].as_object().is_none_or(says_nothing);
    admit::note_maker(call.target.view(), &mut answer, &call.server.stamp(), &options.manager);
    match call.kind().kind.as_str() {
        "SelfSubjectAccessReview" => check_access(&answer, empty)?,
        "SelfSubjectRulesReview" if answer["spec"]["namespace"].as_str().unwrap_or("").is_empty() => {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        _ => {}
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

/// Says whether metadata holds nothing that is set: protobuf says of a number that it is 0.
fn says_nothing(metadata: &Map<String, Value>) -> bool {
    let is_unset = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    let mut fields = metadata.iter();
    fields.all(|(name, value)| name == "managedFields" || is_unset(value))
}

/// Refuses a review that asks for nothing, for two things, or bears a name.
fn check_access(review: &Value, nameless: bool) -> Result<(), ApiError> {
    let (resource, other) = (
        &review["spec"]["resourceAttributes"],
        &review["spec"]["nonResourceAttributes"],
    );
    let mut wrong = Vec::new();
    match (resource.is_null(), other.is_null()) {
        (true, true) => wrong.push(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        (false, false) => wrong.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            json!({"Path": other["path"], "Verb": other["verb"]}),
            "cannot be specified in combination with resourceAttributes",
        )),
        _ => {}
    }
    if !nameless {
        wrong.push(FieldError::invalid(
            "metadata",
            review["metadata"].clone(),
            "must be empty",
        ));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let named = Named {
        group: "authorization.k8s.io",
        plural: "",
        kind: "",
    };
    Err(ApiError::invalid(named, "", &wrong))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metadata_is_empty_where_nothing_of_it_is_set() {
        let table = [
            (json!({}), true),
            (
                json!({ "generation": 0, "name": "", "labels": {}, "creationTimestamp": null }),
                true,
            ),
            (json!({ "managedFields": [{ "manager": "kubectl" }] }), true),
            (json!({ "name": "a" }), false),
            (json!({ "generation": 1 }), false),
        ];
        for (metadata, empty) in table {
            assert_eq!(says_nothing(metadata.as_object().unwrap()), empty, "{metadata}");
        }
    }
}
