//! Plays a case against one server.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures::io::BufReader;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::fixture::{read_body, warning_text};
use crate::script::{ALIASES, Case, Step};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Names = BTreeMap<String, String>;

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Media type of the body.
    pub media: String,
    /// Texts of warnings.
    pub warnings: Vec<String>,
    /// The body; a watch's events as a list.
    pub body: Value,
}

/// One of the two servers.
pub struct Side {
    /// Its client.
    pub client: Client,
    run: String,
    real: bool,
}

/// A watch that is open.
type Lines = std::pin::Pin<Box<dyn futures::Stream<Item = Result<String, std::io::Error>> + Send>>;

struct Request {
    method: String,
    path: String,
    media: Option<String>,
    accept: String,
    body: Vec<u8>,
}

impl Side {
    /// Names a server and the run.
    pub fn new(client: Client, run: &str, real: bool) -> Side {
        Side {
            client,
            run: run.to_owned(),
            real,
        }
    }

    fn names(&self, number: usize) -> Names {
        let run = &self.run;
        [
            ("run", run.clone()),
            ("ns", format!("r{run}-{number}")),
            ("group", format!("g{number}.r{run}.example.com")),
            ("gadgets", format!("gadgets.r{run}.example.com")),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    async fn send(&self, request: &Request) -> Result<http::Response<Body>, Failure> {
        let mut builder = http::Request::builder()
            .method(request.method.as_str())
            .uri(&request.path)
            .header("accept", &request.accept)
            .header("user-agent", "scripts/1");
        if let Some(media) = &request.media {
            builder = builder.header("content-type", media);
        }
        Ok(self
            .client
            .send(builder.body(Body::from(request.body.clone()))?)
            .await?)
    }

    async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let start = Instant::now();
        loop {
            let answer = self.send(request).await?;
            let mut told = opened(&answer);
            let bytes = answer.into_body().collect().await?.to_bytes();
            told.body = read_body(&bytes);
            // kube-apiserver says so of a kind whose definition has just changed, while it takes up the new one.
            let changes_over = self.real
                && match told.code {
                    429 => told.body["message"] == "storage is (re)initializing",
                    503 => told.body["message"] == "apiserver is shutting down",
                    _ => false,
                };
            if !changes_over {
                return Ok(told);
            }
            patience(start, &request.path)?;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(&Request {
            method: "GET".into(),
            path: path.into(),
            media: None,
            accept: "application/json".into(),
            body: Vec::new(),
        })
        .await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.ask(&Request {
            method: "POST".into(),
            path: path.into(),
            media: Some("application/json".into()),
            accept: "application/json".into(),
            body: body.to_string().into_bytes(),
        })
        .await
    }

    /// Waits until the watch cache of kube-apiserver holds what was written before: a watch and a read that names a
    /// version are answered from there, by what the cache has heard of until then.
    async fn catch_up(&self, request: &Request) -> Result<(), Failure> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let from_cache = query
            .split('&')
            .any(|part| part == "watch=true" || part.starts_with("resourceVersion="));
        if !self.real || request.method != "GET" || !from_cache {
            return Ok(());
        }
        let path = path.replacen("/watch/", "/", 1);
        let newest = self.get(&path).await?;
        let Some(version) = newest.body["metadata"]["resourceVersion"].as_str() else {
            return Ok(());
        };
        let cached = format!("{path}?resourceVersion={version}");
        let start = Instant::now();
        while self.get(&cached).await?.code != 200 {
            patience(start, &cached)?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Makes a definition and waits until its objects can be written and read.
    async fn define(&self, crd: &Value, path: &str) -> Result<(), Failure> {
        let made = self
            .post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
            .await?;
        if made.code != 201 {
            return Err(format!("the definition was refused: {}", made.body).into());
        }
        let start = Instant::now();
        while self.get(path).await?.code != 200 {
            patience(start, path)?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Makes so many changes that what was before is forgotten.
    pub async fn age(&self, changes: usize) -> Result<(), Failure> {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ageing"}});
        self.post("/api/v1/namespaces/default/configmaps", &map).await?;
        for count in 0..changes {
            let request = Request {
                method: "PATCH".into(),
                path: "/api/v1/namespaces/default/configmaps/ageing".into(),
                media: Some("application/merge-patch+json".into()),
                accept: "application/json".into(),
                body: json!({"data": {"count": count.to_string()}}).to_string().into_bytes(),
            };
            let answer = self.ask(&request).await?;
            if answer.code != 200 {
                return Err(format!("a change was refused: {}", answer.body).into());
            }
        }
        Ok(())
    }

    /// Deletes what the run made, without waiting for it to go.
    pub async fn tidy(&self) {
        let own = format!("r{}-", self.run);
        let mine = format!(".r{}.example.com", self.run);
        for (collection, is_mine) in [
            (
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                Box::new(move |name: &str| name.ends_with(&mine)) as Box<dyn Fn(&str) -> bool + Send>,
            ),
            ("/api/v1/namespaces", Box::new(move |name: &str| name.starts_with(&own))),
        ] {
            let Ok(list) = self.get(collection).await else { return };
            for item in list.body["items"].as_array().into_iter().flatten() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                if is_mine(name) {
                    let request = Request {
                        method: "DELETE".into(),
                        path: format!("{collection}/{name}"),
                        media: None,
                        accept: "application/json".into(),
                        body: Vec::new(),
                    };
                    let _ = self.ask(&request).await;
                }
            }
        }
    }
}

fn patience(start: Instant, what: &str) -> Result<(), Failure> {
    if start.elapsed() > PATIENCE {
        return Err(format!("{what}: waited in vain").into());
    }
    Ok(())
}

fn opened(answer: &http::Response<Body>) -> Answer {
    let header = |name: &str| {
        let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let warnings = answer.headers().get_all("warning").iter();
    Answer {
        code: answer.status().as_u16(),
        media: header("content-type"),
        warnings: warnings.filter_map(|h| h.to_str().ok()).map(warning_text).collect(),
        body: Value::Null,
    }
}

/// Makes the definition that many cases use.
pub async fn prepare(side: &Side) -> Result<(), Failure> {
    let names = side.names(0);
    let crd: Value = serde_json::from_str(&fill(include_str!("gadgets.json"), &names))?;
    side.define(&crd, &format!("/apis/{}/v1/gadgets", names["gadgets"]))
        .await?;
    Ok(())
}

/// Plays a case; steps that only prepare have no answer.
pub async fn play(case: &Case, side: &Side) -> Result<Vec<Option<Answer>>, Failure> {
    let mut names = side.names(case.number);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names["ns"]}});
    let made = side.post("/api/v1/namespaces", &namespace).await?;
    if made.code != 201 {
        return Err(format!("no namespace: {}", made.body).into());
    }
    if side.real {
        // Pods are refused until there is one; a controller would make it a moment later.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        side.post(&format!("/api/v1/namespaces/{}/serviceaccounts", names["ns"]), &account)
            .await?;
    }
    let mut watches = HashMap::new();
    let mut answers = Vec::new();
    for (at, step) in case.steps.iter().enumerate() {
        let answer = tokio::time::timeout(PATIENCE * 2, take(step, side, &mut names, &mut watches))
            .await
            .unwrap_or_else(|_| Err("no answer came".into()))
            .map_err(|why| format!("step {} {}: {why}", at + 1, step.told()))?;
        if step.setup && answer.code >= 300 {
            return Err(format!("step {} {}: {} {}", at + 1, step.told(), answer.code, answer.body).into());
        }
        for (name, path) in &step.keep {
            let value =
                find(&answer.body, path).ok_or_else(|| format!("step {}: no {path}: {}", at + 1, answer.body))?;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            names.insert(name.clone(), text);
        }
        answers.push((!step.setup && step.define.is_none()).then_some(answer));
    }
    Ok(answers)
}

async fn take(
    step: &Step,
    side: &Side,
    names: &mut Names,
    watches: &mut HashMap<String, Lines>,
) -> Result<Answer, Failure> {
    if let Some(version) = &step.define {
        let crd = definition(version, names)?;
        side.define(&crd, &format!("/apis/{}/v1/things", names["group"]))
            .await?;
        return Ok(Answer {
            code: 201,
            media: String::new(),
            warnings: Vec::new(),
            body: Value::Null,
        });
    }
    let (verb, _) = step.request.split_once(' ').ok_or("a verb and a path are wanted")?;
    match verb {
        "WATCH" => {
            let mut request = request(step, names)?;
            request.method = "GET".into();
            request.path.push(if request.path.contains('?') { '&' } else { '?' });
            request.path.push_str("watch=true");
            side.catch_up(&request).await?;
            let start = Instant::now();
            loop {
                let answer = side.send(&request).await?;
                let mut told = opened(&answer);
                if told.code != 200 {
                    let bytes = answer.into_body().collect().await?.to_bytes();
                    told.body = read_body(&bytes);
                    return Ok(told);
                }
                let reader = answer.into_body().into_data_stream().map_err(std::io::Error::other);
                let mut lines: Lines = Box::pin(BufReader::new(reader.into_async_read()).lines());
                told.body = read(&mut lines, step).await?;
                if let Some(name) = &step.open {
                    watches.insert(name.clone(), lines);
                }
                if holds(step, &told) {
                    return Ok(told);
                }
                patience(start, &request.path)?;
            }
        }
        "READ" => {
            let name = step.request.trim_start_matches("READ ").trim();
            let lines = watches.get_mut(name).ok_or("no such watch is open")?;
            Ok(Answer {
                code: 200,
                media: String::new(),
                warnings: Vec::new(),
                body: read(lines, step).await?,
            })
        }
        _ => {
            let request = request(step, names)?;
            side.catch_up(&request).await?;
            let start = Instant::now();
            loop {
                let answer = side.ask(&request).await?;
                if holds(step, &answer) {
                    return Ok(answer);
                }
                patience(start, &format!("{}: {}", request.path, answer.body))?;
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

async fn read(lines: &mut Lines, step: &Step) -> Result<Value, Failure> {
    let mut events = Vec::new();
    while step.end || events.len() < step.events {
        let line = tokio::time::timeout(PATIENCE, lines.try_next())
            .await
            .map_err(|_| format!("only {} events came", events.len()))??;
        let Some(line) = line else { break };
        let event: Value = serde_json::from_str(&line)?;
        let object = &event["object"];
        let marks_initial = !object["metadata"]["annotations"]["k8s.io/initial-events-end"].is_null();
        if (event["type"] == "BOOKMARK" && !step.bookmarks && !marks_initial)
            || object["metadata"]["name"] == "kube-root-ca.crt"
        {
            continue;
        }
        events.push(event);
    }
    Ok(Value::Array(events))
}

fn holds(step: &Step, answer: &Answer) -> bool {
    step.until.iter().all(|(path, wanted)| match path.as_str() {
        "code" => *wanted == json!(answer.code),
        path => find(&answer.body, path).unwrap_or(&Value::Null) == wanted,
    })
}

/// Finds a value by its path; a step `name=value` picks an element of a list.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').try_fold(value, |at, step| match at {
        Value::Array(items) => match step.split_once('=') {
            Some((key, wanted)) => items.iter().find(|item| item[key] == wanted),
            None => items.get(step.parse::<usize>().ok()?),
        },
        _ => at.get(step.replace("~1", "/")),
    })
}

fn fill(text: &str, names: &Names) -> String {
    // Longer names first: `$gadgets` is no `$g`.
    let mut ordered: Vec<_> = names.iter().collect();
    ordered.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    ordered.into_iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("${name}"), value)
    })
}

fn fill_value(value: &Value, names: &Names) -> Value {
    match value {
        Value::String(text) => fill(text, names).into(),
        Value::Array(items) => items.iter().map(|item| fill_value(item, names)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (fill(key, names), fill_value(value, names)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn definition(version: &Value, names: &Names) -> Result<Value, Failure> {
    let mut own = json!({"name": "v1", "served": true, "storage": true});
    let fields = version.as_object().ok_or("the fields of a version are wanted")?;
    for (key, value) in fields {
        own[key] = value.clone();
    }
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.$group"},
        "spec": {
            "group": "$group", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [own],
        },
    });
    Ok(fill_value(&crd, names))
}

fn request(step: &Step, names: &Names) -> Result<Request, Failure> {
    let (verb, rest) = step.request.split_once(' ').ok_or("a verb and a path are wanted")?;
    let rest = rest.trim();
    let mut told = None;
    let path = match rest.strip_prefix('@') {
        Some(short) => {
            let end = short.find(['/', '?']).unwrap_or(short.len());
            let (name, more) = short.split_at(end);
            let row = ALIASES
                .iter()
                .find(|row| row.0 == name)
                .ok_or_else(|| format!("no collection is called {name}"))?;
            told = Some((row.2, row.3));
            format!("{}{more}", row.1)
        }
        None => rest.to_owned(),
    };
    let media = step.media.as_deref().map(|media| {
        match media {
            "json-patch" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            "apply" => "application/apply-patch+yaml",
            other => other,
        }
        .to_owned()
    });
    let accept = match step.accept.as_deref() {
        None => "application/json",
        Some("table") => "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        Some("partial") => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json",
        Some("partials") => "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
        Some("discovery") => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
        Some(other) => other,
    };
    let mut body = step.body.clone();
    let whole = matches!(verb, "POST" | "PUT") || step.media.as_deref() == Some("apply");
    if let (Some(Value::Object(map)), Some((api_version, kind)), true) = (&mut body, told, whole && !step.bare) {
        map.entry("apiVersion").or_insert_with(|| api_version.into());
        map.entry("kind").or_insert_with(|| kind.into());
    }
    let body = match (&step.text, body) {
        (Some(text), _) => fill(text, names),
        (None, Some(body)) => fill_value(&body, names).to_string(),
        (None, None) => String::new(),
    };
    let media = media.or_else(|| (!body.is_empty()).then(|| "application/json".to_owned()));
    Ok(Request {
        method: verb.to_owned(),
        path: fill(&path, names),
        media,
        accept: accept.to_owned(),
        body: body.into_bytes(),
    })
}
