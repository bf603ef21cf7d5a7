//! The plan: what a Job's ConfigMap tells `foreman-gate`.

use serde::{Deserialize, Serialize};

use crate::FORMAT;
use crate::binding::{Binding, ExpectedStep, is_hex};
use crate::definition::ResolvedGate;

/// Key of the ConfigMap under which the plan stands.
pub const PLAN_KEY: &str = "plan.json";
/// Largest plan that is read.
pub const PLAN_MAX: usize = 512 << 10;

/// Everything that `foreman-gate` knows; it holds no paths and no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// Version of this format.
    pub format: String,
    /// Repository that the head is fetched from.
    pub repository: String,
    /// Branch on which the head was pushed; only a hint for servers that serve no bare commits.
    pub branch: String,
    /// Commit under test.
    pub head: String,
    /// Commit whose gate this is.
    pub base: String,
    /// Digest of `gate`.
    pub digest: String,
    /// The gate.
    pub gate: ResolvedGate,
}

/// Why a plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is not a plan.
    #[error("failed to read the gate's plan: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is of another version, or its parts do not agree.
    #[error("failed to use the gate's plan: {0}")]
    Inconsistent(String),
}

impl Plan {
    /// Makes the plan for `gate` on one head and base.
    pub fn new(gate: ResolvedGate, repository: &str, branch: &str, head: &str, base: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            repository: repository.to_owned(),
            branch: branch.to_owned(),
            head: head.to_owned(),
            base: base.to_owned(),
            digest: gate.digest(),
            gate,
        }
    }

    /// Parses a plan and checks that its digest is that of its gate.
    pub fn parse(bytes: &[u8]) -> Result<Self, PlanError> {
        let plan: Self = serde_json::from_slice(bytes)?;
        plan.check().map_err(PlanError::Inconsistent)?;
        Ok(plan)
    }

    /// Checks that the parts agree.
    pub fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("found format {:?}, expected {FORMAT:?}", self.format));
        }
        for (name, value) in [("head", &self.head), ("base", &self.base)] {
            if !is_hex(value, 40) {
                return Err(format!("{name} is {value:?}; expected a commit of 40 hex digits"));
            }
        }
        let actual = self.gate.digest();
        if self.digest != actual {
            return Err(format!("it names digest {}, its gate has {actual}", self.digest));
        }
        if self.gate.steps.is_empty() {
            return Err("its gate has no steps".to_owned());
        }
        Ok(())
    }

    /// Returns what a verdict on this plan is bound to.
    pub fn binding(&self) -> Binding {
        Binding {
            head: self.head.clone(),
            base: self.base.clone(),
            digest: self.digest.clone(),
            steps: Some(
                self.gate
                    .steps
                    .iter()
                    .map(|step| ExpectedStep {
                        name: step.name.clone(),
                        advisory: step.advisory,
                    })
                    .collect(),
            ),
            memory_limit: Some(self.gate.resources.memory_limit.clone()),
        }
    }
}
