//! Thresholds of a run from a TOML file: metric name and number.
//!
//! ```toml
//! ack_us.p99 = 10_000          # at most
//! delivery_us.p99 = 10_000
//! lost = 0
//! connections_held = 100_000   # at least: what is better when higher
//! ```
//! An unknown key is an error that names the nearest one: a mistyped threshold would pass for ever.

use serde::Serialize;

use crate::run::Run;

/// How a metric is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Lower is better.
    AtMost,
    /// Higher is better.
    AtLeast,
}

/// The metrics of a report, without the percentiles.
const METRICS: [(&str, Bound); 13] = [
    ("connections_held", Bound::AtLeast),
    ("connect_rate", Bound::AtLeast),
    ("offered", Bound::AtLeast),
    ("sent", Bound::AtLeast),
    ("acked", Bound::AtLeast),
    ("delivered", Bound::AtLeast),
    ("lost", Bound::AtMost),
    ("duplicates", Bound::AtMost),
    ("inversions", Bound::AtMost),
    ("server.rss_bytes", Bound::AtMost),
    ("server.private_bytes", Bound::AtMost),
    ("server.cpu_s", Bound::AtMost),
    ("private_bytes_per_connection", Bound::AtMost),
];
const LATENCIES: [&str; 3] = ["ack_us", "delivery_us", "generator_lag_us"];
const PERCENTILES: [&str; 6] = ["p50", "p90", "p99", "p999", "p9999", "max"];

/// One threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    metric: String,
    bound: Bound,
    limit: f64,
}

/// A threshold and what the run had.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SloResult {
    /// Name, such as `ack_us.p99`.
    pub metric: String,
    /// Direction.
    pub bound: Bound,
    /// From the file.
    pub limit: f64,
    /// Absent when the run cannot tell, which counts as missed.
    pub measured: Option<f64>,
    /// Whether the run is within the limit.
    pub is_met: bool,
}

/// Why a file holds no thresholds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SloError {
    /// Not TOML.
    #[error("the SLO file is not valid TOML: {0}")]
    Syntax(String),
    /// No such metric.
    #[error("the SLO file names the unknown metric `{name}`; did you mean `{nearest}`?")]
    UnknownMetric {
        /// As written.
        name: String,
        /// The nearest that exists.
        nearest: String,
    },
    /// A threshold is a number.
    #[error("the SLO file gives `{0}` a value that is no number")]
    NotANumber(String),
    /// An empty file checks nothing.
    #[error("the SLO file holds no threshold, for example: ack_us.p99 = 10000")]
    Empty,
}

/// Reads the thresholds of a file's text.
///
/// # Errors
/// When a key is unknown, a value is no number or nothing is there.
pub fn parse(text: &str) -> Result<Vec<Threshold>, SloError> {
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| SloError::Syntax(e.to_string().trim_end().to_owned()))?;
    let mut thresholds = Vec::new();
    collect(&table, "", &mut thresholds)?;
    if thresholds.is_empty() { Err(SloError::Empty) } else { Ok(thresholds) }
}

fn collect(
    table: &toml::Table,
    prefix: &str,
    thresholds: &mut Vec<Threshold>,
) -> Result<(), SloError> {
    for (key, value) in table {
        let metric = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let toml::Value::Table(inner) = value {
            collect(inner, &metric, thresholds)?;
            continue;
        }
        let Some(bound) = bound_of(&metric) else {
            return Err(SloError::UnknownMetric { nearest: nearest(&metric), name: metric });
        };
        let limit = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        let Some(limit) = limit else { return Err(SloError::NotANumber(metric)) };
        thresholds.push(Threshold { metric, bound, limit });
    }
    Ok(())
}

fn names() -> impl Iterator<Item = (String, Bound)> {
    let percentiles = LATENCIES.iter().flat_map(|latency| {
        PERCENTILES.iter().map(move |percentile| (format!("{latency}.{percentile}"), Bound::AtMost))
    });
    METRICS.iter().map(|(name, bound)| ((*name).to_owned(), *bound)).chain(percentiles)
}

fn bound_of(metric: &str) -> Option<Bound> {
    names().find(|(name, _)| name == metric).map(|(_, bound)| bound)
}

fn nearest(metric: &str) -> String {
    names()
        .map(|(name, _)| name)
        .max_by(|a, b| {
            let likeness = |name| strsim::jaro_winkler(metric, name);
            likeness(a).total_cmp(&likeness(b))
        })
        .unwrap_or_default()
}

/// Compares a run with thresholds.
#[must_use]
pub fn judge(thresholds: &[Threshold], run: &Run) -> Vec<SloResult> {
    let judge_one = |threshold: &Threshold| {
        let measured = measured(run, &threshold.metric);
        let is_met = measured.is_some_and(|value| match threshold.bound {
            Bound::AtMost => value <= threshold.limit,
            Bound::AtLeast => value >= threshold.limit,
        });
        let Threshold { metric, bound, limit } = threshold.clone();
        SloResult { metric, bound, limit, measured, is_met }
    };
    thresholds.iter().map(judge_one).collect()
}

fn measured(run: &Run, metric: &str) -> Option<f64> {
    let number = |n: u64| Some(n as f64);
    match metric {
        "connections_held" => number(run.connections_held),
        "connect_rate" => Some(run.connect_rate),
        "offered" => number(run.offered),
        "sent" => number(run.sent),
        "acked" => number(run.acked()),
        "delivered" => number(run.delivered),
        "lost" => number(run.lost()),
        "duplicates" => number(run.duplicates()),
        "inversions" => number(run.inversions()),
        "server.rss_bytes" => run.server.map(|s| s.rss_bytes as f64),
        "server.private_bytes" => run.server.map(|s| s.private_bytes as f64),
        "private_bytes_per_connection" => run.bytes_per_connection,
        "server.cpu_s" => run.server.map(|s| s.cpu_s),
        other => {
            let (latency, percentile) = other.split_once('.')?;
            let percentiles = match latency {
                "ack_us" => run.ack.from_intended.percentiles(),
                "delivery_us" => run.delivery.from_intended.percentiles(),
                "generator_lag_us" => run.generator_lag.percentiles(),
                _ => return None,
            };
            let named = percentiles.named();
            named.iter().find(|(name, _)| *name == percentile)?.1.map(|us| us as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dotted_keys_and_tables() {
        let thresholds = parse("lost = 0\n[ack_us]\np99 = 10_000\n").unwrap();
        let names: Vec<_> = thresholds.iter().map(|t| (t.metric.as_str(), t.limit)).collect();
        assert_eq!(names, [("ack_us.p99", 10_000.0), ("lost", 0.0)]);
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_mistake_is_named() {
        check_error("ack_us.p98 = 1", "did you mean `ack_us.p9");
        check_error("delivry_us.p99 = 1", "did you mean `delivery_us.p99`?");
        check_error("losst = 1", "did you mean `lost`?");
        check_error("lost = \"none\"", "gives `lost` a value that is no number");
        check_error("", "no threshold");
        check_error("lost = ", "not valid TOML");
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let mut run = Run { connections_held: 99, ..Run::default() };
        (0..10_000).for_each(|us| run.ack.record(0, 0, 0, us));
        let text = "ack_us.p50 = 6000\nack_us.p999 = 9e9\nconnections_held = 100\nlost = 0";
        let results = judge(&parse(text).unwrap(), &run);
        let met: Vec<_> = results.iter().map(|r| (r.metric.as_str(), r.is_met)).collect();
        assert_eq!(
            met,
            [
                ("ack_us.p50", true),
                ("ack_us.p999", false),
                ("connections_held", false),
                ("lost", true)
            ]
        );
    }
}
