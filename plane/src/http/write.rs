//! Creating, replacing and deleting objects.

use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::negotiate;
use super::query::Query;
use super::read::{Page, deprecate, respond};
use super::{Call, body, json_response, warn};
use crate::admission::error::FieldError;
use crate::admit::{self, FieldValidation, Manager, Part};
use crate::kinds::{Kind, split_key};
use crate::object::{meta_mut, meta_of, meta_str};
use crate::server::delete::{DeleteOptions, Deleted, Propagation};
use crate::server::write::{Outcome, WriteOptions};
use crate::status::{ApiError, Named, unsupported};

/// Reads what is to be done about unknown fields; `options` names the kind of the
/// request's options in errors.
fn field_validation(query: &Query, options: &str) -> Result<FieldValidation, ApiError> {
    match query.get("fieldValidation") {
        None | Some("Warn") => Ok(FieldValidation::Warn),
        Some("Ignore") => Ok(FieldValidation::Ignore),
        Some("Strict") => Ok(FieldValidation::Strict),
        Some(other) => Err(ApiError::options(
            options,
            unsupported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]),
        )),
    }
}

impl Call {
    /// Reads how a write is to be carried out; `options` names the kind of its options.
    pub fn write_options(&self, options: &str) -> Result<WriteOptions, ApiError> {
        Ok(WriteOptions {
            dry_run: self.query.dry_run(options)?,
            validation: field_validation(&self.query, options)?,
            manager: Manager {
                name: self.manager(options)?,
                settled: false,
            },
        })
    }

    /// Names the field manager: as asked, else the first part of the User-Agent.
    fn manager(&self, options: &str) -> Result<String, ApiError> {
        if let Some(name) = self.query.get("fieldManager") {
            let mut wrong = Vec::new();
            if name.len() > 128 {
                wrong.push(FieldError::too_long("fieldManager", 128));
            }
            if let Some(at) = name.chars().position(char::is_control) {
                let found = u32::from(name.chars().nth(at).unwrap_or_default());
                let words = format!("invalid character U+{found:04X} (at position {at})");
                wrong.push(FieldError::invalid("fieldManager", name, words));
            }
            if !wrong.is_empty() {
                return Err(ApiError::all_options(options, &wrong));
            }
            return Ok(name.to_owned());
        }
        let agent = self
            .headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split('/').next())
            .unwrap_or("");
        let name: String = agent.chars().filter(|c| !c.is_control()).take(128).collect();
        Ok(if name.is_empty() { "unknown".into() } else { name })
    }

    /// Refuses a write to a collection of all namespaces.
    fn need_namespace(&self) -> Result<(), ApiError> {
        match self.kind().builtin() {
            _ if !self.kind().namespaced || self.namespace.is_some() => Ok(()),
            Some(_) => Err(ApiError::method_not_allowed()),
            None => Err(ApiError::unknown_path()),
        }
    }

    /// The part of the object that the path names.
    pub fn part(&self) -> Part {
        match self.subresource {
            Some(_) => Part::Status,
            None => Part::Main,
        }
    }

    /// Answers with what a write left behind.
    pub fn answer(&self, outcome: &Outcome) -> Result<Response, ApiError> {
        let code = if outcome.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let response = respond(self, code, &outcome.entry)?;
        Ok(warn(response, &outcome.warnings))
    }
}

/// Answers a create.
pub async fn create(call: Call, sent: Body) -> Result<Response, ApiError> {
    call.need_namespace()?;
    let options = call.write_options("CreateOptions")?;
    let sent = body::object(&call.headers, sent).await?;
    let mut warnings = Vec::new();
    let object = admit::decode(
        call.target.view(),
        sent.object,
        &sent.repeated,
        options.validation,
        &mut warnings,
    )?;
    let made = call.server.create(&call.target, object, &options, warnings).await?;
    call.answer(&made)
}

/// Answers an update.
pub async fn replace(call: Call, sent: Body) -> Result<Response, ApiError> {
    let options = call.write_options("UpdateOptions")?;
    let name = call.name.clone().unwrap_or_default();
    let sent = body::object(&call.headers, sent).await?;
    let view = call.target.view();
    let mut warnings = Vec::new();
    let object = admit::decode(view, sent.object, &sent.repeated, options.validation, &mut warnings)?;
    let builtin = view.kind.builtin();
    let version = meta_str(&object, "resourceVersion");
    let blind = matches!(version, "" | "0") && meta_str(&object, "name") == name;
    let refused = blind && builtin.is_none_or(|builtin| builtin.version_required);
    let updated = call
        .server
        .update(&call.target, &name, call.part(), &options, &|_, told| {
            told.extend(warnings.iter().cloned());
            if refused {
                return Err(version_required(view.kind, &name));
            }
            Ok(object.clone())
        })
        .await;
    let outcome = match updated {
        Err(error)
            if error.code == 404
                && call.subresource.is_none()
                && builtin.is_some_and(|builtin| builtin.create_on_update) =>
        {
            let mut object = object;
            let named = meta_str(&object, "name").to_owned();
            if named != name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({named}) does not match the name on the URL ({name})"
                )));
            }
            meta_mut(&mut object).remove("resourceVersion");
            call.server.create(&call.target, object, &options, warnings).await?
        }
        // Whatever becomes of the object, what was sent was read.
        Err(error) if error.code == 404 => return Err(error.with_warnings(warnings)),
        other => other?,
    };
    call.answer(&outcome)
}

/// Refuses an update that does not name the version that it is of.
pub fn version_required(kind: &Kind, name: &str) -> ApiError {
    // Here kube-apiserver names the resource where else it names the kind.
    let named = Named {
        kind: &kind.plural,
        ..kind.named()
    };
    let words = "must be specified for an update";
    ApiError::invalid(
        named,
        name,
        &[FieldError::invalid("metadata.resourceVersion", 0, words)],
    )
}

/// Answers the `finalize` subresource of namespaces.
pub async fn finalize(call: Call, sent: Body) -> Result<Response, ApiError> {
    let options = call.write_options("UpdateOptions")?;
    let name = call.name.clone().unwrap_or_default();
    let sent = body::object(&call.headers, sent).await?;
    let keep = sent.object["spec"]["finalizers"].clone();
    let outcome = call.server.finalize(&call.target, &name, &keep, &options).await?;
    call.answer(&outcome)
}

/// Reads the options of a deletion as they were sent.
pub fn delete_options(sent: &Value) -> Result<DeleteOptions, ApiError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let propagation = text(&sent["propagationPolicy"]);
    let orphan = sent["orphanDependents"].as_bool();
    let propagation = match (propagation.as_deref(), orphan) {
        (None, None) => None,
        (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
        (None, Some(false)) | (Some("Background"), None) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some(given), Some(_)) => {
            let words = "orphanDependents and deletionPropagation cannot be both set";
            let wrong = FieldError::invalid("propagationPolicy", given, words);
            return Err(ApiError::options("DeleteOptions", wrong));
        }
        (Some(other), None) => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            return Err(ApiError::options(
                "DeleteOptions",
                unsupported("propagationPolicy", other, &known),
            ));
        }
    };
    let asked = sent["dryRun"].as_array().map_or(&[][..], Vec::as_slice);
    if asked.iter().any(|value| value != "All") {
        let wrong = unsupported("dryRun", json!(asked), &["All"]);
        return Err(ApiError::options("DeleteOptions", wrong));
    }
    Ok(DeleteOptions {
        uid: text(&sent["preconditions"]["uid"]),
        version: text(&sent["preconditions"]["resourceVersion"]),
        grace: sent["gracePeriodSeconds"].as_i64(),
        propagation,
        dry_run: !asked.is_empty(),
    })
}

/// Gathers the options of a deletion from its query.
fn options_of(query: &Query) -> Result<Value, ApiError> {
    let orphan = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
    Ok(json!({
        "propagationPolicy": query.get("propagationPolicy"),
        "orphanDependents": orphan,
        "gracePeriodSeconds": query.integer("gracePeriodSeconds")?,
        "dryRun": query.all("dryRun"),
    }))
}

/// Reads the options of a deletion: those in its body or, where it has none, those in its query.
async fn read_options(call: &Call, sent: Body) -> Result<DeleteOptions, ApiError> {
    let bytes = body::read(sent).await?;
    let sent = if bytes.is_empty() {
        options_of(&call.query)?
    } else {
        body::parse_yaml(&bytes)?
    };
    delete_options(&sent)
}

const JOB_WARNING: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Answers a delete.
pub async fn delete(call: Call, sent: Body) -> Result<Response, ApiError> {
    let options = read_options(&call, sent).await?;
    let name = call.name.clone().unwrap_or_default();
    let kind = call.kind();
    let mut warnings = Vec::new();
    if kind.group == "batch" && options.propagation.is_none() {
        warnings.push(JOB_WARNING.to_owned());
    }
    let response = match call.server.delete(&call.target, &name, &options).await? {
        Deleted::Waiting(entry) => respond(&call, StatusCode::OK, &entry)?,
        Deleted::Gone(entry) if kind.prefix == "core/pods/" => respond(&call, StatusCode::OK, &entry)?,
        Deleted::Gone(entry) => {
            let uid = meta_of(&entry)?.uid;
            let mut details = Map::new();
            details.insert("name".into(), name.as_str().into());
            if !kind.group.is_empty() {
                details.insert("group".into(), kind.group.as_str().into());
            }
            details.insert("kind".into(), kind.plural.as_str().into());
            details.insert("uid".into(), uid.into());
            let mut response = json_response(&json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            }));
            deprecate(call.target.view(), &mut response);
            response
        }
    };
    Ok(warn(response, &warnings))
}

/// Answers a deletion of all objects that are meant; they are shown as they were found.
pub async fn delete_collection(call: Call, sent: Body) -> Result<Response, ApiError> {
    call.need_namespace()?;
    let form = negotiate::form(call.accept())?;
    let options = read_options(&call, sent).await?;
    let mut page = Page::of(&call)?;
    let mut deleted = Vec::new();
    for entry in page.entries {
        let (_, name) = split_key(&entry.key);
        match call.server.delete(&call.target, name, &options).await {
            Ok(Deleted::Gone(_) | Deleted::Waiting(_)) => deleted.push(entry),
            // Somebody else was faster.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    page.entries = deleted;
    page.show(&call, form)
}
