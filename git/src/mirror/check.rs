//! Finding damage in a mirror without reading all of it, and clearing what a killed process left.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use crate::{
    error::{Error, Result},
    repository::Repository,
};

/// Written last when a mirror is made: without it the folder is half a mirror.
const SEAL: &str = "foreman-mirror";
const SEAL_TEXT: &str = "A mirror kept by Foreman, format 1. It may be removed while Foreman does not run.\n";

pub(super) fn seal(path: &Path) -> Result<()> {
    let file = path.join(SEAL);
    std::fs::write(&file, SEAL_TEXT).map_err(|e| Error::io("write", file, e))
}

/// Opens the mirror if its frame is whole: seal, HEAD, and packs whose ends agree with their indexes.
pub(super) fn sound(path: &Path) -> std::result::Result<Repository, String> {
    let sealed = std::fs::read_to_string(path.join(SEAL)).map_err(|e| format!("{SEAL}: {e}"))?;
    if sealed != SEAL_TEXT {
        return Err(format!("{SEAL} does not hold what was written"));
    }
    packs(&path.join("objects/pack"))?;
    Repository::open(path).map_err(|e| e.to_string())
}

/// A pack ends in its checksum, and its index repeats it: a cut or swapped file does not agree.
fn packs(folder: &Path) -> std::result::Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries.flatten() {
        let index = entry.path();
        if index.extension().is_none_or(|e| e != "idx") {
            continue;
        }
        let pack = index.with_extension("pack");
        let of_index = ending(&index, 40).map_err(|e| format!("{}: {e}", index.display()))?;
        let of_pack = ending(&pack, 20).map_err(|e| format!("{}: {e}", pack.display()))?;
        if of_index[..20] != of_pack[..] {
            return Err(format!("{} does not end as its index says", pack.display()));
        }
    }
    Ok(())
}

fn ending(path: &Path, bytes: i64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-bytes))?;
    let mut out = Vec::new();
    file.read_to_end(&mut out)?;
    Ok(out)
}

/// Removes lock files and temporary packs that a killed process left. The caller holds the mirror's lock.
pub(super) fn sweep(path: &Path) {
    let objects = path.join("objects");
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        let in_objects = folder.starts_with(&objects);
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let temporary = in_objects && (name.starts_with("tmp_") || name.starts_with(".tmp"));
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(entry.path());
            } else if name.ends_with(".lock") || temporary {
                // What cannot be removed makes a later write fail, which says so.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
