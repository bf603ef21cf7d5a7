//! All files of a queue taken together: names that occur twice, `depends`, cycles.

use std::collections::{BTreeMap, BTreeSet};

use crate::file_error::{FileError, quote};
use crate::graph;
use crate::names::joined_path;
use crate::task_file::TaskDocument;

/// What a queue's files come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueSet {
    /// Object names that each path's `depends` stands for; also those of files that are missing or broken, which are
    /// waited for.
    pub depends_on: BTreeMap<String, Vec<String>>,
    /// What `depends` names that is no task file now, by path.
    pub missing: BTreeMap<String, Vec<String>>,
    /// What is wrong, on the paths that must not be applied.
    pub errors: Vec<FileError>,
}

impl QueueSet {
    /// Returns the paths that must not be applied.
    pub fn rejected(&self) -> BTreeSet<&str> {
        self.errors.iter().map(|error| error.path.as_str()).collect()
    }
}

/// Looks at all files of a queue: `files` holds each path with its documents, broken files with none.
///
/// `folder` is the queue's folder; `depends` may name a path from the repository's root, from that folder, or from the
/// file's own folder, and the first of them that exists is meant.
pub fn check(files: &BTreeMap<String, Vec<TaskDocument>>, folder: &str, queue_uid: &str) -> QueueSet {
    let mut set = QueueSet::default();
    // Who owns a name: (kind, name) → path. Paths come in order, so that the later one is at fault.
    let mut owners: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for (path, documents) in files {
        for document in documents {
            let name = document.object_name(queue_uid);
            match owners.get(&(document.kind(), name.clone())) {
                Some(owner) if *owner != path => {
                    let message = format!("a second {} named {}", document.kind(), quote(&name));
                    let advice = format!("{owner} has it already; rename one of them");
                    set.errors
                        .push(FileError::new(path, document.name_at(), message).suggestion(advice));
                }
                _ => {
                    owners.insert((document.kind(), name), path);
                }
            }
        }
    }
    let mut edges: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, documents) in files {
        for document in documents {
            let own = key(document.kind(), &document.object_name(queue_uid));
            let waits = edges.entry(own).or_default();
            waits.extend(document.depends_on().iter().map(|name| key(document.kind(), name)));
            for named in document.depends() {
                let names = match find(files, folder, path, named) {
                    Found::File(other) => match workloads(files, other, queue_uid) {
                        Some(names) => names,
                        None => {
                            let message = format!("depends names {other}, which makes no Workload");
                            let error = FileError::new(path, document.depends_at(), message);
                            let advice = "name a task file in Markdown, or a manifest of a Workload; only those can be waited for";
                            set.errors.push(error.suggestion(advice));
                            continue;
                        }
                    },
                    Found::Missing(other) => {
                        let name = crate::names::file_object_name(queue_uid, &other);
                        set.missing.entry(path.clone()).or_default().push(other);
                        vec![name]
                    }
                };
                waits.extend(names.iter().map(|name| key("Workload", name)));
                set.depends_on.entry(path.clone()).or_default().extend(names);
            }
        }
    }
    cycles(files, &edges, queue_uid, &mut set.errors);
    set
}

fn key(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

/// Reports every document on a cycle, at its dependencies. The graph is one of objects: files whose objects wait for
/// each other's other objects are no cycle.
fn cycles(
    files: &BTreeMap<String, Vec<TaskDocument>>,
    edges: &BTreeMap<String, Vec<String>>,
    queue_uid: &str,
    errors: &mut Vec<FileError>,
) {
    let borrowed = edges
        .iter()
        .map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect()))
        .collect();
    let on_cycle = graph::on_cycles(&borrowed);
    if on_cycle.is_empty() {
        return;
    }
    let path_of: BTreeMap<String, &str> = files
        .iter()
        .flat_map(|(path, documents)| {
            documents
                .iter()
                .map(move |document| (key(document.kind(), &document.object_name(queue_uid)), path.as_str()))
        })
        .collect();
    for (path, documents) in files {
        for document in documents {
            let own = key(document.kind(), &document.object_name(queue_uid));
            if !on_cycle.contains(own.as_str()) {
                continue;
            }
            let circle = edges[&own].iter().filter(|other| on_cycle.contains(other.as_str()));
            let others: BTreeSet<&str> = circle
                .map(|other| path_of.get(other).copied().unwrap_or(other))
                .collect();
            let others = others.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!("the dependencies lead in a circle: this waits for {others}, which waits for this");
            let error = FileError::new(path, document.depends_at(), message);
            errors.push(error.suggestion("remove one of the dependencies"));
        }
    }
}

enum Found<'a> {
    File(&'a str),
    Missing(String),
}

fn find<'a>(files: &'a BTreeMap<String, Vec<TaskDocument>>, folder: &str, path: &str, named: &str) -> Found<'a> {
    let own_folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let within = |folder: &str| {
        let whole = format!("{}/{named}", folder.trim_matches('/'));
        joined_path(path, whole.trim_start_matches('/'))
    };
    let relative = named.starts_with("./") || named.starts_with("../");
    let candidates = match relative {
        true => vec![joined_path(path, named)],
        false => vec![joined_path(path, named), within(folder), within(own_folder)],
    };
    let mut candidates: Vec<String> = candidates.into_iter().flatten().collect();
    for candidate in &candidates {
        if let Some((found, _)) = files.get_key_value(candidate) {
            return Found::File(found);
        }
    }
    // A path that begins with the queue's folder is from the root; any other is more likely meant from that folder.
    let at = usize::from(candidates.len() > 1 && !candidates[0].starts_with(folder.trim_matches('/')));
    Found::Missing(if candidates.is_empty() {
        named.to_owned()
    } else {
        candidates.swap_remove(at)
    })
}

/// Returns the Workloads that a path's file makes; of a broken file, the one that it would make as Markdown. `None` for a
/// file that makes other objects alone.
fn workloads(files: &BTreeMap<String, Vec<TaskDocument>>, path: &str, queue_uid: &str) -> Option<Vec<String>> {
    let documents = &files[path];
    if documents.is_empty() {
        return Some(vec![crate::names::file_object_name(queue_uid, path)]);
    }
    let names: Vec<String> = documents
        .iter()
        .filter(|document| document.kind() == "Workload")
        .map(|document| document.object_name(queue_uid))
        .collect();
    Some(names).filter(|names| !names.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::task_file;

    fn set(list: &[(&str, &str)]) -> QueueSet {
        let files = list
            .iter()
            .map(|(path, text)| {
                (
                    (*path).to_owned(),
                    task_file::parse(path, text.as_bytes()).unwrap_or_default(),
                )
            })
            .collect();
        check(&files, "tasks", "uid")
    }

    fn task(depends: &str) -> String {
        format!("---\ntitle: x\ndepends: [{depends}]\n---\nDo it.\n")
    }

    fn manifest(name: &str, after: &str) -> String {
        format!(
            "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata: {{name: {name}}}\nspec: {{kind: freeform, payload: {{}}, dependsOn: [{after}]}}\n"
        )
    }

    #[test]
    fn depends_is_found_from_the_root_the_folder_and_the_file() {
        let other = crate::names::file_object_name("uid", "tasks/sub/b.md");
        for named in ["tasks/sub/b.md", "sub/b.md", "b.md", "./b.md", "../sub/b.md"] {
            let set = set(&[("tasks/sub/a.md", &task(named)), ("tasks/sub/b.md", &task(""))]);
            assert_eq!(
                set.depends_on["tasks/sub/a.md"],
                std::slice::from_ref(&other),
                "{named}"
            );
            assert!(set.errors.is_empty() && set.missing.is_empty());
        }
    }

    #[test]
    fn a_missing_file_is_waited_for_under_the_name_that_it_will_have() {
        let set = set(&[("tasks/a.md", &task("later.md"))]);
        assert_eq!(set.missing["tasks/a.md"], ["tasks/later.md"]);
        assert_eq!(
            set.depends_on["tasks/a.md"],
            [crate::names::file_object_name("uid", "tasks/later.md")]
        );
        assert!(set.errors.is_empty());
    }

    #[test]
    fn a_file_that_makes_no_workload_cannot_be_waited_for() {
        let set = set(&[
            ("tasks/a.md", &task("bare.yaml")),
            ("tasks/b.md", &task("broken.yaml")),
            ("tasks/bare.yaml", &manifest("x", "")),
            ("tasks/broken.yaml", "kind: ["),
        ]);
        assert_eq!(set.rejected().into_iter().collect::<Vec<_>>(), ["tasks/a.md"]);
        let said = set.errors[0].to_string();
        assert!(
            said.contains("tasks/bare.yaml") && said.contains("no Workload") && set.errors[0].line == 3,
            "{said}"
        );
        assert!(!set.depends_on.contains_key("tasks/a.md"));
        assert_eq!(set.depends_on["tasks/b.md"].len(), 1, "nobody knows yet what it makes");
    }

    #[test]
    fn a_cycle_is_an_error_on_every_file_in_it_and_on_no_other() {
        let set = set(&[
            ("tasks/a.md", &task("b.md")),
            ("tasks/b.md", &task("c.md")),
            ("tasks/c.md", &task("a.md")),
            ("tasks/d.md", &task("a.md")),
            ("tasks/e.md", &task("")),
            ("tasks/f.md", &task("f.md")),
        ]);
        assert_eq!(
            set.rejected().into_iter().collect::<Vec<_>>(),
            ["tasks/a.md", "tasks/b.md", "tasks/c.md", "tasks/f.md"]
        );
        assert_eq!(set.errors[0].line, 3, "{:?}", set.errors);
    }

    #[test]
    fn a_name_given_twice_is_an_error_on_the_later_path() {
        let set = set(&[
            ("tasks/a.yaml", &manifest("x", "")),
            ("tasks/b.yaml", &manifest("x", "")),
            ("tasks/c.yaml", &manifest("y", "x")),
        ]);
        assert_eq!(set.rejected().into_iter().collect::<Vec<_>>(), ["tasks/b.yaml"]);
        assert!(
            set.errors[0].to_string().contains("tasks/a.yaml has it already"),
            "{:?}",
            set.errors
        );
    }

    #[test]
    fn manifests_that_wait_for_each_other_are_errors_within_a_file_and_between_files() {
        let one = format!("{}---\n{}", manifest("x", "y"), manifest("y", "x"));
        assert_eq!(
            set(&[("t/a.yaml", &one)]).rejected().into_iter().collect::<Vec<_>>(),
            ["t/a.yaml"]
        );
        let two = set(&[
            ("t/a.yaml", &manifest("x", "y")),
            ("t/b.yaml", &manifest("y", "x")),
            ("t/c.yaml", &manifest("z", "x")),
        ]);
        assert_eq!(two.rejected().into_iter().collect::<Vec<_>>(), ["t/a.yaml", "t/b.yaml"]);
        let order = format!("{}---\n{}", manifest("x", ""), manifest("y", "x"));
        assert!(set(&[("t/a.yaml", &order)]).errors.is_empty());
        let crossed = format!("{}---\n{}", manifest("a1", "b1"), manifest("a2", ""));
        assert!(
            set(&[("t/a.yaml", &crossed), ("t/b.yaml", &manifest("b1", "a2"))])
                .errors
                .is_empty()
        );
    }
}
