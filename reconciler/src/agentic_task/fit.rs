//! Whether a node fits a class of tasks, and how well.

use std::collections::{BTreeMap, BTreeSet};

use schemas::fleet_node::{Accelerator, NodePhase};
use schemas::shared::WantedAccelerator;

use super::class::Needs;
use super::node::{Node, Use};

/// What is against a node of which a new leader does not know yet whether it lives.
const UNJUDGED: &str = "not looked at yet";

/// The nodes that fit a class, and why the others do not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fitting {
    /// What the class needs.
    pub needs: Needs,
    /// Names of the nodes that fit and are open.
    pub nodes: BTreeSet<String>,
    /// How many nodes there are.
    pub total: usize,
    /// Reasons of the other nodes, with how many have each.
    pub against: BTreeMap<String, usize>,
}

impl Fitting {
    /// Sorts the nodes into those that fit and those that do not.
    pub fn new<'a>(needs: Needs, nodes: impl Iterator<Item = (&'a String, &'a Node)>) -> Self {
        let mut fitting = Self {
            needs,
            ..Self::default()
        };
        for (name, node) in nodes {
            fitting.replace(name, None, Some(node));
        }
        fitting
    }

    /// Takes in a node that changed, appeared or is gone.
    pub fn replace(&mut self, name: &str, before: Option<&Node>, after: Option<&Node>) {
        if let Some(node) = before {
            self.total = self.total.saturating_sub(1);
            self.nodes.remove(name);
            if let Some(reason) = mismatch(&self.needs, node)
                && let Some(count) = self.against.get_mut(&reason)
            {
                *count -= 1;
                if *count == 0 {
                    self.against.remove(&reason);
                }
            }
        }
        if let Some(node) = after {
            self.total += 1;
            match mismatch(&self.needs, node) {
                None => {
                    self.nodes.insert(name.to_owned());
                }
                Some(reason) => *self.against.entry(reason).or_default() += 1,
            }
        }
    }

    /// Says whether it can be said what fits: a new leader has not looked at the nodes yet.
    pub fn is_known(&self) -> bool {
        !self.nodes.is_empty() || !self.against.contains_key(UNJUDGED)
    }

    /// Says why nothing fits.
    pub fn reason(&self) -> String {
        if self.total == 0 {
            return "no FleetNode exists; start foreman-agent on a machine".to_owned();
        }
        let listed: Vec<String> = self
            .against
            .iter()
            .map(|(reason, count)| format!("{count} {}", reason_for(*count, reason)))
            .collect();
        format!("no node fits: {}", listed.join("; "))
    }
}

fn reason_for(count: usize, reason: &str) -> String {
    if count == 1 {
        format!("node {reason}")
    } else {
        format!("nodes {reason}")
    }
}

/// Says why a node does not fit; `None` when it does.
fn mismatch(needs: &Needs, node: &Node) -> Option<String> {
    match node.alive {
        Some(true) => {}
        Some(false) => return Some("not heard of".to_owned()),
        None => return Some(UNJUDGED.to_owned()),
    }
    if !node.is_open() {
        let why = match node.phase {
            NodePhase::Draining => "draining",
            _ => "not Ready",
        };
        return Some(why.to_owned());
    }
    let required = &needs.required;
    let lacking: Vec<&str> = required
        .roles
        .iter()
        .flatten()
        .filter(|role| !node.takes(role))
        .map(String::as_str)
        .collect();
    if !lacking.is_empty() {
        return Some(format!("without role {}", lacking.join(", ")));
    }
    for (label, value) in required.node_selector.iter().flatten() {
        if node.labels.get(label) != Some(value) {
            return Some(format!("without label {label}={value}"));
        }
    }
    let capability = &node.capability;
    let wanted = match required.accelerator {
        WantedAccelerator::Any => None,
        WantedAccelerator::Metal => Some(Accelerator::Metal),
        WantedAccelerator::Cuda => Some(Accelerator::Cuda),
        WantedAccelerator::Vulkan => Some(Accelerator::Vulkan),
    };
    if let Some(wanted) = wanted
        && capability.accelerator != Some(wanted)
    {
        return Some(format!("without accelerator {wanted:?}").to_lowercase());
    }
    let ram = capability.available_ram_gb.or(capability.total_ram_gb).unwrap_or(0);
    if let Some(least) = required.min_ram_gb.filter(|least| *least > ram) {
        return Some(format!("with less than {least} GiB RAM"));
    }
    let context = capability.max_context_tokens.unwrap_or(0);
    if let Some(least) = required.min_context_tokens.filter(|least| *least > context) {
        return Some(format!("with a context below {least} tokens"));
    }
    if required.requires_model_installed == Some(true) {
        match &needs.model {
            None => return Some("cannot be checked for a model, since none is named".to_owned()),
            Some(model) if !has_model(node, model) => return Some(format!("without model {model}")),
            Some(_) => {}
        }
    }
    if node.slots() == 0 {
        return Some("with no slots".to_owned());
    }
    None
}

fn has_model(node: &Node, model: &str) -> bool {
    node.capability
        .installed_models
        .iter()
        .flatten()
        .any(|installed| installed == model)
}

/// Rates a node that fits: the model already there, the repository already cached, then the least load.
pub fn score(needs: &Needs, repo: &str, node: &Node, used: Use) -> i64 {
    let mut score = 0;
    if let Some(model) = &needs.model
        && has_model(node, model)
    {
        score += 100;
    }
    if !repo.is_empty() && node.cached.contains(repo) {
        score += 50;
    }
    let load = used.with_model + used.plain;
    let slots = node.slots().max(1);
    score - i64::try_from(load * 80 / (2 * slots)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::fleet_node::{Capability, NodePhase};
    use schemas::shared::RequiredCapability;

    fn node() -> Node {
        Node {
            capability: Capability {
                accelerator: Some(Accelerator::Cuda),
                available_ram_gb: Some(32),
                max_context_tokens: Some(32768),
                installed_models: Some(vec!["qwen".into()]),
                slots: Some(2),
                ..Capability::default()
            },
            roles: ["worker".to_owned()].into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            phase: NodePhase::Ready,
            alive: Some(true),
            ..Node::default()
        }
    }

    #[test]
    fn each_requirement_can_fail_and_says_so() {
        let required = |set: fn(&mut RequiredCapability)| {
            let mut needs = Needs {
                model: Some("llama".into()),
                ..Needs::default()
            };
            set(&mut needs.required);
            mismatch(&needs, &node()).unwrap_or_default()
        };
        assert_eq!(required(|_| {}), "");
        assert_eq!(
            required(|r| r.roles = Some(vec!["worker".into(), "verifier".into()])),
            "without role verifier"
        );
        assert_eq!(
            required(|r| r.accelerator = WantedAccelerator::Metal),
            "without accelerator metal"
        );
        assert_eq!(required(|r| r.min_ram_gb = Some(64)), "with less than 64 GiB RAM");
        assert_eq!(
            required(|r| r.min_context_tokens = Some(65536)),
            "with a context below 65536 tokens"
        );
        assert_eq!(
            required(|r| r.requires_model_installed = Some(true)),
            "without model llama"
        );
        assert_eq!(
            required(|r| r.node_selector = Some([("zone".to_owned(), "b".to_owned())].into())),
            "without label zone=b"
        );
        let every = Node {
            roles: BTreeSet::new(),
            ..node()
        };
        let mut needs = Needs::default();
        needs.required.roles = Some(vec!["verifier".into()]);
        assert_eq!(
            mismatch(&needs, &every),
            None,
            "a node that names no role takes every role"
        );
        let closed = Node {
            phase: NodePhase::Draining,
            ..node()
        };
        assert_eq!(mismatch(&Needs::default(), &closed).unwrap(), "draining");
        let dead = Node {
            alive: Some(false),
            ..node()
        };
        assert_eq!(mismatch(&Needs::default(), &dead).unwrap(), "not heard of");
    }

    #[test]
    fn a_loaded_model_beats_a_cached_repository_beats_an_idle_node() {
        let needs = Needs {
            model: Some("qwen".into()),
            holds_slot: true,
            ..Needs::default()
        };
        let with_model = node();
        let mut with_cache = Node {
            cached: ["r".to_owned()].into(),
            ..node()
        };
        with_cache.capability.installed_models = None;
        let idle = Node {
            cached: Default::default(),
            ..with_cache.clone()
        };
        let busy = Use {
            with_model: 1,
            plain: 0,
        };
        let rate = |node: &Node, used| score(&needs, "r", node, used);
        assert!(rate(&with_model, busy) > rate(&with_cache, Use::default()));
        assert!(rate(&with_cache, busy) > rate(&idle, Use::default()));
        assert!(rate(&idle, Use::default()) > rate(&idle, busy));
    }

    #[test]
    fn the_reason_counts_nodes() {
        let needs = Needs {
            required: RequiredCapability {
                min_ram_gb: Some(64),
                ..Default::default()
            },
            ..Needs::default()
        };
        let nodes = [
            ("a".to_owned(), node()),
            ("b".to_owned(), node()),
            (
                "c".to_owned(),
                Node {
                    alive: Some(false),
                    ..node()
                },
            ),
        ];
        let fitting = Fitting::new(needs, nodes.iter().map(|(name, node)| (name, node)));
        assert_eq!(
            fitting.reason(),
            "no node fits: 1 node not heard of; 2 nodes with less than 64 GiB RAM"
        );
        assert!(
            Fitting::new(Needs::default(), std::iter::empty())
                .reason()
                .contains("start foreman-agent")
        );
    }
}
