//! Which nodes live: pure, by what was seen to change and when it was seen.
//!
//! Where a Lease `foreman-node-<name>` exists it decides. Otherwise the heartbeat in the FleetNode's status does. Age
//! counts from when the change was seen here, never by the other side's clock.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// How long a heartbeat is good: three of the default intervals.
pub const HEARTBEAT_GOOD_FOR: Duration = Duration::from_secs(90);

#[derive(Clone, Debug, Default, PartialEq)]
struct Beat {
    time: Option<Timestamp>,
    seen: Duration,
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    version: String,
    holder: Option<String>,
    good_for: Duration,
    seen: Duration,
}

/// What is known of all nodes.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    beats: HashMap<String, Beat>,
    leases: HashMap<String, Held>,
}

/// Whether a node lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it is heard of.
    pub alive: bool,
    /// Identity of the agent process that holds the Lease, where there is one.
    pub holder: Option<String>,
    /// Whether its agent left on purpose a short while ago, so that its own last word still stands.
    pub left: bool,
    /// When this is to be judged anew even if nothing changes; `None` if it is over for good.
    pub until: Option<Duration>,
    /// What decided, for people.
    pub because: String,
}

impl Liveness {
    /// Takes in a FleetNode's heartbeat.
    pub fn beat(&mut self, node: &str, time: Option<Timestamp>, at: Duration) {
        match self.beats.get_mut(node) {
            Some(beat) if beat.time == time => {}
            Some(beat) => *beat = Beat { time, seen: at },
            None => {
                self.beats.insert(node.to_owned(), Beat { time, seen: at });
            }
        }
    }

    /// Forgets a FleetNode.
    pub fn forget(&mut self, node: &str) {
        self.beats.remove(node);
    }

    /// Takes in a node's Lease at a version.
    pub fn lease(&mut self, node: &str, version: &str, holder: Option<&str>, good_for: Duration, at: Duration) {
        let known = self.leases.get(node);
        if known.is_some_and(|held| held.version == version) {
            return;
        }
        let holder = holder.filter(|holder| !holder.is_empty()).map(str::to_owned);
        self.leases.insert(
            node.to_owned(),
            Held {
                version: version.to_owned(),
                holder,
                good_for,
                seen: at,
            },
        );
    }

    /// Forgets a node's Lease.
    pub fn lease_gone(&mut self, node: &str) {
        self.leases.remove(node);
    }

    /// Judges a node at a time.
    pub fn judge(&self, node: &str, at: Duration) -> Judgement {
        if let Some(held) = self.leases.get(node) {
            let Some(holder) = &held.holder else {
                let until = self.heard_until(node).filter(|until| at < *until);
                return Judgement {
                    left: until.is_some(),
                    until,
                    ..over(None, format!("the agent on {node:?} let go of its lease"))
                };
            };
            let until = held.seen.saturating_add(held.good_for);
            if at >= until {
                let because = format!(
                    "the lease of {node:?} was not renewed for {} s",
                    held.good_for.as_secs()
                );
                return over(Some(holder.clone()), because);
            }
            return Judgement {
                alive: true,
                holder: Some(holder.clone()),
                left: false,
                until: Some(until),
                because: "its lease is renewed".into(),
            };
        }
        match self.heard_until(node) {
            Some(until) => {
                if at >= until {
                    let because = format!("no heartbeat of {node:?} for {} s", HEARTBEAT_GOOD_FOR.as_secs());
                    return over(None, because);
                }
                Judgement {
                    alive: true,
                    holder: None,
                    left: false,
                    until: Some(until),
                    because: "its heartbeat is fresh".into(),
                }
            }
            None => over(None, format!("{node:?} never sent a heartbeat")),
        }
    }

    /// Returns when a node's last heartbeat was seen, by our own clock.
    pub fn last_beat(&self, node: &str) -> Option<Duration> {
        let beat = self.beats.get(node).filter(|beat| beat.time.is_some())?;
        Some(beat.seen)
    }

    /// Returns until when a node's last heartbeat is good.
    fn heard_until(&self, node: &str) -> Option<Duration> {
        let beat = self.beats.get(node).filter(|beat| beat.time.is_some())?;
        Some(beat.seen.saturating_add(HEARTBEAT_GOOD_FOR))
    }
}

fn over(holder: Option<String>, because: String) -> Judgement {
    Judgement {
        alive: false,
        holder,
        left: false,
        until: None,
        because,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_heartbeat_ages_from_when_it_was_seen_not_by_its_own_date() {
        let mut liveness = Liveness::default();
        let long_ago = Timestamp::from_second(1).unwrap();
        liveness.beat("n", Some(long_ago), S(1000));
        assert!(liveness.judge("n", S(1089)).alive);
        assert!(!liveness.judge("n", S(1090)).alive);
        liveness.beat("n", Some(long_ago), S(1100));
        assert!(
            !liveness.judge("n", S(1100)).alive,
            "the same heartbeat seen again is no sign of life"
        );
        liveness.beat("n", Some(Timestamp::from_second(2).unwrap()), S(1101));
        assert!(liveness.judge("n", S(1101)).alive);
    }

    #[test]
    fn a_lease_decides_over_the_heartbeat() {
        let mut liveness = Liveness::default();
        liveness.beat("n", Some(Timestamp::UNIX_EPOCH), S(0));
        liveness.lease("n", "1", Some("p1"), S(15), S(0));
        assert_eq!(liveness.judge("n", S(14)).holder.as_deref(), Some("p1"));
        assert!(!liveness.judge("n", S(15)).alive, "the heartbeat would still be good");
        liveness.lease("n", "2", Some("p2"), S(15), S(20));
        let judged = liveness.judge("n", S(20));
        assert_eq!(
            (judged.alive, judged.holder.as_deref(), judged.until),
            (true, Some("p2"), Some(S(35)))
        );
        liveness.lease("n", "3", Some(""), S(15), S(21));
        let left = liveness.judge("n", S(21));
        assert!(!left.alive, "a lease that was let go of is over at once");
        assert_eq!((left.left, left.until), (true, Some(S(90))), "it left just now");
        let gone = liveness.judge("n", S(90));
        assert_eq!((gone.alive, gone.left, gone.until), (false, false, None));
        liveness.lease_gone("n");
        assert!(
            liveness.judge("n", S(22)).alive,
            "without a lease the heartbeat decides again"
        );
    }

    #[test]
    fn a_node_that_never_spoke_is_not_alive() {
        let mut liveness = Liveness::default();
        assert!(!liveness.judge("n", S(0)).alive);
        liveness.beat("n", None, S(0));
        assert!(!liveness.judge("n", S(0)).alive);
    }
}
