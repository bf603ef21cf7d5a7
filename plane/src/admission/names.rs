//! Names, labels and annotations: what may be one, in kube-apiserver's words.

mod metadata;

pub use self::metadata::{
    NameRule, field_manager, validate_builtin_finalizers, validate_finalizers_at, validate_metadata,
    validate_metadata_update,
};

use std::sync::LazyLock;

use regex::Regex;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const DNS1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";

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

/// Checks the name of a port; returns what is wrong.
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |is_wrong: bool, words: &str| {
        if is_wrong {
            wrong.push(words.to_owned());
        }
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    say(value.len() > 15, "must be no more than 15 characters");
    say(
        !value.chars().all(plain),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    say(
        !value.chars().any(|c| c.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    say(value.contains("--"), "must not contain consecutive hyphens");
    say(
        value.starts_with('-') || value.ends_with('-'),
        "must not begin or end with a hyphen",
    );
    wrong
}

/// Checks a domain in which names are looked up; returns what is wrong.
pub fn search_domain(value: &str) -> Vec<String> {
    const PATTERN: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    static DOMAIN: LazyLock<Regex> = LazyLock::new(|| whole(PATTERN));
    let mut wrong = Vec::new();
    if value.len() > 253 {
        wrong.push(too_long(253));
    }
    if !DOMAIN.is_match(value) {
        wrong.push(mismatch(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            PATTERN,
            &["example.com"],
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
