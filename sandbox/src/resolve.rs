//! From a command to what the supervisor is told: real paths, defaults, substitution, grants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

mod grants;

use grants::grants;

use crate::backend::Backend;
use crate::command::{Command, Network};
use crate::mount::{Access, DEVICES, Mount};
use crate::proxy::ProxyAddress;
use crate::scratch::Scratch;
use crate::substitute::Substitution;
use crate::wire::{Net, PROXY_PORT, Request};

/// The size of `/tmp` where the command's mounts name none.
const TMP_BYTES: u64 = 1 << 30;
/// The size of `/dev/shm`.
const SHM_BYTES: u64 = 256 << 20;

/// A request, and what lives as long as its command.
pub(crate) struct Prepared {
    pub(crate) request: Request,
    /// The folders that stand for private ones.
    pub(crate) scratch: Option<Scratch>,
}

/// Makes the supervisor's request; the error is a sentence for people.
pub(crate) fn prepare(backend: Backend, command: Command, proxy: Option<ProxyAddress>) -> Result<Prepared, String> {
    let net = match (&command.network, &proxy, backend) {
        (Network::None, ..) => Net::None,
        (Network::Host, ..) => Net::Host,
        (Network::AllowList(_), None, _) => Net::NamespaceProxy,
        (Network::AllowList(_), Some(address), _) => Net::PortProxy(address.port),
    };
    let mut env = command.env;
    if !matches!(net, Net::None | Net::Host) {
        add_proxy_variables(&mut env, proxy.as_ref());
    }
    let mut mounts = default_mounts(command.limits.memory_bytes);
    if net == Net::Host {
        mounts.extend(name_resolution());
    }
    mounts.extend(command.mounts);
    let mounts = real_paths(latest_by_target(mounts)?, &command.exact)?;
    check_no_nul(&command.program, &command.args, &env)?;

    let mut request = Request {
        backend,
        program: Some(command.program),
        args: command.args,
        env: Vec::new(),
        cwd: command.cwd,
        mounts: Vec::new(),
        grants: Vec::new(),
        net,
        limits: command.limits,
        nesting: command.nesting,
        cgroups: true,
        stdin: false,
        root_of_machine: true,
        unmapped_memory: true,
        any_processor: true,
        landlock_at_most: u32::MAX,
        scratch: None,
    };
    if backend == Backend::Namespaces {
        request.mounts = mounts;
        request.env = env.into_iter().collect();
        return Ok(Prepared { request, scratch: None });
    }
    let scratch = Scratch::make().map_err(|error| format!("failed to make a scratch folder: {error}"))?;
    request.scratch = Some(scratch.path().to_owned());
    on_host_paths(&mut request, mounts, env, scratch.path())?;
    Ok(Prepared {
        request,
        scratch: Some(scratch),
    })
}

/// Fills the request for a backend that shows the host's own root.
fn on_host_paths(
    request: &mut Request,
    mounts: Vec<Mount>,
    mut env: BTreeMap<String, String>,
    scratch: &Path,
) -> Result<(), String> {
    let mut pairs = Vec::new();
    let mut binds: Vec<(PathBuf, Access)> = Vec::new();
    let mut masks = Vec::new();
    for (index, mount) in mounts.into_iter().enumerate() {
        match mount {
            Mount::Bind { source, target, access } => {
                pairs.push((target, source.clone()));
                binds.push((source, access));
            }
            Mount::Tmpfs { target, .. } => {
                let folder = scratch.join(index.to_string());
                std::fs::create_dir(&folder)
                    .map_err(|error| format!("failed to make the folder for {}: {error}", target.display()))?;
                pairs.push((target, folder.clone()));
                binds.push((folder, Access::ReadWrite));
            }
            Mount::Text { target, .. } => {
                if let Ok(real) = target.canonicalize() {
                    binds.push((real, Access::ReadOnly));
                }
            }
            Mount::Mask { target } => masks.push(target),
            Mount::Symlink { .. } => {}
        }
    }
    let substitution = Substitution::new(pairs);
    env.entry("TMPDIR".into()).or_insert_with(|| "/tmp".into());
    let masks: Vec<PathBuf> = masks.iter().map(|mask| substitution.apply_path(mask)).collect();
    if request.backend == Backend::Landlock {
        request.grants = grants(&binds, &masks)?;
        request.grants.push(("/proc".into(), Access::ReadOnly));
        for device in DEVICES {
            request.grants.push((Path::new("/dev").join(device), Access::ReadWrite));
        }
    }
    if let Some(program) = &mut request.program {
        *program = substitution.apply(program);
    }
    for arg in &mut request.args {
        *arg = substitution.apply(arg);
    }
    request.env = env
        .into_iter()
        .map(|(name, value)| (name, substitution.apply(&value)))
        .collect();
    request.cwd = substitution.apply_path(&request.cwd);
    Ok(())
}

fn default_mounts(memory: Option<u64>) -> Vec<Mount> {
    let tmp = memory.map_or(TMP_BYTES, |memory| memory.clamp(16 << 20, TMP_BYTES));
    vec![
        Mount::Tmpfs {
            target: "/tmp".into(),
            size_bytes: tmp,
        },
        Mount::Tmpfs {
            target: "/dev/shm".into(),
            size_bytes: tmp.min(SHM_BYTES),
        },
    ]
}

/// The files by which names of hosts are resolved, as far as this host has them.
fn name_resolution() -> impl Iterator<Item = Mount> {
    ["/etc/resolv.conf", "/etc/hosts", "/etc/gai.conf"]
        .into_iter()
        .map(Path::new)
        .filter_map(|path| {
            Some(Mount::Bind {
                source: path.canonicalize().ok()?,
                target: path.to_owned(),
                access: Access::ReadOnly,
            })
        })
}

/// Keeps the last mount of each target, parents before children.
fn latest_by_target(mounts: Vec<Mount>) -> Result<Vec<Mount>, String> {
    let mut result: Vec<Mount> = Vec::new();
    for mount in mounts {
        let target = mount.target();
        let plain = target.is_absolute()
            && target
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !plain || target == Path::new("/") {
            return Err(format!(
                "the mount target {} is not an absolute path below / without `..`",
                target.display()
            ));
        }
        result.retain(|other| other.target() != target);
        result.push(mount);
    }
    result.sort_by_key(|mount| mount.target().components().count());
    Ok(result)
}

/// Resolves the links in every source, so that what is bound is what was there at this moment.
fn real_paths(mounts: Vec<Mount>, exact: &BTreeSet<PathBuf>) -> Result<Vec<Mount>, String> {
    mounts
        .into_iter()
        .map(|mount| match mount {
            // Whoever names these has looked at them; what opens them refuses links.
            Mount::Bind { ref source, .. } if exact.contains(source) => Ok(mount),
            Mount::Bind { source, target, access } => {
                let real = source
                    .canonicalize()
                    .map_err(|error| format!("failed to bind {} to {}: {error}", source.display(), target.display()))?;
                Ok(Mount::Bind {
                    source: real,
                    target,
                    access,
                })
            }
            other => Ok(other),
        })
        .collect()
}

fn check_no_nul(program: &str, args: &[String], env: &BTreeMap<String, String>) -> Result<(), String> {
    let texts = args.iter().chain(env.keys()).chain(env.values()).map(String::as_str);
    if program.is_empty() {
        return Err("the program's name is empty".into());
    }
    if texts.chain([program]).any(|text| text.contains('\0')) {
        return Err("the command holds a NUL byte in its program, arguments or environment".into());
    }
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(format!("{name:?} is no name of an environment variable"));
    }
    Ok(())
}

/// Points every usual client at the proxy.
fn add_proxy_variables(env: &mut BTreeMap<String, String>, address: Option<&ProxyAddress>) {
    let url = match address {
        Some(address) => address.url(),
        None => format!("http://127.0.0.1:{PROXY_PORT}"),
    };
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ] {
        env.insert(name.into(), url.clone());
    }
    for name in ["NO_PROXY", "no_proxy"] {
        env.remove(name);
    }
    env.entry("NODE_USE_ENV_PROXY".into()).or_insert_with(|| "1".into());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn granted(backend: Backend, command: Command) -> Result<Request, String> {
        prepare(backend, command, None).map(|prepared| prepared.request)
    }

    #[test]
    fn the_scratch_folder_goes_with_what_was_prepared() {
        let prepared = prepare(Backend::Landlock, Command::new("x"), None).unwrap();
        let folder = prepared.request.scratch.clone().unwrap();
        assert!(folder.is_dir());
        drop(prepared);
        assert!(!folder.exists());
    }

    #[test]
    fn targets_are_substituted_in_program_arguments_environment_and_folder() {
        let tree = tempfile::tempdir().unwrap();
        let host = tree.path().canonicalize().unwrap().to_str().unwrap().to_owned();
        let command = Command::new("/workspace/run.sh")
            .args(["--in=/workspace/a", "plain"])
            .env("OUT", "/workspace/out:/usr")
            .cwd("/workspace/sub")
            .rw(tree.path(), "/workspace");
        let request = granted(Backend::Landlock, command).unwrap();
        assert_eq!(request.program.unwrap(), format!("{host}/run.sh"));
        assert_eq!(request.args, [format!("--in={host}/a"), "plain".into()]);
        assert_eq!(request.cwd, Path::new(&host).join("sub"));
        assert!(request.env.contains(&("OUT".into(), format!("{host}/out:/usr"))));
        assert!(request.grants.contains(&(host.into(), Access::ReadWrite)));
    }

    #[test]
    fn a_mask_in_a_read_only_folder_becomes_grants_around_it() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b")).unwrap();
        std::fs::write(tree.path().join("a/secret"), "").unwrap();
        std::fs::write(tree.path().join("c"), "").unwrap();
        let command = Command::new("x").ro(tree.path(), "/data").mask("/data/a/secret");
        let request = granted(Backend::Landlock, command).unwrap();
        let host = tree.path().canonicalize().unwrap();
        let paths: Vec<&Path> = request
            .grants
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(&host).ok())
            .collect();
        assert!(paths.contains(&Path::new("a/b")) && paths.contains(&Path::new("c")));
        assert!(!paths.iter().any(|path| Path::new("a/secret").starts_with(path)));
    }

    #[test]
    fn what_landlock_cannot_keep_is_refused() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("git")).unwrap();
        let part = Command::new("x")
            .rw(tree.path(), "/w")
            .ro(tree.path().join("git"), "/w/git");
        assert!(
            granted(Backend::Landlock, part.clone())
                .unwrap_err()
                .contains("read-only inside")
        );
        assert!(granted(Backend::Namespaces, part).is_ok());
        let mask = Command::new("x").rw(tree.path(), "/w").mask("/w/git");
        assert!(granted(Backend::Landlock, mask).unwrap_err().contains("cannot hide"));
    }

    #[test]
    fn bad_targets_and_texts_are_refused_by_name() {
        for target in ["relative", "/", "/a/../b"] {
            let error = granted(Backend::Namespaces, Command::new("x").ro("/", target)).unwrap_err();
            assert!(error.contains(target), "{error}");
        }
        assert!(granted(Backend::Namespaces, Command::new("")).is_err());
        assert!(granted(Backend::Namespaces, Command::new("x").arg("a\0b")).is_err());
        assert!(granted(Backend::Namespaces, Command::new("x").env("A=B", "")).is_err());
        let missing = Command::new("x").ro("/no/such/folder", "/data");
        assert!(
            granted(Backend::Namespaces, missing)
                .unwrap_err()
                .contains("/no/such/folder")
        );
    }
}
