//! The files of `.foreman/`: the queue, the agents and the gate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::Value;

use crate::document::{self, Node};
use crate::file_error::{FileError, MAX_ERRORS, START, quote};
use crate::gate_definition::OnBaseMove;
use crate::manifest;
use crate::structural::{self, Checker, Synonyms};
use crate::task_file::{MAX_FILE, text};
use crate::{Agent, GateDefinition, ModelProfile, TaskQueue, duration, quantity};

/// What `.foreman/agents.yaml` holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentsFile {
    /// Agents.
    pub agents: Vec<Agent>,
    /// Model profiles.
    pub profiles: Vec<ModelProfile>,
}

/// Reads `.foreman/queue.yaml`: one TaskQueue manifest.
pub fn parse_queue(path: &str, bytes: &[u8]) -> Result<TaskQueue, Vec<FileError>> {
    let (nodes, mut checker) = open(path, bytes, &[])?;
    if let Some(second) = nodes.get(1) {
        checker.push(FileError::new(path, second.at, "a second document").expected("one TaskQueue"));
    }
    let advice = "this file holds the queue only; agents belong in .foreman/agents.yaml";
    let mut queue = None;
    if let Some(node) = first(path, &nodes, "a TaskQueue", &mut checker)
        && let Some(manifest) = manifest::check(path, node, &["TaskQueue"], advice, &mut checker)
        && checker.count() == 0
    {
        match manifest.read::<TaskQueue>(path) {
            Ok(read) => {
                check_queue(path, node, &read, &mut checker);
                queue = Some(read);
            }
            Err(error) => checker.push(error),
        }
    }
    finish(queue, checker)
}

fn check_queue(path: &str, node: &Node, queue: &TaskQueue, checker: &mut Checker<'_>) {
    if queue.spec.git.is_none() && queue.spec.issues.is_none() {
        let error = FileError::new(path, node.locate(&["spec"]), "the queue has no source");
        checker.push(error.expected("spec.git or spec.issues"));
    }
    let intervals = [
        ("git", queue.spec.git.as_ref().map(|git| &git.interval)),
        ("issues", queue.spec.issues.as_ref().map(|issues| &issues.interval)),
    ];
    for (source, interval) in intervals
        .into_iter()
        .filter_map(|(source, interval)| Some((source, interval?)))
    {
        if duration::parse(interval).is_ok_and(|interval| interval.is_zero()) {
            let at = node.locate(&["spec", source, "interval"]);
            checker.push(FileError::new(path, at, "the interval is zero").expected("at least 1ms, such as 60s"));
        }
    }
}

/// Reads `.foreman/agents.yaml`: Agent and ModelProfile manifests.
pub fn parse_agents(path: &str, bytes: &[u8]) -> Result<AgentsFile, Vec<FileError>> {
    let (nodes, mut checker) = open(path, bytes, &[])?;
    let advice = "this file holds agents and model profiles only";
    let mut file = AgentsFile::default();
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    first(path, &nodes, "an Agent", &mut checker);
    for node in &nodes {
        if let Some(kind) = node.get("kind").filter(|kind| kind.as_str() == Some("Secret")) {
            let error = FileError::new(path, kind.at, "a Secret in the repository");
            checker.push(error.suggestion("keep keys out of Git: refer to them by providerConfig.apiKeySecretRef"));
            continue;
        }
        let before = checker.count();
        let Some(manifest) = manifest::check(path, node, &["Agent", "ModelProfile"], advice, &mut checker) else {
            continue;
        };
        if let Some(line) = seen.insert((manifest.kind.clone(), manifest.name.clone()), manifest.at.line) {
            let message = format!("a second {} named {}", manifest.kind, quote(&manifest.name));
            let error = FileError::new(path, manifest.name_at, message);
            checker.push(error.suggestion(format!("the first begins on line {line}; rename one of them")));
        }
        if checker.count() > before {
            continue;
        }
        let read = match manifest.kind.as_str() {
            "Agent" => manifest.read(path).map(|agent| file.agents.push(agent)),
            _ => manifest.read(path).map(|profile| file.profiles.push(profile)),
        };
        if let Err(error) = read {
            checker.push(error);
        }
    }
    finish(Some(file), checker)
}

/// Words that people write for keys of the gate's file, with the key or a piece of advice.
const GATE_SYNONYMS: Synonyms = &[
    ("run", "command"),
    ("cmd", "command"),
    ("script", "command"),
    ("timeout", "timeoutSeconds"),
    ("deadline", "deadlineSeconds"),
    ("protected", "protectedPaths"),
    ("protect", "protectedPaths"),
    ("hosts", "allowHosts"),
    ("optional", "advisory"),
    ("allowFailure", "advisory"),
    (
        "commands",
        "write each command as a step: steps: [{name: …, command: …}]",
    ),
];

/// Returns the schema of `.foreman/gate.yaml`.
pub fn gate_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(structural::of_type::<GateDefinition>)
}

/// Reads `.foreman/gate.yaml`.
///
/// A gate without a step that can fail would prove anything: it is an error.
pub fn parse_gate(path: &str, bytes: &[u8]) -> Result<GateDefinition, Vec<FileError>> {
    let (nodes, mut checker) = open(path, bytes, GATE_SYNONYMS)?;
    if let Some(second) = nodes.get(1) {
        checker.push(FileError::new(path, second.at, "a second document").expected("one gate definition"));
    }
    let mut gate = None;
    if let Some(node) = first(path, &nodes, "steps", &mut checker) {
        let value = checker.check(node, gate_schema(), "");
        if checker.count() == 0 {
            match serde_json::from_value::<GateDefinition>(value) {
                Ok(read) => {
                    check_gate(path, node, &read, &mut checker);
                    gate = Some(read);
                }
                Err(error) => checker.push(FileError::new(
                    path,
                    node.at,
                    format!("the gate cannot be read: {error}"),
                )),
            }
        }
    }
    finish(gate, checker)
}

fn check_gate(path: &str, node: &Node, gate: &GateDefinition, checker: &mut Checker<'_>) {
    if !gate.steps.iter().any(|step| !step.advisory) {
        let error = FileError::new(path, node.locate(&["steps"]), "the gate has no step that can fail");
        checker.push(error.expected("at least one step that is not advisory"));
    }
    if gate.on_base_move == OnBaseMove::Rerun {
        let message = "onBaseMove is \"rerun\", which nothing acts on yet";
        let error = FileError::new(path, node.locate(&["onBaseMove"]), message);
        checker
            .push(error.expected("\"keep\", as when it is left out: a verdict stays true of the base that it names"));
    }
    let mut names = BTreeSet::new();
    for (at, step) in gate.steps.iter().enumerate() {
        let at = at.to_string();
        if !names.insert(step.name.as_str()) {
            let message = format!("a second step named {}", quote(&step.name));
            let error = FileError::new(path, node.locate(&["steps", &at, "name"]), message);
            checker.push(error.suggestion("rename one of them"));
        }
        if step.command.trim().is_empty() {
            let error = FileError::new(path, node.locate(&["steps", &at, "command"]), "the command is blank");
            checker.push(error.expected("a shell command"));
        }
    }
    if let Some(resources) = &gate.resources {
        for (key, value) in [("cpu", &resources.cpu), ("memory", &resources.memory)] {
            let Some(value) = value else { continue };
            if !quantity::parse(value).is_ok_and(|quantity| quantity.milli() > 0) {
                let message = format!("resources.{key} is {}", quote(value));
                let error = FileError::new(path, node.locate(&["resources", key]), message);
                checker.push(error.expected("a quantity above zero, such as 500m, 4 or 8Gi"));
            }
        }
    }
    for (at, glob) in gate.protected_paths.iter().enumerate() {
        if glob.trim().is_empty() || glob.starts_with('/') || glob.split('/').any(|part| part == "..") {
            let at = node.locate(&["protectedPaths", &at.to_string()]);
            let error = FileError::new(path, at, format!("the protected path {} cannot match", quote(glob)));
            checker.push(error.expected("a glob relative to the repository, such as tests/**"));
        }
    }
    for (at, host) in gate.prepare.iter().flat_map(|prepare| &prepare.allow_hosts).enumerate() {
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        let port = host
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        let name = name.strip_prefix("*.").unwrap_or(name);
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(fits) || !port {
            let at = node.locate(&["prepare", "allowHosts", &at.to_string()]);
            let error = FileError::new(path, at, format!("the host {} cannot be used", quote(host)));
            checker.push(error.expected("host, host:port or *.suffix"));
        }
    }
}

fn open<'a>(path: &'a str, bytes: &[u8], words: Synonyms) -> Result<(Vec<Node>, Checker<'a>), Vec<FileError>> {
    let text = text(path, bytes, MAX_FILE).map_err(|error| vec![error])?;
    let (nodes, errors) = document::read(path, text, 0);
    let mut checker = Checker::new(path, words);
    errors.into_iter().for_each(|error| checker.push(error));
    Ok((nodes, checker))
}

/// Returns the first document; a file without any is an error.
fn first<'n>(path: &str, nodes: &'n [Node], expected: &str, checker: &mut Checker<'_>) -> Option<&'n Node> {
    if nodes.is_empty() && checker.count() == 0 {
        checker.push(FileError::new(path, START, "the file is empty").expected(expected));
    }
    nodes.first()
}

fn finish<T>(read: Option<T>, checker: Checker<'_>) -> Result<T, Vec<FileError>> {
    let mut errors = checker.into_errors();
    match read {
        Some(read) if errors.is_empty() => Ok(read),
        _ => {
            errors.sort_by_key(|error| (error.line, error.column));
            errors.truncate(MAX_ERRORS);
            Err(errors)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn texts<T: std::fmt::Debug>(result: Result<T, Vec<FileError>>) -> Vec<String> {
        result.unwrap_err().iter().map(ToString::to_string).collect()
    }

    const HEAD: &str = "apiVersion: foreman.llmkube.dev/v1alpha1\n";

    #[test]
    fn a_queue_is_read_with_its_static_defaults() {
        let text =
            format!("{HEAD}kind: TaskQueue\nmetadata: {{name: q}}\nspec:\n  git: {{url: ., path: .foreman/tasks}}\n");
        let queue = parse_queue(".foreman/queue.yaml", text.as_bytes()).unwrap();
        let git = queue.spec.git.unwrap();
        assert_eq!(
            (git.interval.as_str(), git.path.as_str(), queue.spec.prune),
            ("60s", ".foreman/tasks", true)
        );
    }

    #[test]
    fn a_queue_without_source_or_with_a_bad_interval_is_refused_in_place() {
        let text = format!("{HEAD}kind: TaskQueue\nmetadata: {{name: q}}\nspec: {{}}\n");
        assert!(texts(parse_queue("q.yaml", text.as_bytes()))[0].starts_with("q.yaml:4:7: the queue has no source"));
        let text = text.replace("{}", "{git: {url: ., interval: 5 minutes, brnch: x}}");
        let found = texts(parse_queue("q.yaml", text.as_bytes()));
        assert!(
            found[0].contains("spec.git.interval is the string \"5 minutes\""),
            "{found:?}"
        );
        assert!(found[1].contains("did you mean \"branch\"?"), "{found:?}");
        assert!(texts(parse_queue("q.yaml", b""))[0].contains("the file is empty"));
    }

    #[test]
    fn agents_and_profiles_are_read_and_secrets_are_refused() {
        let text = format!(
            "{HEAD}kind: Agent\nmetadata: {{name: coder}}\nspec:\n  role: coder\n  tools: [bash]\n  providerConfig: {{apiKeySecretRef: {{name: s, key: k}}}}\n---\n{HEAD}kind: ModelProfile\nmetadata: {{name: m}}\nspec: {{}}\n"
        );
        let file = parse_agents(".foreman/agents.yaml", text.as_bytes()).unwrap();
        assert_eq!((file.agents.len(), file.profiles.len()), (1, 1));
        let text = format!(
            "{text}---\napiVersion: v1\nkind: Secret\n---\n{HEAD}kind: Agent\nmetadata: {{name: coder}}\nspec: {{role: boss, tools: []}}\n"
        );
        let found = texts(parse_agents("a.yaml", text.as_bytes()));
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].contains("keep keys out of Git"), "{found:?}");
        assert!(found[1].contains("a second Agent named \"coder\""), "{found:?}");
        assert!(found[2].contains("expected one of coder, verifier"), "{found:?}");
        assert!(found[3].contains("at least 1 item"), "{found:?}");
    }

    #[test]
    fn a_gate_is_read_with_its_defaults() {
        let text = "prepare: {command: cargo fetch, allowHosts: [static.crates.io, '*.crates.io', 'localhost:8080']}\nsteps:\n  - {name: test, command: cargo test}\nprotectedPaths: [tests/**]\nresources: {cpu: '2', memory: 4Gi}\n";
        let gate = parse_gate(".foreman/gate.yaml", text.as_bytes()).unwrap();
        assert_eq!((gate.steps.len(), gate.steps[0].advisory), (1, false));
    }

    #[test]
    fn a_gate_that_could_prove_anything_is_refused() {
        for text in [
            "steps: []\n",
            "protectedPaths: [x]\n",
            "steps: [{name: a, command: b, advisory: true}]\n",
        ] {
            assert!(
                texts(parse_gate("g.yaml", text.as_bytes()))[0].contains("no step that can fail"),
                "{text}"
            );
        }
    }

    #[test]
    fn every_mistake_in_a_gate_is_placed() {
        let text = "steps:\n  - name: test\n    run: x\n  - {name: a, command: b, timeoutSeconds: 0}\nresources: {memory: 4}\n";
        let found = texts(parse_gate("g.yaml", text.as_bytes()));
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(
            found[0].starts_with("g.yaml:2:5: steps[0].command is missing"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("g.yaml:3:5: unknown key \"run\" in steps[0]; did you mean \"command\"?"),
            "{found:?}"
        );
        assert!(found[2].contains("whole number from 1 to 86400"), "{found:?}");
        assert!(found[3].contains("put it in quotes"), "{found:?}");
        let text = "steps: [{name: a, command: b}]\nonBaseMove: rerun\n";
        let found = texts(parse_gate("g.yaml", text.as_bytes()));
        assert!(
            found.len() == 1 && found[0].starts_with("g.yaml:2:13: onBaseMove"),
            "{found:?}"
        );
        let text = "steps: [{name: a, command: b}, {name: a, command: ' '}]\nresources: {memory: lots}\nprotectedPaths: [/etc]\nprepare: {command: x, allowHosts: ['http://x']}\n";
        let found = texts(parse_gate("g.yaml", text.as_bytes()));
        assert_eq!(found.len(), 5, "{found:#?}");
    }
}
