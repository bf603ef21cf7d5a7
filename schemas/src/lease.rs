//! A Lease that one process at a time holds: what a process may do about it, and what it writes. Pure.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// A process that wants to hold a Lease, and what it saw of it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Identity of the process.
    pub identity: String,
    /// Seconds for which the Lease is good without renewal.
    pub seconds: i32,
    /// The version that was seen last, and when by the process's own clock.
    seen: Option<(Option<String>, Duration)>,
}

impl Candidate {
    /// Wants to hold a Lease that is good for so many seconds.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
        seconds: i32,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            seconds: seconds.max(1),
            seen: None,
        }
    }

    /// Builds what the process writes to hold the Lease that it found, or to make it; `None` while another holds it.
    ///
    /// `elapsed` is the time since the process began: a Lease's age counts from when the process saw it change, never by
    /// its holder's clock.
    pub fn claim(&mut self, found: Option<&Lease>, elapsed: Duration, now: Timestamp) -> Option<Lease> {
        if let Some(lease) = found
            && self.is_held_by_another(lease, elapsed)
        {
            return None;
        }
        let mut lease = found.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        lease.metadata.namespace = Some(self.namespace.clone());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            let turns = spec.lease_transitions.map_or(0, |turns| turns.saturating_add(1));
            spec.lease_transitions = Some(turns);
            spec.acquire_time = Some(MicroTime(now));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(self.seconds);
        spec.renew_time = Some(MicroTime(now));
        Some(lease)
    }

    fn is_held_by_another(&mut self, lease: &Lease, elapsed: Duration) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or("");
        if holder.is_empty() || holder == self.identity {
            return false;
        }
        let version = &lease.metadata.resource_version;
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => {
                self.seen = Some((version.clone(), elapsed));
                elapsed
            }
        };
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let good_for = u64::try_from(seconds.unwrap_or(self.seconds)).unwrap_or(0).max(1);
        elapsed.saturating_sub(since) <= Duration::from_secs(good_for)
    }

    /// Builds what the process writes to give the Lease back, so that nobody has to wait for its end; `None` where it is
    /// another's.
    pub fn give_back(&self, mut lease: Lease) -> Option<Lease> {
        let spec = lease.spec.as_mut()?;
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return None;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        Some(lease)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn lease(holder: Option<&str>, version: &str) -> Lease {
        let mut lease = Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(15),
                lease_transitions: Some(3),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    fn me() -> Candidate {
        Candidate::new("n", "l", "me", 30)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_of_another_is_taken_only_after_its_duration_without_change() {
        let mut me = me();
        let mut takes = |holder, version, seconds| {
            let found = lease(holder, version);
            me.claim(Some(&found), at(seconds), Timestamp::UNIX_EPOCH).is_some()
        };
        for holder in [None, Some(""), Some("me")] {
            assert!(takes(holder, "1", 0), "{holder:?}");
        }
        assert!(!takes(Some("you"), "2", 100), "it was never seen before");
        assert!(!takes(Some("you"), "2", 115));
        assert!(!takes(Some("you"), "3", 116), "it was renewed");
        assert!(!takes(Some("you"), "3", 131));
        assert!(takes(Some("you"), "3", 132));
    }

    #[test]
    fn what_is_written_counts_holders_and_keeps_the_version() {
        let now = Timestamp::from_second(1_000).unwrap();
        let made = me().claim(None, at(0), now).unwrap();
        assert_eq!(
            (made.metadata.namespace.as_deref(), made.metadata.name.as_deref()),
            (Some("n"), Some("l"))
        );
        let spec = made.spec.clone().unwrap();
        assert_eq!(
            (spec.lease_transitions, spec.lease_duration_seconds),
            (Some(0), Some(30))
        );
        assert_eq!(spec.acquire_time, Some(MicroTime(now)));

        let later = Timestamp::from_second(1_010).unwrap();
        let renewed = me().claim(Some(&made), at(10), later).unwrap().spec.unwrap();
        assert_eq!(
            (renewed.lease_transitions, renewed.acquire_time),
            (Some(0), Some(MicroTime(now)))
        );
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));

        let taken = me().claim(Some(&lease(None, "7")), at(0), now).unwrap();
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(4));
    }

    #[test]
    fn only_the_own_lease_is_given_back() {
        let given = me().give_back(lease(Some("me"), "1")).unwrap().spec.unwrap();
        assert_eq!(given.holder_identity.as_deref(), Some(""));
        assert!(me().give_back(lease(Some("you"), "1")).is_none());
        let mut other = Candidate::new("n", "l", "other", 30);
        let free = me().give_back(lease(Some("me"), "1")).unwrap();
        assert!(other.claim(Some(&free), at(0), Timestamp::UNIX_EPOCH).is_some());
    }
}
