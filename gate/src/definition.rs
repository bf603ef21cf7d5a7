//! What the gate of a task is, and where that is written.
//!
//! The first of these that exists decides: the task's `gateProfile`; `.foreman/gate.yaml` at the base
//! commit; a preset for the language that the base tree shows. The branch under test is never read.

pub(crate) mod preset;
mod resolved;

use schemas::gate_definition::GateDefinition;
use schemas::quantity;
use schemas::shared::{GateCommands, GateLanguage, GateProfile};

pub use resolved::{ResolvedGate, ResolvedPrepare, ResolvedResources, ResolvedStep, Source};

use crate::network::is_allowable;
use crate::protected::{Protected, RuleError};

/// Path of the gate's definition in the base tree.
pub const GATE_FILE: &str = ".foreman/gate.yaml";
/// Path at which a gate file is taken for none, by everybody but who wrote it.
const MISNAMED: &str = ".foreman/gate.yml";
/// Largest gate file that is read.
pub const GATE_FILE_MAX: usize = 64 << 10;
/// Most steps that a gate may have; their outcomes must fit a termination message.
pub const STEPS_MAX: usize = 16;
/// Seconds that a gate may take unless it says otherwise.
pub const DEADLINE_SECONDS: i64 = 1800;
/// Seconds that prepare or a step may take unless it says otherwise.
pub const STEP_SECONDS: i64 = 600;

const CPU_REQUEST: &str = "2";
const MEMORY_REQUEST: &str = "4Gi";
const CPU_LIMIT: &str = "4";
const MEMORY_LIMIT: &str = "8Gi";

/// The tree of the base commit.
pub trait BaseTree {
    /// Tells whether a file or folder stands at `path`.
    fn exists(&self, path: &str) -> bool;
    /// Reads the file at `path`; `None` where there is none, or it is no file, or it is longer than `max` bytes.
    fn read(&self, path: &str, max: usize) -> Option<Vec<u8>>;
}

/// Parses a gate file; the error names line and column, such as `3:5: unknown key "stepz"`.
pub type ParseGate<'a> = &'a dyn Fn(&[u8]) -> Result<GateDefinition, String>;

/// Parses a gate file with the schema's own parser: what `resolve` is given outside of tests.
pub fn parse_file(bytes: &[u8]) -> Result<GateDefinition, String> {
    schemas::config::parse_gate(GATE_FILE, bytes).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .take(5)
            .map(|error| format!("{}:{}: {}", error.line, error.column, error.text()))
            .collect();
        lines.join("; ")
    })
}

/// Why there is no gate. None of these goes away by trying again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// The gate file is broken.
    #[error("failed to read {GATE_FILE} at the base commit: {GATE_FILE}:{reason}")]
    BrokenFile {
        /// Place and what is wrong.
        reason: String,
    },
    /// What the gate file, the profile or a preset says cannot be used.
    #[error("failed to use {place}: {reason}")]
    Invalid {
        /// Where it is written.
        place: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Nothing says what to run.
    #[error(
        "failed to find a gate: the task has no gateProfile, the base commit has no {GATE_FILE}, and none of go.mod, Cargo.toml, pyproject.toml, setup.py, requirements.txt, package.json is there; write {GATE_FILE} (`foreman init` makes one)"
    )]
    NotFound,
}

impl GateError {
    fn invalid(place: &str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            place: place.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Finds the gate of a task.
///
/// `protected` are paths that the task adds to those of the base. A gate file at the base is read
/// for its protected paths even where the profile decides the rest, and must be sound. Where there is one it says
/// what is protected; else the preset does.
pub fn resolve(
    profile: Option<&GateProfile>,
    tree: &dyn BaseTree,
    parse: ParseGate<'_>,
    protected: &[String],
) -> Result<ResolvedGate, GateError> {
    let file = read_file(tree, parse)?;
    let rules_of_base = file
        .as_ref()
        .map(|file| file.protected_paths.clone())
        .unwrap_or_default();
    let mut gate = match (profile.filter(|profile| says_something(profile)), file) {
        (Some(profile), file) => from_profile(profile, tree, file.as_ref())?,
        (None, Some(file)) => from_file(file, tree)?,
        (None, None) => preset::detect(tree)
            .map(|language| preset::build(language, tree, &GateCommands::default()))
            .ok_or(GateError::NotFound)?,
    };
    let mut rules = vec![crate::protected::ALWAYS.to_owned()];
    let of_preset = std::mem::take(&mut gate.protected);
    for rule in of_preset
        .into_iter()
        .chain(rules_of_base)
        .chain(protected.iter().cloned())
    {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    gate.protected = rules;
    check(&gate)?;
    Ok(gate)
}

fn read_file(tree: &dyn BaseTree, parse: ParseGate<'_>) -> Result<Option<GateDefinition>, GateError> {
    if !tree.exists(GATE_FILE) {
        return match tree.exists(MISNAMED) {
            // A preset in the place of what somebody wrote would pass what they mean to fail.
            true => Err(GateError::invalid(
                &format!("{MISNAMED} at the base commit"),
                format!("the gate is read from {GATE_FILE}; rename the file"),
            )),
            false => Ok(None),
        };
    }
    let bytes = tree
        .read(GATE_FILE, GATE_FILE_MAX)
        .ok_or_else(|| GateError::BrokenFile {
            reason: format!("1: found something else than a file of at most {GATE_FILE_MAX} bytes"),
        })?;
    parse(&bytes)
        .map(Some)
        .map_err(|reason| GateError::BrokenFile { reason })
}

fn says_something(profile: &GateProfile) -> bool {
    let commands = profile.commands.as_ref();
    profile.language.is_some()
        || profile.image.is_some()
        || commands.is_some_and(|commands| *commands != GateCommands::default())
}

fn from_profile(
    profile: &GateProfile,
    tree: &dyn BaseTree,
    file: Option<&GateDefinition>,
) -> Result<ResolvedGate, GateError> {
    let language = profile
        .language
        .or_else(|| preset::detect(tree))
        .unwrap_or(GateLanguage::Generic);
    let commands = profile.commands.clone().unwrap_or_default();
    let mut gate = preset::build(language, tree, &commands);
    if let Some(image) = &profile.image {
        gate.image.clone_from(image);
    }
    if gate.steps.is_empty() {
        return Err(GateError::invalid(
            "the task's gateProfile",
            format!(
                "it gives no command to run; expected at least one of commands.format, lint, build, test, codegenCheck with language {:?}",
                preset::name(language)
            ),
        ));
    }
    if file.is_some() {
        gate.protected.clear();
        gate.pinned.clear();
    }
    gate.source = Source::Profile;
    Ok(gate)
}

fn from_file(file: GateDefinition, tree: &dyn BaseTree) -> Result<ResolvedGate, GateError> {
    let fail = |reason: String| GateError::invalid(GATE_FILE, reason);
    let preset = preset::detect(tree).map(|language| preset::build(language, tree, &GateCommands::default()));
    let image = file
        .image
        .or_else(|| preset.as_ref().map(|preset| preset.image.clone()))
        .unwrap_or_else(|| preset::image(GateLanguage::Generic).to_owned());
    if file.steps.is_empty() {
        return Err(fail(
            "it has no steps; expected `steps:` with at least one `name` and `command`".to_owned(),
        ));
    }
    let prepare = file.prepare.map(|prepare| ResolvedPrepare {
        command: prepare.command,
        allow_hosts: prepare.allow_hosts,
        timeout_seconds: prepare.timeout_seconds.unwrap_or(STEP_SECONDS),
        cache_key: prepare.cache_key.unwrap_or_default(),
    });
    let steps = file
        .steps
        .into_iter()
        .map(|step| ResolvedStep {
            name: step.name,
            command: step.command,
            timeout_seconds: step.timeout_seconds.unwrap_or(STEP_SECONDS),
            advisory: step.advisory,
        })
        .collect();
    let resources = file.resources.unwrap_or_default();
    let cpu_limit = resources.cpu.unwrap_or_else(|| CPU_LIMIT.to_owned());
    let memory_limit = resources.memory.unwrap_or_else(|| MEMORY_LIMIT.to_owned());
    for (key, value) in [("resources.cpu", &cpu_limit), ("resources.memory", &memory_limit)] {
        if !quantity::parse(value).is_ok_and(|amount| amount.milli() > 0) {
            return Err(fail(format!(
                "{key} is {value:?}; expected a Kubernetes quantity such as \"4\" or \"8Gi\""
            )));
        }
    }
    Ok(ResolvedGate {
        image,
        prepare,
        steps,
        protected: Vec::new(),
        pinned: Vec::new(),
        resources: ResolvedResources::within(&cpu_limit, &memory_limit),
        deadline_seconds: file.deadline_seconds.unwrap_or(DEADLINE_SECONDS),
        source: Source::File,
    })
}

/// Checks what every gate must keep to, wherever it was written.
fn check(gate: &ResolvedGate) -> Result<(), GateError> {
    let place = gate.source.place();
    let fail = |reason: String| Err(GateError::invalid(place, reason));
    if gate.image.is_empty()
        || gate.image.len() > 500
        || gate.image.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return fail(format!("image is {:?}; expected the name of an image", gate.image));
    }
    if gate.steps.len() > STEPS_MAX {
        return fail(format!(
            "it has {} steps; at most {STEPS_MAX} are allowed",
            gate.steps.len()
        ));
    }
    if gate.steps.iter().all(|step| step.advisory) {
        return fail("all its steps are advisory; expected at least one that blocks".to_owned());
    }
    for (index, step) in gate.steps.iter().enumerate() {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ' | '/' | ':');
        if step.name.trim().is_empty() || step.name.len() > 63 || !step.name.chars().all(good) {
            return fail(format!(
                "step {} is named {:?}; expected 1 to 63 letters, digits, or any of \"-_. /:\"",
                index + 1,
                step.name
            ));
        }
        if gate.steps[..index].iter().any(|other| other.name == step.name) {
            return fail(format!("two steps are named {:?}; expected each name once", step.name));
        }
        if step.command.trim().is_empty() {
            return fail(format!("step {:?} has no command", step.name));
        }
        check_seconds(
            place,
            &format!("step {:?}: timeoutSeconds", step.name),
            step.timeout_seconds,
        )?;
    }
    check_seconds(place, "deadlineSeconds", gate.deadline_seconds)?;
    if let Some(prepare) = &gate.prepare {
        if prepare.command.trim().is_empty() {
            return fail("prepare has no command".to_owned());
        }
        check_seconds(place, "prepare.timeoutSeconds", prepare.timeout_seconds)?;
        if let Some(host) = prepare.allow_hosts.iter().find(|host| !is_allowable(host)) {
            return fail(format!(
                "prepare.allowHosts has {host:?}; expected \"host\", \"host:port\" or \"*.suffix\""
            ));
        }
    }
    Protected::new(gate.protected.iter().map(String::as_str))
        .map_err(|error: RuleError| GateError::invalid(place, error.to_string()))?;
    Ok(())
}

fn check_seconds(place: &str, what: &str, seconds: i64) -> Result<(), GateError> {
    if (1..=86_400).contains(&seconds) {
        return Ok(());
    }
    Err(GateError::invalid(
        place,
        format!("{what} is {seconds}; expected 1 to 86400 seconds"),
    ))
}

impl ResolvedResources {
    /// Makes the default requests under the given limits.
    pub fn within(cpu_limit: &str, memory_limit: &str) -> Self {
        Self {
            cpu_request: quantity::at_most(CPU_REQUEST, cpu_limit),
            memory_request: quantity::at_most(MEMORY_REQUEST, memory_limit),
            cpu_limit: cpu_limit.to_owned(),
            memory_limit: memory_limit.to_owned(),
        }
    }
}

impl Default for ResolvedResources {
    fn default() -> Self {
        Self::within(CPU_LIMIT, MEMORY_LIMIT)
    }
}

/// Makes a gate of a preset's parts.
fn of_preset(
    language: GateLanguage,
    prepare: Option<ResolvedPrepare>,
    steps: Vec<ResolvedStep>,
    judge: preset::Judge,
) -> ResolvedGate {
    ResolvedGate {
        image: preset::image(language).to_owned(),
        prepare,
        steps,
        protected: judge.protected,
        pinned: judge.pinned,
        resources: ResolvedResources::default(),
        deadline_seconds: DEADLINE_SECONDS,
        source: Source::Preset(preset::name(language).to_owned()),
    }
}

#[cfg(test)]
#[path = "definition/tests.rs"]
mod tests;
