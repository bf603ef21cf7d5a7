#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::daemon::claim::Held;
use crate::executor::sample;

#[test]
fn a_turn_is_bounded_by_the_limit_that_is_named_for_it() {
    let limit = |turn| {
        turn_limit(&AgentSpec {
            request_turn_timeout_seconds: turn,
            request_timeout_seconds: 3600,
            ..AgentSpec::default()
        })
        .as_secs()
    };
    assert_eq!([4, 600, 99_999].map(limit), [4, 600, 3600]);
}

#[test]
fn a_guess_too_small_for_any_run_gives_way_to_what_the_agent_says() {
    let window = |tokens, certain| Window {
        tokens,
        source: String::new(),
        certain,
    };
    let usable = |window: Option<Window>, said| {
        let spec = AgentSpec {
            context_window_tokens: said,
            ..AgentSpec::default()
        };
        usable_window(window.as_ref(), &spec)
    };
    assert_eq!(usable(Some(window(9000, true)), Some(32_768)), Some(9000));
    assert_eq!(usable(Some(window(200_000, false)), None), Some(200_000));
    assert_eq!(usable(Some(window(4096, false)), None), Some(WINDOW_FLOOR));
    assert_eq!(usable(Some(window(4096, false)), Some(32_768)), None);
    assert_eq!(usable(None, None), None);
}

#[tokio::test]
async fn a_run_that_is_cancelled_waits_for_no_trial() {
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    let chat = move || {
        let tell = tell.clone();
        async move {
            tell.send(()).await.unwrap();
            std::future::pending::<String>().await
        }
    };
    let models = || async { "{\"data\": [{\"id\": \"m\"}]}" };
    let app = axum::Router::new()
        .route("/v1/models", axum::routing::get(models))
        .route("/v1/chat/completions", axum::routing::post(chat));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let folder = tempfile::tempdir().unwrap();
    let client = sample::answering(|| sample::failure(axum::http::StatusCode::NOT_FOUND));
    let run = sample::run(folder.path(), client, Held::sample(1));
    let agent: Agent = serde_json::from_value(serde_json::json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": "a" },
        "spec": { "role": "coder", "tools": ["bash"], "providerConfig": { "baseURL": url } }
    }))
    .unwrap();
    let (news, _) = News::new();
    let asked = async {
        tokio::join!(ask(&run, &agent, "task", 1, &news), async {
            told.recv().await.unwrap();
            run.cancel.cancel();
        })
        .0
    };
    let asked = tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap();
    assert_eq!(asked.map(|asked| asked.window).unwrap_or(Some(0)), None);
}

#[tokio::test]
async fn a_server_that_still_loads_its_model_is_asked_again_before_the_run() {
    const QUICK: Patience = Patience {
        whole: Duration::from_secs(60),
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
    };
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = asked.clone();
    let chat = move || {
        let loading = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3;
        let call = serde_json::json!({"id": "1", "function": {"name": "report", "arguments": "{\"word\": \"ready\"}"}});
        let whole = serde_json::json!({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "stop"}]});
        async move {
            if loading {
                (axum::http::StatusCode::SERVICE_UNAVAILABLE, "Loading model".to_owned())
            } else {
                (axum::http::StatusCode::OK, whole.to_string())
            }
        }
    };
    let models = || async { "{\"data\": [{\"id\": \"m\"}]}" };
    let app = axum::Router::new()
        .route("/v1/models", axum::routing::get(models))
        .route("/v1/chat/completions", axum::routing::post(chat));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ProbeSettings::new(format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let (news, mut heard) = News::new();
    let words = tokio::spawn(async move {
        let mut words = Vec::new();
        while heard.changed().await.is_ok() {
            words.push(heard.borrow_and_update().clone().unwrap());
        }
        words
    });
    let found = find_out(&Trials::default(), &settings, QUICK, &news).await.unwrap();
    drop(news);
    let words = words.await.unwrap();
    assert!(words[0].contains("Loading model"), "{words:?}");
    assert_eq!(words.last().unwrap(), "", "it answers at last");
    assert!(found.has_proven_protocol() && !found.is_away, "{found:?}");
    assert!(asked.load(std::sync::atomic::Ordering::SeqCst) > 3);
}

#[test]
fn a_node_overrides_local_servers_and_no_proxy_to_a_cloud() {
    let config = crate::config::tests::parse(&["--inference-base-url-override", "http://gpu:8080/v1"]);
    let asked = |provider: &str| {
        let agent: Agent = serde_json::from_value(serde_json::json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": "a" },
            "spec": { "role": "coder", "tools": [], "provider": provider, "providerConfig": { "baseURL": "http://proxy/v1" } }
        }))
        .unwrap();
        base_url(&agent, &config).unwrap()
    };
    assert_eq!(asked("local"), "http://gpu:8080/v1");
    assert_eq!(asked("cloud-proxy"), "http://proxy/v1");
}

#[test]
fn a_host_override_keeps_the_rest_of_the_address() {
    for (host, url) in [
        ("gpu.lan", "http://gpu.lan:8080/v1"),
        ("gpu.lan:9000", "http://gpu.lan:9000/v1"),
        ("gpu.lan:80", "http://gpu.lan/v1"),
        ("fd00::10", "http://[fd00::10]:8080/v1"),
        ("[fd00::10]:9000", "http://[fd00::10]:9000/v1"),
    ] {
        assert_eq!(with_host("http://a.svc:8080/v1", host).as_deref(), Some(url), "{host}");
    }
}
