//! Cycles in graphs of names.

use std::collections::{BTreeMap, BTreeSet};

/// Returns every name that lies on a cycle, and no other; edges to unknown names are ignored.
///
/// Tarjan's strongly connected components, without recursion, so that a long chain cannot exhaust the stack.
pub fn on_cycles<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let names: Vec<&str> = edges.keys().copied().collect();
    let place: BTreeMap<&str, usize> = names.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let next: Vec<Vec<usize>> = edges
        .values()
        .map(|targets| targets.iter().filter_map(|target| place.get(target).copied()).collect())
        .collect();
    let mut search = Search {
        index: vec![None; names.len()],
        low: vec![0; names.len()],
        on_stack: vec![false; names.len()],
        stack: Vec::new(),
        counter: 0,
    };
    let mut found = BTreeSet::new();
    for start in 0..names.len() {
        if search.index[start].is_none() {
            search.component(start, &next, |members| {
                let alone = members.len() == 1 && !next[members[0]].contains(&members[0]);
                if !alone {
                    found.extend(members.iter().map(|at| names[*at]));
                }
            });
        }
    }
    found
}

struct Search {
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    counter: usize,
}

impl Search {
    fn enter(&mut self, node: usize) {
        self.index[node] = Some(self.counter);
        self.low[node] = self.counter;
        self.counter += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    fn component(&mut self, start: usize, next: &[Vec<usize>], mut emit: impl FnMut(&[usize])) {
        let mut work = vec![(start, 0)];
        self.enter(start);
        while let Some((node, edge)) = work.pop() {
            if let Some(&target) = next[node].get(edge) {
                work.push((node, edge + 1));
                match self.index[target] {
                    None => {
                        self.enter(target);
                        work.push((target, 0));
                    }
                    Some(index) if self.on_stack[target] => self.low[node] = self.low[node].min(index),
                    Some(_) => {}
                }
                continue;
            }
            if let Some(&(parent, _)) = work.last() {
                self.low[parent] = self.low[parent].min(self.low[node]);
            }
            if Some(self.low[node]) == self.index[node] {
                let at = self.stack.iter().rposition(|member| *member == node).unwrap_or(0);
                let members = self.stack.split_off(at);
                for member in &members {
                    self.on_stack[*member] = false;
                }
                emit(&members);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn graph<'a>(edges: &[(&'a str, &[&'a str])]) -> BTreeMap<&'a str, Vec<&'a str>> {
        edges.iter().map(|(from, to)| (*from, to.to_vec())).collect()
    }

    #[test]
    fn only_the_names_on_a_cycle_are_found() {
        let edges = graph(&[
            ("a", &["b"]),
            ("b", &["c"]),
            ("c", &["a"]),
            ("d", &["a"]),
            ("e", &["missing"]),
            ("f", &["f"]),
        ]);
        assert_eq!(on_cycles(&edges).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "f"]);
    }

    #[test]
    fn two_cycles_joined_by_a_path_do_not_taint_the_path() {
        let edges = graph(&[
            ("a", &["b"]),
            ("b", &["a", "m"]),
            ("m", &["x"]),
            ("x", &["y"]),
            ("y", &["x"]),
        ]);
        assert_eq!(on_cycles(&edges).into_iter().collect::<Vec<_>>(), ["a", "b", "x", "y"]);
    }

    #[test]
    fn a_chain_of_fifty_thousand_is_no_cycle_and_needs_no_deep_stack() {
        let names: Vec<String> = (0..50_000).map(|n| format!("n{n:06}")).collect();
        let edges: BTreeMap<&str, Vec<&str>> = names
            .windows(2)
            .map(|pair| (pair[0].as_str(), vec![pair[1].as_str()]))
            .collect();
        assert!(on_cycles(&edges).is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_reachability(pairs in proptest::collection::vec((0usize..8, 0usize..8), 0..24)) {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let mut edges: BTreeMap<&str, Vec<&str>> = names.iter().map(|n| (*n, Vec::new())).collect();
            let mut reach = [[false; 8]; 8];
            for (from, to) in pairs {
                edges.entry(names[from]).or_default().push(names[to]);
                reach[from][to] = true;
            }
            for k in 0..8 { for i in 0..8 { for j in 0..8 { reach[i][j] |= reach[i][k] && reach[k][j]; } } }
            let expected: BTreeSet<&str> = (0..8).filter(|n| reach[*n][*n]).map(|n| names[n]).collect();
            prop_assert_eq!(on_cycles(&edges), expected);
        }
    }
}
