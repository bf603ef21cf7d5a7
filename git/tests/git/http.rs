use std::time::{Duration, Instant};

use git::{
    Category, Credential, CredentialKind, Expected, FileEdit, Mirrors, PushOutcome, RemoteUrl, Remotes, Settings,
};

use crate::{
    http_server::{Behaviour, Server},
    support::{Bare, round_trip, short},
};

fn basic(prefix: &str, username: &str, password: &str) -> Credential {
    let kind = CredentialKind::Basic {
        username: username.into(),
        password: password.into(),
    };
    Credential::new(prefix, kind).unwrap()
}

fn with(credentials: Vec<Credential>) -> Remotes {
    Remotes::new(Settings {
        credentials,
        timeouts: short(),
        ..Settings::default()
    })
}

#[test]
fn http_with_basic_authentication_keeps_the_contract() {
    let (bare, head) = Bare::with_commit();
    let server = Server::start(
        bare.root(),
        Behaviour {
            auth: Some(("me", "pass word")),
            ..Default::default()
        },
    );
    let remotes = with(vec![basic(&server.prefix(), "me", "pass word")]);
    round_trip(&remotes, &server.url("repo.git"), &bare, head);
}

#[test]
fn a_listing_is_one_pair_of_requests_and_asks_only_for_the_prefix() {
    let (bare, _) = Bare::with_commit();
    let server = Server::start(bare.root(), Behaviour::default());
    let remotes = with(vec![]);
    remotes
        .list_refs(&server.url("repo.git"), &["refs/heads/main"])
        .unwrap();
    let seen: Vec<String> = server.seen().into_iter().map(|(asked, _)| asked).collect();
    assert_eq!(
        seen,
        [
            "GET /repo.git/info/refs?service=git-upload-pack",
            "POST /repo.git/git-upload-pack"
        ]
    );
}

#[test]
fn a_token_is_sent_as_the_password() {
    let (bare, head) = Bare::with_commit();
    let server = Server::start(
        bare.root(),
        Behaviour {
            auth: Some(("x-access-token", "t0ken")),
            ..Default::default()
        },
    );
    let token = Credential::new(&server.prefix(), CredentialKind::Token("t0ken".into())).unwrap();
    assert_eq!(
        with(vec![token])
            .find_ref(&server.url("repo.git"), "refs/heads/main")
            .unwrap(),
        Some(head)
    );
}

#[test]
fn a_redirect_to_an_address_with_a_user_is_not_followed() {
    let (bare, _) = Bare::with_commit();
    let target = Server::start(bare.root(), Behaviour::default());
    let server = Server::start(
        bare.root(),
        Behaviour {
            redirect: Some(("/repo.git", format!("http://t0ken@127.0.0.1:{}", target.port))),
            ..Default::default()
        },
    );
    let error = with(vec![]).list_refs(&server.url("repo.git"), &[]).unwrap_err();
    assert!(!error.to_string().contains("t0ken"), "{error}");
    assert!(target.seen().is_empty());
}

#[test]
fn wrong_missing_and_foreign_credentials_are_refused_without_being_named() {
    let (bare, head) = Bare::with_commit();
    let server = Server::start(
        bare.root(),
        Behaviour {
            auth: Some(("me", "right")),
            ..Default::default()
        },
    );
    let url = server.url("repo.git");
    let wrong = with(vec![basic(&server.prefix(), "me", "wr0ng")]);
    let none = with(vec![]);
    let elsewhere = with(vec![basic(&format!("{}other", server.prefix()), "me", "right")]);
    for (remotes, says) in [
        (&wrong, "was sent"),
        (&none, "no credential's prefix"),
        (&elsewhere, "no credential's prefix"),
    ] {
        let error = remotes.list_refs(&url, &[]).unwrap_err();
        assert_eq!(error.category(), Category::Auth, "{error}");
        assert!(!error.is_transient());
        let text = format!("{error} {error:?}");
        assert!(text.contains(says) && !text.contains("wr0ng"), "{text}");
    }
    assert_eq!(server.seen()[1].1, None, "nothing is sent where no prefix matches");
    assert_eq!(server.seen()[2].1, None, "nothing is sent where another prefix matches");
    let error = wrong
        .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
        .unwrap_err();
    assert_eq!(error.category(), Category::Auth, "{error}");
}

#[test]
fn a_redirect_to_another_host_carries_no_credential_even_if_one_matches_there() {
    let (bare, _) = Bare::with_commit();
    let target = Server::start(bare.root(), Behaviour::default());
    let behaviour = Behaviour {
        redirect: Some(("/old", target.prefix().trim_end_matches('/').to_owned())),
        ..Default::default()
    };
    let first = Server::start(bare.root(), behaviour);
    let remotes = with(vec![
        basic(&first.prefix(), "me", "s3cret"),
        basic(&target.prefix(), "me", "0ther"),
    ]);
    let refs = remotes.list_refs(&first.url("old/repo.git"), &["refs/heads/"]).unwrap();
    assert_eq!(refs.len(), 1);
    assert!(first.seen()[0].1.is_some(), "the first host gets its credential");
    assert_eq!(target.seen().len(), 2);
    assert!(
        target.seen().iter().all(|(_, auth)| auth.is_none()),
        "{:?}",
        target.seen()
    );
}

#[test]
fn a_redirect_on_the_same_host_is_followed_for_fetch_and_push() {
    let (bare, head) = Bare::with_commit();
    let behaviour = Behaviour {
        auth: Some(("me", "pw")),
        redirect: Some(("/old", String::new())),
        ..Default::default()
    };
    let server = Server::start(bare.root(), behaviour);
    let remotes = with(vec![basic(&server.prefix(), "me", "pw")]);
    round_trip(&remotes, &server.url("old/repo.git"), &bare, head);
}

#[test]
fn a_loop_of_redirects_ends() {
    let bare = Bare::empty();
    let server = Server::start(
        bare.root(),
        Behaviour {
            redirect: Some(("", String::new())),
            ..Default::default()
        },
    );
    let error = with(vec![]).list_refs(&server.url("repo.git"), &[]).unwrap_err();
    assert_eq!(error.category(), Category::Refused, "{error}");
    assert!(server.seen().len() < 10);
}

#[test]
fn a_server_that_hangs_or_drips_ends_in_a_timeout() {
    let (bare, head) = Bare::with_commit();
    for behaviour in [
        Behaviour {
            hangs: true,
            ..Default::default()
        },
        Behaviour {
            drips: true,
            ..Default::default()
        },
    ] {
        let server = Server::start(bare.root(), behaviour);
        let mut timeouts = short();
        timeouts.list = Duration::from_millis(700);
        timeouts.fetch = Duration::from_millis(700);
        timeouts.push = Duration::from_millis(700);
        let remotes = Remotes::new(Settings {
            timeouts,
            ..Settings::default()
        });
        let url = server.url("repo.git");
        let started = Instant::now();
        let error = remotes.list_refs(&url, &[]).unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        let dir = tempfile::tempdir().unwrap();
        let error = Mirrors::new(dir.path(), remotes.clone())
            .mirror(&url)
            .unwrap()
            .fetch_branch("main", true)
            .unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        let error = remotes
            .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
            .unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[test]
fn pages_for_people_and_failing_servers_are_told_apart() {
    let bare = Bare::empty();
    for (status, category, transient) in [
        (200, Category::Refused, false),
        (403, Category::Auth, false),
        (404, Category::NotFound, false),
        (429, Category::Network, true),
        (500, Category::Network, true),
        (503, Category::Network, true),
        (418, Category::Refused, false),
    ] {
        let server = Server::start(
            bare.root(),
            Behaviour {
                status: Some(status),
                ..Default::default()
            },
        );
        let error = with(vec![]).list_refs(&server.url("repo.git"), &[]).unwrap_err();
        assert_eq!(
            (error.category(), error.is_transient()),
            (category, transient),
            "{status}: {error}"
        );
    }
    let gone = RemoteUrl::parse(&format!("http://127.0.0.1:{}/x", crate::support::free_port())).unwrap();
    assert_eq!(
        with(vec![]).list_refs(&gone, &[]).unwrap_err().category(),
        Category::Network
    );
}

#[test]
fn a_push_whose_answer_is_lost_is_decided_by_the_ref() {
    let (bare, head) = Bare::with_commit();
    let ours = bare.commit(Some(head), &[FileEdit::write("ours", "1")]);
    let server = Server::start(
        bare.root(),
        Behaviour {
            cuts_push: true,
            ..Default::default()
        },
    );
    let outcome = with(vec![]).push(
        &bare.repo,
        &server.url("repo.git"),
        "refs/heads/main",
        Expected::At(head),
        ours,
    );
    assert_eq!(outcome.unwrap(), PushOutcome::Won);

    // Where the update did not happen either, the error stays.
    bare.set("main", head);
    bare.hook("update", "exit 1");
    let error = with(vec![])
        .push(
            &bare.repo,
            &server.url("repo.git"),
            "refs/heads/main",
            Expected::At(head),
            ours,
        )
        .unwrap_err();
    assert_eq!(error.category(), Category::Network, "{error}");
}

#[test]
fn a_ca_bundle_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("ca.pem");
    std::fs::write(&bundle, "no certificate").unwrap();
    let remotes = Remotes::new(Settings {
        ca_bundle: Some(bundle),
        timeouts: short(),
        ..Settings::default()
    });
    let error = remotes
        .list_refs(&RemoteUrl::parse("https://127.0.0.1:1/x").unwrap(), &[])
        .unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
}

#[test]
fn one_ca_bundle_serves_fetch_and_push_and_without_it_the_server_is_not_trusted() {
    let (bare, head) = Bare::with_commit();
    let (server, pem) = Server::start_tls(
        bare.root(),
        Behaviour {
            auth: Some(("me", "pw")),
            ..Default::default()
        },
    );
    let url = RemoteUrl::parse(&format!("https://localhost:{}/repo.git", server.port)).unwrap();
    let credentials = vec![basic(&format!("https://localhost:{}/", server.port), "me", "pw")];
    let bundle = bare.root().join("ca.pem");
    std::fs::write(&bundle, pem).unwrap();
    let settings = Settings {
        credentials,
        timeouts: short(),
        ca_bundle: Some(bundle),
        ..Settings::default()
    };
    round_trip(&Remotes::new(settings.clone()), &url, &bare, head);

    let before = server.seen().len();
    let distrusting = Remotes::new(Settings {
        ca_bundle: None,
        ..settings
    });
    let error = distrusting.list_refs(&url, &[]).unwrap_err();
    assert!(
        error.to_string().to_ascii_lowercase().contains("certificate"),
        "{error}"
    );
    assert_eq!(error.category(), Category::Refused, "{error}");
    assert!(
        distrusting
            .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
            .is_err()
    );
    assert_eq!(server.seen().len(), before, "nothing was sent");
}
