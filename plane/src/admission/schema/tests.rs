#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn schema(spec: Value) -> Structural {
    schema_result(spec).unwrap()
}

fn schema_result(spec: Value) -> Result<Structural, Vec<FieldError>> {
    Structural::from_openapi(&json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "spec": spec, "status": {"type": "object", "properties": {"phase": {"type": "string", "enum": ["A", "B"]}}}}}))
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec})
}

fn messages(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn widget() -> Structural {
    schema(json!({
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string", "enum": ["coder", "verifier"]},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 5, "default": 1},
            "name": {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"},
            "ratio": {"type": "number", "exclusiveMinimum": true, "minimum": 0.5},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "maybe": {"type": "string", "nullable": true},
            "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 3},
            "steps": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "run": {"type": "string", "default": "true"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}
        }
    }))
}

#[test]
fn values_are_refused_in_the_servers_words() {
    let table = [
        (json!({"role": "coder"}), vec![]),
        (json!({}), vec!["spec.role: Required value"]),
        (
            json!({"role": "x"}),
            vec![r#"spec.role: Unsupported value: "x": supported values: "coder", "verifier""#],
        ),
        (
            json!({"role": "coder", "replicas": "2"}),
            vec![r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#],
        ),
        (
            json!({"role": "coder", "replicas": 9}),
            vec!["spec.replicas: Invalid value: 9: spec.replicas in body should be less than or equal to 5"],
        ),
        (json!({"role": "coder", "replicas": 2.0}), vec![]),
        (
            json!({"role": "coder", "replicas": 2.5}),
            vec![r#"spec.replicas: Invalid value: "number": spec.replicas in body must be of type integer: "number""#],
        ),
        (
            json!({"role": "coder", "name": "abcdef"}),
            vec!["spec.name: Too long: may not be more than 5 bytes"],
        ),
        (
            json!({"role": "coder", "name": "A"}),
            vec![r#"spec.name: Invalid value: "A": spec.name in body should match '^[a-z]+$'"#],
        ),
        (
            json!({"role": "coder", "ratio": 0.5}),
            vec!["spec.ratio: Invalid value: 0.5: spec.ratio in body should be greater than 0.5"],
        ),
        (json!({"role": "coder", "port": "http"}), vec![]),
        (json!({"role": "coder", "port": 80}), vec![]),
        (
            json!({"role": "coder", "port": true}),
            vec![r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#],
        ),
        (
            json!({"role": "coder", "when": "soon"}),
            vec![r#"spec.when: Invalid value: "soon": spec.when in body must be of type date-time: "soon""#],
        ),
        (json!({"role": "coder", "maybe": null}), vec![]),
        (
            json!({"role": "coder", "tags": ["a", "b", "a", "a"]}),
            vec![
                "spec.tags: Too many: 4: must have at most 3 items",
                r#"spec.tags[2]: Duplicate value: "a""#,
            ],
        ),
        (
            json!({"role": "coder", "steps": [{"name": "a"}, {"name": "a"}]}),
            vec![r#"spec.steps[1]: Duplicate value: {"name":"a"}"#],
        ),
        (
            json!({"role": "coder", "steps": [{}]}),
            vec!["spec.steps[0].name: Required value"],
        ),
        (
            json!({"role": "coder", "labels": {"a": 1}}),
            vec![r#"spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer""#],
        ),
        (
            json!({"role": "coder", "one": {}}),
            vec![
                r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found none valid"#,
                "spec.one.a: Required value",
            ],
        ),
        (
            json!({"role": "coder", "one": {"a": "", "b": ""}}),
            vec![
                r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
        (
            json!({"role": "coder", "template": {"kind": "X"}}),
            vec!["spec.template.apiVersion: Required value"],
        ),
    ];
    let s = widget();
    for (spec, expected) in table {
        assert_eq!(messages(&s.validate(&object(spec.clone()), None)), expected, "{spec}");
    }
}

#[test]
fn unknown_fields_are_removed_and_named() {
    let mut o = object(json!({
        "role": "coder", "foo": 1, "steps": [{"name": "a", "x": {"y": 1}}], "labels": {"k": "v"},
        "raw": {"any": {"thing": 1}, "known": {"a": "", "b": ""}},
        "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "nope": 1}, "spec": {}}
    }));
    o["metadata"]["bogus"] = json!(1);
    o["extra"] = json!(true);
    let paths = widget().prune(&mut o);
    assert_eq!(
        paths,
        [
            "extra",
            "metadata.bogus",
            "spec.foo",
            "spec.raw.known.b",
            "spec.steps[0].x",
            "spec.template.metadata.nope"
        ]
    );
    assert_eq!(o["spec"]["raw"]["any"], json!({"thing": 1}));
    assert_eq!(o["metadata"], json!({"name": "w"}));
}

#[test]
fn defaults_fill_in_and_replace_nulls() {
    let mut o =
        object(json!({"role": "coder", "replicas": null, "name": null, "maybe": null, "steps": [{"name": "a"}]}));
    widget().default(&mut o);
    assert_eq!(
        o["spec"],
        json!({"role": "coder", "replicas": 1, "maybe": null, "steps": [{"name": "a", "run": "true"}]})
    );
}

#[test]
fn what_did_not_change_is_forgiven() {
    let s = widget();
    let old = object(json!({"role": "coder", "name": "TOO-LONG", "replicas": 2}));
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(3);
    assert_eq!(messages(&s.validate(&new, Some(&old))), Vec::<String>::new());
    new["spec"]["name"] = json!("ALSO-BAD");
    assert_eq!(
        messages(&s.validate(&new, Some(&old))),
        ["spec.name: Too long: may not be more than 5 bytes"]
    );
}

#[test]
fn rules_may_ask_for_types() {
    let s = schema(json!({
        "type": "object",
        "properties": {"p": {"x-kubernetes-int-or-string": true}},
        "x-kubernetes-validations": [
            {"rule": "!has(self.p) || (type(self.p) == int ? self.p < 5 : self.p.endsWith('%'))", "message": "too much"},
            {"rule": "type([1]) == list && type({}) == map && type(1.5) == double && type(b'x') == bytes && type(1u) == uint"},
            {"rule": "type(true) == bool && type(null) == null_type && type('x') == string && dyn(1) == 1"}
        ]
    }));
    for (value, fits) in [
        (json!(4), true),
        (json!(7), false),
        (json!("7%"), true),
        (json!("7"), false),
    ] {
        let wrong = messages(&s.validate(&object(json!({"p": value})), None));
        let told = [r#"spec: Invalid value: "object": too much"#];
        assert_eq!(wrong, if fits { &[][..] } else { &told[..] }, "{value}");
    }
}

#[test]
fn rules_are_run_and_worded() {
    let s = schema(json!({
        "type": "object",
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}]},
            "name-x": {"type": "string"},
            "once": {"type": "string", "x-kubernetes-validations": [
                {"rule": "!oldSelf.hasValue() || self == oldSelf.value()", "optionalOldSelf": true, "message": "set once"}]},
            "tags": {"type": "array", "maxItems": 9, "items": {"type": "string", "maxLength": 9}, "x-kubernetes-list-type": "set",
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "tags are fixed"}]},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"],
                "properties": {"k": {"type": "string"}, "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "reason": "FieldValueForbidden", "message": "must not shrink"}]}}}},
            "ttl": {"type": "string", "format": "duration", "x-kubernetes-validations": [{"rule": "self > duration('1m')", "message": "too short"}]},
            "m": {"type": "object", "additionalProperties": {"type": "string"}}
        },
        "x-kubernetes-validations": [
            {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is above max ' + string(self.max)", "fieldPath": ".min"},
            {"rule": "!has(self.name__dash__x) || self.name__dash__x.startsWith('n')"},
            {"rule": "!has(self.m) || self.m['need'] == 'y'"}
        ]
    }));
    let old = object(
        json!({"fixed": "a", "once": "1", "tags": ["x", "y"], "list": [{"k": "a", "v": 2}, {"k": "b", "v": 1}]}),
    );
    let table = [
        (json!({"min": 1, "max": 2}), vec![]),
        (
            json!({"min": 3, "max": 2}),
            vec![r#"spec.min: Invalid value: "object": min 3 is above max 2"#],
        ),
        (
            json!({"name-x": "q"}),
            vec![
                r#"spec: Invalid value: "object": failed rule: !has(self.name__dash__x) || self.name__dash__x.startsWith('n')"#,
            ],
        ),
        (
            json!({"fixed": "b"}),
            vec![r#"spec.fixed: Invalid value: "string": fixed is immutable"#],
        ),
        (
            json!({"once": "2"}),
            vec![r#"spec.once: Invalid value: "string": set once"#],
        ),
        (json!({"tags": ["y", "x"]}), vec![]),
        (
            json!({"tags": ["y"]}),
            vec![r#"spec.tags: Invalid value: "array": tags are fixed"#],
        ),
        (
            json!({"list": [{"k": "b", "v": 0}, {"k": "a", "v": 3}]}),
            vec!["spec.list[0].v: Forbidden: must not shrink"],
        ),
        (
            json!({"ttl": "30s"}),
            vec![r#"spec.ttl: Invalid value: "string": too short"#],
        ),
        (json!({"ttl": "1h"}), vec![]),
        (
            json!({"m": {"other": ""}}),
            vec![
                r#"spec: Invalid value: "object": no such key: need evaluating rule: !has(self.m) || self.m['need'] == 'y'"#,
            ],
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(
            messages(&s.validate(&object(spec.clone()), Some(&old))),
            expected,
            "{spec}"
        );
    }
    assert_eq!(messages(&s.validate(&old, None)), Vec::<String>::new());
}

#[test]
fn an_invalid_object_is_not_shown_to_its_rules() {
    let s = schema(
        json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "self.a == 'x'"}]}),
    );
    assert_eq!(
        messages(&s.validate(&object(json!({})), None)),
        [
            "spec.a: Required value",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
        ]
    );
}

#[test]
fn the_status_is_checked_alone() {
    let s = widget();
    let old = object(json!({"nonsense": true}));
    let mut new = old.clone();
    new["status"] = json!({"phase": "C"});
    assert_eq!(
        messages(&s.validate_status(Vec::new(), &new, &old).0),
        [r#"status.phase: Unsupported value: "C": supported values: "A", "B""#]
    );
}

#[test]
fn broken_schemas_are_refused() {
    let table = [
        (
            json!({}),
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "array"}),
            "spec.validation.openAPIV3Schema.properties[spec].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "["}}}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].pattern: Invalid value: \"[\": must be a valid regular expression",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.nope == 1"}]}),
            "compilation failed: ERROR: undefined field 'nope'",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "other == 1"}]}),
            "undeclared reference to 'other' (in container '')",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == "}]}),
            "compilation failed",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"q": {"type": "string"}}}]}),
            "spec.validation.openAPIV3Schema.properties[spec].anyOf[0].properties[q].type: Forbidden: must be empty to be structural",
        ),
    ];
    for (spec, expected) in table {
        let errors = messages(&schema_result(spec.clone()).unwrap_err());
        assert!(errors.iter().any(|e| e.contains(expected)), "{spec}: {errors:#?}");
    }
}

#[test]
fn rules_with_comprehensions_pass_the_check() {
    let s = schema(
        json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}}}}},
        "x-kubernetes-validations": [{"rule": "self.l.all(x, x.n.size() > 0 && self.l.exists_one(y, y.n == x.n))"}]}),
    );
    assert!(s.validate(&object(json!({"l": [{"n": "a"}]})), None).is_empty());
    assert_eq!(
        s.validate(&object(json!({"l": [{"n": "a"}, {"n": "a"}]})), None).len(),
        1
    );
    assert!(
        schema_result(json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}}}}},
        "x-kubernetes-validations": [{"rule": "self.l.all(x, x.m == '')"}]}))
        .is_err()
    );
}

/// Arbitrary JSON, small.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z$/~.-]{0,6}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("spec".to_owned()),
        Just("metadata".to_owned()),
        Just("role".to_owned()),
        Just("steps".to_owned()),
        Just("name".to_owned()),
        Just("type".to_owned()),
        Just("properties".to_owned()),
        Just("items".to_owned()),
        Just("labels".to_owned()),
        Just("tags".to_owned()),
        Just("raw".to_owned()),
        Just("template".to_owned()),
        "[a-z$]{1,4}".prop_map(|s| s),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5).prop_map(|l| Value::Object(l.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pruning_and_defaulting_twice_change_nothing_more(value in any_json()) {
        let s = widget();
        let mut once = object(value);
        s.prune(&mut once);
        s.default(&mut once);
        let mut twice = once.clone();
        prop_assert_eq!(s.prune(&mut twice), Vec::<String>::new());
        s.default(&mut twice);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn no_value_and_no_schema_breaks_validation(value in any_json(), old in any_json(), other in any_json()) {
        let s = widget();
        s.validate(&object(value.clone()), None);
        s.validate(&object(value.clone()), Some(&object(old)));
        s.validate(&value, None);
        if let Ok(s) = Structural::from_openapi(&other) {
            s.validate(&value, None);
        }
        if let Ok(s) = Structural::from_openapi(&json!({"type": "object", "properties": {"spec": other}})) {
            s.validate(&object(value), None);
        }
    }
}

#[test]
fn a_schema_is_shared_between_threads() {
    let shared = std::sync::Arc::new(widget());
    let found: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| shared.validate(&object(json!({})), None).len()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(found, [1, 1]);
}
