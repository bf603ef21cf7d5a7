//! The built-in kinds, one row each.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::SelfSubjectRulesReview;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::stamp::Stamp;
use super::{Keeping, Kind, Origin, Served, Types, api_version, claim, crd, event, job, namespace, pod};
use crate::admission::error::FieldError;
use crate::admission::table::Columns;
use crate::admission::types::TypeInfo;

/// The rules of a built-in kind.
#[derive(Debug)]
pub struct Builtin {
    /// The API group, empty for the core group.
    pub group: &'static str,
    /// The one served version.
    pub version: &'static str,
    /// The kind's name.
    pub kind: &'static str,
    /// The plural resource name.
    pub plural: &'static str,
    /// Short names for the command line.
    pub short_names: &'static [&'static str],
    /// Categories such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Whether `metadata.generation` is counted.
    pub generation: bool,
    /// Whether objects are stored; reviews are only answered.
    pub stored: bool,
    /// Whether a collection of objects may be deleted by one request.
    pub deleted_together: bool,
    /// Whether an update must name the version that it is of, as updates of custom kinds must.
    pub version_required: bool,
    /// Whether an update may make an object.
    pub create_on_update: bool,
    /// Field paths that field selectors may use.
    pub selectable: &'static [&'static str],
    /// Reads the object as its type and writes it back, for a kind that
    /// [`crate::admission::builtin`] does not describe.
    pub normalise: Option<fn(Value) -> Result<Value, String>>,
    /// Prepares an object that is made.
    pub create: fn(&mut Value, &Stamp),
    /// Prepares an object that is changed.
    pub update: fn(&mut Value, &Stamp),
    /// Checks what [`crate::admission::builtin`] does not.
    pub validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
}

fn normalise<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

fn keep(_: &mut Value, _: &Stamp) {}
fn valid(_: &Value, _: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}

const PLAIN: Builtin = Builtin {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    generation: false,
    stored: true,
    deleted_together: true,
    version_required: false,
    create_on_update: false,
    selectable: &[],
    normalise: None,
    create: keep,
    update: keep,
    validate: valid,
};

/// All built-in kinds.
pub static BUILTINS: [Builtin; 13] = [
    Builtin {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        deleted_together: false,
        selectable: &["status.phase"],
        create: namespace::create,
        ..PLAIN
    },
    Builtin {
        kind: "ConfigMap",
        plural: "configmaps",
        short_names: &["cm"],
        ..PLAIN
    },
    Builtin {
        kind: "Secret",
        plural: "secrets",
        selectable: &["type"],
        ..PLAIN
    },
    Builtin {
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        create_on_update: true,
        selectable: event::SELECTABLE,
        ..PLAIN
    },
    Builtin {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        generation: true,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        create: pod::create,
        ..PLAIN
    },
    Builtin {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        short_names: &["pvc"],
        status: true,
        create: claim::create,
        update: claim::update,
        ..PLAIN
    },
    Builtin {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        categories: &["all"],
        status: true,
        generation: true,
        selectable: &["status.successful"],
        create: job::create,
        validate: job::validate,
        ..PLAIN
    },
    Builtin {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        version_required: true,
        create_on_update: true,
        ..PLAIN
    },
    Builtin {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        create_on_update: true,
        selectable: event::SELECTABLE_NEW,
        ..PLAIN
    },
    Builtin {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        version_required: true,
        namespaced: false,
        status: true,
        generation: true,
        create: crd::note_stored,
        update: crd::note_stored,
        validate: crd::validate,
        ..PLAIN
    },
    Builtin {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        namespaced: false,
        stored: false,
        ..PLAIN
    },
    Builtin {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        namespaced: false,
        stored: false,
        normalise: Some(normalise::<SelfSubjectRulesReview>),
        ..PLAIN
    },
    Builtin {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        namespaced: false,
        stored: false,
        normalise: Some(normalise::<SelfSubjectReview>),
        ..PLAIN
    },
];

static KINDS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| BUILTINS.iter().map(|row| Arc::new(build(row))).collect());

/// Returns the built-in kinds.
pub fn kinds() -> Vec<Arc<Kind>> {
    KINDS.clone()
}

fn build(row: &'static Builtin) -> Kind {
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    // Both groups of events show the same objects, stored in the core form.
    let own = api_version(row.group, row.version);
    let home = if row.plural == "events" { "" } else { row.group };
    Kind {
        group: row.group.into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase(),
        short_names: text(row.short_names),
        categories: text(row.categories),
        namespaced: row.namespaced,
        versions: vec![Served {
            name: row.version.into(),
            status: row.status,
            schema: None,
            types: Types::Builtin(TypeInfo::builtin(&own, row.kind)),
            raw_schema: None,
            columns: Columns::builtin(&own, row.kind),
            selectable: text(row.selectable),
            deprecation: None,
        }],
        stored: api_version(home, row.version),
        prefix: format!("{}/{}/", if home.is_empty() { "core" } else { home }, row.plural),
        keeping: Keeping::default(),
        origin: Origin::Builtin(row),
    }
}
