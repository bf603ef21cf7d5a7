//! Settings of the kernel that are the whole machine's and that the kubelet changes: kept, and put back.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::state::State;

/// Where they are kept.
const FILE: &str = "kernel.json";
/// Where settings are.
const ROOT: &str = "/proc/sys";
/// What the kubelet changes.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Keeps the settings as they are.
pub fn keep(state: &State) -> Result<()> {
    let kept: BTreeMap<&str, String> = SETTINGS
        .into_iter()
        .filter_map(|name| Some((name, std::fs::read_to_string(Path::new(ROOT).join(name)).ok()?)))
        .collect();
    state.write(FILE, &serde_json::to_vec(&kept)?)
}

/// Puts them back, where they were kept.
pub fn put_back(state: &State) -> Result<()> {
    put_back_below(state, Path::new(ROOT))
}

fn put_back_below(state: &State, root: &Path) -> Result<()> {
    let Ok(bytes) = std::fs::read(state.file(FILE)) else {
        return Ok(());
    };
    let kept: BTreeMap<String, String> = serde_json::from_slice(&bytes).context("failed to read the kept settings")?;
    for name in SETTINGS {
        let path = root.join(name);
        if let Some(value) = kept.get(name)
            && std::fs::read_to_string(&path).is_ok_and(|now| now != *value)
        {
            std::fs::write(&path, value).with_context(|| format!("failed to put {} back", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_put_back_as_they_were_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(&folder.path().join("state"))).unwrap();
        let root = folder.path().join("sys");
        std::fs::create_dir_all(root.join("kernel")).unwrap();
        std::fs::write(root.join("kernel/panic"), "10\n").unwrap();
        std::fs::write(root.join("kernel/other"), "1\n").unwrap();
        put_back_below(&state, &root).unwrap();
        assert_eq!(
            std::fs::read_to_string(root.join("kernel/panic")).unwrap(),
            "10\n",
            "nothing was kept"
        );
        state
            .write(FILE, br#"{"kernel/panic":"0\n","kernel/other":"7\n"}"#)
            .unwrap();
        put_back_below(&state, &root).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("kernel/panic")).unwrap(), "0\n");
        assert_eq!(std::fs::read_to_string(root.join("kernel/other")).unwrap(), "1\n");
    }
}
