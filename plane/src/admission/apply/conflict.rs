//! Conflicts: what an apply would take from others.

use serde_json::{Value, json};

use super::fieldset::{FieldSet, path_text};
use super::managed::Manager;

/// One field that somebody else manages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The other side, as kube-apiserver describes it: `"kubectl" using v1`.
    pub manager: String,
    /// The field: `.data.key`.
    pub path: String,
}

/// Words the message of an apply conflict.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.path
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Builds the 409 `Status` object that answers an apply conflict.
pub fn conflict_status(conflicts: &[Conflict]) -> Value {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager), "field": c.path}))
        .collect();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": conflict_message(conflicts), "reason": "Conflict", "details": {"causes": causes}, "code": 409,
    })
}

/// Fields of one manager that an apply would take.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Whose they are.
    pub(super) manager: Manager,
    /// Which they are.
    pub(super) set: FieldSet,
}

pub(super) fn conflicts_of(taken: &[Taken]) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for one in taken {
        one.set.each(&mut |path| {
            conflicts.push(Conflict {
                manager: one.manager.describe(),
                path: path_text(path),
            })
        });
    }
    conflicts.sort();
    conflicts
}
