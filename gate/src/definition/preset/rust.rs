//! The preset for Rust.

use super::{BaseTree, Judge, Parts, prepare, rules, text};

const HOSTS: &[&str] = &["index.crates.io", "static.crates.io", "crates.io"];

pub(super) fn parts(tree: &dyn BaseTree) -> Parts {
    let locked = tree.exists("Cargo.lock");
    let flag = if locked { " --locked" } else { "" };
    Parts {
        prepare: needs_packages(tree).then(|| prepare(&format!("cargo fetch{flag}"), HOSTS)),
        format: Some("cargo fmt --all -- --check".to_owned()),
        lint: None,
        build: Some(format!("cargo build --workspace --all-targets{flag}")),
        test: Some(format!("cargo test --workspace{flag}")),
        ..Parts::default()
    }
}

/// Cargo's settings name runners, wrappers and linkers; rustup's file may name a toolchain in the tree.
pub(super) fn judge() -> Judge {
    Judge {
        protected: rules(&["/.cargo/**", "/rust-toolchain", "/rust-toolchain.toml"]),
        ..Judge::default()
    }
}

/// Tells whether anything must be downloaded: by the lock file, else by the manifest's tables.
fn needs_packages(tree: &dyn BaseTree) -> bool {
    if tree.exists("Cargo.lock") {
        // A lock file that is too long to read here surely names packages.
        return text(tree, "Cargo.lock")
            .is_none_or(|lock| lock.lines().any(|line| line.trim_start().starts_with("source = ")));
    }
    text(tree, "Cargo.toml").is_none_or(|manifest| {
        let mut in_dependencies = false;
        manifest.lines().map(str::trim).any(|line| {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
                // `[dependencies.name]` is a dependency by itself, and members may have theirs.
                return line.contains("dependencies.") || line == "[workspace]";
            }
            in_dependencies && !line.is_empty() && !line.starts_with('#')
        })
    })
}
