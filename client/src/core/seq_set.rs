//! A set of positive numbers that fills from below: one watermark, and the ranges above it.
//!
//! The ranges are bounded: the highest is forgotten when there are too many, which costs a pull, never a message.

/// Ranges above the watermark.
const RANGES_MAX: usize = 64;

/// Numbers from 1 to the watermark, and ranges above.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeqSet {
    watermark: u64,
    /// Inclusive, ascending, neither touching each other nor the watermark.
    ranges: Vec<(u64, u64)>,
}

impl SeqSet {
    pub(crate) fn from_watermark(watermark: u64) -> Self {
        Self { watermark, ranges: Vec::new() }
    }

    /// Highest number up to which all are in the set.
    pub(crate) fn watermark(&self) -> u64 {
        self.watermark
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        number <= self.watermark
            || self.ranges.iter().any(|&(first, last)| first <= number && number <= last)
    }

    /// Adds `first..=last`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        if last <= self.watermark || first > last {
            return;
        }
        if self.ranges.is_empty() && first <= self.watermark.saturating_add(1) {
            self.watermark = last;
            return;
        }
        let (mut first, mut last) = (first, last);
        self.ranges.retain(|&(f, l)| {
            let touches = f <= last.saturating_add(1) && first <= l.saturating_add(1);
            if touches {
                first = first.min(f);
                last = last.max(l);
            }
            !touches
        });
        if first <= self.watermark.saturating_add(1) {
            self.watermark = last;
            return;
        }
        let at = self.ranges.partition_point(|&(f, _)| f < first);
        self.ranges.insert(at, (first, last));
        self.ranges.truncate(RANGES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(inserts in prop::collection::vec((1u64..80, 0u64..6), 0..60)) {
            let mut set = SeqSet::default();
            let mut model = BTreeSet::new();
            for (first, length) in inserts {
                set.insert(first, first + length);
                model.extend(first..=first + length);
                let watermark = (1..).take_while(|n| model.contains(n)).last().unwrap_or(0);
                prop_assert_eq!(set.watermark(), watermark);
                for number in 1..100 {
                    prop_assert_eq!(set.contains(number), model.contains(&number));
                }
            }
        }
    }

    #[test]
    fn too_many_ranges_forget_the_highest() {
        let mut set = SeqSet::default();
        for n in 1..=2 * RANGES_MAX as u64 {
            set.insert(2 * n, 2 * n);
        }
        assert_eq!(set.ranges.len(), RANGES_MAX);
        assert!(set.contains(2) && !set.contains(4 * RANGES_MAX as u64));
        set.insert(u64::MAX, u64::MAX);
        set.insert(1, u64::MAX - 1);
        assert_eq!(set.watermark(), u64::MAX - 1);
    }
}
