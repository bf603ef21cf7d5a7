//! Lists a work tree that a command may be changing at the same time, and that may be made to hurt who lists it.
//!
//! Every folder is opened by name inside one that is open already, no link is followed, and a `.gitignore` is read
//! only where it is a regular file of bounded size: a link to an endless device or a pipe of that name would
//! otherwise fill or stop a process that no sandbox limits.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use git::{BString, ByteSlice, Ignores, Tracked};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Largest `.gitignore` that counts, in bytes; commits have the same limit.
const IGNORE_LIMIT: u64 = 1 << 20;
/// Deepest folder that is listed, as in commits; every one on the way down is held open.
const DEPTH: usize = 256;

/// One thing in the work tree that is no folder, and that is committed or that no `.gitignore` names.
pub(crate) struct Entry<'a> {
    folder: &'a OwnedFd,
    name: &'a CStr,
    /// Its path from where the walk began.
    pub(crate) path: &'a [u8],
    /// What the system says of it; of a link, not of what it leads to.
    pub(crate) stat: Stat,
}

impl Entry<'_> {
    /// Returns what kind of thing it is.
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading; fails where it is no regular file any more.
    pub(crate) fn open(&self) -> std::io::Result<File> {
        open_file(self.folder, self.name)
    }

    /// Returns where a link leads.
    pub(crate) fn target(&self) -> std::io::Result<CString> {
        Ok(rustix::fs::readlinkat(self.folder, self.name, Vec::new())?)
    }
}

struct Level {
    folder: OwnedFd,
    /// Length of the path of this folder, its slash included.
    prefix: usize,
    /// Whether a `.gitignore` names it: then only what is committed of it is visited.
    ignored: bool,
    items: std::vec::IntoIter<(CString, Stat)>,
}

/// Which files are visited though a `.gitignore` names them.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    /// The files that the work tree was checked out with.
    pub(crate) tracked: &'a Tracked,
    /// Where the walk begins in the work tree: empty for its top, else with a slash at its end.
    pub(crate) below: &'a str,
}

impl Kept<'_> {
    fn has(&self, path: &[u8], is_folder: bool) -> bool {
        let mut whole = BString::from(self.below);
        whole.extend_from_slice(path);
        match is_folder {
            true => self.tracked.has_folder(whole.as_bstr()),
            false => self.tracked.has_file(whole.as_bstr()),
        }
    }
}

/// Visits what lies below an open folder, sorted by name within each folder, without `.git` and what `.gitignore`
/// files from that folder on name and that is not to be `kept`. What cannot be listed is visited as an error. `stop` is
/// asked before every name, ignored or not, and ends the walk; so does a visit that breaks.
pub(crate) fn walk<B>(
    start: OwnedFd,
    kept: Kept<'_>,
    stop: &dyn Fn() -> bool,
    mut visit: impl FnMut(std::io::Result<Entry<'_>>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let mut ignores = Ignores::default();
    let mut path: Vec<u8> = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some((start, false));
    loop {
        if let Some((folder, ignored)) = next.take() {
            match list(&folder, stop) {
                Ok(items) => {
                    let prefix = path.len();
                    let name = path.strip_suffix(b"/").unwrap_or(&path);
                    ignores.enter(&BString::from(name), &ignore_file(&folder));
                    let items = items.into_iter();
                    levels.push(Level {
                        folder,
                        prefix,
                        ignored,
                        items,
                    });
                }
                Err(error) => visit(Err(error))?,
            }
        }
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            return ControlFlow::Continue(());
        };
        path.truncate(level.prefix);
        let Some((name, stat)) = level.items.next() else {
            levels.pop();
            ignores.leave();
            continue;
        };
        if stop() {
            return ControlFlow::Continue(());
        }
        path.extend_from_slice(name.to_bytes());
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if name.to_bytes().eq_ignore_ascii_case(b".git") {
            continue;
        }
        let ignored = level.ignored || ignores.matches(path.as_bstr(), is_folder);
        if ignored && !kept.has(&path, is_folder) {
            continue;
        }
        if !is_folder {
            visit(Ok(Entry {
                folder: &level.folder,
                name: &name,
                path: &path,
                stat,
            }))?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&level.folder, &name, flags, Mode::empty()) {
            _ if depth > DEPTH => visit(Err(std::io::Error::other(format!(
                "found folders more than {DEPTH} deep; remove them"
            ))))?,
            Ok(folder) => {
                path.push(b'/');
                next = Some((folder, ignored));
            }
            // It went away since.
            Err(Errno::NOENT) => {}
            Err(error) => visit(Err(error.into()))?,
        }
    }
}

fn list(folder: &OwnedFd, stop: &dyn Fn() -> bool) -> std::io::Result<Vec<(CString, Stat)>> {
    let mut items = Vec::new();
    for entry in Dir::read_from(folder)? {
        if stop() {
            break;
        }
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => items.push((name.to_owned(), stat)),
            // It went away since.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(items)
}

/// Returns the patterns of a folder; none where there is no `.gitignore` that can be trusted to end.
fn ignore_file(folder: &OwnedFd) -> Vec<u8> {
    let mut patterns = Vec::new();
    let read = open_file(folder, c".gitignore").and_then(|file| file.take(IGNORE_LIMIT + 1).read_to_end(&mut patterns));
    match read {
        Ok(bytes) if bytes as u64 <= IGNORE_LIMIT => patterns,
        _ => Vec::new(),
    }
}

fn open_file(folder: &OwnedFd, name: &CStr) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(std::io::Error::other("it is a device, pipe or socket, not a file"));
    }
    Ok(opened.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::path::Path;

    fn open(folder: &Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(folder, flags, Mode::empty()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        names_with(folder, &Tracked::default(), "")
    }

    fn names_with(folder: &Path, tracked: &Tracked, below: &str) -> Vec<String> {
        let mut names = Vec::new();
        let kept = Kept { tracked, below };
        let walked = walk(open(folder), kept, &|| false, |entry| match entry {
            Ok(entry) => {
                names.push(String::from_utf8(entry.path.to_vec()).unwrap());
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error.to_string()),
        });
        assert_eq!(walked, ControlFlow::Continue(()));
        names
    }

    fn fill(folder: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn ignore_files_hide_what_they_name_from_their_folder_on() {
        let folder = tempfile::tempdir().unwrap();
        fill(
            folder.path(),
            &[
                (".gitignore", "/target\n*.log\nbuild/\n"),
                (".git/config", ""),
                ("a.log", ""),
                ("build", ""),
                ("sub/.git", "gitdir: elsewhere"),
                ("zoo/.Git/config", ""),
                ("sub/.gitignore", "!kept.log\nonly\n"),
                ("sub/b.log", ""),
                ("sub/build/x", ""),
                ("sub/kept.log", ""),
                ("sub/only", ""),
                ("sub/target/y", ""),
                ("target/z", ""),
                ("zoo/kept.log", ""),
                ("zoo/only", ""),
            ],
        );
        assert_eq!(
            names(folder.path()),
            [
                ".gitignore",
                "build",
                "sub/.gitignore",
                "sub/kept.log",
                "sub/target/y",
                "zoo/only"
            ]
        );
    }

    #[test]
    fn what_is_committed_is_visited_though_an_ignore_file_names_it_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fill(
            folder.path(),
            &[
                (".gitignore", "*.log\n/dist\n"),
                ("a.log", ""),
                ("b.log", ""),
                ("dist/.gitignore", "!new.js\n"),
                ("dist/deep/kept.js", ""),
                ("dist/deep/new.js", ""),
                ("dist/new.js", ""),
                ("dist/other/new.js", ""),
            ],
        );
        let committed = [".gitignore", "a.log", "dist/deep/kept.js", "dist/gone.js"];
        let tracked = Tracked::new(committed.map(BString::from));
        assert_eq!(
            names_with(folder.path(), &tracked, ""),
            [".gitignore", "a.log", "dist/deep/kept.js"],
            "what lies in an ignored folder stays ignored, whatever a .gitignore in it says"
        );
        fill(folder.path(), &[("dist/deep/.gitignore", "*\n")]);
        assert_eq!(
            names_with(&folder.path().join("dist/deep"), &tracked, "dist/deep/"),
            ["kept.js"],
            "paths are those of the work tree, wherever the walk begins"
        );
    }

    #[test]
    fn an_ignore_file_that_is_a_link_or_a_pipe_or_too_large_is_listed_and_never_read() {
        let folder = tempfile::tempdir().unwrap();
        fill(
            folder.path(),
            &[("rules", "*\n"), ("linked/a", ""), ("piped/b", ""), ("large/c", "")],
        );
        std::os::unix::fs::symlink("/dev/zero", folder.path().join(".gitignore")).unwrap();
        std::os::unix::fs::symlink("../rules", folder.path().join("linked/.gitignore")).unwrap();
        let pipe = folder.path().join("piped/.gitignore");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        std::fs::write(
            folder.path().join("large/.gitignore"),
            "*\n".repeat(IGNORE_LIMIT as usize / 2 + 1),
        )
        .unwrap();
        assert_eq!(
            names(folder.path()),
            [
                ".gitignore",
                "large/.gitignore",
                "large/c",
                "linked/.gitignore",
                "linked/a",
                "piped/.gitignore",
                "piped/b",
                "rules"
            ]
        );
    }

    #[test]
    fn links_to_folders_are_not_entered_and_too_deep_folders_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("up")).unwrap();
        assert_eq!(names(folder.path()), ["up"]);
        let deep = (0..=DEPTH).fold(folder.path().to_owned(), |folder, _| folder.join("d"));
        std::fs::create_dir_all(deep).unwrap();
        let tracked = Tracked::default();
        let kept = Kept {
            tracked: &tracked,
            below: "",
        };
        let walked = walk(open(folder.path()), kept, &|| false, |entry| match entry {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error.to_string()),
        });
        assert!(matches!(walked, ControlFlow::Break(reason) if reason.contains("more than 256 deep")));
    }

    #[test]
    fn the_walk_asks_whether_to_stop_also_among_ignored_names() {
        let folder = tempfile::tempdir().unwrap();
        fill(
            folder.path(),
            &[(".gitignore", "x*\n"), ("x1", ""), ("x2", ""), ("z", "")],
        );
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            // Listing the folder asks for each of its six names, `.` and `..` among them.
            asked.get() > 6 + 3
        };
        let mut seen = Vec::new();
        let tracked = Tracked::default();
        let kept = Kept {
            tracked: &tracked,
            below: "",
        };
        let walked = walk(open(folder.path()), kept, &stop, |entry| {
            seen.push(entry.unwrap().path.to_vec());
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(walked, ControlFlow::Continue(()));
        assert_eq!(seen, [b".gitignore".to_vec()], "z comes after the stop");
    }
}
