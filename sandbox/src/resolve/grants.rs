//! Which of the host's paths a command may use, where rules can only allow.

use std::path::{Path, PathBuf};

use crate::mount::Access;

/// Turns binds and masks into rules of a kind that can only allow.
///
/// A folder with something hidden inside is granted as its children without the hidden one. Of a
/// writable folder that cannot be done, since a new file in it would have no rule; nor can a part of
/// it be read-only. Both are refused.
pub(super) fn grants(binds: &[(PathBuf, Access)], masks: &[PathBuf]) -> Result<Vec<(PathBuf, Access)>, String> {
    let writable: Vec<&PathBuf> = binds
        .iter()
        .filter(|(_, access)| *access == Access::ReadWrite)
        .map(|(path, _)| path)
        .collect();
    for (path, access) in binds {
        let inside = writable
            .iter()
            .find(|folder| path != **folder && path.starts_with(folder));
        if let (Access::ReadOnly, Some(folder)) = (access, inside) {
            return Err(format!(
                "the backend landlock cannot keep {} read-only inside the writable {}",
                path.display(),
                folder.display()
            ));
        }
    }
    let mut result = Vec::new();
    for (path, access) in binds {
        let hidden: Vec<&PathBuf> = masks
            .iter()
            .filter(|mask| mask.starts_with(path) && mask.symlink_metadata().is_ok())
            .collect();
        match (hidden.first(), access) {
            (None, _) => result.push((path.clone(), *access)),
            (Some(mask), Access::ReadWrite) => {
                return Err(format!(
                    "the backend landlock cannot hide {} inside the writable {}",
                    mask.display(),
                    path.display()
                ));
            }
            (Some(_), Access::ReadOnly) => grant_around(path, &hidden, &mut result)?,
        }
    }
    Ok(result)
}

fn grant_around(folder: &Path, hidden: &[&PathBuf], result: &mut Vec<(PathBuf, Access)>) -> Result<(), String> {
    if hidden.iter().any(|mask| mask.as_path() == folder) {
        return Ok(());
    }
    if !hidden.iter().any(|mask| mask.starts_with(folder)) {
        result.push((folder.to_owned(), Access::ReadOnly));
        return Ok(());
    }
    let failed = |error| format!("failed to list {}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link's target needs a rule of its own; following it here could undo a mask.
        if !entry.file_type().map_err(failed)?.is_symlink() {
            grant_around(&entry.path(), hidden, result)?;
        }
    }
    Ok(())
}
