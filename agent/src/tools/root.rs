//! The work tree as the file tools see it: nothing above it, nothing beside it, nothing through a link.
//!
//! Every path is walked component by component from an open folder, and no component may be a symbolic link, so
//! that a link planted or swapped at any moment leads nowhere.

mod error;
pub mod pins;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gate::protected::Protected;
use git::Tracked;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::output;
use super::pointer::{self, Pointer};
pub use error::RootError;
use error::{io, refused};
use pins::Pins;

/// The work tree's folder, held open.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
    path: PathBuf,
    protected: Protected,
    pins: Pins,
    tracked: Arc<Tracked>,
}

/// What a read brought.
#[derive(Debug)]
pub enum Found {
    /// A regular file.
    File(Vec<u8>),
    /// A folder and the names in it, folders with a trailing slash, sorted.
    Folder(Vec<String>),
}

/// Cuts a path into its components, or says why it is no path of the work tree.
pub fn components(path: &str) -> Result<Vec<&str>, RootError> {
    let refuse = |reason: &str| RootError::Refused {
        path: output::one_line(path, 200),
        reason: reason.to_owned(),
    };
    if path.contains('\0') || path.len() > 4096 {
        return Err(refuse("it is not a path"));
    }
    if path.starts_with('/') || path.starts_with('~') {
        return Err(refuse(
            "paths are relative to the work tree; write it without the leading part",
        ));
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                return Err(refuse(
                    "`..` leads out of where tools may go; write the path from the top of the work tree",
                ));
            }
            name if name.eq_ignore_ascii_case(".git") => {
                return Err(refuse("`.git` is not for tools; commits and pushes happen outside"));
            }
            name => parts.push(name),
        }
    }
    Ok(parts)
}

impl Root {
    /// Opens a work tree.
    pub fn open(path: &Path, protected: Protected) -> std::io::Result<Self> {
        let path = path.canonicalize()?;
        let folder = rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            folder,
            path,
            protected,
            pins: Pins::default(),
            tracked: Arc::default(),
        })
    }

    /// Shows files that are committed though a `.gitignore` names them.
    pub fn tracking(mut self, tracked: Arc<Tracked>) -> Self {
        self.tracked = tracked;
        self
    }

    /// Returns the files that the work tree was checked out with.
    pub fn tracked(&self) -> &Tracked {
        &self.tracked
    }

    /// Returns where the work tree lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the paths that may not be written.
    pub fn protected(&self) -> &Protected {
        &self.protected
    }

    /// Takes the work tree's own absolute prefix off a path, as models like to write it.
    pub fn relative<'a>(&self, path: &'a str) -> &'a str {
        let path = path.trim();
        let own = self.path.to_str().unwrap_or("\0");
        for prefix in [own, "/workspace"] {
            if let Some(rest) = path.strip_prefix(prefix) {
                if rest.is_empty() {
                    return ".";
                }
                if let Some(rest) = rest.strip_prefix('/') {
                    return rest.trim_start_matches('/');
                }
            }
        }
        path
    }

    /// Opens a folder for listing.
    pub fn folder(&self, path: &str) -> Result<OwnedFd, RootError> {
        let path = self.relative(path);
        match self.walk(path, &components(path)?, false)? {
            Some(folder) => Ok(folder),
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&self.folder, ".", flags, Mode::empty()).map_err(|error| io("open", path, error))
            }
        }
    }

    /// Reads a regular file of at most `limit` bytes, or lists a folder.
    pub fn read(&self, path: &str, limit: u64) -> Result<Found, RootError> {
        let path = self.relative(path);
        let parts = components(path)?;
        let Some((name, above)) = parts.split_last() else {
            return self.list(&self.folder, path);
        };
        let parent = self.walk(path, above, false)?;
        let parent = parent.as_ref().unwrap_or(&self.folder);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(parent, *name, flags, Mode::empty())
            .map_err(|error| self.explain("read", path, parent, name, error))?;
        let stat = rustix::fs::fstat(&opened).map_err(|error| io("read", path, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return self.list(&opened, path),
            _ => return Err(refused(path, "it is a device, pipe or socket, not a file")),
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > limit {
            return Err(RootError::TooLarge {
                path: path.to_owned(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        let mut file = std::fs::File::from(opened).take(limit + 1);
        file.read_to_end(&mut bytes).map_err(|source| RootError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        if bytes.len() as u64 > limit {
            return Err(RootError::TooLarge {
                path: path.to_owned(),
                size: bytes.len() as u64,
                limit,
            });
        }
        Ok(Found::File(bytes))
    }

    /// Replaces or makes a file, and the folders above it. Whole or not at all; the mode of an existing file stays.
    /// Returns whether there was one before.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<bool, RootError> {
        let path = self.relative(path);
        let parts = self.writable(path)?;
        let Some((name, above)) = parts.split_last() else {
            return Err(refused(path, "it is a folder; name a file"));
        };
        if path.ends_with('/') {
            return Err(refused(path, "it ends in a slash; name a file"));
        }
        self.check(&parts.join("/"), Some(content))?;
        let parent = self.walk(path, above, true)?;
        let parent = parent.as_ref().unwrap_or(&self.folder);
        let before = self.regular(path, parent, name)?;
        let temporary = format!(".foreman-{:016x}.tmp", rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let opened = rustix::fs::openat(parent, &temporary, flags, mode).map_err(|error| io("write", path, error))?;
        let outcome = (|| {
            if let Some(mode) = before {
                rustix::fs::fchmod(&opened, mode)?;
            }
            let mut file = std::fs::File::from(opened);
            file.write_all(content)?;
            rustix::fs::renameat(parent, &temporary, parent, *name)?;
            Ok(())
        })();
        if let Err(source) = outcome {
            // What is left over is ours alone; failing to remove it adds nothing to the error.
            let _ = rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
            return Err(RootError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            });
        }
        Ok(before.is_some())
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) -> Result<(), RootError> {
        let path = self.relative(path);
        let parts = self.writable(path)?;
        let Some((name, above)) = parts.split_last() else {
            return Err(refused(path, "it is a folder; name a file"));
        };
        let parent = self.walk(path, above, false)?;
        let parent = parent.as_ref().unwrap_or(&self.folder);
        if self.regular(path, parent, name)?.is_none() {
            return Err(RootError::Missing { path: path.to_owned() });
        }
        self.check(&parts.join("/"), None)?;
        rustix::fs::unlinkat(parent, *name, AtFlags::empty()).map_err(|error| io("remove", path, error))
    }

    /// Refuses a content of the file at `path`, or its removal, that would change pinned parts of it, content that would
    /// take the place of a pointer, and a new file of a name that nobody means.
    pub fn check(&self, path: &str, after: Option<&[u8]>) -> Result<(), RootError> {
        self.check_pins(path, after)?;
        let Some(after) = after else { return Ok(()) };
        match self.read(path, pointer::MOST) {
            Ok(Found::File(now)) => match (Pointer::of(&now), Pointer::of(after)) {
                (Some(Pointer { size }), None) => Err(RootError::Pointer {
                    path: path.to_owned(),
                    size,
                }),
                _ => Ok(()),
            },
            Err(RootError::Missing { .. }) => {
                let folders = path.match_indices('/').map(|(at, _)| at);
                let there = folders.take_while(|at| self.folder(&path[..*at]).is_ok()).last();
                check_new(there.map_or(path, |at| &path[at + 1..]))
            }
            // Whatever else is there is for the attempt to write to tell.
            _ => Ok(()),
        }
    }

    fn writable<'a>(&self, path: &'a str) -> Result<Vec<&'a str>, RootError> {
        let parts = components(path)?;
        let plain = parts.join("/");
        match self.protected.covers(&plain) {
            Some(pattern) => Err(RootError::Protected {
                path: plain,
                pattern: pattern.to_owned(),
            }),
            None => Ok(parts),
        }
    }

    /// Returns the mode of an existing regular file; `None` where there is nothing.
    fn regular(&self, path: &str, parent: &OwnedFd, name: &str) -> Result<Option<Mode>, RootError> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(io("write", path, error)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(Some(Mode::from_raw_mode(stat.st_mode & 0o777))),
                FileType::Directory => Err(refused(path, "it is a folder; name a file")),
                FileType::Symlink => Err(self.link(path, parent, name)),
                _ => Err(refused(path, "it is a device, pipe or socket, not a file")),
            },
        }
    }

    /// Opens the folder that `parts` name; `None` is the work tree itself.
    fn walk(&self, path: &str, parts: &[&str], create: bool) -> Result<Option<OwnedFd>, RootError> {
        let mut here: Option<OwnedFd> = None;
        for part in parts {
            let parent = here.as_ref().unwrap_or(&self.folder);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut opened = rustix::fs::openat(parent, *part, flags, Mode::empty());
            if create && matches!(opened, Err(Errno::NOENT)) {
                match rustix::fs::mkdirat(parent, *part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(io("make a folder for", path, error)),
                }
                opened = rustix::fs::openat(parent, *part, flags, Mode::empty());
            }
            let next = opened.map_err(|error| self.explain("open", path, parent, part, error))?;
            here = Some(next);
        }
        Ok(here)
    }

    fn explain(&self, action: &'static str, path: &str, parent: &OwnedFd, part: &str, error: Errno) -> RootError {
        match error {
            Errno::NOENT => RootError::Missing { path: path.to_owned() },
            // A link answers ELOOP, or ENOTDIR where a folder was asked for.
            Errno::LOOP | Errno::NOTDIR | Errno::MLINK => {
                match rustix::fs::statat(parent, part, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                        self.link(path, parent, part)
                    }
                    _ => refused(path, &format!("{part:?} in it is a file, not a folder")),
                }
            }
            Errno::NXIO => refused(path, "it is a device, pipe or socket, not a file"),
            other => io(action, path, other),
        }
    }

    fn link(&self, path: &str, parent: &OwnedFd, name: &str) -> RootError {
        let target = rustix::fs::readlinkat(parent, name, Vec::new())
            .map(|target| target.to_string_lossy().into_owned())
            .unwrap_or_default();
        let target = output::one_line(&target, 120);
        refused(
            path,
            &format!(
                "{name:?} is a symbolic link (to {target:?}), and tools follow none; use the path of the file itself"
            ),
        )
    }

    fn list(&self, folder: &OwnedFd, path: &str) -> Result<Found, RootError> {
        let entries = rustix::fs::Dir::read_from(folder).map_err(|error| io("list", path, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io("list", path, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if matches!(name.as_str(), "." | ".." | ".git") {
                continue;
            }
            names.push(if entry.file_type() == FileType::Directory {
                format!("{name}/")
            } else {
                name
            });
        }
        names.sort();
        Ok(Found::Folder(names))
    }
}

/// Refuses names of new files that no commit may hold, or that would not be seen for what they are. Old ones keep theirs.
fn check_new(path: &str) -> Result<(), RootError> {
    let shown = output::one_line(path, 200);
    if path.contains('\\') {
        return Err(refused(
            &shown,
            "it holds a backslash, which parts no folders here; write it with `/` between folders",
        ));
    }
    if path.contains(['\n', '\t']) || output::printable(path) != path {
        return Err(refused(
            &shown,
            "it holds control or invisible characters; write it without them",
        ));
    }
    match path.split('/').find(|name| !git::is_fit_name((*name).into(), false)) {
        Some(_) => Err(refused(
            &shown,
            "a name in it stands for `.git` on some systems, and no commit may hold it; choose another",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
