//! Latency without coordinated omission: histograms, and latency over time.
//!
//! The headline is *intended send time to received*: a stalled generator or server makes it worse,
//! never better. Beside it stand *sent to received* and the generator's own lag, so that a reader
//! can tell a slow server from a slow generator. A percentile is given only when at least
//! [`SAMPLES_BEYOND_MIN`] samples lie beyond it.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Fewer samples beyond a percentile make it an accident.
pub const SAMPLES_BEYOND_MIN: u64 = 100;
/// Longer latencies count as this: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Seconds of a run that get their own histogram; later ones are left out of the plot over time.
const SECONDS_MAX: usize = 4 * 3600;

/// Microseconds at fixed relative error of 0.1 %.
#[derive(Clone, Debug)]
pub struct LatencyHistogram(Histogram<u64>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("bounds are valid"))
    }
}

impl LatencyHistogram {
    /// Counts one sample; 0 counts as 1 us.
    pub fn record(&mut self, latency_us: u64) {
        self.0.saturating_record(latency_us.max(1));
    }

    /// Adds all samples of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Number of samples.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency at a quantile (0.99 for p99), if enough samples lie beyond it.
    #[must_use]
    pub fn at_quantile(&self, quantile: f64) -> Option<u64> {
        let beyond = self.count() as f64 * (1.0 - quantile);
        // 1 - 0.9999 is not exact.
        (beyond + 1e-6 >= SAMPLES_BEYOND_MIN as f64).then(|| self.0.value_at_quantile(quantile))
    }

    /// The longest latency.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.0.max())
    }

    /// The percentiles of the report.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.at_quantile(0.5),
            p90: self.at_quantile(0.9),
            p99: self.at_quantile(0.99),
            p999: self.at_quantile(0.999),
            p9999: self.at_quantile(0.9999),
            max: self.max(),
        }
    }

    /// Points (quantile, us) for a curve whose axis is the logarithm of what lies beyond. It ends
    /// where fewer than [`SAMPLES_BEYOND_MIN`] samples lie beyond.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, u64)> {
        const POINTS_PER_DECADE: u32 = 20;
        (0..=5 * POINTS_PER_DECADE)
            .map(|point| 1.0 - 10f64.powf(-f64::from(point) / f64::from(POINTS_PER_DECADE)))
            .map_while(|quantile| Some((quantile, self.at_quantile(quantile)?)))
            .collect()
    }
}

/// Microseconds; absent where too few samples lie beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: Option<u64>,
    pub p90: Option<u64>,
    pub p99: Option<u64>,
    pub p999: Option<u64>,
    pub p9999: Option<u64>,
    pub max: Option<u64>,
}

impl Percentiles {
    /// Each percentile with its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p999", self.p999),
            ("p9999", self.p9999),
            ("max", self.max),
        ]
    }
}

/// One latency, from the intended and from the real sending, whole and by second.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Intended send time to received: the headline.
    pub from_intended: LatencyHistogram,
    /// Sent to received.
    pub from_sent: LatencyHistogram,
    seconds: Vec<Histogram<u32>>,
}

/// Latency within one second of a run, by intended send time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; microseconds")]
pub struct SecondLatency {
    pub second: usize,
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Latency {
    /// Counts a message that was wanted, sent and received at these times; `start_us` is the first
    /// intended time of the run.
    pub fn record(&mut self, start_us: u64, intended_us: u64, sent_us: u64, received_us: u64) {
        let latency_us = received_us.saturating_sub(intended_us).max(1);
        self.from_intended.record(latency_us);
        self.from_sent.record(received_us.saturating_sub(sent_us));
        let second = (intended_us.saturating_sub(start_us) / 1_000_000) as usize;
        if second < SECONDS_MAX {
            while self.seconds.len() <= second {
                let coarse = Histogram::new_with_bounds(1, LATENCY_US_MAX, 2);
                self.seconds.push(coarse.expect("bounds are valid"));
            }
            self.seconds[second].saturating_record(latency_us);
        }
    }

    /// Adds all samples of `other`.
    pub fn add(&mut self, other: &Self) {
        self.from_intended.add(&other.from_intended);
        self.from_sent.add(&other.from_sent);
        for (second, theirs) in other.seconds.iter().enumerate() {
            match self.seconds.get_mut(second) {
                Some(ours) => ours.add(theirs).expect("all seconds have the same bounds"),
                None => self.seconds.push(theirs.clone()),
            }
        }
    }

    /// Latency by second; seconds without a sample are left out.
    #[must_use]
    pub fn by_second(&self) -> Vec<SecondLatency> {
        let filled = self.seconds.iter().enumerate().filter(|(_, h)| !h.is_empty());
        filled
            .map(|(second, h)| SecondLatency {
                second,
                count: h.len(),
                p50: h.value_at_quantile(0.5),
                p99: h.value_at_quantile(0.99),
                max: h.max(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(samples: u64, expected: [bool; 6]) {
        let mut histogram = LatencyHistogram::default();
        (1..=samples).for_each(|us| histogram.record(us));
        let given = histogram.percentiles().named().map(|(_, value)| value.is_some());
        assert_eq!(given, expected, "{samples} samples");
    }

    #[test]
    fn a_percentile_needs_a_hundred_samples_beyond_it() {
        check(0, [false, false, false, false, false, false]);
        check(199, [false, false, false, false, false, true]);
        check(200, [true, false, false, false, false, true]);
        check(1_000, [true, true, false, false, false, true]);
        check(9_999, [true, true, false, false, false, true]);
        check(10_000, [true, true, true, false, false, true]);
        check(100_000, [true, true, true, true, false, true]);
        check(1_000_000, [true, true, true, true, true, true]);
    }

    #[test]
    fn a_stall_counts_from_the_intended_time() {
        let mut latency = Latency::default();
        // Sent a second late, answered at once.
        latency.record(0, 0, 1_000_000, 1_000_100);
        assert!(latency.from_intended.max().unwrap() >= 1_000_000);
        assert!(latency.from_sent.max().unwrap() < 200);
    }

    #[test]
    fn adding_keeps_every_sample_and_second() {
        let (mut one, mut other) = (Latency::default(), Latency::default());
        one.record(0, 100, 100, 200);
        other.record(0, 2_000_000, 2_000_000, 2_000_300);
        one.add(&other);
        assert_eq!(one.from_intended.count(), 2);
        let seconds: Vec<_> = one.by_second().iter().map(|s| (s.second, s.count)).collect();
        assert_eq!(seconds, [(0, 1), (2, 1)]);
    }
}
