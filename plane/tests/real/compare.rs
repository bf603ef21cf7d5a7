//! What of an answer is compared.

use jiff::Timestamp;
use regex::Regex;
use serde_json::Value;

use crate::fixture::{Response, normalise};
use crate::play::Answer;
use crate::script::Step;

/// An answer without what differs from run to run.
#[derive(Debug, PartialEq)]
pub struct Seen {
    /// HTTP status.
    pub code: u16,
    media: String,
    warnings: Vec<String>,
    body: Value,
}

/// Takes out of an answer what no two servers say alike: identities, versions, times of this hour, fields that are
/// null, what other admission plugins of a cluster add to Pods, and what the step names.
pub fn seen(answer: &Answer, step: &Step) -> Seen {
    let mut body = answer.body.clone();
    tidy(&mut body);
    let mut response = match body {
        // Events are told apart one by one: each is an answer.
        Value::Array(events) if !events.is_empty() && events.iter().all(|event| event.get("type").is_some()) => {
            let events = events.into_iter().map(|mut event| {
                event["object"] = plain(event["object"].take());
                event
            });
            Response {
                code: answer.code,
                warnings: answer.warnings.clone(),
                body: events.collect(),
            }
        }
        body => normalise(Response {
            code: answer.code,
            warnings: answer.warnings.clone(),
            body,
        }),
    };
    for path in &step.drop {
        edit(&mut response.body, &path.split('/').collect::<Vec<_>>(), None);
    }
    for path in &step.mask {
        edit(
            &mut response.body,
            &path.split('/').collect::<Vec<_>>(),
            Some("<masked>"),
        );
    }
    for pattern in &step.forget {
        forget(&mut response.body, &Regex::new(pattern).unwrap());
    }
    // They were sorted by texts of which a part is forgotten now.
    if let Some(causes) = response
        .body
        .pointer_mut("/details/causes")
        .and_then(Value::as_array_mut)
    {
        causes.sort_by_key(ToString::to_string);
    }
    if step.status_only {
        response.body = Value::Null;
        response.warnings.clear();
    }
    Seen {
        code: response.code,
        media: if step.status_only {
            String::new()
        } else {
            answer.media.clone()
        },
        warnings: response.warnings,
        body: response.body,
    }
}

fn plain(body: Value) -> Value {
    let code = 200;
    let warnings = Vec::new();
    normalise(Response { code, warnings, body }).body
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            if let Some(Value::Array(items)) = map.get_mut("items") {
                items.retain(|item| item["metadata"]["name"] != "kube-root-ca.crt");
            }
            if map.contains_key("containers") {
                without_plugins(map);
            }
            map.values_mut().for_each(tidy);
            // Owners stand by their identity in managed fields.
            if map.keys().any(|key| key.starts_with("k:{\"uid\":")) {
                let owners: Vec<Value> = std::mem::take(map).into_iter().map(|(_, value)| value).collect();
                map.insert("<owners>".to_owned(), owners.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::String(text) => {
            if let Ok(time) = text.parse::<Timestamp>()
                && Timestamp::now().duration_since(time).abs().as_hours() < 1
            {
                let exact = if text.contains('.') { "<exact time>" } else { "<time>" };
                exact.clone_into(text);
            }
        }
        _ => {}
    }
}

/// Takes out of a Pod's spec what the plugins ServiceAccount, Priority and DefaultTolerationSeconds add.
fn without_plugins(spec: &mut serde_json::Map<String, Value>) {
    for name in ["serviceAccountName", "serviceAccount"] {
        if spec.get(name).is_some_and(|value| value == "default") {
            spec.remove(name);
        }
    }
    if spec.get("priority").is_some_and(|value| *value == 0) {
        spec.remove("priority");
    }
    if spec
        .get("preemptionPolicy")
        .is_some_and(|value| value == "PreemptLowerPriority")
    {
        spec.remove("preemptionPolicy");
    }
    if let Some(Value::Array(list)) = spec.get_mut("tolerations") {
        list.retain(|one| {
            !matches!(
                one["key"].as_str(),
                Some("node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable")
            )
        });
        if list.is_empty() {
            spec.remove("tolerations");
        }
    }
}

/// Changes what a path names; `*` is every element, `name=value` those of a list.
fn edit(value: &mut Value, path: &[&str], put: Option<&str>) {
    let Some((step, rest)) = path.split_first() else { return };
    match value {
        Value::Object(map) if rest.is_empty() => {
            let key = step.replace("~1", "/");
            match put {
                None => {
                    map.remove(&key);
                }
                Some(put) => {
                    if let Some(found) = map.get_mut(&key) {
                        *found = put.into();
                    }
                }
            }
        }
        Value::Object(map) if *step == "*" => map.values_mut().for_each(|item| edit(item, rest, put)),
        Value::Object(map) => {
            if let Some(found) = map.get_mut(&step.replace("~1", "/")) {
                edit(found, rest, put);
            }
        }
        Value::Array(items) => {
            let meant = |place: usize, item: &Value| match step.split_once('=') {
                Some((key, wanted)) => item[key] == wanted,
                None => *step == "*" || place.to_string() == *step,
            };
            if rest.is_empty() && put.is_none() {
                let mut place = 0;
                items.retain(|item| {
                    place += 1;
                    !meant(place - 1, item)
                });
                return;
            }
            for (place, item) in items.iter_mut().enumerate() {
                if meant(place, item) {
                    match put {
                        Some(put) if rest.is_empty() => *item = put.into(),
                        _ => edit(item, rest, put),
                    }
                }
            }
        }
        _ => {}
    }
}

fn forget(value: &mut Value, pattern: &Regex) {
    match value {
        Value::String(text) => *text = pattern.replace_all(text, "<forgotten>").into_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, pattern)),
        Value::Object(map) => map.values_mut().for_each(|item| forget(item, pattern)),
        _ => {}
    }
}

/// Says in which lines two answers differ.
pub fn difference(wanted: &Seen, found: &Seen) -> String {
    let text = |seen: &Seen| {
        format!(
            "code {}\ntype {}\nwarnings {:?}\n{}",
            seen.code,
            seen.media,
            seen.warnings,
            serde_json::to_string_pretty(&seen.body).unwrap()
        )
    };
    let (wanted, found) = (text(wanted), text(found));
    let (wanted, found): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), found.lines().collect());
    let mut out = String::new();
    for (sign, lines, others) in [('-', &wanted, &found), ('+', &found, &wanted)] {
        let mut left = others.clone();
        for line in lines {
            match left
                .iter()
                .position(|other| other.trim_end_matches(',') == line.trim_end_matches(','))
            {
                Some(place) => {
                    left.remove(place);
                }
                None => out.push_str(&format!("    {sign} {line}\n")),
            }
        }
    }
    if out.is_empty() {
        out.push_str("    the same lines in another order\n");
    }
    out
}
