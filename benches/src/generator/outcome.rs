//! What one run of the generator found, as it travels from the generator's process to the bench.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds, three significant digits.
pub type Nanoseconds = Histogram<u64>;

/// Longest latency a histogram can hold; a longer one is recorded as this.
const LONGEST_NANOSECONDS: u64 = 3_600_000_000_000;

/// An empty histogram.
pub fn histogram() -> Nanoseconds {
    Histogram::new_with_bounds(1, LONGEST_NANOSECONDS, 3).expect("constant bounds are valid")
}

/// A histogram as (value, count) pairs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency(Vec<(u64, u64)>);

impl From<&Nanoseconds> for Latency {
    fn from(histogram: &Nanoseconds) -> Self {
        let recorded = histogram.iter_recorded();
        Self(recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect())
    }
}

impl Latency {
    /// Adds all samples to `histogram`.
    pub fn add_to(&self, histogram: &mut Nanoseconds) {
        for &(value, count) in &self.0 {
            histogram.saturating_record_n(value, count);
        }
    }
}

/// Counts and times of the counted part of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Answers received.
    pub messages: u64,
    /// Messages sent and not answered by the end; more than the connections hold is a failure of
    /// the subject.
    pub unanswered: u64,
    /// Length of the counted part.
    pub seconds: f64,
    /// CPU time of the subject in it, all threads, softirq included.
    pub server_cpu_seconds: f64,
    /// CPU time of the generator in it.
    pub generator_cpu_seconds: f64,
    /// CPU time of everything on this machine in it.
    pub machine_cpu_seconds: f64,
    /// Time of the cores of subject and generator in it that the hypervisor gave to others.
    pub stolen_seconds: f64,
    /// Connections refused because a listen queue was full.
    pub listen_overflows: u64,
    /// From the time a message was due to its answer (closed loop: from its sending).
    pub intended_to_received: Latency,
    /// From the time a message was sent to its answer.
    pub sent_to_received: Latency,
    /// From the time a message was due to its sending.
    pub lag: Latency,
}

impl Outcome {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// CPU time that neither the subject nor the generator used, as a share of one core.
    pub fn foreign_cpu_share(&self) -> f64 {
        let ours = self.server_cpu_seconds + self.generator_cpu_seconds;
        ((self.machine_cpu_seconds - ours) / self.seconds).max(0.0)
    }
}
