//! A node as the scheduler sees it, and what its tasks take of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schemas::fleet_node::{Capability, NodePhase};

/// A node as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// What it offers.
    pub capability: Capability,
    /// Roles that it takes; empty where it takes every role.
    pub roles: BTreeSet<String>,
    /// Labels of the FleetNode.
    pub labels: BTreeMap<String, String>,
    /// Repositories that it has a mirror of.
    pub cached: BTreeSet<String>,
    /// Phase that its agent says.
    pub phase: NodePhase,
    /// Whether it is heard of; `None` until this process judged that in its term.
    pub alive: Option<bool>,
    /// Identity of the agent process that holds the node's Lease, where there is one.
    pub holder: Option<String>,
}

impl Node {
    /// Says whether it takes a role.
    pub fn takes(&self, role: &str) -> bool {
        self.roles.is_empty() || self.roles.contains(role)
    }

    /// Says whether one more task of a sort has room.
    ///
    /// Verifiers have places of their own, as many as there are slots. An agent that does not say its slots does one
    /// task at a time, whatever its sort.
    pub fn has_room(&self, used: Use, holds_slot: bool) -> bool {
        let taken = match (self.capability.slots, holds_slot) {
            (None, _) => used.with_model + used.plain,
            (Some(_), true) => used.with_model,
            (Some(_), false) => used.plain,
        };
        taken < self.slots()
    }

    /// Returns how many tasks the node takes at once.
    pub fn slots(&self) -> usize {
        usize::try_from(self.capability.slots.unwrap_or(1)).unwrap_or(1)
    }

    /// Says whether the node takes new tasks.
    pub fn is_open(&self) -> bool {
        self.alive == Some(true) && self.phase == NodePhase::Ready
    }
}

/// Tasks that a node has, by sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Tasks that hold a model slot.
    pub with_model: usize,
    /// Verifiers.
    pub plain: usize,
}

impl Use {
    /// Adds one task of a sort.
    pub fn add(&mut self, holds_slot: bool) {
        *if holds_slot {
            &mut self.with_model
        } else {
            &mut self.plain
        } += 1;
    }
}
