//! The `log` subresource of Pods.

use axum::response::Response;
use serde_json::Value;

use super::{Call, streamed};
use crate::admission::error::FieldError;
use crate::object::{meta_str, read};
use crate::pod_logs::{LogError, LogRequest};
use crate::status::{ApiError, Named};

/// Answers with a container's log.
pub async fn log(call: Call) -> Result<Response, ApiError> {
    let name = call.name.clone().unwrap_or_default();
    let entry = call.server.entry(call.kind(), &call.target.namespace, &name)?;
    let pod = read(&entry)?;
    let limits = limits(&call, &name)?;
    let container = container(&pod, &name, call.query.get("container"))?;
    let since_time = call.query.get("sinceTime").map(str::to_owned);
    if let Some(text) = &since_time
        && text.parse::<jiff::Timestamp>().is_err()
    {
        return Err(ApiError::bad_request(format!(
            "sinceTime: Invalid value: \"{text}\": must be a time such as 2026-01-02T15:04:05Z"
        )));
    }
    let request = LogRequest {
        namespace: call.target.namespace.clone(),
        uid: meta_str(&pod, "uid").to_owned(),
        pod: name,
        follow: call.query.flag("follow"),
        previous: call.query.flag("previous"),
        timestamps: call.query.flag("timestamps"),
        tail_lines: limits[0],
        since_seconds: limits[1],
        limit_bytes: limits[2],
        since_time,
        container,
    };
    let Some(logs) = call.server.pod_logs() else {
        return Err(ApiError::bad_request(format!(
            "container \"{}\" in pod \"{}\" is waiting to start: no runner serves this plane",
            request.container, request.pod
        )));
    };
    let stream = logs.open(request).await.map_err(|error| match error {
        LogError::NotYet(message) => ApiError::bad_request(message),
        LogError::NotFound(message) => ApiError::bad_request(message),
        LogError::Io(_) => ApiError::internal(error.to_string()),
    })?;
    Ok(streamed("text/plain", stream))
}

/// Reads how much of a log is asked for: lines, seconds, bytes.
fn limits(call: &Call, pod: &str) -> Result<[Option<u64>; 3], ApiError> {
    let mut wrong = Vec::new();
    let mut read = |name: &str, least: i64| -> Result<Option<u64>, ApiError> {
        let given = call.query.integer(name)?;
        if let Some(number) = given.filter(|number| *number < least) {
            let words = if least == 0 {
                "must be greater than or equal to 0"
            } else {
                "must be greater than 0"
            };
            wrong.push(FieldError::invalid(name, number, words));
        }
        Ok(given.and_then(|number| u64::try_from(number).ok()))
    };
    let limits = [read("tailLines", 0)?, read("sinceSeconds", 1)?, read("limitBytes", 1)?];
    if limits[1].is_some() && call.query.get("sinceTime").is_some() {
        let words = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        wrong.push(FieldError::forbidden("[]", words));
    }
    if wrong.is_empty() {
        return Ok(limits);
    }
    let named = Named {
        group: "",
        plural: "",
        kind: "PodLogOptions",
    };
    Err(ApiError::invalid(named, pod, &wrong))
}

/// Picks the container: the one that is named, or the only one.
fn container(pod: &Value, name: &str, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str())
            .collect()
    };
    let (first, main) = (names("initContainers"), names("containers"));
    if let Some(asked) = asked {
        if first.contains(&asked) || main.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        )));
    }
    match main.as_slice() {
        [only] => Ok((*only).to_owned()),
        many => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            [first.as_slice(), many].concat().join(" ")
        ))),
    }
}
