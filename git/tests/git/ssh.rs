use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use git::{Category, Credential, CredentialKind, HostKeys, RemoteUrl, Remotes, Settings, Ssh};

use crate::support::{Bare, round_trip, short};

/// A program in the place of ssh: it writes down its arguments and runs the remote command here.
fn program(bare: &Bare, script: &str) -> PathBuf {
    let path = bare.root().join("ssh");
    let log = bare.root().join("arguments");
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >> {}\nfor last; do :; done\n{script}\n",
        log.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn remotes(bare: &Bare, script: &str, credentials: Vec<Credential>) -> Remotes {
    let ssh = Ssh {
        program: program(bare, script),
        host_keys: HostKeys::Known,
        known_hosts: Some(bare.root().join("known_hosts")),
    };
    Remotes::new(Settings {
        credentials,
        ssh,
        timeouts: short(),
        ..Settings::default()
    })
}

const RUN: &str =
    "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'; eval \"exec $last\"";

#[test]
fn ssh_keeps_the_contract_and_is_given_key_host_keys_and_batch_mode() {
    let (bare, head) = Bare::with_commit();
    let key = CredentialKind::SshKey {
        path: "/keys/id one".into(),
    };
    let credential = Credential::new("ssh://git@forge.example:2222", key).unwrap();
    let remotes = remotes(&bare, RUN, vec![credential]);
    let url = RemoteUrl::parse(&format!("ssh://git@forge.example:2222{}", bare.path.display())).unwrap();
    round_trip(&remotes, &url, &bare, head);
    let log = std::fs::read_to_string(bare.root().join("arguments")).unwrap();
    for wanted in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "/keys/id one",
        "2222",
        "git@forge.example",
        "--",
    ] {
        assert!(log.lines().any(|line| line == wanted), "{wanted} in {log}");
    }
    assert!(
        log.contains(&format!(
            "UserKnownHostsFile={}",
            bare.root().join("known_hosts").display()
        )),
        "{log}"
    );
    assert!(
        log.contains(&format!("git-receive-pack '{}'", bare.path.display())),
        "{log}"
    );
}

#[test]
fn no_key_at_all_is_offered_to_a_host_that_no_ssh_credential_covers() {
    let (bare, head) = Bare::with_commit();
    let key = CredentialKind::SshKey {
        path: "/keys/id".into(),
    };
    let remotes = remotes(
        &bare,
        RUN,
        vec![Credential::new("ssh://git@other.example", key).unwrap()],
    );
    let url = RemoteUrl::parse(&format!("git@forge.example:{}", bare.path.display())).unwrap();
    assert_eq!(remotes.find_ref(&url, "refs/heads/main").unwrap(), Some(head));
    let log = std::fs::read_to_string(bare.root().join("arguments")).unwrap();
    assert!(!log.contains("/keys/id"), "{log}");
    for wanted in [
        "IdentitiesOnly=yes",
        "IdentityFile=none",
        "IdentityAgent=none",
        "PreferredAuthentications=none",
    ] {
        assert!(log.lines().any(|line| line == wanted), "{wanted} in {log}");
    }
}

#[test]
fn without_a_credential_for_ssh_the_program_offers_the_persons_own_keys() {
    let (bare, head) = Bare::with_commit();
    let token = Credential::new("https://forge.example/", CredentialKind::Token("t".into())).unwrap();
    let remotes = remotes(&bare, RUN, vec![token]);
    let url = RemoteUrl::parse(&format!("git@forge.example:{}", bare.path.display())).unwrap();
    assert_eq!(remotes.find_ref(&url, "refs/heads/main").unwrap(), Some(head));
    let log = std::fs::read_to_string(bare.root().join("arguments")).unwrap();
    assert!(
        !log.contains("Identit") && !log.contains("PreferredAuthentications"),
        "{log}"
    );
}

#[test]
fn what_ssh_and_servers_say_is_told_apart() {
    let bare = Bare::empty();
    let url = RemoteUrl::parse("git@forge.example:a/b").unwrap();
    for (script, category) in [
        (
            "echo 'git@forge.example: Permission denied (publickey).' >&2; exit 255",
            Category::Auth,
        ),
        ("echo 'Host key verification failed.' >&2; exit 255", Category::Auth),
        ("echo 'ERROR: Repository not found.' >&2; exit 1", Category::NotFound),
        (
            "echo 'ssh: connect to host forge.example port 22: Connection refused' >&2; exit 255",
            Category::Network,
        ),
        ("exit 255", Category::Network),
    ] {
        let error = remotes(&bare, script, vec![]).list_refs(&url, &[]).unwrap_err();
        assert_eq!(error.category(), category, "{script}: {error}");
    }
}

#[test]
fn an_ssh_that_hangs_with_a_helper_ends_in_a_timeout() {
    let bare = Bare::empty();
    // The helper keeps the output open: killing only the program itself would not end the read.
    let script = "sleep 1000 & exec sleep 1000";
    let mut settings = remotes(&bare, script, vec![]).settings().clone();
    settings.timeouts.list = Duration::from_millis(300);
    let started = std::time::Instant::now();
    let url = RemoteUrl::parse("git@forge.example:a/b").unwrap();
    let error = Remotes::new(settings).list_refs(&url, &[]).unwrap_err();
    assert_eq!(error.category(), Category::Timeout, "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_missing_ssh_program_is_named() {
    let bare = Bare::empty();
    let mut settings = remotes(&bare, RUN, vec![]).settings().clone();
    settings.ssh.program = "/nowhere/ssh".into();
    let error = Remotes::new(settings)
        .list_refs(&RemoteUrl::parse("git@h:a").unwrap(), &[])
        .unwrap_err();
    assert!(error.to_string().contains("/nowhere/ssh"), "{error}");
}
