//! What a queue knows of its files: parsed documents, who owns which name, what is wrong. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemas::file_error::FileError;
use schemas::queue_set::{self, QueueSet};
use schemas::task_file::TaskDocument;
use schemas::task_queue::InvalidFile;

/// Broken files that a status lists.
const LISTED: usize = 20;

/// A file as it was read.
pub type Parsed = Result<Vec<TaskDocument>, Vec<FileError>>;

/// All files of a queue.
#[derive(Clone, Debug, Default)]
pub struct Files {
    documents: BTreeMap<String, Vec<TaskDocument>>,
    broken: BTreeMap<String, Vec<FileError>>,
    owners: HashMap<(&'static str, String), String>,
    set: QueueSet,
    set_errors: BTreeMap<String, Vec<FileError>>,
    unfinished: BTreeSet<String>,
}

/// What is said of all files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Task files.
    pub files: i64,
    /// The first broken ones.
    pub invalid: Vec<InvalidFile>,
    /// How many are broken.
    pub invalid_count: i64,
}

impl Files {
    /// Takes in files that changed (`None` is gone) and checks the set. Returns paths beside those whose standing in
    /// the set changed, or that wait for other objects than before.
    pub fn update(
        &mut self,
        changes: BTreeMap<String, Option<Parsed>>,
        folder: &str,
        queue_uid: &str,
    ) -> BTreeSet<String> {
        let mut whole = !self.set.errors.is_empty() || !self.set.missing.is_empty();
        for (path, parsed) in changes {
            let before = self.documents.remove(&path);
            for document in before.iter().flatten() {
                let name = (document.kind(), document.object_name(queue_uid));
                if self.owners.get(&name) == Some(&path) {
                    self.owners.remove(&name);
                }
            }
            self.broken.remove(&path);
            match parsed {
                None => whole |= before.is_some() && !self.set.depends_on.is_empty(),
                Some(Err(errors)) => {
                    whole |= before.is_some() && !self.set.depends_on.is_empty();
                    self.broken.insert(path.clone(), errors);
                    self.documents.insert(path, Vec::new());
                }
                Some(Ok(documents)) => {
                    let known = before.as_deref().unwrap_or_default();
                    whole |= !same_dependencies(known, &documents);
                    // Others may wait for what this file made, or was taken to make.
                    whole |= !self.set.depends_on.is_empty() && !same_names(known, &documents, queue_uid);
                    for document in &documents {
                        let name = (document.kind(), document.object_name(queue_uid));
                        // A second owner is for the check of the whole set to judge.
                        whole |= self
                            .owners
                            .insert(name, path.clone())
                            .is_some_and(|other| other != path);
                    }
                    self.documents.insert(path, documents);
                }
            }
        }
        if !whole {
            return BTreeSet::new();
        }
        let known = std::mem::replace(&mut self.set, queue_set::check(&self.documents, folder, queue_uid));
        let waits = |path: &&String| known.depends_on.get(*path) != self.set.depends_on.get(*path);
        let waiting = known.depends_on.keys().chain(self.set.depends_on.keys());
        let mut moved: BTreeSet<String> = waiting.filter(waits).cloned().collect();
        let mut errors: BTreeMap<String, Vec<FileError>> = BTreeMap::new();
        for error in &self.set.errors {
            errors.entry(error.path.clone()).or_default().push(error.clone());
        }
        let before = std::mem::replace(&mut self.set_errors, errors);
        let changed = |path: &&String| before.get(*path) != self.set_errors.get(*path);
        moved.extend(before.keys().chain(self.set_errors.keys()).filter(changed).cloned());
        self.own(queue_uid);
        moved
    }

    /// Names the owner of every name: the first path, unless it may not be applied.
    fn own(&mut self, queue_uid: &str) {
        self.owners.clear();
        for (path, documents) in &self.documents {
            if self.set_errors.contains_key(path) {
                continue;
            }
            for document in documents {
                self.owners
                    .entry((document.kind(), document.object_name(queue_uid)))
                    .or_insert_with(|| path.clone());
            }
        }
    }

    /// Returns the documents of a path; an error for a broken one, `None` where there is no such file.
    pub fn get(&self, path: &str) -> Option<Result<&[TaskDocument], &[FileError]>> {
        if let Some(errors) = self.broken.get(path).or_else(|| self.set_errors.get(path)) {
            return Some(Err(errors));
        }
        self.documents.get(path).map(|documents| Ok(documents.as_slice()))
    }

    /// Returns the path that makes the object of a name.
    pub fn owner(&self, kind: &'static str, name: &str) -> Option<&str> {
        self.owners.get(&(kind, name.to_owned())).map(String::as_str)
    }

    /// Returns the object names that a path's `depends` stands for.
    pub fn depends_on(&self, path: &str) -> &[String] {
        self.set.depends_on.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns all paths.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        self.documents.keys()
    }

    /// Says whether there are no files at all.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Adds an error that showed only when the object was made.
    pub fn reject(&mut self, path: &str, error: FileError) {
        self.broken.entry(path.to_owned()).or_default().push(error);
    }

    /// Remembers the paths that have to be looked at again: writes failed, a name belongs to somebody else, or objects of a
    /// file that is gone are kept as long as there is no file at all.
    pub fn set_unfinished(&mut self, paths: BTreeSet<String>) {
        self.unfinished = paths;
    }

    /// Says whether paths have to be looked at again.
    pub fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Takes the paths that have to be looked at again.
    pub fn take_unfinished(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.unfinished)
    }

    /// Says what stands of all files.
    pub fn summary(&self) -> Summary {
        let paths: BTreeSet<&String> = self.broken.keys().chain(self.set_errors.keys()).collect();
        let first = |path: &&String| {
            self.broken
                .get(*path)
                .or_else(|| self.set_errors.get(*path))?
                .first()
                .map(InvalidFile::from)
        };
        Summary {
            files: i64::try_from(self.documents.len()).unwrap_or(i64::MAX),
            invalid: paths.iter().filter_map(first).take(LISTED).collect(),
            invalid_count: i64::try_from(paths.len()).unwrap_or(i64::MAX),
        }
    }
}

fn same_names(before: &[TaskDocument], after: &[TaskDocument], queue_uid: &str) -> bool {
    let name = |document: &TaskDocument| (document.kind(), document.object_name(queue_uid));
    before.iter().map(name).eq(after.iter().map(name))
}

fn same_dependencies(before: &[TaskDocument], after: &[TaskDocument]) -> bool {
    let of = |documents: &[TaskDocument]| -> Vec<(Vec<String>, Vec<String>)> {
        let one = |document: &TaskDocument| {
            (
                document.depends().into_iter().map(str::to_owned).collect::<Vec<_>>(),
                document.depends_on(),
            )
        };
        documents
            .iter()
            .map(one)
            .filter(|(a, b)| !a.is_empty() || !b.is_empty())
            .collect()
    };
    of(before) == of(after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use schemas::task_file;

    fn update(files: &mut Files, changes: &[(&str, Option<&str>)]) -> Vec<String> {
        let changes = changes
            .iter()
            .map(|(path, text)| {
                (
                    (*path).to_owned(),
                    text.map(|text| task_file::parse(path, text.as_bytes())),
                )
            })
            .collect();
        files.update(changes, "tasks", "uid").into_iter().collect()
    }

    #[test]
    fn who_waits_for_a_file_is_looked_at_again_when_it_makes_something_else() {
        let waits = "---\ntitle: x\ndepends: [b.yaml]\n---\nDo it.\n";
        let manifest = |name: &str| {
            format!(
                "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{intent: x, repo: o/r}}\n"
            )
        };
        let mut files = Files::default();
        update(&mut files, &[("tasks/a.md", Some(waits))]);
        let guessed = files.depends_on("tasks/a.md").to_vec();
        let mut step = |text: Option<&str>, names: &[String]| {
            assert_eq!(
                update(&mut files, &[("tasks/b.yaml", text)]),
                ["tasks/a.md"],
                "{text:?}"
            );
            assert_eq!(files.depends_on("tasks/a.md"), names, "{text:?}");
        };
        step(Some(&manifest("one")), &["one".to_owned()]);
        step(Some("kind: ["), &guessed);
        step(Some(&manifest("one")), &["one".to_owned()]);
        step(Some(&manifest("two")), &["two".to_owned()]);
        step(None, &guessed);
        // What says the same as before brings nobody here again.
        let mut files = Files::default();
        update(
            &mut files,
            &[("tasks/a.md", Some(waits)), ("tasks/b.yaml", Some(&manifest("one")))],
        );
        let other = manifest("one").replace("intent: x", "intent: y");
        assert!(update(&mut files, &[("tasks/b.yaml", Some(&other))]).is_empty());
    }
}
