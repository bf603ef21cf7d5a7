//! `cargo xtask images`: builds the programs and packs them as `images/Containerfile` says, without a registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{process, static_gate};
use archive::{Content, Image, Layer};
use containerfile::{From, Stage, Step};

pub mod archive;
mod containerfile;
mod root;

/// Where the chart looks for images, and how each is called there.
const REPOSITORY: &str = "ghcr.io/foreman-ci/foreman";
/// The stages that are images.
const IMAGES: [&str; 3] = ["operator", "agent", "gate"];
/// What images take from the repository as it is.
const FILES: [&str; 2] = ["passwd", "group"];

/// How images are built.
#[derive(Args)]
pub struct Build {
    /// Packs programs that were built without optimisation: minutes less, for tests only.
    #[arg(long)]
    dev: bool,
    /// Puts together what a builder such as buildah takes as its context, and packs nothing.
    #[arg(long)]
    context_only: bool,
}

impl Build {
    /// The images of tests.
    pub const DEV: Build = Build {
        dev: true,
        context_only: false,
    };
}

/// Builds programs and images; returns the archive, or the context where nothing else was asked for.
pub fn build(root: &Path, how: &Build) -> Result<PathBuf> {
    let folder = root.join("target/images");
    let context = folder.join("context");
    programs(root, how.dev, &context)?;
    for name in FILES {
        let from = root.join("images").join(name);
        std::fs::copy(&from, context.join(name)).with_context(|| format!("failed to copy {}", from.display()))?;
    }
    if how.context_only {
        return Ok(context);
    }
    let path = root.join("images/Containerfile");
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let stages = containerfile::parse(&text)?;
    let mut images = Vec::new();
    for name in IMAGES {
        let image = image(&stages, name, &context)?;
        let length: u64 = image.layers.iter().map(Layer::length).sum();
        println!("{} ({:.0} MB)", image.name, length as f64 / 1e6);
        images.push(image);
    }
    // What a gate's own image is in the tests: the shared layer, and nothing of Foreman.
    if how.dev {
        images.push(Image {
            name: "docker.io/library/debian:bookworm-slim".to_owned(),
            layers: layers(&stages, find(&stages, "base")?, &context)?,
            entrypoint: Vec::new(),
            user: None,
            labels: Default::default(),
        });
    }
    let target = folder.join("foreman.tar");
    archive::write(&target, &images)?;
    Ok(target)
}

/// Builds the programs and puts them, without symbols, into the context.
fn programs(root: &Path, dev: bool, context: &Path) -> Result<()> {
    std::fs::create_dir_all(context).with_context(|| format!("failed to make {}", context.display()))?;
    let mut cargo = process::cargo(root, &["build", "--workspace", "--bins"]);
    if !dev {
        cargo.arg("--release");
    }
    process::run(cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
    let built = target.join(if dev { "debug" } else { "release" });
    let gate = static_gate::build(root, &static_gate::Build { dev })?.path;
    for (name, path) in [
        ("foreman-operator", built.join("foreman-operator")),
        ("foreman-agent", built.join("foreman-agent")),
        ("foreman-gate", gate),
    ] {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(context.join(name)).arg(&path);
        process::run(strip).with_context(|| format!("failed to strip {}", path.display()))?;
    }
    Ok(())
}

fn image(stages: &[Stage], name: &str, context: &Path) -> Result<Image> {
    let stage = find(stages, name)?;
    let mut labels = stage.labels.clone();
    labels.insert(
        "org.opencontainers.image.version".to_owned(),
        env!("CARGO_PKG_VERSION").to_owned(),
    );
    Ok(Image {
        name: format!("{REPOSITORY}-{name}:{}", env!("CARGO_PKG_VERSION")),
        layers: layers(stages, stage, context)?,
        entrypoint: stage.entrypoint.clone(),
        user: stage.user.clone(),
        labels,
    })
}

fn find<'a>(stages: &'a [Stage], name: &str) -> Result<&'a Stage> {
    let found = stages.iter().find(|stage| stage.name == name);
    found.with_context(|| format!("images/Containerfile has no stage {name}"))
}

fn layers(stages: &[Stage], stage: &Stage, context: &Path) -> Result<Vec<Layer>> {
    let mut layers = match &stage.from {
        From::Scratch => Vec::new(),
        From::Stage(name) => self::layers(stages, find(stages, name)?, context)?,
        From::Image(image) => match stage.steps.first() {
            Some(Step::Packages(packages)) => vec![Layer::at(&root::layer(image, packages)?)?],
            _ => bail!(
                "stage {} of images/Containerfile must begin with its packages",
                stage.name
            ),
        },
    };
    let packages = usize::from(matches!(stage.from, From::Image(_)));
    for step in &stage.steps[packages..] {
        let Step::Copy {
            stage: of,
            sources,
            folder,
            mode,
        } = step
        else {
            bail!("stage {} of images/Containerfile installs packages late", stage.name);
        };
        let mut files = Vec::new();
        for source in sources {
            let name = source.rsplit('/').next().unwrap_or(source);
            let bytes = match of {
                None => {
                    let path = context.join(source);
                    std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?
                }
                Some(of) => from_stage(find(stages, of)?, source)?,
            };
            files.push(Content {
                path: format!("{folder}/{name}"),
                bytes,
                mode: *mode,
            });
        }
        layers.push(Layer::of(&files));
    }
    Ok(layers)
}

/// Reads a file out of the packages of a stage.
fn from_stage(stage: &Stage, path: &str) -> Result<Vec<u8>> {
    let (From::Image(image), Some(Step::Packages(packages))) = (&stage.from, stage.steps.first()) else {
        bail!(
            "stage {} of images/Containerfile has no packages to copy from",
            stage.name
        );
    };
    let mut tar = Command::new("tar");
    tar.arg("-xOf")
        .arg(root::layer(image, packages)?)
        .arg(format!(".{path}"));
    let output = tar.output().context("failed to start tar")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!(
            "failed to read {path} of stage {}: {}",
            stage.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
