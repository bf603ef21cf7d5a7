//! The host's tools, bound read-only: what "any image" means on one machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::mount::{Access, Mount};

mod finder;

use finder::{Finder, beside};

/// The home folder inside a sandbox.
const HOME: &str = "/home/foreman";
/// The size of the private home folder.
const HOME_BYTES: u64 = 1 << 30;

/// Parts of `/etc` that programs need and that hold no secrets.
const ETC: [&str; 32] = [
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "inputrc",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "pki/ca-trust",
    "pki/tls/certs",
    "profile",
    "profile.d",
    "protocols",
    "python3",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
];

/// The host's tools: mounts and environment that let `cargo`, `python3`, `node`, `go`, `git` and the
/// like run without the person's home.
#[derive(Debug, Clone, Default)]
pub struct Toolchain {
    /// Read-only binds, a private home, and masks over credentials.
    pub mounts: Vec<Mount>,
    /// `PATH`, `HOME` and what the tools need to find themselves.
    pub env: BTreeMap<String, String>,
}

impl Toolchain {
    /// Finds the tools of this host by this process's own `PATH` and `HOME`.
    pub fn host() -> Toolchain {
        let own = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = own("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let search: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let home = own("HOME").map(PathBuf::from);
        let rustup = own("RUSTUP_HOME").map(PathBuf::from);
        let cargo = own("CARGO_HOME").map(PathBuf::from);
        Toolchain::of(&search, home.as_deref(), rustup, cargo)
    }

    /// Finds the tools on a search path, for a person's home.
    pub fn of(
        search: &[PathBuf],
        home: Option<&Path>,
        rustup_home: Option<PathBuf>,
        cargo_home: Option<PathBuf>,
    ) -> Toolchain {
        let mut found = Finder {
            binds: Vec::new(),
            own_home: home,
            homes: home.map(Path::to_owned).into_iter().collect(),
            masks: Vec::new(),
        };
        let mut mounts = system_mounts();
        let mut env = BTreeMap::new();
        let mut path = Vec::new();
        let cargo_bin = cargo_home
            .or_else(|| home.map(|home| home.join(".cargo")))
            .map(|cargo| cargo.join("bin"));
        for folder in search {
            if !folder.is_absolute() || !folder.is_dir() || path.contains(folder) {
                continue;
            }
            if !found.add_search_folder(folder) {
                continue;
            }
            path.push(folder.clone());
            let rustup = if Some(folder) == cargo_bin.as_ref() {
                rustup_home.clone().or_else(|| home.map(|home| home.join(".rustup")))
            } else if folder.ends_with(".cargo/bin") {
                // Another user's tools: rustup would look for toolchains in this user's home.
                rustup_home.clone().or_else(|| beside(folder, ".rustup"))
            } else {
                None
            };
            if let Some(rustup) = rustup.filter(|rustup| rustup.is_dir() && !env.contains_key("RUSTUP_HOME")) {
                env.insert("RUSTUP_HOME".into(), rustup.display().to_string());
                found.add(&rustup);
            }
            if let Some(root) = folder.ancestors().find(|part| part.ends_with(".pyenv")) {
                env.insert("PYENV_ROOT".into(), root.display().to_string());
            }
        }
        let search: Vec<String> = path.iter().map(|folder| folder.display().to_string()).collect();
        let more = [
            ("PATH", search.join(":")),
            ("HOME", HOME.into()),
            ("CARGO_HOME", format!("{HOME}/.cargo")),
            ("GOPATH", format!("{HOME}/go")),
            ("GOTOOLCHAIN", "local".into()),
            ("TMPDIR", "/tmp".into()),
            ("LANG", "C.UTF-8".into()),
            ("TERM", "dumb".into()),
            ("USER", "foreman".into()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
        ];
        env.extend(more.map(|(name, value)| (name.to_owned(), value)));
        mounts.extend(found.mounts());
        mounts.push(Mount::Tmpfs {
            target: HOME.into(),
            size_bytes: HOME_BYTES,
        });
        Toolchain { mounts, env }
    }

    /// Returns the home folder inside the sandbox.
    pub fn home() -> &'static Path {
        Path::new(HOME)
    }

    /// Looks a program up on the tools' `PATH`, as a step is checked before it runs.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let path = self.env.get("PATH")?;
        std::env::split_paths(path)
            .map(|folder| folder.join(program))
            .find(|file| executable(file))
    }

    /// Returns the folders of the host that are shown, for people.
    pub fn shown(&self) -> Vec<&Path> {
        self.mounts
            .iter()
            .filter_map(|mount| match mount {
                Mount::Bind { source, .. } => Some(source.as_path()),
                _ => None,
            })
            .collect()
    }
}

fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Binds the operating system's programs, and the parts of `/etc` that are named above.
fn system_mounts() -> Vec<Mount> {
    let mut mounts = Vec::new();
    let bind = |path: &Path| Mount::Bind {
        source: path.to_owned(),
        target: path.to_owned(),
        access: Access::ReadOnly,
    };
    for name in [
        "usr",
        "bin",
        "sbin",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "nix/store",
        "gnu/store",
    ] {
        let path = Path::new("/").join(name);
        match std::fs::read_link(&path) {
            Ok(points_to) => mounts.push(Mount::Symlink { link: path, points_to }),
            Err(_) if path.is_dir() => mounts.push(bind(&path)),
            Err(_) => {}
        }
    }
    for name in ETC {
        let path = Path::new("/etc").join(name);
        if path.exists() {
            mounts.push(bind(&path));
        }
    }
    let cpus = Path::new("/sys/devices/system/cpu");
    if cpus.is_dir() {
        mounts.push(bind(cpus));
    }
    let (user, group) = crate::identity::inside();
    let texts = [
        (
            "/etc/passwd",
            format!(
                "foreman:x:{user}:{group}:foreman:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("/etc/group", format!("foreman:x:{group}:\nnogroup:x:65534:\n")),
        ("/etc/hosts", "127.0.0.1 localhost foreman\n::1 localhost\n".into()),
    ];
    mounts.extend(texts.map(|(target, text)| Mount::Text {
        target: target.into(),
        text,
    }));
    mounts
}

#[cfg(test)]
mod tests;
