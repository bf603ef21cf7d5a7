//! Names: of objects made from task files, of tasks of a round, of nodes, of branches.

use sha2::{Digest, Sha256};

/// Most characters that a generated name has.
pub const MAX_NAME: usize = 63;
/// Most characters that the slug of a path has.
pub const MAX_SLUG: usize = 30;
/// Name that a node gets where nothing of its own name is usable.
pub const FALLBACK_NODE_NAME: &str = "foreman-node";
/// Prefix of the branches that Foreman makes.
pub const BRANCH_PREFIX: &str = "foreman/";

/// Hashes `bytes` with SHA-256 and returns 64 lower-case hex digits.
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes.as_ref()))
}

fn short_hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // The length before the text keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hex::encode(&hasher.finalize()[..4])
}

/// Lower-cases `raw` and turns each run of characters that a DNS-1123 label cannot hold into one hyphen.
fn dns_label(raw: &str) -> String {
    let mut label = String::with_capacity(raw.len());
    for c in raw.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            label.push(c);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    label
}

/// Makes the slug of a path: at most 30 characters, its end rather than its beginning, without the extension.
pub fn slug(path: &str) -> String {
    let stem = match path.rsplit_once('/') {
        Some((folder, file)) => format!("{folder}/{}", without_extension(file)),
        None => without_extension(path).to_owned(),
    };
    let whole = dns_label(&stem);
    if whole.is_empty() {
        return "task".to_owned();
    }
    if whole.len() <= MAX_SLUG {
        return whole;
    }
    let tail = &whole[whole.len() - MAX_SLUG..];
    let cut_in_word = whole.as_bytes()[whole.len() - MAX_SLUG - 1] != b'-';
    let tail = match tail.split_once('-') {
        Some((_, rest)) if cut_in_word && rest.len() >= MAX_SLUG / 2 => rest,
        _ => tail,
    };
    tail.trim_matches('-').to_owned()
}

fn without_extension(file: &str) -> &str {
    match file.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file,
    }
}

/// Names the object made from a Markdown file: `<slug of the path>-<8 hex of the hash of queue UID and path>`.
pub fn file_object_name(queue_uid: &str, path: &str) -> String {
    format!("{}-{}", slug(path), short_hash(&[queue_uid, path]))
}

/// Shortens a name to 63 characters; one that was longer ends in a hash of the whole.
pub fn fit(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let mut end = MAX_NAME - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{}", name[..end].trim_end_matches(['-', '.']), short_hash(&[name]))
}

/// Names the task of a Workload's step: `<workload>-<step>` in run 1, round 1; `-r<round>` and `-x<run>` after that.
pub fn task_name(workload: &str, step: &str, run: i64, round: i64) -> String {
    let mut name = format!("{workload}-{step}");
    if round > 1 {
        name.push_str(&format!("-r{round}"));
    }
    if run > 1 {
        name.push_str(&format!("-x{run}"));
    }
    fit(&name)
}

/// Makes a DNS-1123 label of a node's name, `foreman-node` where nothing is left.
pub fn node_name(raw: &str) -> String {
    let label = dns_label(raw);
    let cut = label[..label.len().min(MAX_NAME)].trim_end_matches('-');
    if cut.is_empty() {
        FALLBACK_NODE_NAME.to_owned()
    } else {
        cut.to_owned()
    }
}

/// Splits a comma list; empty and separators only both mean absent.
pub fn comma_list(raw: &str) -> Option<Vec<String>> {
    let items: Vec<String> = raw
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect();
    Some(items).filter(|items| !items.is_empty())
}

/// Returns the work branch of an object that names none: `foreman/<name>`.
pub fn default_branch(object_name: &str) -> String {
    format!("{BRANCH_PREFIX}{object_name}")
}

/// Says whether `name` can be the name of an object (DNS-1123 subdomain, at most 253 characters).
pub fn is_object_name(name: &str) -> bool {
    let label = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Makes a valid label value of `raw`: at most 63 characters, a hash at the end where something was lost.
pub fn label_value(raw: &str) -> String {
    let edge = |c: char| !c.is_ascii_alphanumeric();
    let cleaned: String = raw
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let cleaned = cleaned.trim_matches(edge);
    if cleaned == raw && raw.len() <= MAX_NAME {
        return raw.to_owned();
    }
    let kept = cleaned[..cleaned.len().min(MAX_NAME - 9)].trim_matches(edge);
    if kept.is_empty() {
        return short_hash(&[raw]);
    }
    format!("{kept}-{}", short_hash(&[raw]))
}

/// Checks a branch name by Git's rules; the error says what is wrong.
pub fn check_branch(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 200 {
        return Err("it is longer than 200 bytes");
    }
    if name.starts_with('-') || name == "@" || name == "HEAD" || name.starts_with("refs/") {
        return Err("it starts with `-` or `refs/`, or is `@` or `HEAD`");
    }
    if name
        .chars()
        .any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'))
    {
        return Err("it holds a space, a control character or one of ~^:?*[\\");
    }
    if name.contains("..") || name.contains("@{") || name.ends_with('.') {
        return Err("it holds `..` or `@{`, or ends with a dot");
    }
    if name
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock"))
    {
        return Err("one of its parts is empty, starts with a dot or ends in .lock");
    }
    Ok(())
}

/// Joins a path that a file names: relative to the file's folder with `./` or `../`, else to the repository.
/// `None` for what cannot be a path inside the repository.
pub fn joined_path(file: &str, named: &str) -> Option<String> {
    let named = named.trim();
    if named.is_empty() || named.starts_with('/') || named.contains(['\\', '\0']) || named.contains("://") {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    if named.starts_with("./") || named.starts_with("../") {
        parts.extend(file.split('/'));
        parts.pop();
    }
    for part in named.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slug_drops_extension_and_keeps_the_end_of_a_long_path() {
        assert_eq!(slug("tasks/Fix Login.md"), "tasks-fix-login");
        assert_eq!(slug("fix.md"), "fix");
        assert_eq!(slug(".foreman/tasks/a_b.yaml"), "foreman-tasks-a-b");
        assert_eq!(
            slug("projects/payments/backend/fix-rounding-of-invoices.md"),
            "fix-rounding-of-invoices"
        );
        assert_eq!(slug("ä/ö.md"), "task");
        assert_eq!(slug(".md"), "md");
        assert!(slug(&"x".repeat(90)).len() <= MAX_SLUG);
    }

    #[test]
    fn object_name_depends_on_queue_and_path() {
        let name = file_object_name("uid-1", "tasks/fix.md");
        assert!(
            name.starts_with("tasks-fix-") && name.len() == "tasks-fix-".len() + 8,
            "{name}"
        );
        assert_ne!(name, file_object_name("uid-2", "tasks/fix.md"));
        assert_ne!(
            file_object_name("u", "tasks/fix.md"),
            file_object_name("u", "tasks/fix.yaml")
        );
        assert_ne!(file_object_name("ab", "c.md"), file_object_name("a", "bc.md"));
    }

    #[test]
    fn first_run_and_round_keep_the_published_task_name() {
        assert_eq!(task_name("wl", "code", 1, 1), "wl-code");
        assert_eq!(task_name("wl", "code", 1, 2), "wl-code-r2");
        assert_eq!(task_name("wl", "code", 3, 1), "wl-code-x3");
        assert_eq!(task_name("wl", "code", 3, 2), "wl-code-r2-x3");
        let long = task_name(&"w".repeat(70), "code", 1, 1);
        assert_eq!(long.len(), MAX_NAME);
        assert_ne!(long, task_name(&"w".repeat(70), "code", 1, 2));
    }

    #[test]
    fn node_names_are_dns_labels_with_a_fallback() {
        assert_eq!(node_name("My Mac__Studio.local"), "my-mac-studio-local");
        assert_eq!(node_name("--a--"), "a");
        assert_eq!(node_name("***"), FALLBACK_NODE_NAME);
        assert_eq!(node_name(""), FALLBACK_NODE_NAME);
        assert_eq!(node_name(&format!("{}-{}", "a".repeat(62), "b")), "a".repeat(62));
    }

    #[test]
    fn comma_list_of_separators_only_is_absent() {
        assert_eq!(comma_list(""), None);
        assert_eq!(comma_list(" , ,,"), None);
        assert_eq!(comma_list(" a, b ,,c"), Some(vec!["a".into(), "b".into(), "c".into()]));
    }

    #[test]
    fn branch_names_that_git_refuses_are_refused() {
        for good in ["main", "foreman/fix-1a2b", "feature/x.y", "v1.0"] {
            assert_eq!(check_branch(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-x",
            "a..b",
            "a b",
            "a/",
            "/a",
            "a//b",
            ".a",
            "x.lock",
            "a~1",
            "@",
            "HEAD",
            "a@{1",
            "a.",
            "a\nb",
            "refs/heads/x",
        ] {
            assert!(check_branch(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn generated_names_are_valid_object_names(path in ".{0,120}", uid in "[a-z0-9-]{1,36}", run in 1i64..99, round in 1i64..20) {
            let name = file_object_name(&uid, &path);
            prop_assert!(is_object_name(&name) && name.len() <= MAX_NAME, "{}", name);
            let task = task_name(&name, "verify", run, round);
            prop_assert!(is_object_name(&task) && task.len() <= MAX_NAME, "{}", task);
            prop_assert!(is_object_name(&node_name(&path)) && node_name(&path).len() <= MAX_NAME);
            prop_assert_eq!(check_branch(&default_branch(&name)), Ok(()));
        }

        #[test]
        fn label_values_are_valid_and_differ_when_the_text_does(a in ".{0,90}", b in ".{0,90}") {
            let (x, y) = (label_value(&a), label_value(&b));
            prop_assert!(x.len() <= MAX_NAME);
            prop_assert!(x.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
            prop_assert!(a.is_empty() || x.starts_with(|c: char| c.is_ascii_alphanumeric()));
            if a != b { prop_assert_ne!(x, y); }
        }
    }

    #[test]
    fn paths_out_of_the_repository_are_no_paths() {
        assert_eq!(joined_path("tasks/a.md", "../../b.md"), None);
        assert_eq!(joined_path("tasks/a.md", "/etc/passwd"), None);
        assert_eq!(joined_path("tasks/a.md", "tasks/../../x.md"), None);
        assert_eq!(joined_path("tasks/a.md", "https://x/y.md"), None);
        assert_eq!(joined_path("tasks/a.md", "./b.md").as_deref(), Some("tasks/b.md"));
    }
}
