//! One container as one sandboxed command: a pure builder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use schemas::quantity;

use super::environment::{self, Sources, expand};
use super::volumes::{Placed, sub_path};

/// Annotation prefix by which a container asks for a network; the container's name follows.
///
/// Values: `none` (the default), `fetch` (what reaching a Git server takes; Foreman's own image only) and
/// `allow:host,host:port,*.suffix`.
pub const NETWORK_ANNOTATION: &str = "foreman.llmkube.dev/network.";

/// The network that a container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedNetwork {
    /// None.
    None,
    /// The host's, for Foreman's own program that fetches a commit.
    Fetch,
    /// These hosts, through a filtering proxy.
    AllowList(Vec<String>),
}

/// What a container asks of this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Program.
    pub program: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Complete environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Folders and files to show: source, target, writable.
    pub mounts: Vec<(PathBuf, PathBuf, bool)>,
    /// Those sources that a `subPath` names: containers of the Pod could put links there at any time.
    pub sub_paths: BTreeSet<PathBuf>,
    /// Network.
    pub network: WantedNetwork,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Whether the image is Foreman's own.
    pub own_image: bool,
}

/// What stands for the running executable.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Images, by their names without tags.
    pub images: &'a [String],
    /// Programs, whatever image they are called from: images are not pulled here.
    pub programs: &'a [String],
}

impl Own<'_> {
    /// Says whether `container` is one of Foreman's own.
    fn includes(&self, container: &Container) -> bool {
        let program = container.command.as_ref().and_then(|words| words.first());
        is_own(container.image.as_deref().unwrap_or_default(), self.images)
            || program.is_some_and(|program| self.programs.contains(program))
    }
}

/// Says whether `image` is one of Foreman's own, which stand for the running executable.
pub fn is_own(image: &str, own: &[String]) -> bool {
    let digest_free = image.split('@').next().unwrap_or(image);
    let name = match digest_free.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => digest_free,
    };
    own.iter().any(|known| known == name)
}

/// Reads the network that `container` of `pod` asks for.
pub fn network(pod: &Pod, container: &str) -> Result<WantedNetwork, String> {
    let key = format!("{NETWORK_ANNOTATION}{container}");
    let value = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(&key));
    match value.map(String::as_str) {
        None | Some("none") => Ok(WantedNetwork::None),
        Some("fetch") => Ok(WantedNetwork::Fetch),
        Some(other) => match other.strip_prefix("allow:") {
            Some(hosts) => Ok(WantedNetwork::AllowList(
                hosts
                    .split(',')
                    .map(str::trim)
                    .filter(|host| !host.is_empty())
                    .map(str::to_owned)
                    .collect(),
            )),
            None => Err(format!(
                "annotation {key} is {other:?}; expected none, fetch or allow:<hosts>"
            )),
        },
    }
}

/// Works out what a container asks of this host, or says what it asks in vain.
pub fn wanted(
    pod: &Pod,
    container: &Container,
    volumes: &BTreeMap<String, Placed>,
    sources: &Sources,
    own: Own<'_>,
    termination: &Path,
) -> Result<Wanted, String> {
    let env = environment::build(container, pod, sources)?;
    let image = container.image.as_deref().unwrap_or_default();
    let own_image = own.includes(container);
    let mut words: Vec<String> = container
        .command
        .iter()
        .flatten()
        .map(|word| expand(word, &env))
        .collect();
    words.extend(container.args.iter().flatten().map(|word| expand(word, &env)));
    if words.is_empty() {
        return Err(format!(
            "container {:?} names no command, and images are not pulled here",
            container.name
        ));
    }
    if own_image && container.command.as_ref().is_none_or(Vec::is_empty) {
        words.insert(0, program_of(image));
    }
    let mut mounts = Vec::new();
    let mut sub_paths = BTreeSet::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(placed) = volumes.get(&mount.name) else {
            return Err(format!(
                "volumeMount names volume {:?}, which the Pod does not have",
                mount.name
            ));
        };
        let source = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => {
                let source = sub_path(placed, path)?;
                sub_paths.insert(source.clone());
                source
            }
            None => placed.path.clone(),
        };
        mounts.push((
            source,
            PathBuf::from(&mount.mount_path),
            placed.writable && mount.read_only != Some(true) && (own_image || !placed.of_host),
        ));
    }
    let message = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log");
    mounts.push((termination.to_owned(), PathBuf::from(message), true));
    let network = network(pod, &container.name)?;
    if network == WantedNetwork::Fetch && !own_image {
        return Err("network \"fetch\" is for Foreman's own image only".into());
    }
    let limits = container
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.clone())
        .unwrap_or_default();
    let limit = |name: &str| match limits.get(name) {
        None => Ok(None),
        Some(text) => quantity::parse(&text.0)
            .map(Some)
            .map_err(|error| format!("{name} limit: {error}")),
    };
    let memory = limit("memory")?.map(|amount| u64::try_from(amount.value()).unwrap_or(0));
    let cpus = limit("cpu")?.map(|amount| amount.milli() as f64 / 1000.0);
    let cwd = container
        .working_dir
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/")
        .into();
    Ok(Wanted {
        program: words.remove(0),
        args: words,
        env,
        cwd,
        mounts,
        sub_paths,
        network,
        memory,
        cpus,
        own_image,
    })
}

fn program_of(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split(':').next().unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::core::v1::{ResourceRequirements, VolumeMount};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn container() -> Container {
        Container {
            name: "main".into(),
            image: Some("rust:1.95".into()),
            command: Some(vec!["sh".into(), "-c".into()]),
            args: Some(vec!["echo $(HOME)".into()]),
            ..Container::default()
        }
    }

    fn build(pod: &Pod, container: &Container) -> Result<Wanted, String> {
        let volumes = [(
            "v".to_owned(),
            Placed {
                path: "/data/v".into(),
                writable: true,
                of_host: false,
            },
        )]
        .into();
        wanted(
            pod,
            container,
            &volumes,
            &Sources::default(),
            Own {
                images: &["ghcr.io/x/foreman-gate".into()],
                programs: &["foreman-agent".into()],
            },
            Path::new("/t"),
        )
    }

    #[test]
    fn a_program_of_our_own_is_known_in_any_image_and_by_its_whole_name() {
        let mut asked = container();
        asked.image = Some("registry.example/cuda:12".into());
        for (command, is_ours) in [
            (vec!["foreman-agent"], true),
            (vec!["./foreman-agent"], false),
            (vec!["sh", "foreman-agent"], false),
        ] {
            asked.command = Some(command.iter().map(|word| (*word).to_owned()).collect());
            assert_eq!(
                build(&Pod::default(), &asked).unwrap().own_image,
                is_ours,
                "{command:?}"
            );
        }
    }

    #[test]
    fn a_folder_of_the_host_is_written_by_our_own_program_alone() {
        let mut asked = container();
        asked.volume_mounts = Some(vec![VolumeMount {
            name: "v".into(),
            mount_path: "/srv/git".into(),
            ..VolumeMount::default()
        }]);
        let volumes = [(
            "v".to_owned(),
            Placed {
                path: "/srv/git".into(),
                writable: true,
                of_host: true,
            },
        )]
        .into();
        let programs = ["foreman-agent".to_owned()];
        for (program, may_write) in [("foreman-agent", true), ("sh", false)] {
            asked.command = Some(vec![program.into()]);
            let own = Own {
                images: &[],
                programs: &programs,
            };
            let found = wanted(
                &Pod::default(),
                &asked,
                &volumes,
                &Sources::default(),
                own,
                Path::new("/t"),
            );
            assert_eq!(found.unwrap().mounts[0].2, may_write, "{program}");
        }
    }

    #[test]
    fn own_images_are_known_by_name_whatever_their_tag() {
        let own = ["ghcr.io/x/foreman-gate".to_owned()];
        for image in [
            "ghcr.io/x/foreman-gate",
            "ghcr.io/x/foreman-gate:1.0",
            "ghcr.io/x/foreman-gate@sha256:ab",
        ] {
            assert!(is_own(image, &own), "{image}");
        }
        for image in [
            "ghcr.io/x/foreman-gate-evil",
            "foreman-gate",
            "evil/ghcr.io/x/foreman-gate:1",
        ] {
            assert!(!is_own(image, &own), "{image}");
        }
    }

    #[test]
    fn a_network_must_be_asked_for_and_fetch_is_not_for_others() {
        let mut pod = Pod::default();
        assert_eq!(build(&pod, &container()).unwrap().network, WantedNetwork::None);
        let mut ask = |value: &str| {
            pod.metadata.annotations = Some([(format!("{NETWORK_ANNOTATION}main"), value.to_owned())].into());
            build(&pod, &container())
        };
        assert_eq!(
            ask("allow:a.b, c:1").unwrap().network,
            WantedNetwork::AllowList(vec!["a.b".into(), "c:1".into()])
        );
        assert!(ask("fetch").unwrap_err().contains("own image"));
        assert!(ask("host").unwrap_err().contains("expected none"));
    }

    #[test]
    fn mounts_limits_and_expansion_are_carried_over() {
        let mut asked = container();
        asked.volume_mounts = Some(vec![VolumeMount {
            name: "v".into(),
            mount_path: "/w".into(),
            sub_path: Some("a".into()),
            read_only: Some(true),
            ..VolumeMount::default()
        }]);
        asked.resources = Some(ResourceRequirements {
            limits: Some(
                [
                    ("memory".to_owned(), Quantity("1Gi".into())),
                    ("cpu".to_owned(), Quantity("500m".into())),
                ]
                .into(),
            ),
            ..ResourceRequirements::default()
        });
        asked.env = Some(vec![k8s_openapi::api::core::v1::EnvVar {
            name: "HOME".into(),
            value: Some("/h".into()),
            value_from: None,
        }]);
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().canonicalize().unwrap();
        let volumes = [(
            "v".to_owned(),
            Placed {
                path: folder.clone(),
                writable: false,
                of_host: false,
            },
        )]
        .into();
        let wanted = wanted(
            &Pod::default(),
            &asked,
            &volumes,
            &Sources::default(),
            Own {
                images: &[],
                programs: &[],
            },
            Path::new("/t"),
        )
        .unwrap();
        assert_eq!(wanted.args[1], "echo /h");
        assert_eq!(wanted.mounts[0], (folder.join("a"), "/w".into(), false));
        assert_eq!(wanted.sub_paths, [folder.join("a")].into());
        assert_eq!((wanted.memory, wanted.cpus), (Some(1 << 30), Some(0.5)));
    }
}
