//! What the log says of a database that cannot be used.

use std::time::{Duration, Instant};

use crate::store::StoreError;

/// A database that comes and goes, as one on a full disk does, is told about once in this time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Whether the database can be used, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    is_on: bool,
    /// That this one is on; its end is told only then.
    is_told: bool,
    told_at: Option<Instant>,
    /// Outages since, of which nothing was said.
    untold: u64,
}

impl Outage {
    /// Nothing can be committed.
    pub(super) fn begin(&mut self, error: &StoreError) {
        if let Some(untold) = self.begin_at(Instant::now()) {
            tracing::error!(%error, untold, "sends are refused until the database is usable again");
        }
    }

    /// A batch was done.
    pub(super) fn end(&mut self) {
        if self.end_now() {
            tracing::info!("the database is usable again");
        }
    }

    /// How many others were not told about, when this one is to be now.
    fn begin_at(&mut self, now: Instant) -> Option<u64> {
        let is_new = !std::mem::replace(&mut self.is_on, true);
        self.untold += u64::from(is_new);
        let is_soon = self.told_at.is_some_and(|at| now.duration_since(at) < TOLD_EVERY);
        if self.is_told || is_soon {
            return None;
        }
        (self.is_told, self.told_at) = (true, Some(now));
        Some(std::mem::take(&mut self.untold) - 1)
    }

    /// Whether to tell.
    fn end_now(&mut self) -> bool {
        self.is_on = false;
        std::mem::take(&mut self.is_told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_comes_and_goes_is_told_about_now_and_then() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        assert!(!outage.end_now(), "there was none");
        assert_eq!(outage.begin_at(start), Some(0));
        assert_eq!(outage.begin_at(start), None, "it goes on");
        assert!(outage.end_now());
        for _ in 0..30 {
            assert_eq!(outage.begin_at(start + TOLD_EVERY / 2), None);
            assert!(!outage.end_now());
        }
        assert_eq!(outage.begin_at(start + TOLD_EVERY / 2), None);
        assert_eq!(outage.begin_at(start + TOLD_EVERY), Some(30), "this one lasts");
        assert_eq!(outage.begin_at(start + TOLD_EVERY * 3), None);
        assert!(outage.end_now() && !outage.end_now());
    }
}
