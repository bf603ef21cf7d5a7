//! How long a reply is waited for, and when it is asked for anew.

use super::*;

#[tokio::test]
async fn a_wait_that_the_server_asks_for_is_kept() {
    let (url, _) = serve(|number, _, _| match number {
        0 => (
            StatusCode::TOO_MANY_REQUESTS,
            [(header::RETRY_AFTER, "0.04")],
            "slow down",
        )
            .into_response(),
        _ => stream_of(GOOD),
    })
    .await;
    let started = Instant::now();
    ask(&client(&url)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(40));
}

#[tokio::test]
async fn silence_and_slowness_have_limits_of_their_own() {
    let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let (url, count) = serve(move |_, _, _| stuck_after(vec![piece])).await;
    let mut idle = client(&url);
    idle.endpoint.idle_timeout = Some(Duration::from_millis(30));
    idle.endpoint.max_retries = 1;
    let error = ask(&idle).await.unwrap_err();
    assert!(
        matches!(error, ModelError::Idle { .. }) && error.category() == Category::Timeout,
        "{error}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_reply_that_outlasts_the_turn_is_not_asked_for_again_and_one_that_never_began_is() {
    let begun = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n";
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    // The first piece of a reply that begins must have come when the turn is over, also on a busy machine.
    for (piece, turn, category, times) in [(begun, 2000, Category::Endless, 1), (role, 30, Category::Timeout, 2)] {
        let (url, count) = serve(move |_, _, _| stuck_after(vec![piece])).await;
        let mut slow = client(&url);
        slow.endpoint.turn_timeout = Duration::from_millis(turn);
        slow.endpoint.max_retries = 1;
        let error = ask(&slow).await.unwrap_err();
        assert!(matches!(error, ModelError::TurnTimeout { .. }), "{error}");
        assert_eq!((error.category(), count.load(Ordering::SeqCst)), (category, times));
    }
}

#[tokio::test]
async fn a_server_that_is_silent_before_the_reply_begins_has_the_whole_turn() {
    let (url, count) = serve(|_, _, _| {
        let ping = stream::iter([Ok::<_, Infallible>(Bytes::from(": reading the prompt\n\n"))]);
        let late = stream::once(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(Bytes::from(GOOD))
        });
        let body = Body::from_stream(ping.chain(late));
        ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
    })
    .await;
    let mut patient = client(&url);
    patient.endpoint.idle_timeout = Some(Duration::from_millis(10));
    patient.endpoint.max_retries = 0;
    assert_eq!(ask(&patient).await.unwrap().content, "hello");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_whole_reply_is_taken_though_the_server_leaves_the_stream_open() {
    let whole = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
    for (pieces, estimated) in [(vec![whole], true), (vec![whole, usage], false)] {
        let (url, count) = serve(move |_, _, _| stuck_after(pieces.clone())).await;
        let mut client = client(&url);
        client.endpoint.closing_timeout = Duration::from_millis(200);
        let reply = ask(&client).await.unwrap();
        assert_eq!((reply.content.as_str(), reply.usage.estimated), ("hello", estimated));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn signs_of_life_without_a_reply_are_waited_for_until_the_turns_limit() {
    let (url, _) = serve(|_, _, _| {
        let pings = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, Infallible>(Bytes::from(": ping\n\n")), ()))
        });
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pings)).into_response()
    })
    .await;
    let mut client = client(&url);
    client.endpoint.turn_timeout = Duration::from_millis(200);
    client.endpoint.max_retries = 0;
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error, ModelError::TurnTimeout { .. }), "{error}");
}

#[tokio::test]
async fn endless_text_is_cut_off() {
    let endless = |kind: &'static str, piece: &'static str| {
        move |_: usize, _: HeaderMap, _: Bytes| {
            let body = Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(Bytes::from(piece))));
            ([(header::CONTENT_TYPE, kind)], body).into_response()
        }
    };
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"and on and on and on and on\"}}]}\n\n";
    for (kind, piece) in [
        ("text/event-stream", text),
        ("text/event-stream", ": ping\n\n"),
        ("text/event-stream", "data: xxxxxxxx"),
        ("application/json", "[[[[[[[[["),
    ] {
        let (url, _) = serve(endless(kind, piece)).await;
        let mut client = client(&url);
        client.endpoint.max_reply_bytes = 20_000;
        // The size is what is to end it, also on a busy machine.
        client.endpoint.turn_timeout = Duration::from_secs(300);
        let error = ask(&client).await.unwrap_err();
        assert!(
            matches!(error, ModelError::TooLarge { .. }) && error.category() == Category::Endless,
            "{kind} {piece}: {error}"
        );
    }
}

/// Sent by a server that has not begun its reply.
const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";

/// What a slow server does when it is asked for its models.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    /// It lists them, and its replies begin.
    Begins,
    /// It lists them, and no reply ever begins.
    Lists,
    /// It hangs.
    Hangs,
    /// A gateway says that nobody is behind it.
    IsAway,
}

/// Serves a chat whose replies do not begin before the models are listed; `early` is sent before.
async fn serve_slow(early: &'static str, listing: Listing) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, listed) = (Arc::clone(&count), Arc::new(tokio::sync::Notify::new()));
    let waited_for = Arc::clone(&listed);
    let chat = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let waited_for = Arc::clone(&waited_for);
        async move {
            if early.is_empty() {
                waited_for.notified().await;
                return stream_of(GOOD);
            }
            let late = stream::once(async move {
                waited_for.notified().await;
                Ok::<_, Infallible>(Bytes::from(GOOD))
            });
            let body = Body::from_stream(stream::iter([Ok(Bytes::from(early))]).chain(late));
            ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
        }
    };
    let list = move || {
        let listed = Arc::clone(&listed);
        async move {
            match listing {
                Listing::Begins => listed.notify_one(),
                Listing::Lists => {}
                Listing::Hangs => std::future::pending().await,
                Listing::IsAway => return (StatusCode::BAD_GATEWAY, "no backend"),
            }
            (StatusCode::OK, "{\"data\": []}")
        }
    };
    let app = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", axum::routing::get(list));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), count)
}

#[tokio::test]
async fn a_reply_that_has_not_begun_is_waited_for_longer_where_the_server_is_there() {
    let begins = |early| async move {
        let (url, count) = serve_slow(early, Listing::Begins).await;
        let mut client = client(&url);
        // Long enough for the list of models, also on a busy machine.
        client.endpoint.turn_timeout = Duration::from_secs(2);
        let reply = ask(&client).await.unwrap();
        assert_eq!((reply.content.as_str(), count.load(Ordering::SeqCst)), ("hello", 1));
    };
    tokio::join!(begins(""), begins(ROLE));
}

#[tokio::test]
async fn a_server_that_hangs_is_asked_anew_and_one_that_never_begins_is_at_last() {
    let asked = |listing, turn| async move {
        let (url, count) = serve_slow("", listing).await;
        let mut client = client(&url);
        client.endpoint.turn_timeout = Duration::from_millis(turn);
        client.endpoint.max_retries = 2;
        let error = ask(&client).await.unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        assert!(error.to_string().contains("it had not begun"), "{error}");
        count.load(Ordering::SeqCst)
    };
    assert_eq!(
        tokio::join!(asked(Listing::Hangs, 1000), asked(Listing::Lists, 2000)),
        (3, 2)
    );
}

#[tokio::test]
async fn a_silent_reply_is_taken_to_be_written_where_the_server_is_there() {
    let (url, _) = serve_slow("", Listing::Lists).await;
    assert!(client(&url).was_writing(true).await);
    let (url, _) = serve_slow("", Listing::IsAway).await;
    assert!(!client(&url).was_writing(true).await, "nobody is behind the gateway");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = client(&format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    assert!(!gone.was_writing(true).await);
    assert!(
        gone.was_writing(false).await,
        "what was heard of just now is not asked for"
    );
}
