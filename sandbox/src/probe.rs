//! Finds out which backends work here, by trying each with a supervisor that runs nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::child::{self, Start};
use crate::command::Command;
use crate::outcome::{Outcome, Reason};
use crate::output::Output;
use crate::resolve;

/// Tells whether something works, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// It was tried and works.
    Works,
    /// It does not work; the text says why.
    Missing(String),
}

impl Availability {
    /// Tells whether it works.
    pub fn works(&self) -> bool {
        *self == Availability::Works
    }

    /// Returns `works`, or why not.
    pub fn explain(&self) -> String {
        match self {
            Availability::Works => "works".into(),
            Availability::Missing(why) => why.clone(),
        }
    }
}

/// What this machine allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Whether [`Backend::Namespaces`] works.
    pub namespaces: Availability,
    /// Whether [`Backend::Landlock`] works.
    pub landlock: Availability,
    /// The kernel's Landlock ABI, 0 for none.
    pub landlock_abi: u32,
    /// How memory limits are kept: `cgroup-v2`, `cgroup-v1` or `monitor`.
    pub memory: String,
}

impl Probe {
    /// Returns the best backend that works; never [`Backend::Unsafe`].
    pub fn best(&self) -> Option<Backend> {
        [Backend::Namespaces, Backend::Landlock]
            .into_iter()
            .find(|backend| self.availability(*backend).works())
    }

    /// Tells whether a backend works here.
    pub fn availability(&self, backend: Backend) -> Availability {
        match backend {
            Backend::Namespaces => self.namespaces.clone(),
            Backend::Landlock => self.landlock.clone(),
            Backend::Unsafe => Availability::Works,
        }
    }

    /// Returns lines of (name, state) for `foreman doctor`.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let abi = match self.landlock_abi {
            0 => "none".into(),
            abi => abi.to_string(),
        };
        vec![
            ("sandbox", self.best().map_or("none works", Backend::name).into()),
            ("sandbox namespaces", self.namespaces.explain()),
            ("sandbox landlock", self.landlock.explain()),
            ("landlock abi", abi),
            ("memory limits", self.memory.clone()),
        ]
    }
}

/// Returns what was found with a supervisor, tried once in the life of the process.
pub(crate) fn cached(helper: &Path) -> Arc<Probe> {
    static FOUND: LazyLock<Mutex<HashMap<PathBuf, Arc<Probe>>>> = LazyLock::new(Mutex::default);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found
        .entry(helper.to_owned())
        .or_insert_with(|| Arc::new(try_all(helper)))
        .clone()
}

fn try_all(helper: &Path) -> Probe {
    let (namespaces, memory) = try_backend(helper, Backend::Namespaces);
    let landlock_abi = crate::sys::landlock_abi();
    let (landlock, memory_landlock) = match landlock_abi {
        0 => (
            Availability::Missing("this kernel has no Landlock (Linux 5.13, enabled at boot)".into()),
            None,
        ),
        _ => try_backend(helper, Backend::Landlock),
    };
    let memory = memory.or(memory_landlock).unwrap_or_else(|| "unknown".into());
    Probe {
        namespaces,
        landlock,
        landlock_abi,
        memory,
    }
}

fn try_backend(helper: &Path, backend: Backend) -> (Availability, Option<String>) {
    let command = Command::new("trial")
        .memory(64 << 20)
        .wall(std::time::Duration::from_secs(10));
    let prepared = resolve::prepare(backend, command, None).map(|mut prepared| {
        prepared.request.program = None;
        prepared
    });
    let started = child::start(Start {
        helper,
        backend,
        prepared,
        stdin: Vec::new(),
        output: Output::discard(),
        proxy: None,
        server: None,
    });
    let outcome = match started {
        Ok(child) => child.wait_blocking(),
        Err(error) => Outcome::start_error(backend, &error),
    };
    match outcome.reason {
        Reason::Completed => (Availability::Works, Some(outcome.enforced.memory)),
        Reason::StartError(why) => (Availability::Missing(why), None),
        other => {
            let said = outcome.message.unwrap_or_default();
            (
                Availability::Missing(format!("the trial ended with {} {said}", other.name())),
                None,
            )
        }
    }
}
