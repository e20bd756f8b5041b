//! Wall-clock time for shards: derived from the monotonic instant a shard already has, so that a shard reads no clock of its own.
//!
//! The control thread corrects the offset now and then, so that steps of the system's clock are followed within seconds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the control thread calls [`WallClock::correct`].
pub const CORRECTION_INTERVAL: Duration = Duration::from_secs(5);

/// Turns an [`Instant`] into microseconds since 1970.
#[derive(Debug)]
pub struct WallClock {
    base: Instant,
    /// Microseconds since 1970 at `base`.
    base_us: AtomicI64,
}

impl WallClock {
    /// A clock that says `base_us` at `base`; for simulations, or [`WallClock::system`].
    pub fn new(base: Instant, base_us: u64) -> Self {
        Self { base, base_us: AtomicI64::new(i64::try_from(base_us).unwrap_or(i64::MAX)) }
    }

    /// The system's clock as of now.
    pub fn system() -> Self {
        Self::new(Instant::now(), system_us())
    }

    /// Microseconds since 1970 at `now`.
    pub fn wall_us(&self, now: Instant) -> u64 {
        let base_us = self.base_us.load(Ordering::Relaxed);
        u64::try_from(base_us.saturating_add(micros_between(self.base, now))).unwrap_or(0)
    }

    /// Follows the system's clock: `wall_us` is what it says at `now`.
    pub fn correct(&self, now: Instant, wall_us: u64) {
        let wall_us = i64::try_from(wall_us).unwrap_or(i64::MAX);
        let base_us = wall_us.saturating_sub(micros_between(self.base, now));
        self.base_us.store(base_us, Ordering::Relaxed);
    }
}

/// The system's clock, microseconds since 1970; 0 before.
pub fn system_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn micros_between(base: Instant, now: Instant) -> i64 {
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    match now.checked_duration_since(base) {
        Some(later) => micros(later),
        None => -micros(base.duration_since(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_instants_and_corrections() {
        let base = Instant::now() + Duration::from_secs(100);
        let clock = WallClock::new(base, 5_000_000);
        assert_eq!(clock.wall_us(base + Duration::from_millis(3)), 5_003_000);
        assert_eq!(clock.wall_us(base - Duration::from_secs(1)), 4_000_000);
        assert_eq!(clock.wall_us(base - Duration::from_secs(50)), 0);
        clock.correct(base + Duration::from_secs(10), 20_000_000);
        assert_eq!(clock.wall_us(base + Duration::from_secs(10)), 20_000_000);
        assert_eq!(clock.wall_us(base), 10_000_000);
    }
}
