//! Parts of manifests that say what the steps run.
//!
//! A manifest as a whole must stay open to change, or no dependency could be added. What the steps of a preset run is
//! written in the same file all the same: these parts must be as the base has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Where Python ends the lines of the files in which it looks for sections.
const LINE_ENDS: &[char] = &[
    '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
];

/// Largest manifest whose parts are compared; a larger one counts as changed whenever it differs at all.
pub const MANIFEST_MAX: usize = 4 << 20;

/// Parts of one manifest that must be as the base has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pinned {
    /// The file: `/name` at the root of the tree, `name` at any depth where the base has one too.
    pub file: String,
    /// Its parts: `key` or `key.member` of JSON, the beginning of the names of tables of any other file.
    pub parts: Vec<String>,
}

/// What a manifest says in its pinned parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Every part that it has, by its name.
    Read(BTreeMap<String, String>),
    /// It is no manifest; by its content, the same is still the same.
    Unreadable([u8; 32]),
}

impl Pinned {
    /// Tells whether the file at `path` is meant.
    pub fn covers(&self, path: &str) -> bool {
        match self.file.strip_prefix('/') {
            Some(file) => path == file,
            None => path.rsplit('/').next() == Some(self.file.as_str()),
        }
    }

    /// Tells whether a file that the base does not have is compared too, as one without any of the parts.
    fn covers_new(&self) -> bool {
        self.file.starts_with('/')
    }

    /// Reads the parts of a manifest; one that is not there has none.
    pub fn read(&self, content: Option<&[u8]>) -> Parts {
        let Some(content) = content else {
            return Parts::Read(BTreeMap::new());
        };
        let unreadable = || Parts::Unreadable(Sha256::digest(content).into());
        if content.len() > MANIFEST_MAX {
            return unreadable();
        }
        if !self.file.ends_with(".json") {
            return Parts::Read(self.tables(&String::from_utf8_lossy(content)));
        }
        let text = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        match serde_json::from_slice::<Value>(text) {
            Ok(manifest) => Parts::Read(self.members(&manifest)),
            Err(_) => unreadable(),
        }
    }

    fn members(&self, manifest: &Value) -> BTreeMap<String, String> {
        let found = self.parts.iter().filter_map(|part| {
            let value = match part.split_once('.') {
                Some((key, member)) => manifest.get(key)?.get(member)?,
                None => manifest.get(part)?,
            };
            Some((part.clone(), value.to_string()))
        });
        found.collect()
    }

    /// Cuts tables out of TOML and of files like it. Without a parser, what may belong to a table belongs to it.
    fn tables(&self, text: &str) -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut inside: Vec<&String> = self.parts.iter().filter(|part| starts_outside(part, text)).collect();
        let ends: &[char] = if self.file.ends_with(".toml") {
            &['\n']
        } else {
            LINE_ENDS
        };
        for line in text.split(ends).map(str::trim_end) {
            if let Some(name) = line.trim_start().strip_prefix('[') {
                let begun = self.parts.iter().filter(|part| may_be(name, part));
                if line.starts_with('[') {
                    inside = begun.collect();
                } else {
                    // In TOML it is a table, elsewhere one more line of the value above it: it may begin one, and ends none.
                    inside.extend(begun);
                    inside.sort();
                    inside.dedup();
                }
            }
            if line.trim().is_empty() {
                continue;
            }
            for part in &inside {
                let lines = found.entry((*part).clone()).or_default();
                lines.push_str(line);
                lines.push('\n');
            }
        }
        found
    }

    /// Returns the pinned parts in which two manifests at one path differ, base first, as `path (part)`.
    pub fn changed(&self, path: &str, base: Option<&[u8]>, head: Option<&[u8]>) -> Vec<String> {
        if base.is_none() && !self.covers_new() {
            return Vec::new();
        }
        differing(path, &self.read(base), &self.read(head))
    }
}

/// Returns where two readings of the manifest at `path` differ, as `path (part)`.
pub fn differing(path: &str, before: &Parts, after: &Parts) -> Vec<String> {
    let (Parts::Read(before), Parts::Read(after)) = (before, after) else {
        return match before == after {
            true => Vec::new(),
            false => vec![format!("{path} (cannot be read)")],
        };
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| before.get(*name) != after.get(*name));
    names.into_iter().map(|name| format!("{path} ({name})")).collect()
}

/// Tells whether keys before the first table of a file may be of the table `part`.
fn starts_outside(part: &str, text: &str) -> bool {
    let first = part.split('.').next().unwrap_or(part);
    text.lines()
        .take_while(|line| !line.trim_start().starts_with('['))
        .any(|line| line.contains(first) || line.contains('\\'))
}

/// Tells whether the table that `[name…` begins may be `part`, be in it, or hold it. Names may be quoted, spaced and
/// escaped; what is not plain may be anything.
fn may_be(name: &str, part: &str) -> bool {
    let name = name.trim_start_matches('[');
    let Some((name, rest)) = name.split_once(']') else {
        return true;
    };
    let rest = rest.trim_start_matches(']').trim_start();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | ' ' | '\t');
    if !name.chars().all(plain) || !(rest.is_empty() || rest.starts_with(['#', ';'])) {
        return true;
    }
    let name: String = name.split_whitespace().collect();
    name.starts_with(part) || part.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(file: &str, parts: &[&str]) -> Pinned {
        Pinned {
            file: file.to_owned(),
            parts: parts.iter().map(|&part| part.to_owned()).collect(),
        }
    }

    fn changed(pinned: &Pinned, path: &str, base: &str, head: &str) -> Vec<String> {
        pinned.changed(path, Some(base.as_bytes()), Some(head.as_bytes()))
    }

    #[test]
    fn scripts_are_compared_and_dependencies_are_free() {
        let node = pinned("package.json", &["scripts.test", "scripts.pretest", "jest"]);
        assert!(node.covers("package.json") && node.covers("packages/a/package.json") && !node.covers("a.json"));
        let base = r#"{"scripts":{"test":"jest","dev":"vite"},"dependencies":{"a":"1"}}"#;
        for (head, wanted) in [
            (
                r#"{"dependencies":{"a":"2","b":"1"},"scripts":{"dev":"x","test":"jest"}}"#,
                &[][..],
            ),
            (r#"{"scripts":{"test":"exit 0"}}"#, &["package.json (scripts.test)"]),
            (
                r#"{"scripts":{"test":"jest","test":"exit 0"}}"#,
                &["package.json (scripts.test)"],
            ),
            (
                r#"{"scripts":{"test":"jest","pretest":"x"}}"#,
                &["package.json (scripts.pretest)"],
            ),
            (r#"{"scripts":{"test":"jest"},"jest":{}}"#, &["package.json (jest)"]),
            (r#"{"scripts":[]}"#, &["package.json (scripts.test)"]),
            ("{", &["package.json (cannot be read)"]),
        ] {
            assert_eq!(changed(&node, "package.json", base, head), wanted, "{head}");
        }
        assert_eq!(
            node.changed("package.json", Some(base.as_bytes()), None),
            ["package.json (scripts.test)"]
        );
        assert!(node.changed("new/package.json", None, Some(base.as_bytes())).is_empty());
        assert!(changed(&node, "package.json", &format!("\u{feff}{base}"), base).is_empty());
    }

    #[test]
    fn tables_are_compared_however_their_names_are_written() {
        let toml = pinned("/pyproject.toml", &["tool.pytest"]);
        let base = "[project]\ndependencies = [\n  \"a\",\n]\n\n[tool.pytest.ini_options]\naddopts = \"-q\"\n\n[tool.ruff]\nx = 1\n";
        let with = |more: &str| format!("{base}{more}\n");
        assert!(
            changed(
                &toml,
                "pyproject.toml",
                base,
                &base.replace("\"a\",", "\"a\",\n  \"b\",")
            )
            .is_empty()
        );
        assert!(changed(&toml, "pyproject.toml", base, &with("[tool.black]\nline-length = 1")).is_empty());
        assert!(changed(&toml, "pyproject.toml", base, &base.replace('\n', "\r\n")).is_empty());
        for head in [
            base.replace("-q", "--collect-only"),
            base.replace("[tool.ruff]\n", ""),
            with("[tool.pytest]\nx = 1"),
            with("[ tool . pytest . ini_options ] # more"),
            with("[tool.\"pytest\".ini_options]\nx = 1"),
            with("[\"to\\u006fl\".\"p\\u0079test\".ini_options]\nx = 1"),
            with("[tool]\npytest.ini_options.addopts = 1"),
            with("[[tool.pytest]]\nx = 1"),
            format!("tool.pytest.ini_options.addopts = 1\n{base}"),
            format!("\"to\\u006fl\".pytest.ini_options.addopts = 1\n{base}"),
            "[project]\n".to_owned(),
        ] {
            assert_eq!(
                changed(&toml, "pyproject.toml", base, &head),
                ["pyproject.toml (tool.pytest)"],
                "{head}"
            );
        }
        let ini = pinned("/setup.cfg", &["tool:pytest"]);
        assert_eq!(
            ini.changed("setup.cfg", None, Some(b"[tool:pytest]\naddopts = -k nothing\n")),
            ["setup.cfg (tool:pytest)"]
        );
        assert!(
            ini.changed("setup.cfg", None, Some(b"[metadata]\nname = a\n"))
                .is_empty()
        );
        assert!(!ini.covers("deep/setup.cfg"));
    }

    #[test]
    fn sections_of_ini_files_begin_and_end_where_python_sees_it() {
        let ini = pinned("/setup.cfg", &["tool:pytest"]);
        let base = "[tool:pytest]\ntestpaths = tests\n\n[flake8]\nmax-line-length = 100\n";
        let free = base.replace("100", "120\n [x]\n y");
        assert!(changed(&ini, "setup.cfg", base, &free).is_empty());
        assert!(changed(&ini, "setup.cfg", base, &base.replace('\n', "\r\n")).is_empty());
        // An indented line goes on the value above it, whatever it looks like.
        let more = base.replace("tests\n", "tests\n [x]\npython_files = nothing_*.py\n");
        assert_eq!(changed(&ini, "setup.cfg", base, &more), ["setup.cfg (tool:pytest)"]);
        for end in LINE_ENDS {
            let hidden = format!("[metadata]\nname = a{end}[tool:pytest]{end}python_files = nothing_*.py\n");
            let found = changed(&ini, "setup.cfg", "[metadata]\nname = a\n", &hidden);
            assert_eq!(found, ["setup.cfg (tool:pytest)"], "{end:?}");
        }
    }
}
