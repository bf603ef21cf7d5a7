//! Time, passed in.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Tells the time of day and how long the process has run.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time of day, for people and for records.
    fn now(&self) -> Timestamp;
    /// Returns a time that never goes back, for ages and limits.
    fn elapsed(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// Starts at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: Mutex::new((now, Duration::ZERO)),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut state = lock(&self.state);
        state.0 += jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX);
        state.1 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        lock(&self.state).0
    }

    fn elapsed(&self) -> Duration {
        lock(&self.state).1
    }
}

/// Locks `mutex`; what a thread that panicked left behind is still consistent here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
