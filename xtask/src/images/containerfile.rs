//! Reads `images/Containerfile`, as far as its instructions go, so that what is tested is what it says.
//!
//! An instruction in any other form is refused: it would be built by a builder and left out here.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// What a stage begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(String),
    /// An image of a registry.
    Image(String),
}

/// Something that adds files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Installs Debian packages.
    Packages(Vec<String>),
    /// Copies files out of the context, or out of a stage, into a folder.
    Copy {
        stage: Option<String>,
        sources: Vec<String>,
        folder: String,
        mode: u32,
    },
}

/// A stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub from: From,
    pub steps: Vec<Step>,
    pub labels: BTreeMap<String, String>,
    pub user: Option<String>,
    pub entrypoint: Vec<String>,
}

/// Reads a whole file.
pub fn parse(text: &str) -> Result<Vec<Stage>> {
    let mut arguments = BTreeMap::new();
    let mut stages: Vec<Stage> = Vec::new();
    for (line, instruction) in instructions(text) {
        let failed = || format!("images/Containerfile:{line}: {instruction:?} is in a form that is not known here");
        let (word, rest) = instruction.split_once(' ').with_context(failed)?;
        match (word, stages.last_mut()) {
            ("ARG", None) => {
                let (name, value) = rest.split_once('=').with_context(failed)?;
                arguments.insert(format!("${{{name}}}"), value.to_owned());
            }
            ("FROM", _) => {
                let (from, name) = rest.split_once(" AS ").with_context(failed)?;
                let from = match from {
                    "scratch" => From::Scratch,
                    stage if stages.iter().any(|it| it.name == stage) => From::Stage(stage.to_owned()),
                    other => From::Image(arguments.get(other).cloned().unwrap_or_else(|| other.to_owned())),
                };
                stages.push(Stage {
                    name: name.to_owned(),
                    from,
                    steps: Vec::new(),
                    labels: BTreeMap::new(),
                    user: None,
                    entrypoint: Vec::new(),
                });
            }
            ("RUN", Some(stage)) => stage.steps.push(packages(rest).with_context(failed)?),
            ("COPY", Some(stage)) => stage.steps.push(copy(rest).with_context(failed)?),
            ("LABEL", Some(stage)) => {
                let (name, value) = rest.split_once('=').with_context(failed)?;
                let value: String = serde_json::from_str(value).with_context(failed)?;
                stage.labels.insert(name.to_owned(), value);
            }
            ("USER", Some(stage)) => stage.user = Some(rest.to_owned()),
            ("ENTRYPOINT", Some(stage)) => stage.entrypoint = serde_json::from_str(rest).with_context(failed)?,
            _ => bail!(failed()),
        }
    }
    Ok(stages)
}

/// Joins continued lines and leaves out comments; each instruction comes with the number of its first line.
fn instructions(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let part = line.trim_end_matches('\\').trim();
        match all.last_mut().filter(|_| continued) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(part);
            }
            None => all.push((index + 1, part.to_owned())),
        }
        continued = line.ends_with('\\');
    }
    all
}

/// Reads the packages that a command installs, where it does nothing else.
fn packages(command: &str) -> Option<Step> {
    let rest = command.strip_prefix("apt-get update && apt-get install -y --no-install-recommends ")?;
    let names = rest.strip_suffix(" && rm -rf /var/lib/apt/lists/*")?;
    let plain = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    names.iter().all(|name| plain(name)).then_some(Step::Packages(names))
}

fn copy(rest: &str) -> Option<Step> {
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    let (mut stage, mut mode) = (None, 0o644);
    while let Some(flag) = words.first().and_then(|word| word.strip_prefix("--")) {
        match flag.split_once('=')? {
            ("from", name) => stage = Some(name.to_owned()),
            ("chmod", digits) => mode = u32::from_str_radix(digits, 8).ok()?,
            _ => return None,
        }
        words.remove(0);
    }
    let folder = words.pop()?.strip_prefix('/')?.strip_suffix('/')?.to_owned();
    let sources: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    (!sources.is_empty()).then_some(Step::Copy {
        stage,
        sources,
        folder,
        mode,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn own() -> Vec<Stage> {
        parse(include_str!("../../../images/Containerfile")).unwrap()
    }

    #[test]
    fn every_image_runs_as_somebody_who_is_not_root_and_says_what_it_is() {
        for name in ["operator", "agent", "gate"] {
            let stages = own();
            let stage = stages.iter().find(|stage| stage.name == name).unwrap();
            assert_eq!(stage.user.as_deref(), Some("65532:65532"), "{name}");
            assert_eq!(stage.entrypoint, [format!("/usr/local/bin/foreman-{name}")]);
            for label in ["title", "description", "licenses"] {
                let label = format!("org.opencontainers.image.{label}");
                assert!(stage.labels.contains_key(&label), "{name}: {label}");
            }
        }
    }

    #[test]
    fn stages_know_what_they_begin_with() {
        let stages = own();
        let from: Vec<&From> = stages.iter().map(|stage| &stage.from).collect();
        let base = From::Image("docker.io/library/debian:bookworm-slim".to_owned());
        let same = From::Stage("base".to_owned());
        assert_eq!(from, [&base, &same, &same, &From::Scratch]);
        assert!(matches!(&stages[0].steps[0], Step::Packages(names) if names.iter().any(|name| name == "git")));
    }

    #[test]
    fn what_a_builder_would_do_and_this_would_not_is_refused_with_its_line() {
        let begin = "FROM scratch AS a\n";
        for instruction in [
            "RUN curl https://example.com | sh",
            "RUN apt-get update && apt-get install -y --no-install-recommends x; y && rm -rf /var/lib/apt/lists/*",
            "ADD a /b/",
            "COPY a b",
            "COPY --chown=1 a /b/",
            "WORKDIR /x",
            "LABEL a=b",
        ] {
            let error = parse(&format!("{begin}{instruction}\n")).unwrap_err();
            assert!(
                format!("{error:#}").contains("Containerfile:2"),
                "{instruction}: {error:#}"
            );
        }
    }
}
