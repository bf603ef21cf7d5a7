//! Requests replayed against answers recorded from a real kube-apiserver.

#[path = "../../tests/replay/fixture.rs"]
mod fixture;

use std::path::PathBuf;

use fixture::{Recording, Response, normalise, read_body, warning_text};

use super::*;

/// The server whose answers are in the folder.
const RECORDED: &str = "kube-apiserver-1.34.4";

/// Exchanges of which only the code is compared, and why.
const DIFFERENT: &[(&str, &str)] = &[
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
    ("a claim", "the recorded server did not protect claims in use"),
];

fn recordings() -> Vec<(PathBuf, Recording)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(RECORDED);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let recording = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            (path, recording)
        })
        .collect()
}

async fn ask(f: &Fixture, request: &fixture::Request) -> Response {
    let mut builder = Request::builder()
        .method(request.method.as_str())
        .uri(&request.path)
        .header("accept", request.accept.as_deref().unwrap_or("application/json"));
    if let Some(kind) = &request.content_type {
        builder = builder.header("content-type", kind);
    }
    let body = request.body.as_ref().map(ToString::to_string).unwrap_or_default();
    let answer = f.request(builder.body(Body::from(body)).unwrap()).await;
    let warnings = answer
        .headers
        .get_all("warning")
        .iter()
        .map(|header| warning_text(header.to_str().unwrap()))
        .collect();
    normalise(Response {
        code: answer.code,
        warnings,
        body: read_body(answer.text.as_bytes()),
    })
}

/// Takes out of an answer what the plane says otherwise on purpose, or only differently:
/// fields that are null are left out; a definition is established by the request that makes
/// it, not a moment later.
fn alike(mut response: Response) -> Response {
    fn without_nulls(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, value| !value.is_null());
                map.values_mut().for_each(without_nulls);
            }
            Value::Array(items) => items.iter_mut().for_each(without_nulls),
            _ => {}
        }
    }
    without_nulls(&mut response.body);
    let body = &mut response.body;
    if body["kind"] == "CustomResourceDefinition" && body["apiVersion"] == "apiextensions.k8s.io/v1" {
        body.as_object_mut().unwrap().remove("status");
    }
    response
}

/// Says in which lines two answers differ.
fn difference(wanted: &Response, found: &Response) -> String {
    let text = |response: &Response| serde_json::to_string_pretty(response).unwrap();
    let (wanted, found) = (text(wanted), text(found));
    let missing = wanted.lines().filter(|line| !found.lines().any(|other| other == *line));
    let extra = found.lines().filter(|line| !wanted.lines().any(|other| other == *line));
    missing
        .map(|line| format!("  - {}\n", line.trim()))
        .chain(extra.map(|line| format!("  + {}\n", line.trim())))
        .collect()
}

#[tokio::test]
async fn the_plane_answers_as_the_recorded_server_did() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    // One server answered all files in turn: later lists show what earlier ones made.
    // It ran without controllers, so nothing was collected either.
    let folder = tempfile::tempdir().unwrap();
    let config = PlaneConfig::new(folder.path().join("state"), "0.1.0");
    let plane = Plane::without_collector(config).await.unwrap();
    let f = Fixture { plane, folder };
    for (path, recording) in recordings() {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        for exchange in &recording.exchanges {
            let found = ask(&f, &exchange.request).await;
            if exchange.setup {
                assert!(found.code < 300, "{file}: {}: {}", exchange.name, found.body);
                continue;
            }
            let wanted = exchange.response.clone().expect("every exchange is recorded");
            compared += 1;
            let (wanted, found) = (alike(wanted), alike(found));
            let words = DIFFERENT.iter().all(|(name, _)| *name != exchange.name);
            if found.code != wanted.code || (words && found != wanted) {
                wrong.push(format!("{file}: {}\n{}", exchange.name, difference(&wanted, &found)));
            }
        }
    }
    println!("{compared} answers compared with {RECORDED}");
    assert!(compared > 400, "only {compared} answers were compared");
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
