//! The least of a server around the pure functions: a map of objects, and the order in
//! which a request passes through them.

use std::collections::BTreeMap;

use plane::admission::apply::{self, ApplyError, Writer};
use plane::admission::error::{self, FieldError};
use plane::admission::names::{self, NameRule};
use plane::admission::patch;
use plane::admission::schema::Structural;
use plane::admission::selector::{FieldSelector, LabelSelector, builtin_selectable};
use plane::admission::table::{Columns, IncludeObject};
use plane::admission::types::TypeInfo;
use plane::admission::{builtin, gofmt};
use serde_json::{Map, Value, json};

use crate::fixture::{Request, Response};

const NOW: &str = "2026-01-01T00:00:00Z";

/// A resource that is served.
#[derive(Clone, Copy)]
struct Resource {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    status: bool,
    generation: bool,
}

const fn resource(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource {
        group,
        version,
        kind,
        plural,
        namespaced: true,
        status: false,
        generation: false,
    }
}

const RESOURCES: [Resource; 10] = [
    resource("", "v1", "ConfigMap", "configmaps"),
    resource("", "v1", "Secret", "secrets"),
    resource("", "v1", "Event", "events"),
    resource("coordination.k8s.io", "v1", "Lease", "leases"),
    Resource {
        status: true,
        generation: true,
        ..resource("", "v1", "Pod", "pods")
    },
    Resource {
        status: true,
        generation: true,
        ..resource("batch", "v1", "Job", "jobs")
    },
    Resource {
        status: true,
        ..resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
    },
    Resource {
        namespaced: false,
        status: true,
        ..resource("", "v1", "Namespace", "namespaces")
    },
    Resource {
        namespaced: false,
        status: true,
        generation: true,
        ..resource(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
    },
    Resource {
        status: true,
        generation: true,
        ..resource("replay.example.com", "v1", "Widget", "widgets")
    },
];

impl Resource {
    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn is_custom(&self) -> bool {
        self.kind == "Widget"
    }

    fn types<'a>(&self, custom: Option<&'a Custom>) -> &'a TypeInfo {
        match custom.filter(|_| self.is_custom()) {
            Some(custom) => &custom.types,
            None => TypeInfo::builtin(&self.api_version(), self.kind).expect("a built-in kind"),
        }
    }
}

struct Custom {
    schema: Structural,
    types: TypeInfo,
    columns: Columns,
    selectable: Vec<String>,
}

/// Objects, and the one custom resource.
#[derive(Default)]
pub struct Server {
    objects: BTreeMap<String, Value>,
    custom: Option<Custom>,
    version: u64,
}

/// What a path and its query say.
struct Target {
    resource: Resource,
    namespace: String,
    name: String,
    subresource: String,
    query: BTreeMap<String, String>,
}

impl Target {
    fn parse(path: &str) -> Option<Target> {
        let url = url::Url::parse("http://server").ok()?.join(path).ok()?;
        let query = url
            .query_pairs()
            .map(|(k, v)| (k.into_owned(), v.into_owned()))
            .collect();
        let parts: Vec<&str> = url.path().trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] => ((*namespace).to_owned(), [&[*plural], rest].concat()),
            rest => (String::new(), rest.to_vec()),
        };
        let resource = RESOURCES
            .iter()
            .find(|r| r.group == group && r.version == version && r.plural == rest[0])?;
        let part = |i: usize| rest.get(i).map(|s| (*s).to_owned()).unwrap_or_default();
        Some(Target {
            resource: *resource,
            namespace,
            name: part(1),
            subresource: part(2),
            query,
        })
    }

    fn get(&self, key: &str) -> &str {
        self.query.get(key).map(String::as_str).unwrap_or_default()
    }

    fn key(&self, name: &str) -> String {
        format!(
            "{}/{}/{}/{name}",
            self.resource.group, self.resource.plural, self.namespace
        )
    }
}

fn status(code: u16, reason: &str, message: &str, details: Value) -> Response {
    let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code});
    if !reason.is_empty() {
        body["reason"] = reason.into();
    }
    if !details.is_null() {
        body["details"] = details;
    }
    Response {
        code,
        warnings: Vec::new(),
        body,
    }
}

fn bad(message: impl AsRef<str>) -> Response {
    status(400, "BadRequest", message.as_ref(), Value::Null)
}

fn answered(body: Value) -> Response {
    let code = body["code"].as_u64().and_then(|c| c.try_into().ok()).unwrap_or(500);
    Response {
        code,
        warnings: Vec::new(),
        body,
    }
}

/// How unknown fields are met.
#[derive(Clone, Copy, PartialEq)]
enum Unknown {
    Ignore,
    Warn,
    Strict,
}

type Done<T> = Result<T, Box<Response>>;

fn refuse<T>(response: Response) -> Done<T> {
    Err(Box::new(response))
}

impl Server {
    /// Answers a request.
    pub fn answer(&mut self, request: &Request) -> Response {
        let Some(target) = Target::parse(&request.path) else {
            return status(
                404,
                "NotFound",
                "the server could not find the requested resource",
                json!({}),
            );
        };
        let mut warnings = Vec::new();
        let mut response = match self.handle(request, &target, &mut warnings) {
            Ok(response) => response,
            Err(response) => *response,
        };
        response.warnings.extend(warnings);
        response
    }

    fn handle(&mut self, request: &Request, target: &Target, warnings: &mut Vec<String>) -> Done<Response> {
        let body = request.body.clone().unwrap_or_default();
        let options = match request.method.as_str() {
            "POST" => "CreateOptions",
            "PUT" => "UpdateOptions",
            _ => "PatchOptions",
        };
        let unknown = match target.get("fieldValidation") {
            "Ignore" => Unknown::Ignore,
            "" | "Warn" => Unknown::Warn,
            "Strict" => Unknown::Strict,
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"].map(str::to_owned);
                let error = FieldError::not_supported("fieldValidation", other, &supported);
                return refuse(answered(error::invalid_status("meta.k8s.io", options, "", &[error])));
            }
        };
        match request.method.as_str() {
            "GET" if target.name.is_empty() => self.list(target, request.accept.as_deref().unwrap_or_default()),
            "GET" => self.stored(target).map(|body| Response {
                code: 200,
                warnings: Vec::new(),
                body,
            }),
            "POST" => {
                let object = self.decode(target, body, unknown, warnings)?;
                self.create(target, object, true)
            }
            "PUT" => {
                let object = self.decode(target, body, unknown, warnings)?;
                let old = self.stored(target)?;
                self.update(target, old, object, true, warnings)
            }
            "PATCH" if request.content_type.as_deref() == Some("application/apply-patch+yaml") => {
                self.apply(target, &body, warnings)
            }
            _ => self.patch(
                target,
                request.content_type.as_deref().unwrap_or_default(),
                &body,
                unknown,
                warnings,
            ),
        }
    }

    /// Serves a definition: the way in which the replay prepares its custom resource.
    pub fn define(&mut self, definition: &Value) {
        let version = &definition["spec"]["versions"][0];
        let schema = Structural::from_openapi(&version["schema"]["openAPIV3Schema"])
            .expect("the fixture's schema is structural");
        let paths = version["selectableFields"].as_array().into_iter().flatten();
        self.custom = Some(Custom {
            types: TypeInfo::from_structural(&schema, true),
            columns: Columns::from_crd(&version["additionalPrinterColumns"]).expect("the fixture's columns"),
            selectable: paths
                .filter_map(|f| f["jsonPath"].as_str())
                .map(|p| p.trim_start_matches('.').to_owned())
                .collect(),
            schema,
        });
    }

    fn custom(&self) -> &Custom {
        self.custom.as_ref().expect("the definition is served")
    }

    fn stored(&self, target: &Target) -> Done<Value> {
        match self.objects.get(&target.key(&target.name)) {
            Some(object) => Ok(object.clone()),
            None => {
                let plural = target.resource.plural;
                let message = format!("{plural} {} not found", gofmt::quote(&target.name));
                refuse(status(
                    404,
                    "NotFound",
                    &message,
                    json!({"name": target.name, "kind": plural}),
                ))
            }
        }
    }

    /// Removes unknown fields and says how they are met; `Err` holds the words of a refusal.
    fn prune(
        &self,
        target: &Target,
        object: &mut Value,
        unknown: Unknown,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let resource = &target.resource;
        let paths = if resource.is_custom() {
            self.custom().schema.prune(object)
        } else {
            builtin::prune(&resource.api_version(), resource.kind, object)
        };
        let words: Vec<String> = paths
            .iter()
            .map(|p| format!("unknown field {}", gofmt::quote(p)))
            .collect();
        match unknown {
            Unknown::Strict if !words.is_empty() => {
                return Err(format!("strict decoding error: {}", words.join(", ")));
            }
            Unknown::Warn => warnings.extend(words),
            _ => {}
        }
        Ok(())
    }

    fn default(&self, target: &Target, object: &mut Value) {
        let resource = &target.resource;
        if resource.is_custom() {
            self.custom().schema.default(object);
        } else {
            builtin::default(&resource.api_version(), resource.kind, object);
        }
    }

    fn decode(&self, target: &Target, mut object: Value, unknown: Unknown, warnings: &mut Vec<String>) -> Done<Value> {
        let resource = &target.resource;
        let api_version = resource.api_version();
        if resource.is_custom() && object["apiVersion"] != api_version {
            let found = object["apiVersion"].as_str().unwrap_or_default();
            return refuse(bad(format!(
                "the API version in the data ({found}) does not match the expected API version ({api_version})"
            )));
        }
        builtin::check_types(&api_version, resource.kind, &object).map_err(|e| Box::new(bad(e)))?;
        self.prune(target, &mut object, unknown, warnings).map_err(|words| {
            let kind = resource.kind;
            Box::new(bad(format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: {words}",
                resource.version
            )))
        })?;
        self.default(target, &mut object);
        Ok(object)
    }

    fn writer<'a>(target: &'a Target, api_version: &'a str) -> Writer<'a> {
        Writer {
            manager: target.get("fieldManager"),
            api_version,
            subresource: &target.subresource,
            now: NOW,
        }
    }

    fn invalid(target: &Target, object: &Value, errors: &[FieldError]) -> Response {
        let kind = object["kind"].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        answered(error::invalid_status(target.resource.group, kind, name, errors))
    }

    fn create(&mut self, target: &Target, mut object: Value, track: bool) -> Done<Response> {
        let resource = target.resource;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        if !namespace.is_empty() && namespace != target.namespace {
            return refuse(bad(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if resource.is_custom() && object["kind"] != resource.kind {
            let found = object["kind"].clone();
            let error = FieldError::invalid("kind", found, format!("must be {}", resource.kind));
            return refuse(Self::invalid(target, &object, &[error]));
        }
        if resource.namespaced {
            object["metadata"]["namespace"] = target.namespace.as_str().into();
        }
        if track {
            let api_version = resource.api_version();
            let types = resource.types(self.custom.as_ref());
            apply::update_managed_fields(None, &mut object, types, &Self::writer(target, &api_version));
        }
        if resource.is_custom() {
            remove(&mut object, "status");
        }
        let mut errors =
            names::validate_metadata(&object["metadata"], resource.namespaced, NameRule::of(resource.kind));
        if resource.is_custom() {
            errors = self.custom().schema.validate_reporting(errors, &object, None).0;
        } else {
            errors.extend(names::validate_builtin_finalizers(&object["metadata"]));
            errors.extend(builtin::validate(&resource.api_version(), resource.kind, &object, None));
        }
        if !errors.is_empty() {
            return refuse(Self::invalid(target, &object, &errors));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = target.key(&name);
        let dry = target.get("dryRun") == "All";
        if self.objects.contains_key(&key) {
            let qualified = if resource.group.is_empty() {
                resource.plural.to_owned()
            } else {
                format!("{}.{}", resource.plural, resource.group)
            };
            let message = format!("{qualified} {} already exists", gofmt::quote(&name));
            let details = json!({"name": name, "group": resource.group, "kind": resource.plural});
            return refuse(status(409, "AlreadyExists", &message, details));
        }
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["uid"] = format!("uid-{}", self.version).into();
        metadata["creationTimestamp"] = NOW.into();
        if resource.generation {
            metadata["generation"] = 1.into();
        }
        if !dry {
            metadata["resourceVersion"] = self.version.to_string().into();
            self.objects.insert(key, object.clone());
        }
        Ok(Response {
            code: 201,
            warnings: Vec::new(),
            body: object,
        })
    }

    fn update(
        &mut self,
        target: &Target,
        old: Value,
        mut new: Value,
        track: bool,
        warnings: &mut Vec<String>,
    ) -> Done<Response> {
        let resource = target.resource;
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        if name != target.name {
            return refuse(bad(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        let given = new["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if given.is_empty() && resource.is_custom() {
            return refuse(answered(error::version_required_status(
                resource.group,
                resource.plural,
                &target.name,
            )));
        }
        if !given.is_empty() && old["metadata"]["resourceVersion"] != given {
            let message = format!(
                "Operation cannot be fulfilled on {} {}: the object has been modified; please apply your changes to the latest version and try again",
                resource.plural,
                gofmt::quote(&target.name)
            );
            return refuse(status(
                409,
                "Conflict",
                &message,
                json!({"name": target.name, "kind": resource.plural}),
            ));
        }
        for key in ["uid", "creationTimestamp", "resourceVersion", "namespace", "generation"] {
            if new["metadata"].get(key).is_none() && old["metadata"].get(key).is_some() {
                new["metadata"][key] = old["metadata"][key].clone();
            }
        }
        if track {
            let api_version = resource.api_version();
            let types = resource.types(self.custom.as_ref());
            apply::update_managed_fields(Some(&old), &mut new, types, &Self::writer(target, &api_version));
        }
        self.keep_apart(target, &old, &mut new);
        let spec_changed = {
            let content = |object: &Value| {
                let mut object = object.clone();
                remove(&mut object, "metadata");
                remove(&mut object, "status");
                object
            };
            content(&old) != content(&new)
        };
        if resource.generation && spec_changed {
            new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or_default() + 1).into();
        }
        let mut errors = names::validate_metadata_update(&new["metadata"], &old["metadata"]);
        if resource.is_custom() {
            let schema = &self.custom().schema;
            let (found, forgiven) = if target.subresource == "status" {
                schema.validate_status(errors, &new, &old)
            } else {
                schema.validate_reporting(errors, &new, Some(&old))
            };
            errors = found;
            warnings.extend(forgiven);
        } else if target.subresource.is_empty() {
            errors.extend(builtin::validate(
                &resource.api_version(),
                resource.kind,
                &new,
                Some(&old),
            ));
        }
        if !errors.is_empty() {
            return refuse(Self::invalid(target, &new, &errors));
        }
        if new != old && target.get("dryRun") != "All" {
            self.version += 1;
            new["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.objects.insert(target.key(&target.name), new.clone());
        }
        Ok(Response {
            code: 200,
            warnings: Vec::new(),
            body: new,
        })
    }

    /// Keeps what this subresource does not write as it was.
    fn keep_apart(&self, target: &Target, old: &Value, new: &mut Value) {
        if !target.resource.status {
            return;
        }
        let keep = |new: &mut Value, key: &str| match old.get(key) {
            Some(value) => new[key] = value.clone(),
            None => remove(new, key),
        };
        if target.subresource.is_empty() {
            keep(new, "status");
            return;
        }
        let managed = new["metadata"].get("managedFields").cloned();
        let status = new.get("status").cloned();
        *new = old.clone();
        if let Some(status) = status {
            new["status"] = status;
        } else {
            remove(new, "status");
        }
        match managed {
            Some(managed) => new["metadata"]["managedFields"] = managed,
            None => remove(&mut new["metadata"], "managedFields"),
        }
    }

    fn apply(&mut self, target: &Target, body: &Value, warnings: &mut Vec<String>) -> Done<Response> {
        let resource = target.resource;
        if target.get("fieldManager").is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return refuse(answered(error::invalid_status(
                "meta.k8s.io",
                "PatchOptions",
                "",
                &[error],
            )));
        }
        let api_version = resource.api_version();
        let found = body["apiVersion"].as_str().unwrap_or_default();
        if found != api_version {
            let shown = if found.contains('/') {
                found.to_owned()
            } else {
                format!("/{found}")
            };
            return refuse(bad(format!(
                "invalid object type: {shown}, Kind={}",
                body["kind"].as_str().unwrap_or_default()
            )));
        }
        let live = self.objects.get(&target.key(&target.name)).cloned();
        let types = resource.types(self.custom.as_ref());
        let force = target.get("force") == "true";
        let applied = apply::apply(live.as_ref(), body, force, types, &Self::writer(target, &api_version));
        let mut object = applied.map_err(|e| {
            Box::new(match &e {
                ApplyError::Conflicts(conflicts) => answered(apply::conflict_status(conflicts)),
                ApplyError::BadRequest(words) => bad(words),
                ApplyError::Internal(words) => status(500, "", words, Value::Null),
            })
        })?;
        self.default(target, &mut object);
        match live {
            None => self.create(target, object, false),
            Some(old) => self.update(target, old, object, false, warnings),
        }
    }

    fn patch(
        &mut self,
        target: &Target,
        kind: &str,
        body: &Value,
        unknown: Unknown,
        warnings: &mut Vec<String>,
    ) -> Done<Response> {
        let resource = target.resource;
        let strategic = kind == "application/strategic-merge-patch+json";
        if strategic && resource.is_custom() {
            return refuse(status(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                Value::Null,
            ));
        }
        let old = self.stored(target)?;
        let patched = match kind {
            "application/json-patch+json" => patch::json_patch(&old, body),
            "application/merge-patch+json" => Ok(patch::merge_patch(&old, body)),
            _ => patch::strategic_merge_patch(resource.types(self.custom.as_ref()), &old, body),
        };
        let mut new = patched.map_err(|e| Box::new(answered(e.status())))?;
        let shown = if strategic {
            gofmt::plain(body)
        } else {
            gofmt::json(&new)
        };
        let undecodable = |words: &str| Box::new(answered(error::patch_undecodable_status(&shown, words)));
        if let Err(words) = builtin::check_types(&resource.api_version(), resource.kind, &new) {
            let head = format!(
                "{0} in version \"{1}\" cannot be handled as a {0}: ",
                resource.kind, resource.version
            );
            return Err(undecodable(words.strip_prefix(&head).unwrap_or(&words)));
        }
        self.prune(target, &mut new, unknown, warnings)
            .map_err(|words| undecodable(&words))?;
        self.default(target, &mut new);
        self.update(target, old, new, true, warnings)
    }

    fn list(&self, target: &Target, accept: &str) -> Done<Response> {
        let resource = &target.resource;
        let api_version = resource.api_version();
        let labels = LabelSelector::parse(target.get("labelSelector")).map_err(|e| Box::new(bad(e)))?;
        let fields = FieldSelector::parse(target.get("fieldSelector")).map_err(|e| Box::new(bad(e)))?;
        let selectable: Vec<&str> = if resource.is_custom() {
            self.custom().selectable.iter().map(String::as_str).collect()
        } else {
            builtin_selectable(&api_version, resource.kind).to_vec()
        };
        fields
            .check(&api_version, resource.kind, &selectable)
            .map_err(|e| Box::new(bad(e)))?;
        let prefix = target.key("");
        let found: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, object)| key.starts_with(&prefix) && labels.matches(object) && fields.matches(object))
            .map(|(_, object)| object)
            .collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        let body = if accept.contains("as=Table") {
            let columns = if resource.is_custom() {
                self.custom().columns.clone()
            } else {
                Columns::builtin(&api_version, resource.kind)
            };
            columns.render(&found, &metadata, IncludeObject::Metadata, true, NOW)
        } else {
            let items: Vec<Value> = found
                .into_iter()
                .map(|object| {
                    let mut object = object.clone();
                    if !resource.is_custom() {
                        remove(&mut object, "kind");
                        remove(&mut object, "apiVersion");
                    }
                    object
                })
                .collect();
            if resource.is_custom() {
                metadata["continue"] = "".into();
            }
            json!({"kind": format!("{}List", resource.kind), "apiVersion": api_version, "metadata": metadata, "items": items})
        };
        Ok(Response {
            code: 200,
            warnings: Vec::new(),
            body,
        })
    }
}

fn remove(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        let map: &mut Map<String, Value> = map;
        map.shift_remove(key);
    }
}
