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
