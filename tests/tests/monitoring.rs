//! Metrics, alerts and dashboard: what one of them names, the programs have.

mod promql;

use std::path::{Path, PathBuf};

use serde_json::Value;
use telemetry::metrics::{Description, Kind};

use promql::Selector;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

fn tables() -> Vec<&'static Description> {
    let operator = reconciler::metrics::TABLE.iter();
    operator.chain(agent::metrics::TABLE).collect()
}

/// Says what is wrong with a selector.
fn fault(selector: &Selector) -> Option<String> {
    let Some(described) = tables()
        .into_iter()
        .find(|described| described.series().contains(&selector.metric))
    else {
        return Some(format!("no program has the metric {}", selector.metric));
    };
    let is_bucket = selector.metric.ends_with("_bucket");
    // `namespace` is what Prometheus adds: that of the Service by which a program was found.
    let unknown = selector.matched.iter().chain(&selector.grouped).find(|label| {
        !(described.labels.contains(&label.as_str()) || is_bucket && *label == "le" || *label == "namespace")
    });
    if let Some(label) = unknown {
        return Some(format!("{} has no label {label}", selector.metric));
    }
    let grows = described.kind != Kind::Gauge;
    let inner = selector.within.first().map(String::as_str).unwrap_or_default();
    if grows != (selector.ranged && ["rate", "increase"].contains(&inner)) {
        return Some(format!(
            "{} is {}; it is asked for by {inner:?}{}",
            selector.metric,
            if grows {
                "a counter, which needs rate or increase"
            } else {
                "a gauge"
            },
            if selector.ranged { " over a range" } else { "" },
        ));
    }
    None
}

fn check(place: &str, expression: &str) -> usize {
    let found = promql::parse(expression).unwrap_or_else(|error| panic!("{place}: {error} in {expression}"));
    assert!(!found.is_empty(), "{place} asks for nothing: {expression}");
    for selector in &found {
        if let Some(fault) = fault(selector) {
            panic!("{place}: {fault}; in {expression}");
        }
        assert!(
            selector.matched.contains(&"namespace".to_owned()),
            "{place}: {} is asked of all releases; in {expression}",
            selector.metric
        );
    }
    found.len()
}

#[test]
fn every_alert_asks_for_metrics_that_the_programs_have_and_says_what_to_do() {
    let alerts = schemas::yaml::parse_value(&read("charts/foreman/files/alerts.yaml")).unwrap();
    let groups = alerts["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    let used = regex::Regex::new(r"\$labels\.([a-z_]+)").unwrap();
    let mut names = Vec::new();
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        check(name, rule["expr"].as_str().unwrap());
        assert_eq!(
            rule["labels"]["namespace"], "RELEASE_NAMESPACE",
            "{name} of two releases would be one alert"
        );
        names.push(name);
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["warning", "critical"].contains(&severity), "{name}: {severity}");
        let said = |key: &str| rule["annotations"][key].as_str().unwrap_or_default();
        assert!(said("summary").len() > 20, "{name} has no summary");
        assert!(said("description").len() > 60, "{name} does not say what to do");
        // A label in a text must be one of those that the expression keeps.
        let kept = promql::parse(rule["expr"].as_str().unwrap()).unwrap();
        for key in ["summary", "description"] {
            for found in used.captures_iter(said(key)) {
                let label = found[1].to_owned();
                assert!(
                    kept.iter().all(|selector| selector.grouped.contains(&label)),
                    "{name}: {key} names {label}, which the expression does not keep"
                );
            }
        }
    }
    for wanted in [
        "ForemanNoLeader",
        "ForemanTaskStuck",
        "ForemanNodeHeartbeatStale",
        "ForemanGateErrors",
        "ForemanQueueInvalid",
    ] {
        assert!(names.contains(&wanted), "{wanted} is missing");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rules.len(), "two alerts have one name");
}

#[test]
fn every_panel_of_the_dashboard_asks_for_metrics_that_the_programs_have() {
    let dashboard: Value = serde_json::from_str(&read("charts/foreman/files/dashboard.json")).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"].as_str().is_some_and(|said| !said.is_empty()),
            "{title}"
        );
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            asked += check(title, target["expr"].as_str().unwrap());
        }
    }
    assert!(asked > 25, "{asked}");
}

#[test]
fn a_selector_that_no_program_answers_is_found() {
    let fault = |text: &str| fault(&promql::parse(text).unwrap()[0]).unwrap_or_default();
    assert!(fault("sum(foreman_lieder)").contains("no program has"));
    assert!(fault("sum by (task) (foreman_tasks)").contains("no label task"));
    assert!(fault("sum(foreman_assignments_total)").contains("needs rate"));
    assert!(fault("rate(foreman_tasks[5m])").contains("a gauge"));
    assert!(fault("sum by (le) (foreman_tasks)").contains("no label le"));
    assert_eq!(fault("sum(foreman_leader)"), "");
}

/// Renders the reference of the metrics.
fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\nWhat operator and agents tell of themselves, in the OpenMetrics format. `kubectl -n foreman-system port-forward\n\
         deployment/foreman-operator 8484` and `curl localhost:8484/metrics` show them; an agent serves them where it is given\n\
         `--metrics-listen`. No label names a task: the number of series is bounded by kinds, controllers, queues, Agents and nodes.\n\
         Alerts are in `charts/foreman/files/alerts.yaml`, the dashboard is in `charts/foreman/files/dashboard.json`.\n\n\
         ## Probes\n\nOn the same port. `/readyz` says of each part whether it can work and, if not, why; a replica of the operator that\n\
         stands by is ready. `/livez` fails only for what a restart cures: a reconcile, a heartbeat or the renewal of a lease that\n\
         does not come to its end. `/healthz` is `/livez`.\n",
    );
    for (title, table) in [
        ("Operator", reconciler::metrics::TABLE),
        ("Agent", agent::metrics::TABLE),
    ] {
        text.push_str(&format!(
            "\n## {title}\n\n| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n"
        ));
        for described in table {
            let kind = match described.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let labels = described.labels.iter().map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            text.push_str(&format!(
                "| `{}` | {kind} | {labels} | {}. |\n",
                described.name, described.help
            ));
        }
    }
    text
}

#[test]
fn the_page_of_metrics_is_what_the_programs_say() {
    let wanted = reference();
    if std::env::var_os("FOREMAN_WRITE").is_some() {
        std::fs::write(repository("docs/metrics.md"), &wanted).unwrap();
    } else {
        assert!(
            read("docs/metrics.md") == wanted,
            "docs/metrics.md is not what the programs say; run `FOREMAN_WRITE=1 cargo test -p tests the_page_of_metrics`"
        );
    }
}
