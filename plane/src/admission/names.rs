//! Names, labels and annotations: what may be one, in kube-apiserver's words.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::error::{ErrorKind, FieldError};

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const DNS1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

fn whole(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$")).expect("a constant pattern compiles")
}

static LABEL_RE: LazyLock<Regex> = LazyLock::new(|| whole(LABEL));
static SUBDOMAIN_RE: LazyLock<Regex> = LazyLock::new(|| whole(SUBDOMAIN));
static QUALIFIED_RE: LazyLock<Regex> = LazyLock::new(|| whole(QUALIFIED));
static LABEL_VALUE_RE: LazyLock<Regex> = LazyLock::new(|| whole(LABEL_VALUE));
static DNS1035_RE: LazyLock<Regex> = LazyLock::new(|| whole(DNS1035));

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn mismatch(words: &str, pattern: &str, examples: &[&str]) -> String {
    let shown: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
    format!(
        "{words} (e.g. {}, regex used for validation is '{pattern}')",
        shown.join(",  or ")
    )
}

/// Checks an RFC 1123 subdomain; returns what is wrong.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 253 {
        wrong.push(too_long(253));
    }
    if !SUBDOMAIN_RE.is_match(value) {
        wrong.push(mismatch(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    wrong
}

/// Checks an RFC 1123 label; returns what is wrong.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 63 {
        wrong.push(too_long(63));
    }
    if !LABEL_RE.is_match(value) {
        wrong.push(if SUBDOMAIN_RE.is_match(value) {
            "must not contain dots".to_owned()
        } else {
            mismatch(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    wrong
}

/// Checks an RFC 1035 label; returns what is wrong.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 63 {
        wrong.push(too_long(63));
    }
    if !DNS1035_RE.is_match(value) {
        wrong.push(mismatch(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            DNS1035,
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// Checks a qualified name such as a label's key; returns what is wrong.
pub fn qualified_name(value: &str) -> Vec<String> {
    const WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let parts: Vec<&str> = value.split('/').collect();
    let mut wrong = Vec::new();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|m| format!("prefix part {m}")),
                );
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                mismatch(WORDS, QUALIFIED, &examples)
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        wrong.push(format!("name part {}", too_long(63)));
    }
    if !QUALIFIED_RE.is_match(name) {
        wrong.push(format!("name part {}", mismatch(WORDS, QUALIFIED, &examples)));
    }
    wrong
}

/// Checks a label's value; returns what is wrong.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 63 {
        wrong.push(too_long(63));
    }
    if !LABEL_VALUE_RE.is_match(value) {
        wrong.push(mismatch(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            LABEL_VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// Checks a key of a ConfigMap or Secret; returns what is wrong.
pub fn config_key(value: &str) -> Vec<String> {
    const PATTERN: &str = "[-._a-zA-Z0-9]+";
    static KEY_RE: LazyLock<Regex> = LazyLock::new(|| whole(PATTERN));
    let mut wrong = Vec::new();
    if value.len() > 253 {
        wrong.push(too_long(253));
    }
    if !KEY_RE.is_match(value) {
        wrong.push(mismatch(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            PATTERN,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        v if v.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// Makes a name of `base` (cut to 58 bytes) and five characters drawn from `random`.
///
/// The alphabet leaves out vowels and digits that look like letters.
pub fn generate_name(base: &str, random: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut cut = base.len().min(58);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_owned();
    let mut rest = random;
    for _ in 0..5 {
        name.push(char::from(ALPHABET[(rest % 27) as usize]));
        rest /= 27;
    }
    name
}

/// Replaces a trailing dash, so that a prefix for generated names can be checked as a name.
fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => {
            let mut chars = stem.chars();
            chars.next_back();
            format!("{}a", chars.as_str())
        }
        _ => name.to_owned(),
    }
}

/// What names a kind's objects may bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomains: most kinds.
    Subdomain,
    /// RFC 1123 labels: Namespace.
    Label,
}

impl NameRule {
    /// Returns the rule for a kind.
    pub fn of(kind: &str) -> Self {
        if kind == "Namespace" {
            Self::Label
        } else {
            Self::Subdomain
        }
    }

    /// Checks a name; returns what is wrong.
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => dns1123_subdomain(name),
            Self::Label => dns1123_label(name),
        }
    }
}

/// Checks `metadata` of a new object: name, namespace, labels, annotations, owner
/// references, finalizers. Name generation must have happened.
pub fn validate_metadata(metadata: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut errors = Vec::new();
    let generate = text("generateName");
    if !generate.is_empty() {
        for message in rule.check(&mask_trailing_dash(generate)) {
            errors.push(FieldError::invalid("metadata.generateName", generate, message));
        }
    }
    let name = text("name");
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        for message in rule.check(name) {
            errors.push(FieldError::invalid("metadata.name", name, message));
        }
    }
    let namespace = text("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            for message in dns1123_label(namespace) {
                errors.push(FieldError::invalid("metadata.namespace", namespace, message));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    errors.extend(validate_maps(metadata));
    errors.extend(validate_finalizers(metadata));
    errors
}

/// Checks the finalizers of a built-in kind, of which those without a domain must be known ones.
pub fn validate_builtin_finalizers(metadata: &Value) -> Vec<FieldError> {
    let list = metadata.get("finalizers").and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(Value::as_str).enumerate();
    names
        .filter(|(_, name)| !name.contains('/') && !matches!(*name, "kubernetes" | "orphan" | "foregroundDeletion"))
        .map(|(i, name)| {
            FieldError::invalid(
                format!("metadata.finalizers[{i}]"),
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            )
        })
        .collect()
}

/// Checks `metadata` of an object that replaces another.
///
/// `resourceVersion` is not checked here: what a missing one means depends on the kind
/// (see [`super::error::version_required_status`]).
pub fn validate_metadata_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let finalizers = |m: &Value| -> Vec<String> {
        let mut list: Vec<String> = m
            .get("finalizers")
            .and_then(Value::as_array)
            .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        list.sort();
        list.dedup();
        list
    };
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let before = finalizers(old);
        let added: Vec<String> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|f| super::gofmt::quote(f)).collect();
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            ));
        }
    }

    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (now, then) = (new.get(key), old.get(key));
        let empty = |v: Option<&Value>| v.is_none_or(|v| v.is_null() || v == "");
        if now != then && !(empty(now) && empty(then)) {
            let shown = now.cloned().unwrap_or_else(|| match key {
                "name" | "namespace" | "uid" => "".into(),
                _ => Value::Null,
            });
            errors.push(FieldError::invalid(
                format!("metadata.{key}"),
                shown,
                "field is immutable",
            ));
        }
    }
    errors.extend(validate_maps(new));
    errors
}

fn validate_maps(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = metadata.get("labels").and_then(Value::as_object) {
        let mut labels: Vec<_> = labels.iter().collect();
        labels.sort_by_key(|(k, _)| *k);
        for (key, value) in labels {
            for message in qualified_name(key) {
                errors.push(FieldError::invalid("metadata.labels", key.as_str(), message));
            }
            for message in label_value(value.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid("metadata.labels", value.clone(), message));
            }
        }
    }
    if let Some(annotations) = metadata.get("annotations").and_then(Value::as_object) {
        let mut size = 0;
        let mut annotations: Vec<_> = annotations.iter().collect();
        annotations.sort_by_key(|(k, _)| *k);
        for (key, value) in annotations {
            size += key.len() + value.as_str().map_or(0, str::len);
            for message in qualified_name(&key.to_lowercase()) {
                errors.push(FieldError::invalid("metadata.annotations", key.as_str(), message));
            }
        }
        if size > ANNOTATIONS_LIMIT {
            errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LIMIT as u64));
        }
    }
    errors.extend(validate_owners(metadata));
    errors.extend(validate_managed_fields(metadata));
    errors
}

fn validate_owners(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(owners) = metadata.get("ownerReferences").and_then(Value::as_array) else {
        return errors;
    };
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let path = "metadata.ownerReferences";
        let api_version = text("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.push(FieldError::invalid(
                format!("{path}.apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.push(FieldError::invalid(format!("{path}.{key}"), "", "must not be empty"));
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(
                path,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                errors.push(FieldError::invalid(
                    path,
                    Value::Array(owners.clone()),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                ));
            } else {
                controller = Some(this);
            }
        }
    }
    errors
}

fn validate_finalizers(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(list) = metadata.get("finalizers").and_then(Value::as_array) else {
        return errors;
    };
    for name in list.iter().filter_map(Value::as_str) {
        for message in qualified_name(name) {
            errors.push(FieldError::invalid("metadata.finalizers", name, message));
        }
    }
    if list.iter().any(|f| f == "orphan") && list.iter().any(|f| f == "foregroundDeletion") {
        errors.push(FieldError::invalid(
            "metadata.finalizers",
            Value::Array(list.clone()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    errors
}

fn validate_managed_fields(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(list) = metadata.get("managedFields").and_then(Value::as_array) else {
        return errors;
    };
    for (i, entry) in list.iter().enumerate() {
        let path = format!("metadata.managedFields[{i}]");
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.push(FieldError::invalid(
                format!("{path}.operation"),
                text("operation"),
                "must be `Apply` or `Update`",
            ));
        }
        if !text("fieldsType").is_empty() && text("fieldsType") != "FieldsV1" {
            errors.push(FieldError::invalid(
                format!("{path}.fieldsType"),
                text("fieldsType"),
                "must be `FieldsV1`",
            ));
        }
        errors.extend(field_manager(text("manager"), &format!("{path}.manager")));
    }
    errors
}

/// Checks the name of a field manager.
pub fn field_manager(manager: &str, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > 128 {
        errors.push(FieldError::new(
            path,
            ErrorKind::TooLong,
            None,
            "may not be more than 128 bytes",
        ));
    }
    for (i, c) in manager.chars().enumerate() {
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            errors.push(FieldError::invalid(
                path,
                manager,
                format!("invalid character U+{:04X} (at position {i})", c as u32),
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn subdomains_labels_and_keys_are_told_apart() {
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert_eq!(
            dns1123_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(qualified_name("example.com/My.name_1").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert!(label_value("").is_empty());
        assert!(!label_value("a b").is_empty());
        assert!(config_key("a.b-C_d").is_empty());
        assert_eq!(config_key(".."), ["must not be '..'"]);
    }

    #[test]
    fn a_name_with_a_newline_is_refused() {
        assert!(!dns1123_subdomain("a\n").is_empty());
        assert!(!label_value("a\n").is_empty());
    }

    #[test]
    fn metadata_errors_name_their_field() {
        let errors = validate_metadata(
            &json!({"namespace": "X", "labels": {"a b": "v"}, "ownerReferences": [{"kind": "K"}], "finalizers": ["a b"]}),
            true,
            NameRule::Subdomain,
        );
        let paths: Vec<&str> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "metadata.name",
                "metadata.namespace",
                "metadata.labels",
                "metadata.ownerReferences.apiVersion",
                "metadata.ownerReferences.name",
                "metadata.ownerReferences.uid",
                "metadata.finalizers"
            ]
        );
    }

    #[test]
    fn an_update_may_not_change_identity() {
        let old = json!({"name": "a", "uid": "u", "resourceVersion": "1", "deletionTimestamp": "t"});
        let new =
            json!({"name": "a", "uid": "w", "resourceVersion": "1", "deletionTimestamp": "t", "finalizers": ["x/y"]});
        let messages: Vec<String> = validate_metadata_update(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            messages,
            [
                r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x/y"}"#,
                r#"metadata.uid: Invalid value: "w": field is immutable"#
            ]
        );
    }

    proptest! {
        #[test]
        fn generated_names_keep_their_base_and_are_names(base in "[a-z][a-z0-9-]{0,80}", random: u64) {
            let name = generate_name(&base, random);
            prop_assert!(name.len() <= 63);
            prop_assert!(dns1123_label(&name).is_empty());
            prop_assert!(name.starts_with(&base[..base.len().min(58)]));
        }
    }
}
