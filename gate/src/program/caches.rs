//! Handing a filled cache to the steps, and putting a new one into its place.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// File that a finished cache holds; it is written last.
pub(super) const COMPLETE: &str = ".foreman-complete";
/// Beginning of the names of unfinished caches.
const UNFINISHED: &str = ".unfinished-";
/// Hours after which what a killed preparer left is removed.
const STALE_SECONDS: u64 = 24 * 3600;

/// Lays out the home of the steps over a read-only cache.
///
/// Package managers want to write beside what they only read: Cargo its lock, npm its index. So Cargo
/// gets a home of its own with links to the registry, npm a copy.
pub(super) fn lay_out(cache: &Path, home: &Path, own_cargo_home: Option<&Path>) -> io::Result<()> {
    let cargo = home.join("cargo");
    std::fs::create_dir_all(&cargo)?;
    copy_config(own_cargo_home, &cargo);
    for folder in ["registry", "git"] {
        let source = cache.join("cargo").join(folder);
        if source.is_dir() {
            symlink(&source, cargo.join(folder))?;
        }
    }
    let npm = cache.join("npm");
    if npm.is_dir() {
        copy_tree(&npm, &home.join("npm"))?;
    }
    Ok(())
}

/// Keeps the image's own settings of Cargo, such as a mirror; never its credentials.
pub(super) fn copy_config(own_cargo_home: Option<&Path>, cargo: &Path) {
    let Some(own) = own_cargo_home else {
        return;
    };
    for name in ["config.toml", "config"] {
        if own.join(name).is_file() {
            // Without it Cargo asks its usual registry.
            let _ = std::fs::copy(own.join(name), cargo.join("config.toml"));
            return;
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Tells whether a cache is finished.
pub(super) fn is_complete(cache: &Path) -> bool {
    cache.join(COMPLETE).is_file()
}

/// Makes the folder that one preparer fills; its name is its own.
pub(super) fn begin(repository: &Path, key: &str, nonce: &str) -> io::Result<std::path::PathBuf> {
    let folder = repository.join(format!("{UNFINISHED}{key}-{nonce}"));
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

/// Moves a filled folder into its place in one step; returns `false` where another preparer was
/// first, whose cache stays.
pub(super) fn finish(filled: &Path, cache: &Path) -> io::Result<bool> {
    std::fs::write(filled.join(COMPLETE), crate::FORMAT)?;
    loop {
        match std::fs::rename(filled, cache) {
            Ok(()) => return Ok(true),
            Err(_) if is_complete(cache) => return Ok(false),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                // Something unfinished lies there; move it away, and never what another finished meanwhile.
                let aside = filled.with_extension("replaced");
                std::fs::rename(cache, &aside)?;
                if is_complete(&aside) && std::fs::rename(&aside, cache).is_ok() {
                    return Ok(false);
                }
                let _ = git::remove_tree(&aside);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes what killed preparers left long ago.
pub(super) fn sweep(repository: &Path, now: std::time::SystemTime) {
    for entry in std::fs::read_dir(repository).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|modified| now.duration_since(modified).ok())
            .is_some_and(|age| age.as_secs() > STALE_SECONDS);
        if old && entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = git::remove_tree(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_of_two_preparers_wins_and_both_are_content() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("key");
        // A runner may have made the folder as a mount point.
        std::fs::create_dir(&cache).unwrap();
        let one = begin(folder.path(), "key", "1").unwrap();
        let two = begin(folder.path(), "key", "2").unwrap();
        assert!(begin(folder.path(), "key", "1").is_err());
        std::fs::write(one.join("who"), "one").unwrap();
        std::fs::write(two.join("who"), "two").unwrap();
        assert!(!is_complete(&cache));
        assert!(finish(&one, &cache).unwrap());
        assert!(!finish(&two, &cache).unwrap());
        assert_eq!(std::fs::read_to_string(cache.join("who")).unwrap(), "one");
    }

    #[test]
    fn an_unfinished_cache_is_replaced_and_old_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("key");
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(cache.join("half"), "x").unwrap();
        let one = begin(folder.path(), "key", "1").unwrap();
        assert!(finish(&one, &cache).unwrap());
        assert!(is_complete(&cache) && !cache.join("half").exists());

        begin(folder.path(), "key", "3").unwrap();
        sweep(folder.path(), std::time::SystemTime::now());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(2 * STALE_SECONDS);
        sweep(folder.path(), later);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
