//! A Pod's volumes as folders of this host.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{KeyToPath, Pod, Volume};

use super::environment::Sources;

/// One volume on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Folder or file.
    pub path: PathBuf,
    /// Whether mounts of it may write.
    pub writable: bool,
    /// Whether it is a folder of the host, which Foreman's own program alone may write, where its mount allows it.
    pub of_host: bool,
}

/// Where volumes are made and which folders of the host may be shown.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Folder of this Pod.
    pub pod: PathBuf,
    /// Folder of PersistentVolumeClaims.
    pub claims: PathBuf,
    /// Folders below which a hostPath may lie.
    pub host: Vec<PathBuf>,
}

/// Makes every volume of `pod`, or says which one cannot be had.
pub fn place(pod: &Pod, roots: &Roots, sources: &Sources) -> Result<BTreeMap<String, Placed>, String> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.clone())
        .unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut placed = BTreeMap::new();
    for volume in volumes {
        let found =
            one(&volume, &namespace, roots, sources).map_err(|error| format!("volume {:?}: {error}", volume.name))?;
        placed.insert(volume.name, found);
    }
    Ok(placed)
}

fn one(volume: &Volume, namespace: &str, roots: &Roots, sources: &Sources) -> Result<Placed, String> {
    let own = roots.pod.join("volumes").join(&volume.name);
    if volume.empty_dir.is_some() {
        folder(&own)?;
        return Ok(Placed {
            path: own,
            writable: true,
            of_host: false,
        });
    }
    if let Some(source) = &volume.config_map {
        folder(&own)?;
        let optional = source.optional == Some(true);
        let Some(map) = sources.config_maps.get(&source.name) else {
            return if optional {
                Ok(Placed {
                    path: own,
                    writable: false,
                    of_host: false,
                })
            } else {
                Err(format!("configmap {:?} not found", source.name))
            };
        };
        let mut keys: Vec<String> = map.data.iter().flatten().map(|(key, _)| key.clone()).collect();
        keys.extend(map.binary_data.iter().flatten().map(|(key, _)| key.clone()));
        let read = |key: &str| sources.config(&source.name, key);
        files(
            &own,
            &keys,
            source.items.as_deref(),
            source.default_mode.unwrap_or(0o644),
            optional,
            read,
        )?;
        return Ok(Placed {
            path: own,
            writable: false,
            of_host: false,
        });
    }
    if let Some(source) = &volume.secret {
        folder(&own)?;
        let optional = source.optional == Some(true);
        let name = source.secret_name.clone().unwrap_or_default();
        let Some(secret) = sources.secrets.get(&name) else {
            return if optional {
                Ok(Placed {
                    path: own,
                    writable: false,
                    of_host: false,
                })
            } else {
                Err(format!("secret {name:?} not found"))
            };
        };
        let keys: Vec<String> = secret.data.iter().flatten().map(|(key, _)| key.clone()).collect();
        let read = |key: &str| sources.secret(&name, key);
        files(
            &own,
            &keys,
            source.items.as_deref(),
            source.default_mode.unwrap_or(0o600) & 0o700,
            optional,
            read,
        )?;
        return Ok(Placed {
            path: own,
            writable: false,
            of_host: false,
        });
    }
    if let Some(source) = &volume.persistent_volume_claim {
        let path = roots.claims.join(namespace).join(&source.claim_name);
        folder(&path)?;
        return Ok(Placed {
            path,
            writable: source.read_only != Some(true),
            of_host: false,
        });
    }
    if let Some(source) = &volume.host_path {
        let path = std::fs::canonicalize(&source.path).map_err(|error| format!("hostPath {}: {error}", source.path))?;
        let allowed = roots
            .host
            .iter()
            .filter_map(|root| std::fs::canonicalize(root).ok())
            .any(|root| path.starts_with(root));
        if !allowed {
            return Err(format!("hostPath {} is not below an allowed root", source.path));
        }
        return Ok(Placed {
            path,
            writable: true,
            of_host: true,
        });
    }
    Err(
        "its kind is not supported here; expected emptyDir, configMap, secret, persistentVolumeClaim or hostPath"
            .into(),
    )
}

fn folder(path: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| format!("failed to make {}: {error}", path.display()))
}

fn files(
    folder_path: &Path,
    keys: &[String],
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    read: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<(), String> {
    let wanted: Vec<(String, String, i32)> = match items {
        Some(items) => items
            .iter()
            .map(|item| (item.key.clone(), item.path.clone(), item.mode.unwrap_or(mode)))
            .collect(),
        None => keys.iter().map(|key| (key.clone(), key.clone(), mode)).collect(),
    };
    for (key, path, mode) in wanted {
        let Some(bytes) = read(&key) else {
            if optional {
                continue;
            }
            return Err(format!("references non-existent key {key:?}"));
        };
        let target = below(folder_path, &path)?;
        if let Some(parent) = target.parent() {
            folder(parent)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&target)
            .map_err(|error| format!("failed to write {}: {error}", target.display()))?;
        std::io::Write::write_all(&mut file, &bytes)
            .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode((mode & 0o777) as u32)))
            .map_err(|error| format!("failed to write {}: {error}", target.display()))?;
    }
    Ok(())
}

/// Joins a relative path that stays below `root`.
fn below(root: &Path, relative: &str) -> Result<PathBuf, String> {
    let path = Path::new(relative);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        Ok(root.join(path))
    } else {
        Err(format!("path {relative:?} must be relative and must not contain '..'"))
    }
}

/// Finds what a `subPath` names in a volume, and makes it where the volume may be written to.
///
/// A container that ran before may have left links there: none of them is followed, since it would lead to what the
/// container that comes next may see of the host.
pub fn sub_path(volume: &Placed, relative: &str) -> Result<PathBuf, String> {
    below(&volume.path, relative)?;
    let root = volume.path.canonicalize();
    // The volume itself may lie behind links of the host's.
    let mut path = root.map_err(|error| format!("failed to find {}: {error}", volume.path.display()))?;
    let parts = Path::new(relative).components();
    for part in parts.filter(|part| matches!(part, Component::Normal(_))) {
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                return Err(format!(
                    "subPath {relative:?} leads over the link {}; it must name what lies in the volume itself",
                    path.display()
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && volume.writable => {
                std::fs::create_dir(&path).map_err(|error| format!("failed to make {}: {error}", path.display()))?;
            }
            // What is missing is told when it is mounted.
            _ => {}
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, HostPathVolumeSource, PodSpec};

    #[test]
    fn a_sub_path_is_made_and_follows_no_link_that_a_container_left() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        let (outside, inside) = (real.join("outside"), real.join("volume"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        let volume = |writable| Placed {
            path: inside.clone(),
            writable,
            of_host: false,
        };
        assert_eq!(sub_path(&volume(true), "a/./b"), Ok(inside.join("a/b")));
        assert!(inside.join("a/b").is_dir());
        assert_eq!(sub_path(&volume(false), "none"), Ok(inside.join("none")));
        assert!(!inside.join("none").exists());
        std::os::unix::fs::symlink(&outside, inside.join("a/out")).unwrap();
        for (path, writable) in [("a/out", true), ("a/out", false), ("a/out/new", true)] {
            let refused = sub_path(&volume(writable), path).unwrap_err();
            assert!(refused.contains("a/out; it must name"), "{refused}");
        }
        assert!(!outside.join("new").exists());
        assert!(
            sub_path(&volume(true), "../x")
                .unwrap_err()
                .contains("must not contain")
        );
    }

    fn pod(volume: Volume) -> Pod {
        Pod {
            spec: Some(PodSpec {
                volumes: Some(vec![volume]),
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    fn roots(folder: &Path) -> Roots {
        Roots {
            pod: folder.join("pod"),
            claims: folder.join("claims"),
            host: vec![folder.join("allowed")],
        }
    }

    #[test]
    fn a_host_path_outside_the_allowed_roots_is_refused_also_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let allowed = folder.path().join("allowed");
        std::fs::create_dir_all(allowed.join("repo")).unwrap();
        std::os::unix::fs::symlink("/etc", allowed.join("link")).unwrap();
        let host = |path: &Path| {
            let source = HostPathVolumeSource {
                path: path.display().to_string(),
                type_: None,
            };
            let volume = Volume {
                name: "v".into(),
                host_path: Some(source),
                ..Volume::default()
            };
            place(&pod(volume), &roots(folder.path()), &Sources::default())
        };
        assert!(host(&allowed.join("repo")).unwrap()["v"].of_host);
        assert!(
            host(&allowed.join("link"))
                .unwrap_err()
                .contains("not below an allowed root")
        );
        assert!(host(Path::new("/etc")).is_err());
    }

    #[test]
    fn config_map_items_become_files_and_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = Sources::default();
        let map = ConfigMap {
            data: Some([("plan".to_owned(), "text".to_owned())].into()),
            ..ConfigMap::default()
        };
        sources.config_maps.insert("c".into(), map);
        let volume = |path: &str| Volume {
            name: "v".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: "c".into(),
                items: Some(vec![KeyToPath {
                    key: "plan".into(),
                    path: path.into(),
                    mode: None,
                }]),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        };
        let placed = place(&pod(volume("a/plan.json")), &roots(folder.path()), &sources).unwrap();
        assert_eq!(
            std::fs::read_to_string(placed["v"].path.join("a/plan.json")).unwrap(),
            "text"
        );
        assert!(place(&pod(volume("../x")), &roots(folder.path()), &sources).is_err());
    }
}
