//! Records the answers of a real kube-apiserver for the exchanges in a fixture folder.
//!
//! ```text
//! KUBECONFIG=… cargo run -p plane --example record_answers -- plane/tests/fixtures/kube-apiserver-1.34.4
//! ```
//!
//! Every file's requests are made in order, and its `response`s are rewritten. The server should be
//! a fresh one without controllers and without the admission plugins that the plane does not have:
//! `--disable-admission-plugins=ServiceAccount,DefaultTolerationSeconds,Priority`.
//! The server's version is printed, and must be the folder's.

use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;

#[path = "../tests/replay/fixture.rs"]
mod fixture;
use fixture::{Recording, Request, Response};

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(client: &Client, request: &Request) -> Result<Response, Failure> {
    let mut builder = http::Request::builder()
        .method(request.method.as_str())
        .uri(&request.path);
    builder = builder.header("accept", request.accept.as_deref().unwrap_or("application/json"));
    if let Some(kind) = &request.content_type {
        builder = builder.header("content-type", kind);
    }
    let body = request
        .body
        .as_ref()
        .map(|b| b.to_string().into_bytes())
        .unwrap_or_default();
    let answer = client.send(builder.body(Body::from(body))?).await?;
    let code = answer.status().as_u16();
    let warnings = answer
        .headers()
        .get_all("warning")
        .iter()
        .filter_map(|h| h.to_str().ok())
        .map(fixture::warning_text)
        .collect();
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok(fixture::normalise(Response {
        code,
        warnings,
        body: fixture::read_body(&bytes),
    }))
}

async fn settle(client: &Client, path: &str) -> Result<(), Failure> {
    let request = Request {
        method: "GET".to_owned(),
        path: path.to_owned(),
        content_type: None,
        accept: None,
        body: None,
    };
    let start = Instant::now();
    while ask(client, &request).await?.code != 200 {
        if start.elapsed() > Duration::from_secs(30) {
            return Err(format!("{path} does not answer").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A changed definition is served a moment after its path answers.
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(())
}

async fn record(client: &Client, path: &Path) -> Result<usize, Failure> {
    let mut recording: Recording = serde_json::from_slice(&std::fs::read(path)?)?;
    for exchange in &mut recording.exchanges {
        let answer = ask(client, &exchange.request).await?;
        if exchange.setup {
            if answer.code >= 300 {
                return Err(format!("{}: {}: {}", path.display(), exchange.name, answer.body).into());
            }
            exchange.response = None;
        } else {
            exchange.response = Some(answer);
        }
        if let Some(path) = &exchange.settle {
            settle(client, path).await?;
        }
    }
    let mut text = serde_json::to_string_pretty(&recording)?;
    text.push('\n');
    std::fs::write(path, text)?;
    Ok(recording.exchanges.len())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = std::env::args().nth(1).ok_or("usage: record_answers FOLDER")?;
    let client = Client::try_default().await?;
    let version = client.apiserver_version().await?;
    println!("server {}", version.git_version);
    if !folder
        .trim_end_matches('/')
        .ends_with(version.git_version.trim_start_matches('v'))
    {
        return Err(format!("{folder} is not the folder of {}", version.git_version).into());
    }
    let mut files: Vec<_> = std::fs::read_dir(&folder)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "json"));
    files.sort();
    for file in files {
        let count = record(&client, &file).await?;
        println!("{}: {count} exchanges", file.display());
    }
    Ok(())
}
