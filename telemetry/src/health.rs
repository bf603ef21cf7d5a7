//! Whether a program is ready, and whether it is alive.
//!
//! *Ready* asks each part whether it can do its work now; waiting cures what is missing. *Alive* fails for what only a
//! restart cures: work that does not come to its end, a worker that broke.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tells how long the program has run.
pub type Elapsed = Arc<dyn Fn() -> Duration + Send + Sync>;

type Check = Box<dyn Fn() -> Result<String, String> + Send + Sync>;

struct Begun {
    what: &'static str,
    at: Duration,
    limit: Duration,
}

#[derive(Default)]
struct State {
    working: BTreeMap<u64, Begun>,
    counter: u64,
    broken: Vec<String>,
}

/// The health of one program.
pub struct Health {
    elapsed: Elapsed,
    state: Mutex<State>,
    parts: Mutex<Vec<(&'static str, Check)>>,
}

/// What there is to say of a program's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether all is well.
    pub well: bool,
    /// One line for each part, or for each thing that is stuck.
    pub text: String,
}

/// Work that was begun; it ends when this is dropped.
pub struct Working {
    health: Arc<Health>,
    id: u64,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.health.state().working.remove(&self.id);
    }
}

impl Health {
    /// Knows of no part and no work yet.
    pub fn new(elapsed: Elapsed) -> Arc<Self> {
        Arc::new(Self {
            elapsed,
            state: Mutex::default(),
            parts: Mutex::default(),
        })
    }

    /// Measures time from now on.
    pub fn from_now() -> Arc<Self> {
        let start = std::time::Instant::now();
        Self::new(Arc::new(move || start.elapsed()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how long the program has run.
    pub fn elapsed(&self) -> Duration {
        (self.elapsed)()
    }

    /// Adds a part: `check` says what it lacks to do its work, or a remark on how it does it, which may be empty.
    pub fn part(&self, name: &'static str, check: impl Fn() -> Result<String, String> + Send + Sync + 'static) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|(known, _)| *known != name);
        parts.push((name, Box::new(check)));
    }

    /// Begins work that is stuck when it has not come to its end within `limit`.
    pub fn begin(self: &Arc<Self>, what: &'static str, limit: Duration) -> Working {
        let at = self.elapsed();
        let mut state = self.state();
        state.counter += 1;
        let id = state.counter;
        state.working.insert(id, Begun { what, at, limit });
        drop(state);
        Working {
            health: self.clone(),
            id,
        }
    }

    /// Records that something ended which never ends by itself.
    pub fn broke(&self, what: impl Into<String>) {
        self.state().broken.push(what.into());
    }

    /// Says whether a restart would not help.
    pub fn live(&self) -> Said {
        let now = self.elapsed();
        let state = self.state();
        let mut lines: Vec<String> = state.broken.iter().map(|what| format!("broken: {what}")).collect();
        for begun in state.working.values() {
            let age = now.saturating_sub(begun.at);
            if age > begun.limit {
                lines.push(format!(
                    "stuck: {} has been at it for {} s; {} s is the most that it may take",
                    begun.what,
                    age.as_secs(),
                    begun.limit.as_secs()
                ));
            }
        }
        let well = lines.is_empty();
        if well {
            lines.push("ok".to_owned());
        }
        Said {
            well,
            text: lines.join("\n") + "\n",
        }
    }

    /// Says of each part whether it can work now.
    pub fn ready(&self) -> Said {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut well = true;
        let mut text = String::new();
        for (name, check) in parts.iter() {
            match check() {
                Ok(remark) if remark.is_empty() => text.push_str(&format!("[+] {name} ok\n")),
                Ok(remark) => text.push_str(&format!("[+] {name} ok: {remark}\n")),
                Err(why) => {
                    well = false;
                    text.push_str(&format!("[-] {name}: {}\n", why.replace(['\n', '\r'], " ")));
                }
            }
        }
        text.push_str(if well { "ready\n" } else { "not ready\n" });
        Said { well, text }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    fn health() -> (Arc<Health>, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(0));
        let clock = now.clone();
        let elapsed: Elapsed = Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
        (Health::new(elapsed), now)
    }

    #[test]
    fn work_is_stuck_only_while_it_is_under_way_for_too_long() {
        let (health, now) = health();
        assert!(health.live().well);
        let work = health.begin("controller Workload", Duration::from_secs(60));
        now.store(60, Ordering::SeqCst);
        assert!(health.live().well);
        now.store(61, Ordering::SeqCst);
        let said = health.live();
        assert!(!said.well && said.text.contains("controller Workload"), "{said:?}");
        drop(work);
        assert!(health.live().well, "it came to its end");
    }

    #[test]
    fn what_broke_stays_broken() {
        let (health, _) = health();
        health.broke("a worker of controller Agent panicked");
        let said = health.live();
        assert!(!said.well && said.text.contains("Agent"), "{said:?}");
    }

    #[test]
    fn readiness_names_the_part_and_why_and_has_nothing_to_do_with_life() {
        let (health, _) = health();
        let there = Arc::new(AtomicBool::new(false));
        let seen = there.clone();
        health.part("caches", || Ok(String::new()));
        health.part("leadership", || Ok("standby".into()));
        health.part("api", move || {
            if seen.load(Ordering::SeqCst) {
                Ok(String::new())
            } else {
                Err("no answer\nfor 12 s".into())
            }
        });
        let said = health.ready();
        assert!(!said.well);
        assert_eq!(
            said.text,
            "[+] caches ok\n[+] leadership ok: standby\n[-] api: no answer for 12 s\nnot ready\n"
        );
        assert!(health.live().well);
        there.store(true, Ordering::SeqCst);
        assert!(health.ready().well);
    }
}
