//! Container images without a registry and without a builder: one layer, written as the archive that `ctr images import`
//! reads.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A file of an image.
pub struct Content<'a> {
    /// Its path, without a leading slash.
    pub path: &'a str,
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Writes an image of some files, of this machine's architecture.
pub fn write(target: &Path, name: &str, entrypoint: &[&str], files: &[Content<'_>]) -> Result<()> {
    let layer = archive(files);
    let layer_digest = hex::encode(Sha256::digest(&layer));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    }))?;
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let layer_name = format!("{layer_digest}/layer.tar");
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]);
    let file = |path, bytes| Content {
        path,
        bytes,
        mode: 0o644,
    };
    let whole = archive(&[
        file(&config_name, config),
        file(&layer_name, layer),
        file("manifest.json", serde_json::to_vec(&manifest)?),
    ]);
    std::fs::write(target, whole).with_context(|| format!("failed to write {}", target.display()))
}

/// Packs files into a tar archive that is the same for the same files.
fn archive(files: &[Content<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for file in files {
        archive.extend(header(file));
        archive.extend(&file.bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Returns the header of a file, in the format ustar: owned by root, as old as the epoch.
fn header(file: &Content<'_>) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, file.path);
    put(100, &format!("{:07o}", file.mode));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", file.bytes.len()));
    put(136, "00000000000");
    // The sum counts its own field as blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_an_image_and_the_digests_in_it_are_those_of_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("image.tar");
        let file = Content {
            path: "bin/probe",
            bytes: b"hello".to_vec(),
            mode: 0o755,
        };
        write(&target, "example/probe:1", &["/bin/probe"], &[file]).unwrap();
        let unpack = |archive: &str| {
            let mut tar = Command::new("tar");
            let done = tar.current_dir(folder.path()).args(["-xf", archive]).status();
            assert!(done.unwrap().success(), "{archive}");
        };
        unpack("image.tar");
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
        let layer = manifest[0]["Layers"][0].as_str().unwrap();
        let digest = hex::encode(Sha256::digest(read(layer)));
        let config: serde_json::Value = serde_json::from_slice(&read(manifest[0]["Config"].as_str().unwrap())).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
        unpack(layer);
        assert_eq!(read("bin/probe"), b"hello");
    }
}
