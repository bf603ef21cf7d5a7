//! Metrics by a table: what is not described there cannot be counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Content type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets of what takes milliseconds to seconds, such as a reconcile.
pub const FAST: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Buckets of what takes seconds to minutes, such as a model's turn.
pub const SLOW: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Buckets of what takes minutes to hours, such as a task.
pub const LONG: &[f64] = &[1.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0];

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts values by these upper bounds.
    Histogram(&'static [f64]),
}

/// One metric of a program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Description {
    /// Name, as a query has it; of a histogram without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells, in one line, without a full stop.
    pub help: &'static str,
}

impl Description {
    /// Names the series that a query can ask for.
    pub fn series(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter | Kind::Gauge => vec![self.name.to_owned()],
            Kind::Histogram(_) => ["_bucket", "_sum", "_count"]
                .map(|end| format!("{}{end}", self.name))
                .into(),
        }
    }
}

type Labels = Vec<(&'static str, String)>;

/// Makes histograms with the buckets of their description.
#[derive(Clone)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

#[derive(Clone)]
enum Series {
    Counter(Family<Labels, Counter>),
    Gauge(Family<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>),
    Histogram(Family<Labels, Histogram, Buckets>),
}

type Source = Box<dyn Fn(&mut dyn FnMut(&'static str, &[(&'static str, &str)], f64)) + Send + Sync>;

/// The metrics of one program.
pub struct Metrics {
    registry: Registry,
    series: BTreeMap<&'static str, Series>,
    /// Asked at every rendering; what they set stands for that rendering alone.
    sources: Mutex<Vec<(&'static [&'static str], Source)>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("series", &self.series.keys())
            .finish_non_exhaustive()
    }
}

impl Metrics {
    /// Makes the metrics that `table` describes.
    pub fn new(table: &[Description]) -> Self {
        let mut registry = Registry::default();
        let mut series = BTreeMap::new();
        for described in table {
            // The format adds what a counter's name ends in.
            let name = described.name.trim_end_matches("_total");
            let kind = match described.kind {
                Kind::Counter => {
                    let family = Family::default();
                    registry.register(name, described.help, family.clone());
                    if described.labels.is_empty() {
                        drop(family.get_or_create(&Vec::new()));
                    }
                    Series::Counter(family)
                }
                Kind::Gauge => {
                    let family = Family::default();
                    registry.register(name, described.help, family.clone());
                    Series::Gauge(family)
                }
                Kind::Histogram(bounds) => {
                    let family = Family::new_with_constructor(Buckets(bounds));
                    registry.register(name, described.help, family.clone());
                    Series::Histogram(family)
                }
            };
            series.insert(described.name, kind);
        }
        Self {
            registry,
            series,
            sources: Mutex::default(),
        }
    }

    /// Adds `count` to a counter; names that the table lacks count nowhere.
    pub fn add(&self, name: &str, labels: &[(&'static str, &str)], count: u64) {
        match self.series.get(name) {
            Some(Series::Counter(family)) => {
                family.get_or_create(&owned(labels)).inc_by(count);
            }
            _ => debug_assert!(false, "{name} is no counter of this program"),
        }
    }

    /// Adds one to a counter.
    pub fn count(&self, name: &str, labels: &[(&'static str, &str)]) {
        self.add(name, labels, 1);
    }

    /// Sets a gauge.
    pub fn set(&self, name: &str, labels: &[(&'static str, &str)], value: f64) {
        match self.series.get(name) {
            Some(Series::Gauge(family)) => {
                family.get_or_create(&owned(labels)).set(value);
            }
            _ => debug_assert!(false, "{name} is no gauge of this program"),
        }
    }

    /// Takes a value into a histogram.
    pub fn observe(&self, name: &str, labels: &[(&'static str, &str)], value: f64) {
        match self.series.get(name) {
            Some(Series::Histogram(family)) => family.get_or_create(&owned(labels)).observe(value),
            _ => debug_assert!(false, "{name} is no histogram of this program"),
        }
    }

    /// Has `source` set the gauges `names` anew at every rendering; what it does not set is gone.
    pub fn on_render(
        &self,
        names: &'static [&'static str],
        source: impl Fn(&mut dyn FnMut(&'static str, &[(&'static str, &str)], f64)) + Send + Sync + 'static,
    ) {
        self.sources().push((names, Box::new(source)));
    }

    fn sources(&self) -> MutexGuard<'_, Vec<(&'static [&'static str], Source)>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renders all series in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let sources = self.sources();
        for (names, source) in sources.iter() {
            for name in *names {
                if let Some(Series::Gauge(family)) = self.series.get(name) {
                    family.clear();
                }
            }
            source(&mut |name, labels, value| self.set(name, labels, value));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes whatever is written to it");
        text
    }

    /// Sums the series of a counter whose labels include all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        sum(&self.render(), name, labels) as u64
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

/// Reads a rendering: sums the series of `name` whose labels include all of `labels`.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, have) = series.split_once('{').unwrap_or((series, ""));
            let within = labels
                .iter()
                .all(|(key, value)| have.contains(&format!("{key}=\"{value}\"")));
            (found == name && within).then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const TABLE: &[Description] = &[
        Description {
            name: "t_requests_total",
            kind: Kind::Counter,
            labels: &["verb", "cause"],
            help: "Requests, by verb and cause",
        },
        Description {
            name: "t_idle_total",
            kind: Kind::Counter,
            labels: &[],
            help: "Never counted",
        },
        Description {
            name: "t_tasks",
            kind: Kind::Gauge,
            labels: &["phase"],
            help: "Tasks, by phase",
        },
        Description {
            name: "t_seconds",
            kind: Kind::Histogram(FAST),
            labels: &[],
            help: "How long it took",
        },
    ];

    #[test]
    fn counters_add_up_and_labels_are_escaped() {
        let metrics = Metrics::new(TABLE);
        metrics.count("t_requests_total", &[("verb", "list"), ("cause", "a\"b")]);
        metrics.add("t_requests_total", &[("verb", "get"), ("cause", "c")], 2);
        assert_eq!(metrics.sum("t_requests_total", &[]), 3);
        assert_eq!(metrics.sum("t_requests_total", &[("verb", "get")]), 2);
        let text = metrics.render();
        assert!(
            text.contains("t_requests_total{verb=\"list\",cause=\"a\\\"b\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("# HELP t_requests Requests, by verb and cause.\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE t_requests counter\n"), "{text}");
        assert!(text.contains("\nt_idle_total{} 0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_a_source_no_longer_sets_is_gone() {
        let metrics = Metrics::new(TABLE);
        let phases = std::sync::Arc::new(Mutex::new(vec!["Pending", "Running"]));
        let seen = phases.clone();
        metrics.on_render(&["t_tasks"], move |set| {
            for phase in seen.lock().unwrap().iter() {
                set("t_tasks", &[("phase", phase)], 2.0);
            }
        });
        assert_eq!(sum(&metrics.render(), "t_tasks", &[]), 4.0);
        phases.lock().unwrap().pop();
        let text = metrics.render();
        assert_eq!(sum(&text, "t_tasks", &[]), 2.0, "{text}");
        assert!(!text.contains("Running"), "{text}");
    }

    #[test]
    fn a_histogram_has_the_series_that_its_description_names() {
        let metrics = Metrics::new(TABLE);
        metrics.observe("t_seconds", &[], 0.2);
        metrics.observe("t_seconds", &[], 7.0);
        let text = metrics.render();
        for series in TABLE[3].series() {
            assert!(
                text.lines()
                    .any(|line| line.starts_with(&format!("{series} ")) || line.starts_with(&format!("{series}{{"))),
                "{series} is not in {text}"
            );
        }
        assert!(text.contains("t_seconds_bucket{le=\"0.5\"} 1\n"), "{text}");
        assert_eq!(sum(&text, "t_seconds_count", &[]), 2.0);
    }
}
