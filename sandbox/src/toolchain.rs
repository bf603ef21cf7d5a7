//! The host's tools, bound read-only: what "any image" means on one machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::command::{Access, Mount};

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
    let (user, group) = crate::helper::inside_identity();
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::fs;

    fn sources(toolchain: &Toolchain) -> Vec<PathBuf> {
        toolchain.shown().into_iter().map(Path::to_owned).collect()
    }

    #[test]
    fn rustup_tools_come_without_the_rest_of_the_cargo_home() {
        let home = tempfile::tempdir().unwrap();
        for folder in [".cargo/bin", ".cargo/registry", ".rustup/toolchains", ".ssh"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        let bin = home.path().join(".cargo/bin");
        let toolchain = Toolchain::of(std::slice::from_ref(&bin), Some(home.path()), None, None);
        let shown = sources(&toolchain);
        assert!(shown.contains(&bin));
        assert!(shown.contains(&home.path().join(".rustup")));
        assert!(
            !shown
                .iter()
                .any(|path| home.path().join(".cargo/registry").starts_with(path))
        );
        assert!(!shown.iter().any(|path| home.path().join(".ssh").starts_with(path)));
        assert_eq!(
            toolchain.env["RUSTUP_HOME"],
            home.path().join(".rustup").display().to_string()
        );
    }

    #[test]
    fn a_home_on_the_search_path_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(".ssh/bin")).unwrap();
        let search = [
            home.path().to_owned(),
            home.path().join(".ssh/bin"),
            home.path().parent().unwrap().to_owned(),
        ];
        let toolchain = Toolchain::of(&search, Some(home.path()), None, None);
        assert!(
            !sources(&toolchain)
                .iter()
                .any(|path| path.starts_with(home.path()) || home.path().starts_with(path))
        );
        assert_eq!(toolchain.env["PATH"], "");
    }

    #[test]
    fn credentials_inside_a_bound_folder_are_masked() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(".cargo/registry")).unwrap();
        fs::write(home.path().join(".cargo/tool"), "").unwrap();
        let search = [home.path().join(".cargo")];
        let toolchain = Toolchain::of(&search, Some(home.path()), None, None);
        let mask = Mount::Mask {
            target: home.path().join(".cargo/credentials.toml"),
        };
        assert!(toolchain.mounts.contains(&mask));
    }

    #[test]
    fn tools_in_another_users_home_come_without_the_rest_of_it() {
        let other = tempfile::Builder::new().prefix("other").tempdir().unwrap();
        for folder in [".cargo/bin", ".cargo/registry", ".rustup", ".local/bin", ".pyenv/shims"] {
            fs::create_dir_all(other.path().join(folder)).unwrap();
        }
        let search = [".cargo/bin", ".local/bin", ".pyenv/shims"].map(|folder| other.path().join(folder));
        let own = tempfile::Builder::new().prefix("own").tempdir().unwrap();
        for home in [None, Some(own.path())] {
            let toolchain = Toolchain::of(&search, home, None, None);
            let shown: Vec<PathBuf> = sources(&toolchain)
                .into_iter()
                .filter(|path| path.starts_with(other.path()))
                .collect();
            let expected = [".cargo/bin", ".rustup", ".local/bin", ".pyenv"].map(|folder| other.path().join(folder));
            assert_eq!(shown, expected);
            assert_eq!(
                toolchain.env["RUSTUP_HOME"],
                other.path().join(".rustup").display().to_string()
            );
        }
    }

    /// What is shown of a folder with these entries beside a `bin` that is on the search path.
    fn shown_beside_bin(entries: &[(&str, u32)]) -> (tempfile::TempDir, Vec<PathBuf>, Toolchain) {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new().prefix("tools").tempdir().unwrap();
        let root = dir.path().join("x");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::set_permissions(root.join("bin"), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in entries {
            let path = root.join(name);
            match name.strip_suffix('/') {
                Some(_) => fs::create_dir(&path).unwrap(),
                None => fs::write(&path, "").unwrap(),
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        let toolchain = Toolchain::of(&[root.join("bin")], None, None, None);
        assert_eq!(toolchain.env["PATH"], root.join("bin").display().to_string());
        let shown = sources(&toolchain)
            .iter()
            .filter_map(|path| Some(path.strip_prefix(dir.path()).ok()?.to_owned()))
            .collect();
        (dir, shown, toolchain)
    }

    #[test]
    fn a_distribution_is_shown_whole() {
        let go = [("lib/", 0o755), ("pkg/", 0o755), ("src/", 0o755), ("VERSION", 0o644)];
        let node = [
            ("lib/", 0o755),
            ("include/", 0o755),
            ("share/", 0o755),
            ("LICENSE", 0o644),
        ];
        let environment = [
            ("lib/", 0o755),
            ("pyvenv.cfg", 0o644),
            (".gitignore", 0o644),
            (".lock", 0o666),
        ];
        let cmake = [("share/", 0o755)];
        for entries in [&go[..], &node, &environment, &cmake] {
            assert_eq!(shown_beside_bin(entries).1, [Path::new("x")], "{entries:?}");
        }
    }

    #[test]
    fn what_lies_beside_the_bin_of_a_project_or_a_service_is_not_shown() {
        let service = [("credentials", 0o600)];
        let open_service = [("credentials", 0o644)];
        let service_with_libraries = [("lib/", 0o755), ("credentials", 0o600)];
        let project = [("lib/", 0o755), (".env", 0o644)];
        let checkout = [("share/", 0o755), (".git/", 0o755), (".gitignore", 0o644)];
        let cargo = [("registry/", 0o755), ("credentials.toml", 0o600)];
        let no_folder = [("lib", 0o644)];
        for entries in [
            &service[..],
            &open_service,
            &service_with_libraries,
            &project,
            &checkout,
            &cargo,
            &no_folder,
        ] {
            assert_eq!(shown_beside_bin(entries).1, [Path::new("x/bin")], "{entries:?}");
        }
    }

    #[test]
    fn the_settings_of_a_conda_distribution_are_masked() {
        let (dir, shown, toolchain) = shown_beside_bin(&[("lib/", 0o755), (".condarc", 0o644)]);
        assert_eq!(shown, [Path::new("x")]);
        let mask = Mount::Mask {
            target: dir.path().join("x/.condarc"),
        };
        assert!(toolchain.mounts.contains(&mask));
    }

    #[test]
    fn links_of_a_bin_that_is_shown_alone_lead_to_their_files() {
        let dir = tempfile::Builder::new().prefix("tools").tempdir().unwrap();
        for folder in ["x/bin", "y"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("y/tool"), "").unwrap();
        fs::write(dir.path().join("y/secret"), "").unwrap();
        std::os::unix::fs::symlink("../../y/tool", dir.path().join("x/bin/tool")).unwrap();
        let toolchain = Toolchain::of(&[dir.path().join("x/bin")], None, None, None);
        let real = dir.path().canonicalize().unwrap();
        let shown = sources(&toolchain);
        assert!(shown.contains(&real.join("y/tool")), "{shown:?}");
        assert!(
            !shown.iter().any(|path| real.join("y/secret").starts_with(path)),
            "{shown:?}"
        );
    }

    #[test]
    fn no_part_of_etc_that_holds_secrets_is_named() {
        for secret in [
            "shadow",
            "gshadow",
            "ssh",
            "ssl/private",
            "sudoers",
            "krb5.keytab",
            "kubernetes",
        ] {
            assert!(!ETC.iter().any(|name| Path::new(secret).starts_with(name)), "{secret}");
        }
        assert!(ETC.iter().all(|name| *name != "ssl" && *name != "pki"));
    }
}
