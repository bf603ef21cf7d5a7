//! Scripts of requests, played live against a real kube-apiserver and against the plane; the answers must be equal.
//!
//! ```text
//! FOREMAN_REAL_KUBECONFIG=… cargo test -p plane --test real -- --ignored --nocapture
//! ```
//!
//! The server needs a kube-controller-manager beside it (garbage collection, namespaces, Jobs, protected claims) and no
//! node; its etcd must be of 3.4.31 or newer, without which no watch's initial events end. `FOREMAN_REAL_ONLY` names
//! groups or cases (any part of `group: case`) to play alone while working on them. The scripts are the YAML files in `scripts`; see [`script`] for what stands in them. What the plane answers otherwise
//! on purpose is listed in `limits.yaml`, with the code and the reason, and a limit that is none any more fails.

#![allow(clippy::unwrap_used, clippy::panic)]

mod compare;
#[allow(dead_code, reason = "recordings are for other tests")]
#[path = "../replay/fixture.rs"]
mod fixture;
mod play;
mod script;

/// The tier of tests that need a real server; named so that other tiers can leave it out.
mod real {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, SocketAddr};

    use futures::StreamExt as _;
    use kube::Client;
    use kube::config::{Config, KubeConfigOptions, Kubeconfig};
    use plane::runner::{Runner, RunnerConfig};
    use plane::{Plane, PlaneConfig};

    use crate::compare::{difference, seen};
    use crate::play::{Side, play, prepare};
    use crate::script::{Case, Limit, cases, limits};

    /// Where the kubeconfig of the real server is named.
    const KUBECONFIG: &str = "FOREMAN_REAL_KUBECONFIG";
    /// Restricts what is played.
    const ONLY: &str = "FOREMAN_REAL_ONLY";
    /// Fewer cases than this prove too little.
    const LEAST: usize = 150;
    /// Changes that the plane remembers: more than any case makes.
    const RETAINED: usize = 400;
    /// Cases that are played at a time: some wait for controllers.
    const AT_A_TIME: usize = 4;

    async fn client(path: &std::path::Path) -> Client {
        let read = Kubeconfig::read_from(path).unwrap();
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .unwrap();
        // A refusal is an answer.
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// What came of one case.
    #[derive(Default)]
    struct Outcome {
        answers: usize,
        wrong: Vec<String>,
        /// Limits that were met, by their place in the list.
        met: Vec<usize>,
    }

    async fn compare(case: &Case, real: &Side, plane: &Side, limits: &[Limit]) -> Outcome {
        let mut outcome = Outcome::default();
        let (wanted, found) = tokio::join!(play(case, real), play(case, plane));
        let (wanted, found) = match (wanted, found) {
            (Ok(wanted), Ok(found)) => (wanted, found),
            (wanted, found) => {
                for (side, played) in [("kube-apiserver", wanted.err()), ("the plane", found.err())] {
                    outcome.wrong.extend(played.map(|why| format!("{side}: {why}")));
                }
                return outcome;
            }
        };
        for (at, ((step, wanted), found)) in case.steps.iter().zip(&wanted).zip(&found).enumerate() {
            let (Some(wanted), Some(found)) = (wanted, found) else {
                continue;
            };
            outcome.answers += 1;
            let (wanted, found) = (seen(wanted, step), seen(found, step));
            let limit = limits
                .iter()
                .position(|limit| limit.group == case.group && limit.case == case.name && limit.step == at + 1);
            match (limit, wanted == found) {
                (None, true) => {}
                (None, false) => outcome.wrong.push(format!(
                    "step {} {}\n{}",
                    at + 1,
                    step.told(),
                    difference(&wanted, &found)
                )),
                (Some(place), equal) => {
                    outcome.met.push(place);
                    let limit = &limits[place];
                    if equal {
                        outcome.wrong.push(format!(
                            "step {} {} is equal now: take it off the list of limits",
                            at + 1,
                            step.told()
                        ));
                    } else if (wanted.code, found.code) != (limit.kubernetes, limit.plane) {
                        outcome.wrong.push(format!(
                            "step {}: the list of limits says {} and {}, kube-apiserver answered {} and the plane {}",
                            at + 1,
                            limit.kubernetes,
                            limit.plane,
                            wanted.code,
                            found.code
                        ));
                    }
                }
            }
        }
        outcome
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs a real kube-apiserver"]
    async fn the_plane_answers_as_kube_apiserver_does() {
        let path = std::env::var_os(KUBECONFIG)
            .unwrap_or_else(|| panic!("{KUBECONFIG} must name the kubeconfig of a real kube-apiserver"));
        let only = std::env::var(ONLY).ok().filter(|text| !text.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = PlaneConfig::new(folder.path().join("state"), "0.1.0").listening(any);
        // The first versions are forgotten, as on a server that has run for a while.
        config.retention.changes = RETAINED;
        let plane = Plane::open(config).await.unwrap();
        let served = plane.serve_tls().await.unwrap();
        // No Pod is this node's, so nothing is run.
        let sandbox = sandbox::Sandbox::without_confinement();
        let runner = RunnerConfig::new(folder.path().join("runner"), sandbox);
        let runner = Runner::start(plane.client(), runner).await.unwrap();
        plane.set_pod_logs(runner.logs());

        let run = format!("{:05x}", rand::random_range(0..0x10_0000));
        let real = Side::new(client(path.as_ref()).await, &run, true);
        let own = Side::new(client(&served.kubeconfig).await, &run, false);
        let version = real.client.apiserver_version().await.unwrap().git_version;
        let all = cases();
        let limits = limits();
        for limit in &limits {
            let named = all.iter().any(|case| {
                case.group == limit.group
                    && case.name == limit.case
                    && limit.step >= 1
                    && limit.step <= case.steps.len()
            });
            assert!(named, "no case {:?} with a step {} for a limit", limit.case, limit.step);
        }
        let chosen: Vec<&Case> = all
            .iter()
            .filter(|case| {
                only.as_ref()
                    .is_none_or(|part| format!("{}: {}", case.group, case.name).contains(part))
            })
            .collect();
        let ready = tokio::join!(prepare(&real), prepare(&own));
        ready.0.unwrap();
        ready.1.unwrap();
        own.age(RETAINED + 1).await.unwrap();
        let outcomes: Vec<(&Case, Outcome)> = futures::stream::iter(&chosen)
            .map(|case| {
                let (real, own, limits) = (&real, &own, &limits);
                async move {
                    let outcome = compare(case, real, own, limits).await;
                    for text in &outcome.wrong {
                        println!("{}: {}\n  {text}", case.group, case.name);
                    }
                    (*case, outcome)
                }
            })
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        real.tidy().await;
        runner.shutdown().await;
        plane.shutdown().await;

        let mut groups: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
        let mut met: Vec<usize> = Vec::new();
        let mut wrong = 0;
        for (case, outcome) in &outcomes {
            let row = groups.entry(&case.group).or_default();
            row.0 += 1;
            row.1 += outcome.answers;
            row.2 += usize::from(!outcome.wrong.is_empty());
            met.extend(&outcome.met);
            wrong += outcome.wrong.len();
        }
        println!("played against kube-apiserver {version}");
        println!("{:<16} {:>6} {:>8} {:>6}", "group", "cases", "answers", "wrong");
        for (name, (cases, answers, wrong)) in &groups {
            println!("{name:<16} {cases:>6} {answers:>8} {wrong:>6}");
        }
        let answers: usize = outcomes.iter().map(|(_, outcome)| outcome.answers).sum();
        println!(
            "{} cases, {answers} answers compared, {} limits",
            outcomes.len(),
            met.len()
        );
        assert_eq!(wrong, 0, "the answers above differ");
        if only.is_none() {
            assert!(outcomes.len() >= LEAST, "only {} cases were played", outcomes.len());
            for (place, limit) in limits.iter().enumerate() {
                assert!(
                    met.contains(&place),
                    "{}: {}: its limit was not met",
                    limit.group,
                    limit.case
                );
            }
        }
    }

    #[test]
    fn every_script_can_be_read_and_no_case_is_there_twice() {
        let all = cases();
        assert!(all.len() >= LEAST, "{} cases", all.len());
        let mut names = std::collections::BTreeSet::new();
        for case in &all {
            assert!(
                names.insert((&case.group, &case.name)),
                "{}: {} twice",
                case.group,
                case.name
            );
            assert!(
                case.steps.iter().any(|step| !step.setup),
                "{} compares nothing",
                case.name
            );
        }
        limits();
    }
}
