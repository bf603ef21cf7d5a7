//! Definitions of the built-in types served: their schemas, and how their lists merge.
//!
//! Schemas and descriptions come from `k8s-openapi`; what it leaves out (list and map
//! topology, defaults of list keys) is added here from the table below.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::events::v1::Event as EventsEvent;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Status};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

/// Name of `ObjectMeta`'s definition.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Name of `ListMeta`'s definition.
pub const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The kinds served: group version, kind, definition.
const KINDS: [(&str, &str, &str); 11] = [
    ("v1", "ConfigMap", "io.k8s.api.core.v1.ConfigMap"),
    ("v1", "Event", "io.k8s.api.core.v1.Event"),
    ("v1", "Namespace", "io.k8s.api.core.v1.Namespace"),
    (
        "v1",
        "PersistentVolumeClaim",
        "io.k8s.api.core.v1.PersistentVolumeClaim",
    ),
    ("v1", "Pod", "io.k8s.api.core.v1.Pod"),
    ("v1", "Secret", "io.k8s.api.core.v1.Secret"),
    ("events.k8s.io/v1", "Event", "io.k8s.api.events.v1.Event"),
    ("batch/v1", "Job", "io.k8s.api.batch.v1.Job"),
    ("coordination.k8s.io/v1", "Lease", "io.k8s.api.coordination.v1.Lease"),
    (
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
];

/// Returns the name of a kind's definition.
pub fn name_of(api_version: &str, kind: &str) -> Option<&'static str> {
    KINDS
        .iter()
        .find(|(v, k, _)| *v == api_version && *k == kind)
        .map(|(_, _, name)| *name)
}

/// Returns the definition of a name.
pub fn get(name: &str) -> Option<&'static Value> {
    DEFINITIONS.get(name)
}

/// Returns all definitions by name.
pub fn all() -> &'static BTreeMap<String, Value> {
    &DEFINITIONS
}

/// Returns the name to which a `$ref` points.
pub fn ref_name(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or_default()
}

static DEFINITIONS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(build);

fn build() -> BTreeMap<String, Value> {
    let mut generator: SchemaGenerator = SchemaSettings::draft07().into_generator();
    generator.subschema_for::<ConfigMap>();
    generator.subschema_for::<Event>();
    generator.subschema_for::<EventsEvent>();
    generator.subschema_for::<Namespace>();
    generator.subschema_for::<PersistentVolumeClaim>();
    generator.subschema_for::<Pod>();
    generator.subschema_for::<Secret>();
    generator.subschema_for::<Job>();
    generator.subschema_for::<Lease>();
    generator.subschema_for::<CustomResourceDefinition>();
    generator.subschema_for::<SelfSubjectAccessReview>();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<Status>();
    generator.subschema_for::<ListMeta>();
    let mut out: BTreeMap<String, Value> = generator.take_definitions(false).into_iter().collect();
    for (name, fields) in TOPOLOGY {
        for (field, topology) in *fields {
            if let Some(schema) = out
                .get_mut(*name)
                .and_then(|d| d.pointer_mut(&format!("/properties/{field}")))
            {
                topology.write(schema);
            }
        }
    }
    for name in ATOMIC {
        if let Some(schema) = out.get_mut(*name) {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
    }
    if let Some(protocol) = out
        .get_mut("io.k8s.api.core.v1.ContainerPort")
        .and_then(|d| d.pointer_mut("/properties/protocol"))
    {
        protocol["default"] = json!("TCP");
    }
    for (api_version, kind, name) in KINDS {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(schema) = out.get_mut(name) {
            schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
        }
    }
    out
}

/// How one field merges.
enum Topology {
    /// A list map: keys for apply, then key and further strategies for strategic merge.
    Map(&'static [&'static str], &'static str),
    /// The same, whose entries are replaced with their other keys dropped.
    MapRetain(&'static [&'static str], &'static str),
    /// A list map for apply that a strategic merge replaces.
    MapOnly(&'static [&'static str]),
    /// A list that apply takes as one value and a strategic merge merges by key.
    PatchOnly(&'static str),
    /// A set, merged.
    MergedSet,
    /// A set that a strategic merge replaces.
    Set,
    /// A map that is one value.
    AtomicMap,
    /// A list that is one value, said so.
    Atomic,
}

impl Topology {
    fn write(&self, schema: &mut Value) {
        match self {
            Self::Map(keys, merge) | Self::MapRetain(keys, merge) => {
                schema["x-kubernetes-list-type"] = json!("map");
                schema["x-kubernetes-list-map-keys"] = json!(keys);
                schema["x-kubernetes-patch-merge-key"] = json!(merge);
                let retain = matches!(self, Self::MapRetain(..));
                schema["x-kubernetes-patch-strategy"] = json!(if retain { "merge,retainKeys" } else { "merge" });
            }
            Self::MapOnly(keys) => {
                schema["x-kubernetes-list-type"] = json!("map");
                schema["x-kubernetes-list-map-keys"] = json!(keys);
            }
            Self::PatchOnly(merge) => {
                schema["x-kubernetes-list-type"] = json!("atomic");
                schema["x-kubernetes-patch-merge-key"] = json!(merge);
                schema["x-kubernetes-patch-strategy"] = json!("merge");
            }
            Self::MergedSet => {
                schema["x-kubernetes-list-type"] = json!("set");
                schema["x-kubernetes-patch-strategy"] = json!("merge");
            }
            Self::Set => schema["x-kubernetes-list-type"] = json!("set"),
            Self::AtomicMap => schema["x-kubernetes-map-type"] = json!("atomic"),
            Self::Atomic => schema["x-kubernetes-list-type"] = json!("atomic"),
        }
    }
}

use Topology::{Atomic, AtomicMap, Map, MapOnly, MapRetain, MergedSet, PatchOnly, Set};

const NAME: &[&str] = &["name"];
const TYPE: &[&str] = &["type"];

type Fields = &'static [(&'static str, Topology)];

const CONTAINER: Fields = &[
    ("ports", Map(&["containerPort", "protocol"], "containerPort")),
    ("env", Map(NAME, "name")),
    ("volumeMounts", Map(&["mountPath"], "mountPath")),
    ("volumeDevices", Map(&["devicePath"], "devicePath")),
];

/// Fields that are not merged as their type alone would have it. Lists not named are single values.
const TOPOLOGY: &[(&str, Fields)] = &[
    (
        OBJECT_META,
        &[
            ("ownerReferences", Map(&["uid"], "uid")),
            ("finalizers", MergedSet),
            ("managedFields", Atomic),
        ],
    ),
    ("io.k8s.api.core.v1.Container", CONTAINER),
    ("io.k8s.api.core.v1.EphemeralContainer", CONTAINER),
    ("io.k8s.api.core.v1.ResourceRequirements", &[("claims", MapOnly(NAME))]),
    (
        "io.k8s.api.core.v1.ContainerStatus",
        &[
            ("volumeMounts", Map(&["mountPath"], "mountPath")),
            ("allocatedResourcesStatus", Map(NAME, "name")),
        ],
    ),
    (
        "io.k8s.api.core.v1.ResourceStatus",
        &[("resources", MapOnly(&["resourceID"]))],
    ),
    ("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", &[("values", Set)]),
    (
        "io.k8s.api.core.v1.PodSpec",
        &[
            ("volumes", MapRetain(NAME, "name")),
            ("initContainers", Map(NAME, "name")),
            ("containers", Map(NAME, "name")),
            ("ephemeralContainers", Map(NAME, "name")),
            ("imagePullSecrets", Map(NAME, "name")),
            ("hostAliases", Map(&["ip"], "ip")),
            (
                "topologySpreadConstraints",
                Map(&["topologyKey", "whenUnsatisfiable"], "topologyKey"),
            ),
            ("schedulingGates", Map(NAME, "name")),
            ("resourceClaims", MapRetain(NAME, "name")),
            ("nodeSelector", AtomicMap),
        ],
    ),
    (
        "io.k8s.api.core.v1.PodStatus",
        &[
            ("conditions", Map(TYPE, "type")),
            ("hostIPs", PatchOnly("ip")),
            ("podIPs", Map(&["ip"], "ip")),
            ("resourceClaimStatuses", MapRetain(NAME, "name")),
        ],
    ),
    (
        "io.k8s.api.core.v1.NamespaceStatus",
        &[("conditions", Map(TYPE, "type"))],
    ),
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        &[("conditions", Map(TYPE, "type"))],
    ),
    ("io.k8s.api.batch.v1.JobStatus", &[("conditions", PatchOnly("type"))]),
    (
        "io.k8s.api.batch.v1.UncountedTerminatedPods",
        &[("succeeded", Set), ("failed", Set)],
    ),
    (
        "io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement",
        &[("values", Set)],
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        &[("conditions", MapOnly(TYPE))],
    ),
];

/// Structures that are one value wherever they stand.
const ATOMIC: &[&str] = &[
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
];
