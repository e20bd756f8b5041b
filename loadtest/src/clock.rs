//! The one clock of a run: microseconds since 1970, steady after its start.
//!
//! Invariant: it never goes back. Its start is read from the wall clock, so that the histories of
//! two runs on one machine can be judged together.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Copied to every thread of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunClock {
    start: Instant,
    start_us: u64,
}

impl RunClock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), start_us: micros(since_epoch) }
    }

    /// Now, in microseconds since 1970.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.start_us + micros(self.start.elapsed())
    }

    /// An instant in microseconds since 1970. Instants before the start give the start.
    #[must_use]
    pub fn us_of(&self, at: Instant) -> u64 {
        self.start_us + micros(at.saturating_duration_since(self.start))
    }

    /// When the clock started, in microseconds since 1970.
    #[must_use]
    pub const fn start_us(&self) -> u64 {
        self.start_us
    }

    /// The instant of a time of this clock, for timers. Times before the start give the start.
    #[must_use]
    pub fn instant(&self, at_us: u64) -> Instant {
        self.start + Duration::from_micros(at_us.saturating_sub(self.start_us))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
