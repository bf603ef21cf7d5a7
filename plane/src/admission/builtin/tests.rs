#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::admission::schema::tests::any_json;
use proptest::prelude::*;
use serde_json::json;

fn messages(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn unknown_fields_are_found_at_any_depth() {
    let mut object =
        pod(json!({"containers": [{"name": "a", "img": "x", "env": [{"name": "E", "vale": "1"}]}], "nope": 1}));
    object["metadata"]["labels"] = json!({"anything": "goes"});
    assert_eq!(
        prune("v1", "Pod", &mut object),
        ["spec.containers[0].env[0].vale", "spec.containers[0].img", "spec.nope"]
    );
    assert_eq!(
        object["spec"]["containers"][0],
        json!({"name": "a", "env": [{"name": "E"}]})
    );
    let mut crd = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {"a": {"typ": "string", "default": {"x": 1}}}}}}]}});
    assert_eq!(
        prune("apiextensions.k8s.io/v1", "CustomResourceDefinition", &mut crd),
        ["spec.versions[0].schema.openAPIV3Schema.properties.a.typ"]
    );
}

#[test]
fn wrong_types_are_refused_in_the_decoders_words() {
    let table = [
        (
            json!({"data": {"a": 1}}),
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string"#,
        ),
        (
            json!({"data": []}),
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string"#,
        ),
        (
            json!({"metadata": {"labels": {"a": true}}}),
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string"#,
        ),
    ];
    for (object, expected) in table {
        assert_eq!(
            check_types("v1", "ConfigMap", &object).unwrap_err(),
            expected,
            "{object}"
        );
    }
    let containers = pod(json!({"containers": {"a": 1}}));
    assert_eq!(
        check_types("v1", "Pod", &containers).unwrap_err(),
        r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"#
    );
    assert!(
        check_types("v1", "Secret", &json!({"data": {"a": "?"}}))
            .unwrap_err()
            .ends_with("illegal base64 data at input byte 0")
    );
    assert!(
        check_types(
            "v1",
            "Pod",
            &pod(json!({"containers": [{"resources": {"limits": {"cpu": "x"}}}]}))
        )
        .unwrap_err()
        .contains("quantities must match")
    );
    assert!(
        check_types(
            "v1",
            "Pod",
            &pod(
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": 1}}}], "activeDeadlineSeconds": 5})
            )
        )
        .is_ok()
    );
}

#[test]
fn pods_get_their_defaults() {
    let mut object = pod(
        json!({"containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}], "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "b", "image": "y", "command": [], "env": null}], "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]}),
    );
    default("v1", "Pod", &mut object);
    let spec = &object["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(spec["containers"][1]["imagePullPolicy"], "Always");
    assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"memory": "1Gi"}));
    assert_eq!(spec["containers"][1].get("command"), None);
    assert_eq!(
        spec["volumes"],
        json!([{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}])
    );
    let mut again = object.clone();
    default("v1", "Pod", &mut again);
    assert_eq!(again, object);
    assert_eq!(messages(&validate("v1", "Pod", &object, None)), Vec::<String>::new());
}

#[test]
fn secrets_fold_their_plain_text_in() {
    let mut object = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
    default("v1", "Secret", &mut object);
    assert_eq!(object, json!({"data": {"a": "eQ==", "b": "eg=="}, "type": "Opaque"}));
}

#[test]
fn broken_pods_are_refused() {
    let mut object = pod(
        json!({"containers": [{"name": "A", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}, {"image": "x"}], "restartPolicy": "Maybe"}),
    );
    default("v1", "Pod", &mut object);
    let found = messages(&validate("v1", "Pod", &object, None));
    for expected in [
        "spec.containers[0].image: Required value",
        "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        "spec.containers[1].name: Required value",
        "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
    ] {
        assert!(found.iter().any(|m| m == expected), "{expected}: {found:#?}");
    }
    assert_eq!(
        messages(&validate(
            "v1",
            "Pod",
            &pod(json!({"restartPolicy": "Always", "dnsPolicy": "Default"})),
            None
        )),
        ["spec.containers: Required value"]
    );
}

#[test]
fn what_is_fixed_cannot_be_updated() {
    let old = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}});
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    assert!(messages(&validate("batch/v1", "Job", &new, Some(&old)))[0].ends_with("field is immutable"));
    let old = json!({"immutable": true, "data": {"a": "1"}});
    assert_eq!(
        messages(&validate(
            "v1",
            "ConfigMap",
            &json!({"immutable": true, "data": {}}),
            Some(&old)
        )),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
}

#[test]
fn definitions_of_custom_resources_are_checked_whole() {
    let crd = |spec: Value| json!({"metadata": {"name": "widgets.example.com"}, "spec": spec});
    let good = json!({"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]});
    let mut object = crd(good.clone());
    default("apiextensions.k8s.io/v1", "CustomResourceDefinition", &mut object);
    assert_eq!(object["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(object["spec"]["names"]["singular"], "widget");
    assert_eq!(messages(&crd::validate(&object, None)), Vec::<String>::new());
    let mut bad = good;
    bad["group"] = json!("other.example.com");
    bad["scope"] = json!("Everywhere");
    bad["versions"][0]["storage"] = json!(false);
    bad["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"spec": {}}});
    let mut bad = crd(bad);
    default("apiextensions.k8s.io/v1", "CustomResourceDefinition", &mut bad);
    let found = messages(&crd::validate(&bad, None));
    assert_eq!(
        found[0],
        r#"metadata.name: Invalid value: "widgets.example.com": must be spec.names.plural+"."+spec.group"#
    );
    assert_eq!(
        found[1],
        r#"spec.scope: Unsupported value: "Everywhere": supported values: "Cluster", "Namespaced""#
    );
    assert_eq!(
        found[2],
        "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"
    );
    assert!(found[3].ends_with("must have exactly one version marked as storage version"));
}

#[test]
fn what_a_definition_says_is_held_against_its_schema() {
    let spec = json!({"group": "example.com", "scope": "Namespaced", "preserveUnknownFields": true,
        "names": {"plural": "widgets", "kind": "Widget", "categories": ["B_"]},
        "versions": [{"name": "v1", "served": true, "storage": true, "deprecationWarning": "x",
            "additionalPrinterColumns": [{"name": "A", "type": "string", "format": "odd", "jsonPath": "spec.a"}],
            "selectableFields": [{"jsonPath": ".spec.a"}, {"jsonPath": ".spec.none"}, {"jsonPath": "spec"}, {"jsonPath": ".spec"}, {"jsonPath": ".spec['a']"}, {"jsonPath": ".spec.map.x"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "apiVersion": {"type": "integer"},
                "metadata": {"type": "object", "properties": {"name": {"type": "string"}, "labels": {"type": "object"}}},
                "spec": {"type": "object", "properties": {"a": {"type": "string"}, "map": {"type": "object", "additionalProperties": {"type": "boolean"}}}}}}}}]});
    let mut object = json!({"metadata": {"name": "widgets.example.com"}, "spec": spec});
    default("apiextensions.k8s.io/v1", "CustomResourceDefinition", &mut object);
    let mut found: Vec<String> = messages(&crd::validate(&object, None));
    found.sort();
    let (columns, fields) = ("spec.additionalPrinterColumns[0]", "spec.selectableFields");
    let root = "spec.validation.openAPIV3Schema.properties";
    assert_eq!(
        found,
        [
            format!("{columns}.JSONPath: Invalid value: \"spec.a\": must be a simple json path starting with ."),
            format!(
                "{columns}.format: Invalid value: \"odd\": must be one of byte,date,date-time,double,float,int32,int64,password"
            ),
            format!(
                "spec.names.categories[0]: Invalid value: \"B_\": {}",
                crate::admission::names::dns1035_label("B_").join(",")
            ),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead".to_owned(),
            format!("{fields}[1].jsonPath: Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field"),
            format!("{fields}[2].jsonPath: Invalid value: \"spec\": is an invalid path: expected [ or . but got: spec"),
            format!("{fields}[3].jsonPath: Invalid value: \".spec\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."),
            format!("{fields}[4].jsonPath: Invalid value: \".spec['a']\": is an invalid path: array notation is not allowed"),
            format!("{root}[apiVersion].type: Invalid value: \"integer\": must be string"),
            format!(
                "{root}[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
            ),
            "spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions".to_owned(),
        ]
    );
    // What was there before stays allowed.
    let kept = messages(&crd::validate(&object, Some(&object)));
    assert!(!kept.iter().any(|error| error.contains("preserveUnknownFields: ")));
}

#[test]
fn a_pod_gets_less_time_and_more_tolerations_only() {
    let with = |deadline: Value, tolerations: Value| {
        let mut object = pod(json!({"containers": [{"name": "a", "image": "i"}], "tolerations": tolerations}));
        if !deadline.is_null() {
            object["spec"]["activeDeadlineSeconds"] = deadline;
        }
        default("v1", "Pod", &mut object);
        object
    };
    let one = json!([{"key": "a", "operator": "Exists", "effect": "NoExecute"}]);
    let more = json!([{"key": "b"}, {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
    let old = with(json!(100), one.clone());
    let told = |new: &Value| messages(&validate("v1", "Pod", new, Some(&old)));
    assert!(told(&with(json!(50), more)).is_empty());
    assert_eq!(
        told(&with(json!(200), one.clone())),
        ["spec.activeDeadlineSeconds: Invalid value: 200: must be less than or equal to previous value"]
    );
    assert_eq!(
        told(&with(Value::Null, one.clone())),
        ["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"]
    );
    assert_eq!(
        told(&with(json!(100), json!([{"key": "b"}]))),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    let mut patient = old.clone();
    patient["spec"]["terminationGracePeriodSeconds"] = json!(5);
    assert!(told(&patient)[0].starts_with("spec: Forbidden: pod updates may not change fields"));
}

#[test]
fn a_job_counts_in_one_of_two_ways() {
    let mut job = json!({"metadata": {"name": "j"}, "spec": {"completionMode": "Odd", "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}}}});
    default("batch/v1", "Job", &mut job);
    assert_eq!(
        messages(&validate("batch/v1", "Job", &job, None)),
        [r#"spec.completionMode: Unsupported value: "Odd": supported values: "NonIndexed", "Indexed""#]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_object_breaks_a_built_in_kind(value in any_json(), old in any_json()) {
        for (api_version, kind) in [("v1", "Pod"), ("v1", "ConfigMap"), ("v1", "Secret"), ("batch/v1", "Job"), ("v1", "Event"), ("v1", "Namespace"),
            ("v1", "PersistentVolumeClaim"), ("coordination.k8s.io/v1", "Lease"), ("apiextensions.k8s.io/v1", "CustomResourceDefinition")] {
            let mut object = value.clone();
            let _ = check_types(api_version, kind, &object);
            prune(api_version, kind, &mut object);
            prop_assert_eq!(prune(api_version, kind, &mut object.clone()), Vec::<String>::new());
            default(api_version, kind, &mut object);
            validate(api_version, kind, &object, Some(&old));
            let wrapped = json!({"metadata": {"name": "x"}, "spec": value});
            validate(api_version, kind, &wrapped, Some(&wrapped));
        }
    }
}

#[test]
fn a_pod_is_filled_in_where_its_host_and_empty_texts_leave_it_open() {
    let mut object = pod(json!({
        "hostNetwork": true,
        "schedulerName": "",
        "containers": [{
            "name": "a", "image": "i", "workingDir": "", "ports": [{"containerPort": 80, "name": ""}],
            "env": [{"name": "e", "value": ""}, {"name": "f", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
        }],
    }));
    default("v1", "Pod", &mut object);
    let (spec, container) = (&object["spec"], &object["spec"]["containers"][0]);
    assert_eq!(spec["schedulerName"], "default-scheduler");
    assert_eq!(container.get("workingDir"), None);
    assert_eq!(
        container["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "hostPort": 80}])
    );
    assert_eq!(container["env"][0], json!({"name": "e"}));
    assert_eq!(container["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
}

#[test]
fn containers_neither_come_nor_go() {
    let with = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        let mut object = pod(json!({ "containers": containers }));
        default("v1", "Pod", &mut object);
        object
    };
    assert_eq!(
        messages(&validate("v1", "Pod", &with(&["a"]), Some(&with(&["a", "b"])))),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}
