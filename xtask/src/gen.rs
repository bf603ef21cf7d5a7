//! `cargo xtask gen`: writes the generated files, or says which of them differ.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use schemas::generated::{CRD_FOLDER, GeneratedFile, JSON_FOLDER, files};

mod argocd;
mod limits;

/// Writes the generated files below `root` and removes what is not generated any more; with `check` it writes nothing
/// and fails where something differs.
pub fn run(root: &Path, check: bool) -> Result<()> {
    let mut files = files().context("failed to generate")?;
    files.push(argocd::file(root)?);
    files.push(limits::file(root)?);
    let mut differs = Vec::new();
    for file in &files {
        let path = root.join(&file.path);
        if std::fs::read_to_string(&path).is_ok_and(|found| found == file.content) {
            continue;
        }
        differs.push(file.path.clone());
        if !check {
            write(&path, file)?;
        }
    }
    let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for folder in [CRD_FOLDER, JSON_FOLDER] {
        for stale in stale(root, folder, &known)? {
            differs.push(stale.clone());
            if !check {
                std::fs::remove_file(root.join(&stale)).with_context(|| format!("failed to delete {stale}"))?;
            }
        }
    }
    match (check, differs.is_empty()) {
        (true, false) => bail!(
            "not what they are generated from: {}; run `cargo xtask gen`",
            differs.join(", ")
        ),
        (false, false) => println!("wrote {}", differs.join(", ")),
        (_, true) => println!("{} generated files are current", files.len()),
    }
    Ok(())
}

fn write(path: &Path, file: &GeneratedFile) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    std::fs::write(path, &file.content).with_context(|| format!("failed to write {}", path.display()))
}

fn stale(root: &Path, folder: &str, known: &BTreeSet<&str>) -> Result<Vec<String>> {
    let path = root.join(folder);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&path).with_context(|| format!("failed to list {folder}"))? {
        let path = format!("{folder}/{}", entry?.file_name().to_string_lossy());
        if !known.contains(path.as_str()) {
            found.push(path);
        }
    }
    Ok(found)
}
