//! Git LFS pointers: small texts that stand in a work tree for files whose content lies in another store.
//!
//! Nothing here fetches that content or stores any: a pointer is committed as it stands. Their form is Git LFS' own
//! (`docs/spec.md` of that project).

/// Largest file that may be a pointer, in bytes.
pub(crate) const MOST: u64 = 1024;
/// What pointers begin with, the oldest forms last.
const VERSIONS: [&str; 3] = [
    "https://git-lfs.github.com/spec/v1",
    "https://hawser.github.com/spec/v1",
    "http://git-media.io/v/2",
];

/// What a pointer says of the file for which it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// The size of that file, in bytes.
    pub(crate) size: u64,
}

impl Pointer {
    /// Reads a pointer; `None` where the content of a file is something else.
    pub(crate) fn of(content: &[u8]) -> Option<Self> {
        if content.len() as u64 > MOST {
            return None;
        }
        let text = std::str::from_utf8(content).ok()?;
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("version ")?;
        let values: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
        let value = |key| {
            values
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim())
        };
        let known = VERSIONS.contains(&version.trim()) && value("oid")?.starts_with("sha256:");
        known.then_some(())?;
        let size = value("size")?.parse().ok()?;
        Some(Self { size })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The pointer of a file of so many bytes.
    pub(crate) fn pointer(size: u64) -> String {
        let oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n")
    }

    #[test]
    fn pointers_are_known_by_their_form_and_other_texts_are_none() {
        let of = |text: &str| Pointer::of(text.as_bytes()).map(|pointer| pointer.size);
        assert_eq!(of(&pointer(12_345)), Some(12_345));
        let extended = pointer(7).replace("\noid", "\next-0-foo sha256:aa\noid");
        assert_eq!(of(&extended), Some(7));
        assert_eq!(of(&pointer(7).replace('\n', "\r\n")), Some(7));
        let long = format!("{}# {}", pointer(7), "x".repeat(1024));
        for text in [
            "",
            "version 1\n",
            "version https://git-lfs.github.com/spec/v1\n",
            &pointer(7).replace("size 7", "size many"),
            &pointer(7).replace("sha256:", ""),
            &format!("# {}", pointer(7)),
            &long,
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(Pointer::of(b"version \xff"), None);
    }
}
