//! What Pods of Foreman's Jobs have in common, gates' and coders'.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource, KeyToPath, PodSecurityContext,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};

use super::TERMINATION_PATH;

/// Folder for what is thrown away.
pub const TMP_PATH: &str = "/tmp";
/// Name of the volume with the credential, and of its mount.
pub const CREDENTIALS: &str = "credentials";
/// Name of the volume with a repository of the host, and of its mount.
pub const SOURCE: &str = "source";

/// Returns what every Pod has: a user that is not root and owns its volumes.
pub fn not_root(user: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(runtime_default()),
        ..PodSecurityContext::default()
    }
}

/// Returns what every container has: no privileges, a root that cannot be written, its message from the file
/// alone and never from the end of its log.
pub fn locked_down(home: &str) -> Container {
    Container {
        env: Some(
            // Git must not ask for the settings of whatever machine or image this is.
            [("HOME", home), ("TMPDIR", TMP_PATH), ("GIT_CONFIG_NOSYSTEM", "1")]
                .map(|(name, value)| EnvVar {
                    name: name.to_owned(),
                    value: Some(value.to_owned()),
                    ..EnvVar::default()
                })
                .into(),
        ),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        termination_message_path: Some(TERMINATION_PATH.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Returns an empty folder of the Pod's own.
pub fn scratch(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

/// Returns a Secret with the credential for Git: all of its keys where they have the names that are looked for, else the
/// one as `token`.
pub fn credentials((secret, key): &(String, String)) -> Volume {
    let renamed = (key != "token").then_some(key);
    Volume {
        name: CREDENTIALS.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            items: renamed.map(|key| {
                vec![KeyToPath {
                    key: key.to_owned(),
                    path: "token".to_owned(),
                    mode: None,
                }]
            }),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Returns a repository's folder of the host, which [`source_folder`] allowed.
pub fn folder_of_host(path: &str) -> Volume {
    Volume {
        name: SOURCE.to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: path.to_owned(),
            type_: Some("Directory".to_owned()),
        }),
        ..Volume::default()
    }
}

/// Shows a volume at a path.
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// Returns the folder of a `file://` repository, and none of another; the error says where the folder must lie.
pub fn source_folder(repository: &str, roots: &[PathBuf]) -> Result<Option<String>, String> {
    let Some(path) = repository.strip_prefix("file://") else {
        return Ok(None);
    };
    let path = path.trim_end_matches('/');
    // All of the host is no root.
    let below = |root: &PathBuf| root.parent().is_some() && Path::new(path).starts_with(root);
    let plain = path.starts_with('/') && !path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if plain && roots.iter().any(below) {
        return Ok(Some(path.to_owned()));
    }
    Err(format!("a folder below one of {roots:?}"))
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    }
}
