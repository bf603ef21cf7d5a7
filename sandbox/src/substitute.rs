//! Writes host paths for mount targets in texts, for backends without a private root.

use std::path::{Path, PathBuf};

/// Maps paths inside the sandbox to paths on the host.
#[derive(Debug, Default)]
pub(crate) struct Substitution {
    /// Longest target first, so that a mount below another one wins.
    pairs: Vec<(String, String)>,
}

impl Substitution {
    /// Makes a map; pairs of equal paths keep a longer path from being rewritten by a shorter one.
    pub(crate) fn new(pairs: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Substitution {
        let mut pairs: Vec<(String, String)> = pairs
            .into_iter()
            .filter(|(target, _)| target != Path::new("/"))
            .filter_map(|(target, source)| {
                let target = target.to_str()?.trim_end_matches('/').to_owned();
                Some((target, source.to_str()?.trim_end_matches('/').to_owned()))
            })
            .collect();
        pairs.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        Substitution { pairs }
    }

    /// Rewrites every path in a text that is a target or lies below one.
    ///
    /// A path begins where no path character stands before it, so that `/a/tmp` is not taken for
    /// `/tmp`, and after a compiler's flag letter (`-I/workspace`) or `file://`; a target ends at a
    /// `/` or at a character that is no part of a file name.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        let mut before: Option<char> = None;
        while let Some(next) = rest.chars().next() {
            if next == '/' && (!before.is_some_and(part_of_path) || begins_a_path(&text[..text.len() - rest.len()])) {
                let hit = self.pairs.iter().find(|(target, _)| {
                    rest.strip_prefix(target.as_str())
                        .is_some_and(|after| !after.chars().next().is_some_and(part_of_name))
                });
                if let Some((target, source)) = hit {
                    result.push_str(source);
                    rest = &rest[target.len()..];
                    before = target.chars().next_back();
                    continue;
                }
            }
            result.push(next);
            before = Some(next);
            rest = &rest[next.len_utf8()..];
        }
        result
    }

    /// Rewrites one path.
    pub(crate) fn apply_path(&self, path: &Path) -> PathBuf {
        path.to_str()
            .map_or_else(|| path.to_owned(), |text| PathBuf::from(self.apply(text)))
    }
}

/// Tells whether a path begins after this text although a path character ends it.
fn begins_a_path(text: &str) -> bool {
    if text.ends_with("file://") {
        return true;
    }
    let word = text.rsplit(char::is_whitespace).next().unwrap_or(text);
    let mut characters = word.chars();
    characters.next() == Some('-') && characters.next().is_some_and(char::is_alphabetic) && characters.next().is_none()
}

fn part_of_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '+' | '~' | '@' | '%')
}

fn part_of_path(character: char) -> bool {
    character == '/' || part_of_name(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn substitution() -> Substitution {
        Substitution::new([
            ("/workspace".into(), "/host/tree 7".into()),
            ("/tmp".into(), "/scratch/0".into()),
            ("/tmp/same".into(), "/tmp/same".into()),
        ])
    }

    #[test]
    fn targets_become_sources_wherever_a_path_begins() {
        let cases = [
            ("/workspace", "/host/tree 7"),
            ("/workspace/", "/host/tree 7/"),
            ("--out=/workspace/a.txt", "--out=/host/tree 7/a.txt"),
            ("/usr/bin:/workspace/bin:/tmp", "/usr/bin:/host/tree 7/bin:/scratch/0"),
            ("cd '/workspace' && ls /tmp/x", "cd '/host/tree 7' && ls /scratch/0/x"),
            ("-I/workspace/include", "-I/host/tree 7/include"),
            ("file:///workspace/repo", "file:///host/tree 7/repo"),
        ];
        for (text, expected) in &cases {
            assert_eq!(substitution().apply(text), *expected, "{text}");
        }
    }

    #[test]
    fn other_paths_stay() {
        for text in [
            "/workspaces",
            "/a/workspace",
            "/workspace-2/x",
            "x/tmp",
            "/tmp/same/x",
            "",
            "é/",
        ] {
            assert_eq!(substitution().apply(text), text, "{text}");
        }
    }

    #[test]
    fn a_written_path_is_not_written_again() {
        let map = Substitution::new([("/a".into(), "/b/a".into()), ("/b".into(), "/c".into())]);
        assert_eq!(map.apply("/a/x /b/y"), "/b/a/x /c/y");
    }
}
