//! What is to be written, in order of urgency, with at most one write per task under way. Pure.

use std::collections::{HashMap, VecDeque};

use super::plan::{Step, What};
use crate::cache::Key;

/// How urgent a step is: what frees or fills a node, what lets a task wait, what only tells people.
const RANKS: usize = 3;

fn rank(what: &What) -> usize {
    match what {
        What::Apply { .. } | What::Retry { .. } => 0,
        What::Admit(_) => 1,
        What::Wait(_) => 2,
    }
}

/// The steps that wait to be written.
#[derive(Default)]
pub struct Line {
    ready: [VecDeque<Key>; RANKS],
    /// The step of each task that waits; one that is planned later takes its place.
    steps: HashMap<Key, Step>,
    /// Tasks that are being written, and whether something was planned for them meanwhile.
    flying: HashMap<Key, bool>,
}

impl Line {
    /// Takes in what a pass planned.
    pub fn add(&mut self, steps: Vec<Step>) {
        for step in steps {
            if let Some(missed) = self.flying.get_mut(&step.key) {
                *missed = true;
                continue;
            }
            let rank = rank(&step.what);
            let before = self.steps.insert(step.key.clone(), step.clone());
            if before.is_none_or(|before| self::rank(&before.what) != rank) {
                self.ready[rank].push_back(step.key);
            }
        }
    }

    /// Takes out the most urgent step; its task counts as being written until [`Line::done`].
    pub fn take(&mut self) -> Option<Step> {
        for (place, ready) in self.ready.iter_mut().enumerate() {
            while let Some(key) = ready.pop_front() {
                // Another step may have taken its place, of another rank, or was written already.
                if self.steps.get(&key).is_none_or(|step| rank(&step.what) != place) {
                    continue;
                }
                self.flying.insert(key.clone(), false);
                return self.steps.remove(&key);
            }
        }
        None
    }

    /// Takes in that a task's write ended; says whether something was planned for it meanwhile.
    pub fn done(&mut self, key: &Key) -> bool {
        self.flying.remove(key).unwrap_or(false)
    }

    /// Says whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Arc;

    use schemas::AgenticTask;
    use schemas::agentic_task::Waiting;
    use schemas::phase::Event;
    use serde_json::json;

    use super::*;
    use crate::agentic_task::plan::TaskObjectRef;
    use crate::cache::Cached;

    fn step(name: &str, what: What) -> Step {
        let task: AgenticTask = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": name, "namespace": "n" }, "spec": { "kind": "freeform", "payload": {} }
        }))
        .unwrap();
        Step {
            key: Key::new("n", name),
            task: TaskObjectRef(Arc::new(Cached::of(task))),
            what,
        }
    }

    fn assign() -> What {
        What::Apply {
            event: Event::Assign { node: "a".into() },
            message: String::new(),
            cause: "assigned",
        }
    }

    fn wait() -> What {
        What::Wait(Waiting {
            place: Some(1),
            reason: "no slot".into(),
        })
    }

    fn taken(line: &mut Line) -> Vec<String> {
        std::iter::from_fn(|| line.take()).map(|step| step.key.name).collect()
    }

    #[test]
    fn an_assignment_goes_before_admissions_and_those_before_what_is_only_told() {
        let mut line = Line::default();
        line.add(vec![
            step("told", wait()),
            step("new", What::Admit(None)),
            step("due", assign()),
        ]);
        assert_eq!(taken(&mut line), ["due", "new", "told"]);
        assert!(line.is_empty());
    }

    #[test]
    fn a_later_step_takes_the_place_of_one_that_still_waits() {
        let mut line = Line::default();
        line.add(vec![step("t", wait()), step("u", wait())]);
        line.add(vec![step("t", assign())]);
        let first = line.take().unwrap();
        assert_eq!((first.key.name.as_str(), rank(&first.what)), ("t", 0));
        assert_eq!(taken(&mut line), ["u"], "it is written once");
    }

    #[test]
    fn what_is_planned_during_a_write_is_not_written_and_asked_for_again() {
        let mut line = Line::default();
        line.add(vec![step("t", What::Admit(None))]);
        let flying = line.take().unwrap();
        line.add(vec![step("t", assign())]);
        assert!(line.take().is_none());
        assert!(line.done(&flying.key));
        assert!(!line.done(&flying.key));
    }
}
