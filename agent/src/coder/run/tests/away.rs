//! Model servers that are away, for a while or for good.

use super::*;

/// A model server that is away for its first questions.
struct Away {
    errors: Mutex<VecDeque<ModelError>>,
    back: Scripted,
    questions: AtomicU64,
}

impl Away {
    fn new(errors: Vec<ModelError>, replies: Vec<Reply>) -> Self {
        Self {
            errors: Mutex::new(errors.into()),
            back: Scripted::new(replies),
            questions: AtomicU64::new(0),
        }
    }
}

impl Provider for Away {
    fn complete<'a>(&'a self, request: &'a Request, sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        match self.errors.lock().unwrap().pop_front() {
            Some(error) => {
                self.back.asked.notify_one();
                Box::pin(async { Err(error) })
            }
            None => self.back.complete(request, sink),
        }
    }

    fn model(&self) -> String {
        "away".into()
    }
}

fn unreachable() -> ModelError {
    ModelError::Unreachable {
        url: "http://m/v1".into(),
        reason: "connection refused".into(),
        may_come: true,
    }
}

fn status(status: u16) -> ModelError {
    ModelError::Status {
        url: "http://m/v1".into(),
        status,
        message: "Loading model".into(),
        retry_after: None,
    }
}

const QUICK: Patience = Patience {
    whole: Duration::from_secs(60),
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(2),
};

#[tokio::test]
async fn a_model_server_that_is_away_for_a_while_costs_no_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let mut journal = Journal::create(&path, None).unwrap();
    let errors = vec![unreachable(), status(503), status(502), status(504), unreachable()];
    let provider = Away::new(errors, fixing());
    let (news, mut heard) = News::new();
    let session = Session {
        news,
        ..session(folder.path(), "one")
    };
    let hears = async {
        let mut words = Vec::new();
        while heard.changed().await.is_ok() {
            words.push(heard.borrow_and_update().clone().unwrap());
        }
        words
    };
    let (end, words) = tokio::join!(
        run_with(QUICK, session, &provider, &mut journal, CancellationToken::new()),
        hears
    );
    assert_eq!((end.verdict, end.turns), (Verdict::Go, 4), "{}", end.summary);
    assert!(words[0].contains("it is asked again"), "{words:?}");
    assert_eq!(words.last().unwrap(), "", "it answers at last");
    let entries = journal::read(&path).unwrap();
    let notes = entries.iter().filter(
        |entry| matches!(entry, Entry::Note { turn: 1, text } if text.contains("does not answer and is asked again")),
    );
    assert_eq!(notes.count(), 5);
    assert!(!entries.iter().any(|entry| matches!(entry, Entry::ModelFailed { .. })));
}

#[tokio::test]
async fn a_model_server_that_stays_away_or_refuses_ends_the_run_by_its_name() {
    for (patience, errors, questions) in [
        (
            Patience {
                whole: Duration::ZERO,
                ..QUICK
            },
            vec![unreachable()],
            1,
        ),
        (QUICK, vec![status(503), status(500)], 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&folder.path().join("j"), None).unwrap();
        let provider = Away::new(errors, fixing());
        let session = session(folder.path(), "one");
        let end = run_with(patience, session, &provider, &mut journal, CancellationToken::new()).await;
        assert_eq!(
            (end.ending, end.failure_reason),
            (
                Ending::ModelUnavailable,
                Some(FailureReason::InferenceServiceUnavailable)
            )
        );
        assert_eq!(provider.questions.load(Ordering::Relaxed), questions, "{}", end.summary);
    }
}

#[tokio::test]
async fn the_wait_for_a_model_server_ends_with_the_run() {
    let slow = Patience {
        whole: Duration::from_secs(3600),
        pause: Duration::from_secs(3600),
        longest_pause: Duration::from_secs(3600),
    };
    for (wall, ending) in [
        (Duration::from_secs(3600), Ending::Cancelled),
        (Duration::from_millis(40), Ending::WallTimeExhausted),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&folder.path().join("j"), None).unwrap();
        let provider = Away::new(vec![unreachable()], vec![]);
        let mut session = session(folder.path(), "one");
        session.budget.wall = wall;
        session.began = Instant::now();
        let cancel = CancellationToken::new();
        let running = run_with(slow, session, &provider, &mut journal, cancel.clone());
        let cancelling = async {
            provider.back.asked.notified().await;
            if ending == Ending::Cancelled {
                cancel.cancel();
            }
        };
        let (end, ()) = tokio::join!(running, cancelling);
        assert_eq!(end.ending, ending, "{}", end.summary);
    }
}
