//! Which folders of a search path are shown, and what of them is hidden.

use std::path::{Path, PathBuf};

use crate::mount::{Access, Mount};

/// Folders in a home that hold a tool manager's tools, to be bound whole.
const MANAGERS: [&str; 19] = [
    ".pyenv",
    ".rbenv",
    ".nodenv",
    ".goenv",
    ".asdf",
    ".volta",
    ".bun",
    ".deno",
    ".sdkman",
    ".local/share/mise",
    ".local/share/uv/python",
    ".local/share/fnm",
    ".linuxbrew",
    "miniconda3",
    "anaconda3",
    "miniforge3",
    ".ghcup",
    ".nix-profile",
    ".opam",
];

/// Files and folders in a home that hold credentials, hidden even where a bound folder holds them.
const CREDENTIALS: [&str; 27] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".config",
    ".docker",
    ".kube",
    ".netrc",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".pypirc",
    ".git-credentials",
    ".gitconfig",
    ".pgpass",
    ".my.cnf",
    ".vault-token",
    ".terraform.d",
    ".terraformrc",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
    ".gem/credentials",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".cargo/config.toml",
    ".cargo/registry",
    ".bash_history",
];

/// Folders beside `bin` by which a distribution of tools is known.
const DISTRIBUTION: [&str; 5] = ["lib", "lib64", "libexec", "share", "pkg"];

/// Hidden files that Python's environments and Conda write into a distribution.
const HIDDEN_IN_DISTRIBUTIONS: [&str; 4] = [".gitignore", ".lock", ".nonadmin", CONDA_SETTINGS];

/// Conda's settings, whose addresses of channels may hold tokens.
const CONDA_SETTINGS: &str = ".condarc";

/// Returns what lies beside the home's hidden folder that `folder` lies in, if it lies in one.
pub(super) fn beside(folder: &Path, name: &str) -> Option<PathBuf> {
    home_of(folder).map(|home| home.join(name))
}

/// Guesses whose home a folder of tools lies in: the one that holds the first hidden folder on the way.
///
/// A home is not always the caller's own: a service, or a person with `sudo`, has tools of another user on its path.
fn home_of(folder: &Path) -> Option<PathBuf> {
    let mut home = PathBuf::new();
    for part in folder.components() {
        if part.as_os_str().as_encoded_bytes().starts_with(b".") {
            return (home.components().count() > 1).then_some(home);
        }
        home.push(part);
    }
    None
}

/// Collects folders of tools.
pub(super) struct Finder<'a> {
    pub(super) binds: Vec<PathBuf>,
    pub(super) own_home: Option<&'a Path>,
    /// The caller's home, and those that folders of the search path lie in.
    pub(super) homes: Vec<PathBuf>,
    /// Files of bound distributions that may hold credentials.
    pub(super) masks: Vec<PathBuf>,
}

impl Finder<'_> {
    /// Takes one folder of a search path; `false` when it may not be shown.
    pub(super) fn add_search_folder(&mut self, folder: &Path) -> bool {
        if is_system(folder) {
            return true;
        }
        let own = self.own_home.filter(|home| folder.starts_with(home));
        let home = own.map(Path::to_owned).or_else(|| home_of(folder));
        if let Some(home) = home
            && let Ok(inside) = folder.strip_prefix(&home)
        {
            if !self.homes.contains(&home) {
                self.homes.push(home.clone());
            }
            if inside.as_os_str().is_empty() || self.is_credential(folder) {
                return false;
            }
            let manager = MANAGERS.iter().find(|manager| inside.starts_with(manager));
            match manager {
                Some(manager) => self.add(&home.join(manager)),
                // nvm keeps one folder for each version, with `bin` and `lib` beside each other.
                None if inside.starts_with(".nvm/versions") => self.add(folder.parent().unwrap_or(folder)),
                None => self.add_with_links(folder),
            }
            return true;
        }
        let holds_home = |path: &Path| self.own_home.is_some_and(|home| home.starts_with(path)) || is_home(path);
        // Outside the home, /opt/x/bin may belong to a distribution, whose tools need the rest of /opt/x.
        let whole = folder
            .parent()
            .filter(|parent| folder.ends_with("bin") && parent.components().count() > 2)
            .filter(|parent| !holds_home(parent) && is_distribution(parent));
        let forbidden = [
            "/", "/root", "/home", "/tmp", "/var", "/etc", "/proc", "/sys", "/dev", "/run",
        ];
        if holds_home(folder) || forbidden.iter().any(|path| folder == Path::new(path)) {
            return false;
        }
        if let Some(whole) = whole {
            self.add(whole);
            self.masks.push(whole.join(CONDA_SETTINGS));
        }
        self.add_with_links(folder);
        true
    }

    pub(super) fn add(&mut self, path: &Path) {
        if !self.binds.iter().any(|bound| path.starts_with(bound)) {
            self.binds.retain(|bound| !bound.starts_with(path));
            self.binds.push(path.to_owned());
        }
    }

    /// Adds a folder, and the files outside it that links in it point to.
    pub(super) fn add_with_links(&mut self, folder: &Path) {
        self.add(folder);
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten().take(4096) {
            let Ok(target) = entry.path().canonicalize() else {
                continue;
            };
            let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if linked && target.is_file() && !is_system(&target) && !self.is_credential(&target) {
                self.add(&target);
            }
        }
    }

    fn is_credential(&self, path: &Path) -> bool {
        self.homes
            .iter()
            .any(|home| CREDENTIALS.iter().any(|name| path.starts_with(home.join(name))))
    }

    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mut mounts: Vec<Mount> = self
            .binds
            .iter()
            .map(|path| Mount::Bind {
                source: path.clone(),
                target: path.clone(),
                access: Access::ReadOnly,
            })
            .collect();
        let masks = self.masks.iter().filter(|path| path.exists());
        mounts.extend(masks.map(|target| Mount::Mask { target: target.clone() }));
        for home in &self.homes {
            let credentials = CREDENTIALS.iter().map(|name| home.join(name));
            let inside = credentials.filter(|path| self.binds.iter().any(|bound| path.starts_with(bound)));
            mounts.extend(inside.map(|target| Mount::Mask { target }));
        }
        mounts
    }
}

/// Says whether `path` is somebody's home by where it lies.
fn is_home(path: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.parent()
        .is_some_and(|parent| real(parent) == real(Path::new("/home")))
        || real(path) == real(Path::new("/root"))
}

/// Says whether the folder that holds a `bin` is a distribution of tools and nothing else.
///
/// A project or the home of a service has a `bin` too, with what nobody else may read beside it: they are told by
/// hidden files and by what is closed to other users where `bin` is not.
fn is_distribution(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &Path| path.metadata().is_ok_and(|data| data.permissions().mode() & 0o004 != 0);
    let shared = open(&folder.join("bin"));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    let mut formed = false;
    for entry in entries {
        let Ok(entry) = entry else {
            return false;
        };
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && !HIDDEN_IN_DISTRIBUTIONS.iter().any(|known| name == *known) {
            return false;
        }
        let path = entry.path();
        // A link that leads nowhere shows nothing.
        if shared && path.exists() && !open(&path) {
            return false;
        }
        formed |= DISTRIBUTION.iter().any(|part| name == *part) && path.is_dir();
    }
    formed
}

fn is_system(path: &Path) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/gnu/store"]
        .iter()
        .any(|system| real.starts_with(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_known_by_where_it_lies() {
        assert!(is_home(Path::new("/home/someone")));
        assert!(is_home(Path::new("/root")));
        assert!(!is_home(Path::new("/home/someone/bin")));
        assert!(!is_home(Path::new("/opt/x")));
    }

    #[test]
    fn a_home_is_what_holds_the_first_hidden_folder_on_the_way() {
        // Something hidden right below the root is nobody's home.
        assert_eq!(home_of(Path::new("/.tools/bin")), None);
        assert_eq!(home_of(Path::new("/root/.cargo/bin")), Some("/root".into()));
    }
}
