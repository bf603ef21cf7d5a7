//! Container images as the archive that `docker load`, `podman load` and `ctr images import` read; the same for the same
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The length of a block of a tar archive.
const BLOCK: usize = 512;

/// A file of a layer.
pub struct Content {
    /// Its path, without a leading slash.
    pub path: String,
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// A layer: a tar archive, by its digest.
#[derive(Clone)]
pub struct Layer {
    digest: String,
    length: u64,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Held(Vec<u8>),
    At(PathBuf),
}

impl Layer {
    /// Packs files.
    pub fn of(files: &[Content]) -> Layer {
        let mut bytes = Vec::new();
        for file in files {
            bytes.extend(header(&file.path, file.mode, file.bytes.len() as u64));
            bytes.extend(&file.bytes);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        Layer {
            digest: hex::encode(Sha256::digest(&bytes)),
            length: bytes.len() as u64,
            bytes: Bytes::Held(bytes),
        }
    }

    /// Takes a tar archive that lies on the disk.
    pub fn at(path: &Path) -> Result<Layer> {
        let failed = || format!("failed to read {}", path.display());
        let mut file = File::open(path).with_context(failed)?;
        let (mut digest, mut length) = (Sha256::new(), 0);
        let mut block = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut block).with_context(failed)?;
            if read == 0 {
                break;
            }
            digest.update(&block[..read]);
            length += read as u64;
        }
        Ok(Layer {
            digest: hex::encode(digest.finalize()),
            length,
            bytes: Bytes::At(path.to_owned()),
        })
    }

    /// Returns its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// An image.
pub struct Image {
    /// Its name with its tag.
    pub name: String,
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl Image {
    fn config(&self) -> Result<Vec<u8>> {
        let digests: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", layer.digest))
            .collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "User": self.user.as_deref().unwrap_or_default(),
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        serde_json::to_vec(&config).context("failed to write an image's configuration")
    }
}

/// Returns the name that images have for this machine's processor.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes images into one archive; layers that they share lie in it once.
pub fn write(target: &Path, images: &[Image]) -> Result<()> {
    let failed = || format!("failed to write {}", target.display());
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let fresh = target.with_extension("part");
    let mut out = BufWriter::new(File::create(&fresh).with_context(failed)?);
    let mut written = BTreeSet::new();
    let mut manifest = Vec::new();
    for image in images {
        let config = image.config()?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        if written.insert(config_name.clone()) {
            put(&mut out, &config_name, config.len() as u64, &mut config.as_slice()).with_context(failed)?;
        }
        let mut layers = Vec::new();
        for layer in &image.layers {
            let name = format!("{}/layer.tar", layer.digest);
            if written.insert(name.clone()) {
                match &layer.bytes {
                    Bytes::Held(bytes) => put(&mut out, &name, layer.length, &mut bytes.as_slice()),
                    Bytes::At(path) => put(
                        &mut out,
                        &name,
                        layer.length,
                        &mut File::open(path).with_context(failed)?,
                    ),
                }
                .with_context(failed)?;
            }
            layers.push(name);
        }
        manifest.push(json!({"Config": config_name, "RepoTags": [image.name], "Layers": layers}));
    }
    let manifest = serde_json::to_vec(&manifest)?;
    put(
        &mut out,
        "manifest.json",
        manifest.len() as u64,
        &mut manifest.as_slice(),
    )
    .with_context(failed)?;
    out.write_all(&[0; 2 * BLOCK]).with_context(failed)?;
    out.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .with_context(failed)?;
    std::fs::rename(&fresh, target).with_context(failed)
}

fn put(out: &mut impl Write, path: &str, length: u64, bytes: &mut dyn Read) -> std::io::Result<()> {
    out.write_all(&header(path, 0o644, length))?;
    let copied = std::io::copy(bytes, out)?;
    if copied != length {
        return Err(std::io::Error::other(format!("{path} changed while it was read")));
    }
    let over = copied.next_multiple_of(BLOCK as u64) - copied;
    std::io::copy(&mut std::io::repeat(0).take(over), out).map(drop)
}

/// Returns the header of a file, in the format ustar: owned by root, as old as the epoch.
fn header(path: &str, mode: u32, length: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{length:011o}"));
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

    fn image(name: &str, layers: &[&Layer]) -> Image {
        Image {
            name: name.to_owned(),
            layers: layers.iter().map(|layer| (*layer).clone()).collect(),
            entrypoint: vec!["/bin/probe".to_owned()],
            user: Some("65532:65532".to_owned()),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    #[test]
    fn tar_reads_an_archive_and_the_digests_in_it_are_those_of_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("images.tar");
        let file = Content {
            path: "bin/probe".to_owned(),
            bytes: b"hello".to_vec(),
            mode: 0o755,
        };
        let layer = Layer::of(&[file]);
        let Bytes::Held(held) = &layer.bytes else {
            unreachable!()
        };
        std::fs::write(folder.path().join("own.tar"), held).unwrap();
        let same = Layer::at(&folder.path().join("own.tar")).unwrap();
        write(
            &target,
            &[image("example/a:1", &[&layer]), image("example/b:1", &[&same])],
        )
        .unwrap();
        let unpack = |archive: &str| {
            let mut tar = Command::new("tar");
            let done = tar.current_dir(folder.path()).args(["-xvf", archive]).output().unwrap();
            assert!(done.status.success(), "{archive}");
            String::from_utf8(done.stdout).unwrap()
        };
        let listed = unpack("images.tar");
        assert_eq!(
            listed.matches("layer.tar").count(),
            1,
            "a shared layer lies there once: {listed}"
        );
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "example/a:1");
        assert_eq!(manifest[0]["Layers"], manifest[1]["Layers"]);
        let name = manifest[0]["Layers"][0].as_str().unwrap();
        let digest = hex::encode(Sha256::digest(read(name)));
        let config: serde_json::Value = serde_json::from_slice(&read(manifest[0]["Config"].as_str().unwrap())).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
        assert_eq!(config["config"]["User"], "65532:65532");
        unpack(name);
        assert_eq!(read("bin/probe"), b"hello");
    }
}
