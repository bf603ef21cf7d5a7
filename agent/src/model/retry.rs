//! When a model request is sent again, and after how long.

use std::time::Duration;

/// Holds the rule of repetition.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait; it doubles with each further one.
    pub base: Duration,
    /// No wait is longer, whatever the server asks for.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// Returns the wait before attempt `attempt` (1 is the first repetition).
    ///
    /// `spread` in 0..=1 shortens the wait by up to half, so that many clients do not return together;
    /// a wait that the server asked for is never shortened.
    pub fn wait(&self, attempt: u32, retry_after: Option<Duration>, spread: f64) -> Duration {
        if let Some(asked) = retry_after {
            return asked.min(self.cap);
        }
        let doubled = self
            .base
            .saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1).min(16)));
        doubled.min(self.cap).mul_f64(1.0 - spread.clamp(0.0, 1.0) / 2.0)
    }
}

/// Reads a `Retry-After` value: seconds, or an HTTP date relative to `now` (seconds since the epoch).
pub fn parse_retry_after(value: &str, now: i64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    let seconds = date.timestamp().as_second().saturating_sub(now);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// How a model server that went away is waited for. It may be restarted, or load its model: that costs no round.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long it may stay away.
    pub whole: Duration,
    /// Between the first two questions; the pause doubles.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

/// The patience of a run.
pub const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(300),
    pause: Duration::from_secs(2),
    longest_pause: Duration::from_secs(15),
};

impl Patience {
    /// Returns the pause that follows another.
    pub fn after(self, pause: Duration) -> Duration {
        (pause * 2).min(self.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_spread_only_shortens() {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(5),
        };
        let waits: Vec<u64> = (1..=5).map(|n| backoff.wait(n, None, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.wait(2, None, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.wait(40, None, 0.0), Duration::from_secs(5));
    }

    #[test]
    fn what_the_server_asks_for_is_kept_to_but_capped() {
        let backoff = Backoff {
            base: Duration::from_millis(1),
            cap: Duration::from_secs(5),
        };
        assert_eq!(
            backoff.wait(1, Some(Duration::from_secs(3)), 1.0),
            Duration::from_secs(3)
        );
        assert_eq!(
            backoff.wait(1, Some(Duration::from_secs(900)), 0.0),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        assert_eq!(parse_retry_after("7", 0), Some(Duration::from_secs(7)));
        assert_eq!(
            parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 15),
            Some(Duration::from_secs(45))
        );
        assert_eq!(
            parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 99),
            Some(Duration::ZERO)
        );
        assert_eq!(parse_retry_after("soon", 0), None);
        assert_eq!(parse_retry_after("-1", 0), None);
    }
}
