//! Waiting longer after each failure, with jitter, so that many clients do not come back together.

use std::time::Duration;

/// `first` doubled `attempt` times, at most `max`.
pub(crate) fn exponential(first: Duration, attempt: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << attempt.min(16)).min(max)
}

/// Full jitter: anything between zero and `bound`.
pub(crate) fn full_jitter(rng: &mut fastrand::Rng, bound: Duration) -> Duration {
    bound.mul_f64(rng.f64())
}

/// `duration` up to a fifth longer: for waits that must not be shortened.
pub(crate) fn stretched(rng: &mut fastrand::Rng, duration: Duration) -> Duration {
    duration + duration.mul_f64(rng.f64() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(30));
        let seconds: Vec<u64> = (0..7).map(|n| exponential(first, n, max).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(exponential(first, u32::MAX, max), max);
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let mut rng = fastrand::Rng::with_seed(1);
        let second = Duration::from_secs(1);
        for _ in 0..1000 {
            assert!(full_jitter(&mut rng, second) <= second);
            let longer = stretched(&mut rng, second);
            assert!(longer >= second && longer <= second + second / 5);
        }
    }
}
