//! Median, minimum and maximum of rounds, and percentiles that have enough samples to be printed.

use std::fmt;

use serde::Serialize;

use crate::generator::{Latency, Nanoseconds, histogram};

/// A percentile is printed only with this many samples beyond it.
const SAMPLES_BEYOND_MIN: f64 = 100.0;

/// Several rounds of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The middle round, or the mean of the two.
    pub median: f64,
    /// The lowest round.
    pub min: f64,
    /// The highest round.
    pub max: f64,
}

impl Spread {
    /// Of at least one value; of none it is zero.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self { median, min, max }
    }
}

impl fmt::Display for Spread {
    /// `median (min..max)`, with the formatter's precision.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = formatter.precision().unwrap_or(0);
        let Self { median, min, max } = self;
        formatter.pad_integral(
            true,
            "",
            &format!("{median:.digits$} ({min:.digits$}..{max:.digits$})"),
        )
    }
}

/// A percentile in nanoseconds, if there are samples enough.
pub(super) fn percentile_of(histogram: &Nanoseconds, quantile: f64) -> Option<f64> {
    let beyond = histogram.len() as f64 * (1.0 - quantile);
    // A hundredth of a sample: 1 - 0.9999 is not exact.
    (beyond + 0.01 >= SAMPLES_BEYOND_MIN).then(|| histogram.value_at_quantile(quantile) as f64)
}

/// The same for an outcome's latency.
pub(super) fn percentile(latency: &Latency, quantile: f64) -> Option<f64> {
    let mut all = histogram();
    latency.add_to(&mut all);
    percentile_of(&all, quantile)
}

/// The highest value of an outcome's latency, nanoseconds; of none it is zero.
pub(super) fn max(latency: &Latency) -> f64 {
    let mut all = histogram();
    latency.add_to(&mut all);
    all.max() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], expected: &str) {
        assert_eq!(format!("{:.1}", Spread::of(values.iter().copied())), expected);
    }

    #[test]
    fn spread_is_median_and_range() {
        check(&[3.0, 1.0, 2.0], "2.0 (1.0..3.0)");
        check(&[4.0, 1.0], "2.5 (1.0..4.0)");
        check(&[], "0.0 (0.0..0.0)");
    }

    #[test]
    fn percentiles_need_a_hundred_samples_beyond() {
        let mut samples = histogram();
        samples.saturating_record_n(5, 99_000);
        assert_eq!(percentile_of(&samples, 0.999), None);
        samples.saturating_record_n(5, 1_000);
        assert_eq!(percentile_of(&samples, 0.999), Some(5.0));
    }
}
