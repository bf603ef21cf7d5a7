//! The real programs: where each comes from, and what its build depends on.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A program that is built from a Go module whose version a `go.mod` below `tests/real` pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// The store of kube-apiserver; the one on PATH if it is a release of the 3.x line that is new enough.
    Etcd,
    /// The Kubernetes API.
    KubeApiserver,
    /// Kubernetes' own controllers.
    KubeControllerManager,
    /// Kubernetes' scheduler of pods.
    KubeScheduler,
    /// Kubernetes' agent on a node.
    Kubelet,
    /// What makes service addresses reachable on a node.
    KubeProxy,
    /// The Kubernetes command line.
    Kubectl,
    /// The package tool of charts.
    Helm,
    /// What checks manifests against schemas.
    Kubeconform,
    /// What keeps a cluster as a Git repository says.
    Argocd,
}

impl Program {
    /// Returns all of them, in the order in which they share most of their compiled packages.
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Returns the file name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
            Self::Kubeconform => "kubeconform",
            Self::Argocd => "argocd",
        }
    }

    /// Returns the folder below `tests/real` whose `go.mod` and `go.sum` pin what it is built from.
    pub fn module(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Helm => "helm",
            Self::Kubeconform => "kubeconform",
            Self::Argocd => "argocd",
            _ => "kubernetes",
        }
    }

    /// Returns the module that carries its version.
    pub fn versioned_by(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::Helm => "helm.sh/helm/v3",
            Self::Kubeconform => "github.com/yannh/kubeconform",
            Self::Argocd => "github.com/argoproj/argo-cd/v3",
            _ => "k8s.io/kubernetes",
        }
    }

    /// Returns the package of its `main`.
    pub fn package(self) -> String {
        match self {
            Self::Etcd => self.versioned_by().to_owned(),
            // One program for all of its roles.
            Self::Argocd => format!("{}/cmd", self.versioned_by()),
            _ => format!("{}/cmd/{}", self.versioned_by(), self.name()),
        }
    }

    /// Returns whether it must be linked with C: without it the kubelet does not know how much a container uses.
    pub fn cgo(self) -> bool {
        self == Self::Kubelet
    }

    /// Returns the flags of the linker: no symbols, and the version that the program tells, which is not in its sources.
    pub fn linker_flags(self, version: &str) -> String {
        let mut flags = "-s -w".to_owned();
        if self.module() == "kubernetes" {
            let mut numbers = version.split('.');
            let (major, minor) = (numbers.next().unwrap_or(""), numbers.next().unwrap_or(""));
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                flags.push_str(&format!(
                    " -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
                ));
            }
        }
        if self == Self::Helm {
            flags.push_str(&format!(" -X helm.sh/helm/v3/internal/version.version=v{version}"));
        }
        if self == Self::Kubeconform {
            flags.push_str(&format!(" -X main.version=v{version}"));
        }
        if self == Self::Argocd {
            flags.push_str(&format!(" -X {}/common.version={version}", self.versioned_by()));
        }
        flags
    }

    /// Returns what tells one build of it from another: all that goes into it but Go itself.
    pub fn key(self, version: &str, go_mod: &str, go_sum: &str) -> String {
        let mut digest = Sha256::new();
        for part in [
            &self.package(),
            &self.linker_flags(version),
            &self.cgo().to_string(),
            std::env::consts::ARCH,
            go_mod,
            go_sum,
        ] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        hex::encode(&digest.finalize()[..8])
    }
}

/// A release of Kubernetes whose programs are pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Release {
    /// The one that tests compare with.
    #[default]
    #[value(name = "1.34")]
    #[serde(rename = "1.34")]
    Usual,
    /// The oldest that the chart supports.
    #[value(name = "1.31")]
    #[serde(rename = "1.31")]
    Oldest,
    /// The newest that Foreman was run on.
    #[value(name = "1.36")]
    #[serde(rename = "1.36")]
    Newest,
}

impl Release {
    /// Returns the folder below `tests/real` whose `go.mod` and `go.sum` pin what a program is built from.
    pub fn module(self, program: Program) -> &'static str {
        match (self, program.module()) {
            (Self::Oldest, "kubernetes") => "kubernetes-1.31",
            (Self::Newest, "kubernetes") => "kubernetes-1.36",
            (_, module) => module,
        }
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usual => "1.34",
            Self::Oldest => "1.31",
            Self::Newest => "1.36",
        }
    }
}

/// Reads the version, without its `v`, that a `go.mod` requires of a module.
pub fn required_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().strip_prefix("require ").unwrap_or(line).split_whitespace();
        (words.next()? == module).then(|| words.next()?.strip_prefix('v').map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn every_program_has_a_version_and_checksums_in_the_repository() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/real");
        let every = |release: Release| Program::all().into_iter().map(move |program| (release, program));
        for (release, program) in Release::value_variants().iter().flat_map(|release| every(*release)) {
            let module = folder.join(release.module(program));
            let go_mod = std::fs::read_to_string(module.join("go.mod")).unwrap();
            let version = required_version(&go_mod, program.versioned_by()).unwrap();
            if program.module() == "kubernetes" {
                assert!(version.starts_with(&format!("{}.", release.name())), "{version}");
            }
            let go_sum = std::fs::read_to_string(module.join("go.sum")).unwrap();
            let line = format!("{} v{version} h1:", program.versioned_by());
            assert!(go_sum.contains(&line), "{}: go.sum has no {line}", program.name());
            let tools = std::fs::read_to_string(module.join("tools.go")).unwrap();
            let import = format!("_ \"{}\"", program.package());
            assert!(tools.contains(&import), "{}: tools.go lacks {import}", program.name());
        }
    }

    #[test]
    fn a_version_is_read_from_a_line_and_from_a_block() {
        let text = "module x\n\nrequire a.b/c v1.2.3\n\nrequire (\n\td.e/f v0.1.0 // indirect\n\ta.b/cd v9.9.9\n)\n";
        assert_eq!(required_version(text, "a.b/c").as_deref(), Some("1.2.3"));
        assert_eq!(required_version(text, "d.e/f").as_deref(), Some("0.1.0"));
        assert_eq!(required_version(text, "a.b"), None);
    }

    #[test]
    fn a_build_is_another_where_its_checksums_or_its_program_differ() {
        let key = |program: Program, sum| program.key("1.34.4", "module x", sum);
        assert_eq!(key(Program::Kubectl, "a"), key(Program::Kubectl, "a"));
        assert_ne!(key(Program::Kubectl, "a"), key(Program::Kubectl, "b"));
        assert_ne!(key(Program::Kubectl, "a"), key(Program::Kubelet, "a"));
    }

    #[test]
    fn kubernetes_programs_are_told_their_version() {
        let flags = Program::KubeApiserver.linker_flags("1.34.4");
        assert!(flags.contains("component-base/version.gitVersion=v1.34.4"), "{flags}");
        assert!(flags.contains("component-base/version.gitMinor=34"), "{flags}");
    }
}
