//! The environment of steps and of prepare.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::scratch::Scratch;

/// Variables of one command.
pub(super) type Environment = BTreeMap<OsString, OsString>;

/// Builds what every command has: the image's own variables without Foreman's and the cluster's, a
/// private home, nothing that asks questions.
pub(super) fn base(
    own: impl IntoIterator<Item = (OsString, OsString)>,
    home: &Path,
    tmp: Option<&Path>,
) -> Environment {
    let mut environment: Environment = own
        .into_iter()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            !(name.starts_with("FOREMAN_") || name.starts_with("KUBERNETES_"))
        })
        .collect();
    if let Some(tmp) = tmp {
        set(&mut environment, "TMPDIR", tmp.as_os_str());
    }
    set(&mut environment, "HOME", home.as_os_str());
    // Compiled files of one step are never run by another in the place of the sources beside which they would lie.
    set(
        &mut environment,
        "PYTHONPYCACHEPREFIX",
        home.join("pycache").as_os_str(),
    );
    for (name, value) in [
        ("CI", "true"),
        ("TERM", "dumb"),
        ("NO_COLOR", "1"),
        ("CARGO_TERM_COLOR", "never"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONNOUSERSITE", "1"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("npm_config_update_notifier", "false"),
    ] {
        set(&mut environment, name, value.as_ref());
    }
    environment
}

/// Points package managers at the cache that prepare fills.
pub(super) fn filling(environment: &mut Environment, cache: &Path) {
    set(environment, "FOREMAN_CACHE", cache.as_os_str());
    for (name, folder) in [
        ("CARGO_HOME", "cargo"),
        ("GOMODCACHE", "gomod"),
        ("npm_config_cache", "npm"),
        ("PIP_CACHE_DIR", "pip"),
    ] {
        set(environment, name, cache.join(folder).as_os_str());
    }
}

/// Points package managers at a filled cache and keeps them off the network; compilers keep their work in `builds`.
pub(super) fn offline(environment: &mut Environment, cache: Option<&Path>, scratch: &Scratch, work: &Path) {
    let (home, builds) = (scratch.home(), scratch.builds());
    set(environment, "CARGO_HOME", home.join("cargo").as_os_str());
    set(environment, "npm_config_cache", home.join("npm").as_os_str());
    // An image with a cache of its own keeps it.
    environment
        .entry("GOCACHE".into())
        .or_insert_with(|| builds.as_os_str().to_owned());
    for (name, value) in [
        ("CARGO_NET_OFFLINE", "true"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
        ("npm_config_offline", "true"),
        ("PIP_NO_INDEX", "1"),
    ] {
        set(environment, name, value.as_ref());
    }
    let Some(cache) = cache else {
        return;
    };
    set(environment, "FOREMAN_CACHE", cache.as_os_str());
    set(environment, "PIP_FIND_LINKS", cache.join("wheels").as_os_str());
    if cache.join("gomod").is_dir() {
        set(environment, "GOMODCACHE", cache.join("gomod").as_os_str());
    }
    let site = cache.join("site");
    if site.is_dir() {
        // The branch's own packages go before what was installed beside them.
        let mut path = OsString::new();
        let source = work.join("src");
        for folder in [source.is_dir().then_some(source), Some(site)].into_iter().flatten() {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(folder);
        }
        set(environment, "PYTHONPATH", &path);
    }
}

fn set(environment: &mut Environment, name: &str, value: &std::ffi::OsStr) {
    environment.insert(name.into(), value.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_foreman_and_the_cluster_stay_outside() {
        let own = [
            ("FOREMAN_MODEL_API_KEY", "secret"),
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/usr/bin"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment = base(own, Path::new("/home"), None);
        assert_eq!(environment[&OsString::from("PATH")], "/usr/bin");
        assert_eq!(environment[&OsString::from("HOME")], "/home");
        assert!(
            environment
                .keys()
                .all(|name| !name.to_string_lossy().starts_with("FOREMAN"))
        );
        assert!(
            environment
                .keys()
                .all(|name| !name.to_string_lossy().starts_with("KUBERNETES"))
        );
    }
}
