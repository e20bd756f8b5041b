//! What the bus counts, for the metrics of both tiers.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only the bus changes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A distribution by powers of two: bucket `i` counts values up to 2^i.
#[derive(Debug)]
pub struct Distribution<const BUCKETS: usize> {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl<const BUCKETS: usize> Default for Distribution<BUCKETS> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl<const BUCKETS: usize> Distribution<BUCKETS> {
    pub(crate) fn observe(&self, value: u64) {
        let bucket = value.max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }
    /// Values seen.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// Counters of one process' bus.
#[derive(Debug, Default)]
pub struct BusCounters {
    /// Bodies published and confirmed.
    pub confirmed: Count,
    /// Time from the publish to its confirm, in microseconds.
    pub confirm_micros: Distribution<26>,
    /// Size of published bodies, in bytes.
    pub body_bytes: Distribution<21>,
    /// Bodies that nobody takes.
    pub returned: Count,
    /// Bodies refused because a queue is full.
    pub refused_full: Count,
    /// Bodies whose outcome is unknown because the connection was lost.
    pub unknown: Count,
    /// Connections that were lost.
    pub connections_lost: Count,
    /// 1 while there is a connection to publish on.
    pub connected: Count,
    /// 1 while the broker takes nothing from publishers.
    pub blocked: Count,
    /// Inbound bodies handed to the worker.
    pub taken: Count,
    /// Of them, delivered before.
    pub redelivered: Count,
    /// Acknowledgements that came too late: the body was given back in the meantime.
    pub acknowledged_late: Count,
    /// Bodies that took their worker down too often.
    pub dead_lettered: Count,
    /// Partitions this process consumes.
    pub partitions_held: Count,
    /// Inbound bodies received and not handed over yet.
    pub waiting: Count,
}

impl BusCounters {
    /// Appends all in the OpenMetrics text format.
    pub fn encode(&self, out: &mut String) {
        for (name, help, value) in [
            ("confirmed", "Bodies published and confirmed", &self.confirmed),
            ("returned", "Bodies that nobody takes", &self.returned),
            ("refused_full", "Bodies refused because a queue is full", &self.refused_full),
            ("unknown", "Bodies whose connection was lost before the confirm", &self.unknown),
            ("connections_lost", "Connections that were lost", &self.connections_lost),
            ("taken", "Inbound bodies handed to the worker", &self.taken),
            ("redelivered", "Inbound bodies that were delivered before", &self.redelivered),
            ("acknowledged_late", "Acknowledgements that came too late", &self.acknowledged_late),
            ("dead_lettered", "Bodies put into roost.dead", &self.dead_lettered),
        ] {
            head(out, name, help, "counter");
            _ = writeln!(out, "roost_bus_{name}_total {}", value.get());
        }
        for (name, help, value) in [
            ("connected", "Whether there is a connection to publish on", &self.connected),
            ("blocked", "Whether the broker takes nothing from publishers", &self.blocked),
            ("partitions_held", "Partitions consumed here", &self.partitions_held),
            ("waiting", "Inbound bodies received and not handed over", &self.waiting),
        ] {
            head(out, name, help, "gauge");
            _ = writeln!(out, "roost_bus_{name} {}", value.get());
        }
        let per_second = Duration::from_secs(1).as_micros() as f64;
        let name = "confirm_seconds";
        encode(out, name, "From the publish to its confirm", &self.confirm_micros, per_second);
        encode(out, "body_bytes", "Size of published bodies", &self.body_bytes, 1.0);
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    _ = writeln!(out, "# HELP roost_bus_{name} {help}.\n# TYPE roost_bus_{name} {kind}");
}

fn encode<const N: usize>(
    out: &mut String,
    name: &str,
    help: &str,
    distribution: &Distribution<N>,
    unit: f64,
) {
    head(out, name, help, "histogram");
    let mut below = 0;
    for (power, bucket) in distribution.buckets.iter().enumerate() {
        below += bucket.load(Ordering::Relaxed);
        let bound = match power == N - 1 {
            true => "+Inf".to_owned(),
            false => ((1u64 << power) as f64 / unit).to_string(),
        };
        _ = writeln!(out, "roost_bus_{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    _ = writeln!(out, "roost_bus_{name}_sum {}", distribution.sum() as f64 / unit);
    _ = writeln!(out, "roost_bus_{name}_count {below}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_below_their_bound() {
        let counters = BusCounters::default();
        for micros in [0, 1, 2, 3, 1_000_000] {
            counters.confirm_micros.observe(micros);
        }
        let mut text = String::new();
        counters.encode(&mut text);
        for line in [
            "roost_bus_confirm_seconds_bucket{le=\"0.000001\"} 2",
            "roost_bus_confirm_seconds_bucket{le=\"0.000002\"} 3",
            "roost_bus_confirm_seconds_bucket{le=\"0.000004\"} 4",
            "roost_bus_confirm_seconds_bucket{le=\"+Inf\"} 5",
            "roost_bus_confirm_seconds_count 5",
            "roost_bus_blocked 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
