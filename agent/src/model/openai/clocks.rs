//! How long the next piece of a reply is waited for, and what it means when none comes. No I/O.

use std::time::Duration;

use tokio::time::Instant;

use super::Endpoint;
use crate::model::{Protocol, Request};

/// Shortest silence that ends a reply which has begun, unless the endpoint says otherwise.
const SILENCE: Duration = Duration::from_secs(60);

/// Says which clock runs out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The turn is over.
    Turn,
    /// A reply that had begun does not go on.
    Silence,
    /// The reply is whole, and nothing more is worth waiting for.
    Closing,
}

/// The clocks of one reply.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    started: Instant,
    /// Limit of one turn.
    limit: Duration,
    turn: Instant,
    /// Whether the turn was made longer before the reply began.
    longer: bool,
    silence: Duration,
    /// A silence after which nobody is taken to be writing any more.
    long: Duration,
    closing: Duration,
    /// When the last piece came, signs of life included.
    heard: Instant,
    /// When the reply last grew, or was seen to be whole.
    settled: Instant,
    size: usize,
    whole: bool,
}

impl Clocks {
    /// Starts the clocks of a request that is sent at `now`.
    pub(super) fn start(endpoint: &Endpoint, request: &Request, now: Instant) -> Self {
        Self {
            started: now,
            limit: endpoint.turn_timeout,
            turn: now + endpoint.turn_timeout,
            longer: false,
            silence: silence(endpoint, request),
            long: (endpoint.turn_timeout / 2).max(SILENCE),
            closing: endpoint.closing_timeout,
            heard: now,
            settled: now,
            size: 0,
            whole: false,
        }
    }

    /// Returns when the turn is over.
    pub(super) fn turn(&self) -> Instant {
        self.turn
    }

    /// Returns how long the turn was in all, in seconds.
    pub(super) fn seconds(&self) -> u64 {
        (self.turn - self.started).as_secs()
    }

    /// Gives a reply that has not begun as long again.
    pub(super) fn wait_longer(&mut self, now: Instant) {
        self.turn = now + self.limit;
        self.longer = true;
    }

    /// Returns how long a reply that has begun may be silent.
    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    /// Tells whether nothing came for so long that a server which still wrote would have been heard.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= self.long
    }

    /// Notes what has come by `now`.
    pub(super) fn see(&mut self, size: usize, whole: bool, now: Instant) {
        if self.longer && self.size == 0 && size > 0 {
            // What was waited for so long was not the writing.
            self.turn = now + self.limit;
            self.longer = false;
        }
        if (size, whole) != (self.size, self.whole) {
            (self.size, self.whole) = (size, whole);
            self.settled = now;
        }
        self.heard = now;
    }

    /// Returns until when the next piece is waited for, and what it means when none comes by then.
    ///
    /// Before the reply begins only the turn's limit holds: servers send headers and signs of life while they read a
    /// long prompt. Signs of life do not keep a whole reply open, more of it does.
    pub(super) fn next(&self) -> (Instant, Over) {
        if self.whole {
            return ((self.settled + self.closing).min(self.turn), Over::Closing);
        }
        let silent = self.heard + self.silence;
        if self.size > 0 && silent < self.turn {
            (silent, Over::Silence)
        } else {
            (self.turn, Over::Turn)
        }
    }
}

/// Returns how long a reply that has begun may be silent. Servers hold native calls back until they are whole, so that a
/// pause says nothing there.
fn silence(endpoint: &Endpoint, request: &Request) -> Duration {
    let offers_calls = request.protocol == Protocol::Native && !request.tools.is_empty();
    endpoint.idle_timeout.unwrap_or(if offers_calls {
        endpoint.turn_timeout
    } else {
        (endpoint.turn_timeout / 2).max(SILENCE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clocks(turn: u32, protocol: Protocol, idle: Option<Duration>, now: Instant) -> Clocks {
        let mut endpoint = Endpoint::new("http://h", "m");
        endpoint.turn_timeout = turn * SECOND;
        endpoint.idle_timeout = idle;
        let request = Request {
            messages: Vec::new(),
            tools: crate::tools::all_specs(),
            protocol,
            max_tokens: 1,
            temperature: None,
            chat_template_kwargs: serde_json::Map::new(),
        };
        Clocks::start(&endpoint, &request, now)
    }

    #[test]
    fn a_reply_that_has_not_begun_has_the_whole_turn() {
        let now = Instant::now();
        for (protocol, idle) in [
            (Protocol::Native, None),
            (Protocol::Text, None),
            (Protocol::Text, Some(SECOND)),
        ] {
            let mut clocks = clocks(600, protocol, idle, now);
            assert_eq!(clocks.next(), (now + 600 * SECOND, Over::Turn));
            clocks.see(0, false, now + 5 * SECOND);
            assert_eq!(clocks.next(), (now + 600 * SECOND, Over::Turn), "after a sign of life");
        }
    }

    #[test]
    fn a_reply_that_begins_late_has_a_whole_turn_from_then_on() {
        let now = Instant::now();
        let mut clocks = clocks(600, Protocol::Native, None, now);
        clocks.wait_longer(now + 600 * SECOND);
        assert_eq!(clocks.next(), (now + 1200 * SECOND, Over::Turn));
        clocks.see(0, false, now + 900 * SECOND);
        assert_eq!(clocks.next(), (now + 1200 * SECOND, Over::Turn), "after a sign of life");
        clocks.see(1, false, now + 1100 * SECOND);
        assert_eq!(clocks.next(), (now + 1700 * SECOND, Over::Turn));
        clocks.see(2, false, now + 1200 * SECOND);
        assert_eq!((clocks.turn(), clocks.seconds()), (now + 1700 * SECOND, 1700));
    }

    #[test]
    fn a_reply_that_has_begun_may_pause_for_half_a_turn_and_with_native_calls_for_all_of_it() {
        let now = Instant::now();
        let heard = now + 10 * SECOND;
        let next = |turn, protocol, idle| {
            let mut clocks = clocks(turn, protocol, idle, now);
            clocks.see(1, false, heard);
            clocks.next()
        };
        assert_eq!(next(600, Protocol::Native, None), (now + 600 * SECOND, Over::Turn));
        assert_eq!(next(600, Protocol::Text, None), (heard + 300 * SECOND, Over::Silence));
        assert_eq!(next(100, Protocol::Text, None), (heard + 60 * SECOND, Over::Silence));
        assert_eq!(next(30, Protocol::JsonSchema, None), (now + 30 * SECOND, Over::Turn));
        assert_eq!(
            next(600, Protocol::Native, Some(7 * SECOND)),
            (heard + 7 * SECOND, Over::Silence),
            "what is set holds"
        );
    }

    #[test]
    fn a_reply_that_has_been_silent_for_half_a_turn_is_not_being_written() {
        let now = Instant::now();
        let quiet = |turn: u32, heard: u32| {
            let mut clocks = clocks(turn, Protocol::Native, None, now);
            clocks.see(1, false, now + heard * SECOND);
            clocks.is_quiet(now + turn * SECOND)
        };
        assert!(quiet(600, 10) && quiet(100, 40));
        assert!(!quiet(600, 301) && !quiet(100, 41));
    }

    #[test]
    fn a_whole_reply_waits_for_its_counts_a_moment_and_not_for_signs_of_life() {
        let now = Instant::now();
        let mut clocks = clocks(600, Protocol::Native, None, now);
        clocks.see(5, false, now + 10 * SECOND);
        clocks.see(5, true, now + 100 * SECOND);
        assert_eq!(clocks.next(), (now + 102 * SECOND, Over::Closing));
        clocks.see(5, true, now + 101 * SECOND);
        assert_eq!(clocks.next(), (now + 102 * SECOND, Over::Closing), "a sign of life");
        clocks.see(6, true, now + 101 * SECOND);
        assert_eq!(clocks.next(), (now + 103 * SECOND, Over::Closing), "more of the reply");
        clocks.see(7, true, now + 599 * SECOND);
        assert_eq!(clocks.next(), (now + 600 * SECOND, Over::Closing), "the turn is over");
    }
}
