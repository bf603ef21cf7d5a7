//! Patches: JSON patch, merge patch, strategic merge patch, server-side apply.

use axum::body::Body;
use axum::response::Response;
use serde_json::Value;

use super::write::version_required;
use super::{Call, body, repeated};
use crate::admission::apply::{self, ApplyError, Writer};
use crate::admission::error::{FieldError, patch_undecodable_status};
use crate::admission::gofmt;
use crate::admission::patch::{PatchError, json_patch, merge_patch, strategic_merge_patch};
use crate::admit::{self, FieldValidation, Part};
use crate::object::{meta_mut, meta_str, time};
use crate::server::write::WriteOptions;
use crate::status::ApiError;

const APPLY: &str = "application/apply-patch+yaml";
const MEDIA: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

/// Answers a patch.
pub async fn patch(call: Call, sent: Body) -> Result<Response, ApiError> {
    let media = body::content_type(&call.headers);
    if !MEDIA.contains(&media.as_str()) {
        return Err(ApiError::unsupported_media(&MEDIA));
    }
    let strategic = media == MEDIA[2];
    if strategic && call.kind().builtin().is_none() {
        return Err(ApiError::unsupported_media(&[MEDIA[0], MEDIA[1], APPLY]));
    }
    let options = call.write_options("PatchOptions")?;
    let bytes = body::read(sent).await?;
    if media == APPLY {
        let patch = body::parse_yaml(&bytes)?;
        let twice = match options.validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => repeated::in_yaml(&bytes),
        };
        return apply_patch(call, patch, &twice, options).await;
    }
    if call.query.get("force").is_some() {
        return Err(ApiError::options(
            "PatchOptions",
            FieldError::forbidden("force", "may not be specified for non-apply patch"),
        ));
    }
    let patch = body::parse_json(&bytes)?;
    let twice: Vec<String> = match (options.validation, media == MEDIA[0]) {
        (FieldValidation::Ignore, _) => Vec::new(),
        (_, false) => repeated::in_json(&bytes),
        (_, true) => repeated::in_json(&bytes)
            .into_iter()
            .map(|said| format!("json patch {said}"))
            .collect(),
    };
    let name = call.name.clone().unwrap_or_default();
    let target = &call.target;
    let view = target.view();
    let change = |live: &Value, warnings: &mut Vec<String>| -> Result<Value, ApiError> {
        let patched = if strategic {
            match view.served.types.get() {
                Some(types) => strategic_merge_patch(types, live, &patch),
                None => Ok(merge_patch(live, &patch)),
            }
        } else if media == MEDIA[0] {
            json_patch(live, &patch)
        } else if patch.is_object() {
            Ok(merge_patch(live, &patch))
        } else {
            Err(PatchError::BadRequest("a merge patch must be an object".into()))
        };
        let patched = patched.map_err(|error| ApiError::from_status(&error.status()))?;
        if meta_str(&patched, "name").is_empty() {
            return Err(nameless(&name));
        }
        let unversioned = matches!(meta_str(&patched, "resourceVersion"), "" | "0");
        if unversioned && view.kind.builtin().is_none_or(|builtin| builtin.version_required) {
            return Err(version_required(view.kind, &name));
        }
        let uid = meta_str(&patched, "uid");
        if !uid.is_empty() && uid != meta_str(live, "uid") {
            let fixed = FieldError::invalid("metadata.uid", uid, "field is immutable");
            return Err(ApiError::invalid(view.kind.named(), &name, &[fixed.clone(), fixed]));
        }
        let shown = if view.kind.kind == "Secret" {
            "<hidden>".to_owned()
        } else if strategic {
            gofmt::plain(&patch)
        } else {
            gofmt::json(&patched)
        };
        admit::decode(view, patched, &twice, options.validation, warnings).map_err(|error| {
            // What is wrong with the result is told as wrong with the patch.
            let told = format!(" cannot be handled as a {}: ", view.kind.kind);
            match error.message.split_once(&told) {
                Some((_, why)) => {
                    let status = patch_undecodable_status(&shown, why);
                    ApiError::from_status(&status)
                }
                None => error,
            }
        })
    };
    let outcome = call
        .server
        .update(target, &name, call.part(), &options, &change)
        .await?;
    call.answer(&outcome)
}

fn apply_error(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(conflicts) => ApiError::from_status(&apply::conflict_status(&conflicts)),
        ApplyError::BadRequest(message) => ApiError::bad_request(message),
        ApplyError::Internal(message) => ApiError::cannot_apply(message),
    }
}

async fn apply_patch(
    call: Call,
    patch: Value,
    twice: &[String],
    mut options: WriteOptions,
) -> Result<Response, ApiError> {
    if call.query.get("fieldManager").is_none() {
        return Err(ApiError::options(
            "PatchOptions",
            FieldError::required("fieldManager", "is required for apply patch"),
        ));
    }
    options.manager.settled = true;
    let force = call.query.flag("force");
    let part = call.part();
    let target = &call.target;
    let view = target.view();
    let name = call.name.clone().unwrap_or_default();
    let applied = check_apply(&call, patch, &name)?;
    let api_version = view.kind.api_version(view.served);
    let manager = options.manager.name.clone();
    let merge = |live: Option<&Value>, warnings: &mut Vec<String>| -> Result<Value, ApiError> {
        let Some(types) = view.served.types.get() else {
            return Err(ApiError::internal("the kind's lists and maps are not known"));
        };
        let writer = Writer {
            manager: &manager,
            api_version: &api_version,
            subresource: part.name(),
            now: &time(jiff::Timestamp::now()),
        };
        let mut merged = apply::apply(live, &applied, force, types, &writer).map_err(apply_error)?;
        if meta_str(&merged, "name").is_empty() {
            meta_mut(&mut merged).insert("name".into(), name.as_str().into());
        }
        if let Some(first) = twice.first().filter(|_| options.validation == FieldValidation::Strict) {
            return Err(ApiError::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {first}"
            )));
        }
        warnings.extend(twice.iter().flat_map(|text| admit::each_warning(text)));
        admit::decode(view, merged, &[], FieldValidation::Ignore, warnings)
    };
    for _ in 0..8 {
        let updated = call
            .server
            .update(target, &name, part, &options, &|live, warnings| {
                merge(Some(live), warnings)
            })
            .await;
        match updated {
            Err(error) if error.code == 404 && part == Part::Main => {}
            other => return call.answer(&other?),
        }
        let uid = meta_str(&applied, "uid");
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict_because(view.kind.named(), &name, &why));
        }
        if !meta_str(&applied, "resourceVersion").is_empty() {
            return Err(ApiError::conflict(view.kind.named(), &name));
        }
        if meta_str(&applied, "name").is_empty() {
            return Err(nameless(&name));
        }
        let mut warnings = Vec::new();
        let object = merge(None, &mut warnings)?;
        match call.server.create(target, object, &options, warnings).await {
            Err(error) if error.reason == "AlreadyExists" => {}
            other => return call.answer(&other?),
        }
    }
    Err(ApiError::conflict(view.kind.named(), &name))
}

/// Refuses an object whose patch leaves it without a name.
fn nameless(name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    ))
}

/// Checks what an apply configuration says of itself against the path.
fn check_apply(call: &Call, patch: Value, name: &str) -> Result<Value, ApiError> {
    let view = call.target.view();
    let api_version = view.kind.api_version(view.served);
    if !patch.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the body is no object"));
    }
    let said = |field: &str| patch[field].as_str().unwrap_or("");
    if said("apiVersion") != api_version || said("kind") != view.kind.kind {
        let (group, version) = said("apiVersion").rsplit_once('/').unwrap_or(("", said("apiVersion")));
        return Err(ApiError::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={}",
            said("kind")
        )));
    }
    if !patch["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let found = meta_str(&patch, "name").to_owned();
    if !found.is_empty() && found != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        )));
    }
    let namespace = meta_str(&patch, "namespace").to_owned();
    if view.kind.namespaced && !namespace.is_empty() && namespace != call.target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(patch)
}
