//! The table of scripts: how a case is written down.
//!
//! A file in `scripts` is a group of cases, a case a list of steps, and every case has a namespace of its own:
//!
//! ```yaml
//! - case: a config map is made
//!   steps:
//!   - do: POST @cm                      # verb and path; @cm stands for a collection, see ALIASES
//!     body: {metadata: {name: a}}       # apiVersion and kind come from the alias where they are missing
//!     keep: {rv: metadata/resourceVersion}   # remembered; $rv in a later path or body
//!   - do: GET @cm/a
//!     until: {metadata/labels/x: y}     # asked again until it holds; `code` is the status, null is absent
//! ```
//!
//! `$ns` is the case's namespace, `$group` an API group of its own, `$gadgets` the group of the shared definition in
//! `gadgets.json`, `$run` a word that only this run has. Other verbs: `WATCH path` opens a watch and reads `events`
//! events, or to its `end`; with `as: name` it stays open for a later `READ name`. `define: {…}` makes a definition of
//! `things.$group` from the fields of its version v1, and waits until both `@thing` and the watch on it are served.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Short names for collections: path, apiVersion, kind.
pub const ALIASES: &[(&str, &str, &str, &str)] = &[
    ("cm", "/api/v1/namespaces/$ns/configmaps", "v1", "ConfigMap"),
    ("secret", "/api/v1/namespaces/$ns/secrets", "v1", "Secret"),
    ("pod", "/api/v1/namespaces/$ns/pods", "v1", "Pod"),
    (
        "pvc",
        "/api/v1/namespaces/$ns/persistentvolumeclaims",
        "v1",
        "PersistentVolumeClaim",
    ),
    ("event", "/api/v1/namespaces/$ns/events", "v1", "Event"),
    (
        "newevent",
        "/apis/events.k8s.io/v1/namespaces/$ns/events",
        "events.k8s.io/v1",
        "Event",
    ),
    ("job", "/apis/batch/v1/namespaces/$ns/jobs", "batch/v1", "Job"),
    (
        "lease",
        "/apis/coordination.k8s.io/v1/namespaces/$ns/leases",
        "coordination.k8s.io/v1",
        "Lease",
    ),
    ("ns", "/api/v1/namespaces", "v1", "Namespace"),
    (
        "crd",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
    ),
    (
        "gadget",
        "/apis/$gadgets/v1/namespaces/$ns/gadgets",
        "$gadgets/v1",
        "Gadget",
    ),
    ("thing", "/apis/$group/v1/namespaces/$ns/things", "$group/v1", "Thing"),
];

/// One script.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The group, which is the file's name.
    #[serde(skip)]
    pub group: String,
    /// Its number among all.
    #[serde(skip)]
    pub number: usize,
    /// What it shows.
    #[serde(rename = "case")]
    pub name: String,
    /// What is asked, in order.
    pub steps: Vec<Step>,
}

/// One request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Verb and path.
    #[serde(rename = "do")]
    pub request: String,
    /// Fields of version v1 of a definition to be made.
    pub define: Option<Value>,
    /// The body.
    pub body: Option<Value>,
    /// The body as text.
    pub text: Option<String>,
    /// Whether `apiVersion` and `kind` are left as they are.
    pub bare: bool,
    /// Content type: `json-patch`, `merge`, `strategic`, `apply`, or in full.
    #[serde(rename = "type")]
    pub media: Option<String>,
    /// Accepted: `table`, `partial`, `partials`, `discovery`, or in full.
    pub accept: Option<String>,
    /// What is remembered of the answer.
    pub keep: BTreeMap<String, String>,
    /// What must hold before the answer counts.
    pub until: BTreeMap<String, Value>,
    /// Fields of which only the presence is compared.
    pub mask: Vec<String>,
    /// Fields that are not compared.
    pub drop: Vec<String>,
    /// Regular expressions for text that differs from run to run.
    pub forget: Vec<String>,
    /// Whether only the status is compared.
    pub status_only: bool,
    /// Whether the step only prepares; it must succeed.
    pub setup: bool,
    /// How many events are read.
    pub events: usize,
    /// Whether events are read until the watch ends.
    pub end: bool,
    /// Whether bookmarks count as events.
    pub bookmarks: bool,
    /// The name under which a watch stays open.
    #[serde(rename = "as")]
    pub open: Option<String>,
}

impl Step {
    /// Returns the step in a few words.
    pub fn told(&self) -> &str {
        if self.define.is_some() { "define" } else { &self.request }
    }
}

/// A difference that is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The group.
    pub group: String,
    /// The case.
    pub case: String,
    /// The step's number, from 1.
    pub step: usize,
    /// The status of kube-apiserver.
    pub kubernetes: u16,
    /// The status of the plane.
    pub plane: u16,
    /// Why it is so.
    #[allow(dead_code, reason = "for the reader of the list")]
    pub why: String,
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real")
}

/// Reads every script.
pub fn cases() -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(folder().join("scripts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut all: Vec<Case> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let value = schemas::yaml::parse_value(&text).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let cases: Vec<Case> = serde_json::from_value(value).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let group = file.file_stem().unwrap().to_string_lossy().into_owned();
        for mut case in cases {
            case.group.clone_from(&group);
            case.number = all.len();
            all.push(case);
        }
    }
    all
}

/// Reads the list of limits.
pub fn limits() -> Vec<Limit> {
    let text = std::fs::read_to_string(folder().join("limits.yaml")).unwrap();
    let value = schemas::yaml::parse_value(&text).unwrap();
    if value.is_null() {
        return Vec::new();
    }
    serde_json::from_value(value).unwrap()
}
