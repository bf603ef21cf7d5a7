//! Replays what a real kube-apiserver was asked, and compares the answers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "replay/fixture.rs"]
mod fixture;
#[path = "replay/server.rs"]
mod server;

use std::path::Path;

use fixture::Recording;
use serde_json::Value;
use server::Server;

/// Exchanges of which only the code is compared, and why.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "a pattern that does not compile",
        "the words are those of Go's regular expressions",
    ),
    (
        "two versions stored",
        "the message holds the server's internal form of the versions",
    ),
    (
        "containers are fixed",
        "the message holds the server's internal form of the template",
    ),
    ("a list that is no list", "the words are those of another decoder"),
    (
        "another version than the path says",
        "the server warns of fields that the other version would have",
    ),
    ("a namespace", "its finalizer belongs to the controller of namespaces"),
];

/// Finds the first place where two values differ.
fn difference(expected: &Value, found: &Value, path: &str) -> Option<String> {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => difference(a, b, &format!("{path}/{key}")),
                (Some(a), None) => Some(format!("{path}/{key}: expected {a}, found nothing")),
                (None, b) => Some(format!(
                    "{path}/{key}: expected nothing, found {}",
                    b.unwrap_or(&Value::Null)
                )),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| difference(a, b, &format!("{path}/{i}"))),
        (a, b) if a == b => None,
        (a, b) => Some(format!("{path}: expected {a}, found {b}")),
    }
}

#[test]
fn requests_are_answered_as_a_real_server_answered_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kube-apiserver-1.34.4");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "json"));
    files.sort();
    let (mut compared, mut wrong) = (0, Vec::new());
    let mut server = Server::default();
    for file in files {
        let recording: Recording = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for exchange in recording.exchanges {
            if exchange.setup {
                server.define(exchange.request.body.as_ref().unwrap());
                continue;
            }
            let expected = exchange.response.unwrap();
            let found = fixture::normalise(server.answer(&exchange.request));
            compared += 1;
            let mut differs = (expected.code != found.code).then(|| {
                format!(
                    "code: expected {}, found {} {}",
                    expected.code, found.code, found.body["message"]
                )
            });
            let known = DIFFERENT.iter().any(|(name, _)| *name == exchange.name);
            if differs.is_none() {
                let body = difference(&expected.body, &found.body, "").or_else(|| {
                    (expected.warnings != found.warnings)
                        .then(|| format!("warnings: expected {:?}, found {:?}", expected.warnings, found.warnings))
                });
                differs = match (body, known) {
                    (Some(_), true) => None,
                    (None, true) => Some("is listed as different, and is not".to_owned()),
                    (body, false) => body,
                };
            }
            if let Some(differs) = differs {
                let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
                wrong.push(format!("{stem}: {}: {differs}", exchange.name));
            }
        }
    }
    assert!(compared > 250, "only {compared} exchanges were compared");
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
