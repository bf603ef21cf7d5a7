//! Time, passed in.

use std::sync::{Arc, Mutex};
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

/// A clock whose elapsed time stands still while something else does not go on: who cannot hear counts no silence.
pub struct Pausing<F> {
    clock: Arc<dyn Clock>,
    paused: F,
}

impl<F: Fn() -> Duration> Pausing<F> {
    /// Takes from the time of `clock` what `paused` says that it stood still for, in sum.
    pub fn new(clock: Arc<dyn Clock>, paused: F) -> Self {
        Self { clock, paused }
    }
}

impl<F: Fn() -> Duration + Send + Sync + 'static> Clock for Pausing<F> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        // Asked in this order: a pause that begins between the two is not taken off too early.
        let paused = (self.paused)();
        self.clock.elapsed().saturating_sub(paused)
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
