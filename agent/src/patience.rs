//! Waiting for an API server that is away: one that is restarted, or one whose etcd is.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use tokio_util::sync::CancellationToken;

/// How it is asked.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long one request may take: a server that went away without a word must not hold work for good.
    longest: Duration,
    /// Between the first two tries; the pause doubles.
    pause: Duration,
    /// The longest pause.
    longest_pause: Duration,
}

const PACE: Pace = Pace {
    longest: Duration::from_secs(30),
    pause: Duration::from_millis(250),
    longest_pause: Duration::from_secs(4),
};

/// The longest pause between two tries to take a watch up.
const LONGEST_PAUSE_OF_WATCHES: Duration = Duration::from_secs(5);

/// The usual pauses of a watch that breaks off, none of them long: an API that comes back is heard again soon.
pub struct Pauses {
    usual: DefaultBackoff,
    longest: Duration,
}

impl Pauses {
    /// Makes pauses of at most `longest`, which is a second at the least.
    pub fn up_to(longest: Duration) -> Self {
        Self {
            usual: DefaultBackoff::default(),
            longest: longest.max(Duration::from_secs(1)),
        }
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self::up_to(LONGEST_PAUSE_OF_WATCHES)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.usual.next()?.min(self.longest))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.usual.reset();
    }
}

/// Why a request was not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The API refused.
    #[error(transparent)]
    Refused(#[from] kube::Error),
    /// The work that asks was cancelled before the API answered.
    #[error("failed to reach the API before the work was cancelled; the last try: {0}")]
    Cancelled(String),
}

/// Returns whether nobody was there to answer a request, so that asking again may help. It may have been carried out.
pub fn is_away(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Asks the API until it answers, for as long as the work that asks is wanted.
///
/// What is asked is told which try it is, from 0: a try before may have been carried out without an answer.
pub async fn answered<T, F>(cancel: &CancellationToken, what: &str, ask: impl FnMut(u32) -> F) -> Result<T, Unanswered>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    answered_at(PACE, cancel, what, ask).await
}

async fn answered_at<T, F>(
    pace: Pace,
    cancel: &CancellationToken,
    what: &str,
    mut ask: impl FnMut(u32) -> F,
) -> Result<T, Unanswered>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut pause = pace.pause;
    let mut last = "none was answered".to_owned();
    for number in 0.. {
        let asked = tokio::select! {
            biased;
            asked = tokio::time::timeout(pace.longest, ask(number)) => asked,
            () = cancel.cancelled() => break,
        };
        last = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_away(&error) => error.to_string(),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => format!("no answer within {:?}", pace.longest),
        };
        tracing::warn!(what, error = last, number, "the API does not answer; asking again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => break,
        }
        pause = (pause * 2).min(pace.longest_pause);
    }
    Err(Unanswered::Cancelled(last))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use kube::core::Status;

    const QUICK: Pace = Pace {
        longest: Duration::from_millis(20),
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
    };

    fn failure(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure("x", "X").with_code(code)))
    }

    #[test]
    fn only_a_server_that_is_away_is_asked_again() {
        for (code, away) in [
            (500, true),
            (503, true),
            (504, true),
            (429, true),
            (403, false),
            (404, false),
            (409, false),
        ] {
            assert_eq!(is_away(&failure(code)), away, "{code}");
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(is_away(&kube::Error::Service(refused.into())));
    }

    #[test]
    fn a_watch_is_taken_up_again_within_the_time_that_was_asked_for() {
        let longest = |pauses: Pauses| pauses.take(30).max().unwrap();
        assert_eq!(longest(Pauses::default()), LONGEST_PAUSE_OF_WATCHES);
        assert_eq!(longest(Pauses::up_to(Duration::from_secs(2))), Duration::from_secs(2));
        let none = Pauses::up_to(Duration::ZERO).map(|pause| pause.as_millis());
        assert!(none.take(30).all(|millis| millis > 0), "never at once, again and again");
    }

    #[tokio::test]
    async fn an_api_that_is_away_is_asked_until_it_answers() {
        let cancel = CancellationToken::new();
        let answer = answered_at(QUICK, &cancel, "x", |number| async move {
            match number {
                0..5 => Err(failure(503)),
                5 => std::future::pending().await,
                _ => Ok(number),
            }
        });
        assert_eq!(answer.await.unwrap(), 6);
        let refused = answered_at::<(), _>(QUICK, &cancel, "x", |number| async move {
            assert_eq!(number, 0, "a refusal is an answer");
            Err(failure(403))
        });
        assert!(matches!(refused.await, Err(Unanswered::Refused(_))));
    }

    #[tokio::test]
    async fn work_that_is_cancelled_waits_for_no_api() {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let asked = answered_at::<(), _>(QUICK, &cancel, "x", |number| {
            if number == 3 {
                stop.cancel();
            }
            async { Err(failure(503)) }
        });
        let error = asked.await.unwrap_err();
        assert!(
            matches!(&error, Unanswered::Cancelled(last) if last.contains('x')),
            "{error}"
        );
    }
}
