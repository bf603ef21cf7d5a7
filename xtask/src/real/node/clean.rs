//! Taking away what a node leaves: pods that containerd's stop leaves running, mounts, control groups, the network, and the
//! files that its programs write outside of their folders.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};

use super::super::state::State;
use super::network::Network;
use super::{control_groups, kernel};
use crate::process;

/// Where the kubelet links logs, whatever it is told.
const LOG_LINKS: &str = "/var/log/containers";
/// Where results of CNI plugins are kept, whatever containerd is told.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Where the kubelet speaks to plugins, whatever it is told.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// What it makes there.
const OF_KUBELET: [&str; 3] = ["kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"];

/// Ends what runs and takes away what is there; does no harm where nothing is.
pub fn all(state: &State) -> Result<()> {
    let network = Network::of(state.folder());
    let socket = state.file("containerd.sock").display().to_string();
    for shim in shims(&socket) {
        children(shim).into_iter().for_each(process::kill);
        process::kill(shim);
    }
    control_groups::remove(&network.name)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("failed to list the mounts")?;
    for point in mounts_below(&table, state.folder()) {
        unmount(&point, UnmountFlags::DETACH).with_context(|| format!("failed to unmount {}", point.display()))?;
    }
    network.remove()?;
    kernel::put_back(state)?;
    remove_files(Path::new(LOG_LINKS), |path| {
        std::fs::read_link(path).is_ok_and(|target| target.starts_with(state.folder()))
    })?;
    let ids = sandboxes(&network.name);
    remove_files(Path::new(CNI_RESULTS), |path| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        ids.iter().any(|id| name.contains(id.as_str()))
    })?;
    // The kubelet's own has ended; one that still listens is another's.
    if !another_kubelet() {
        let ours = |path: &Path| OF_KUBELET.iter().any(|name| path.ends_with(name));
        remove_files(Path::new(DEVICE_PLUGINS), ours)?;
        for folder in [DEVICE_PLUGINS, "/var/lib/kubelet"] {
            // One that holds something else stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
    Ok(())
}

/// Returns whether a kubelet listens on this machine already; two would take each other's socket.
pub fn another_kubelet() -> bool {
    UnixStream::connect(Path::new(DEVICE_PLUGINS).join("kubelet.sock")).is_ok()
}

/// Returns the ids of the pods' sandboxes, which files of other networks carry as well.
fn sandboxes(network: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(CNI_RESULTS) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| sandbox(&name, network)).collect()
}

fn sandbox(file: &str, network: &str) -> Option<String> {
    let (id, _) = file.strip_prefix(network)?.strip_prefix('-')?.split_once('-')?;
    (id.len() == 64).then(|| id.to_owned())
}

/// Removes files of a folder, where there is such a folder.
fn remove_files(folder: &Path, ours: impl Fn(&Path) -> bool) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| ours(path)) {
        std::fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
    }
    Ok(())
}

/// Finds the processes that look after containers of the containerd of this socket.
fn shims(socket: &str) -> Vec<i32> {
    processes()
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_shim(&line, socket)
        })
        .collect()
}

fn is_shim(command_line: &[u8], socket: &str) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.ends_with(b"containerd-shim-runc-v2") && words.any(|word| word == socket.as_bytes())
}

fn children(parent: i32) -> Vec<i32> {
    processes()
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().nth(1));
            fields.flatten() == Some(parent.to_string().as_str())
        })
        .collect()
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Returns the mount points below a folder, the innermost first.
fn mounts_below(table: &str, folder: &Path) -> Vec<PathBuf> {
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_shims_of_our_own_containerd_are_ours() {
        let line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-address\0/s/containerd.sock\0";
        assert!(is_shim(line, "/s/containerd.sock"));
        assert!(!is_shim(line, "/run/containerd/containerd.sock"));
        assert!(!is_shim(
            b"grep\0containerd-shim-runc-v2\0/s/containerd.sock\0",
            "/s/containerd.sock"
        ));
    }

    #[test]
    fn mounts_are_taken_away_from_the_inside_out_and_others_stay() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /s/a rw - tmpfs x rw\n3 2 0:3 / /s/a/b rw - tmpfs x rw\n\
                     4 1 0:4 / /sz rw - tmpfs x rw\n";
        assert_eq!(
            mounts_below(table, Path::new("/s")),
            [Path::new("/s/a/b"), Path::new("/s/a")]
        );
    }

    #[test]
    fn a_sandbox_is_read_from_the_files_of_our_own_network() {
        let id = "a".repeat(64);
        assert_eq!(sandbox(&format!("fm1-{id}-eth0"), "fm1"), Some(id.clone()));
        assert_eq!(sandbox(&format!("fm12-{id}-eth0"), "fm1"), None);
        assert_eq!(sandbox("fm1--eth0", "fm1"), None);
    }

    #[test]
    fn files_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["fm1-a", "other-a"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        remove_files(folder.path(), |path| path.ends_with("fm1-a")).unwrap();
        assert!(!folder.path().join("fm1-a").exists() && folder.path().join("other-a").exists());
        remove_files(&folder.path().join("none"), |_| true).unwrap();
    }
}
