//! How much one connection may send: two token buckets in 12 bytes, refilled by the time since it was last heard.
//!
//! A bucket may be overdrawn by as much again as it holds. Overdrawn, questions are refused with the time until it is even;
//! beyond that the connection is closed. So a burst is free, a client that listens to refusals survives, and a flood ends.

/// Average and burst, of frames and of bytes. A rate of 0 means no limit.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// Frames a second.
    pub frames_per_second: u32,
    /// Frames at once.
    pub frames_burst: u32,
    /// Bytes a second.
    pub bytes_per_second: u32,
    /// Bytes at once.
    pub bytes_burst: u32,
}

/// What a limit says to one more frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateVerdict {
    /// Go on.
    Within,
    /// Refuse what can be refused.
    Overdrawn {
        /// Until the buckets are even.
        retry_after_ms: u32,
    },
    /// Close.
    Exceeded,
}

/// What is left of the buckets, as of `heard_ms`.
#[derive(Clone, Copy, Debug)]
pub struct RateMeter {
    /// When bytes of this connection were last received: also the start of its silence.
    heard_ms: u32,
    /// Thousandths of a frame below the full bucket.
    frames_used: u32,
    /// Bytes below the full bucket.
    bytes_used: u32,
}

impl RateMeter {
    /// Full buckets.
    pub fn new(now_ms: u32) -> Self {
        Self { heard_ms: now_ms, frames_used: 0, bytes_used: 0 }
    }

    /// How long nothing was received.
    pub fn silence_ms(&self, now_ms: u32) -> u32 {
        now_ms.wrapping_sub(self.heard_ms)
    }

    /// It could not be heard: its receive is paused.
    pub fn excuse_silence(&mut self, now_ms: u32) {
        self.heard_ms = now_ms;
    }

    /// Bytes were received: refills by the silence before, then takes them.
    pub fn on_bytes(&mut self, bytes: usize, limits: &RateLimits, now_ms: u32) {
        let elapsed_ms = u64::from(self.silence_ms(now_ms));
        self.heard_ms = now_ms;
        if elapsed_ms > 0 {
            // Frames a second times milliseconds are thousandths of a frame.
            self.frames_used =
                less(self.frames_used, elapsed_ms * u64::from(limits.frames_per_second));
            let refilled = elapsed_ms * u64::from(limits.bytes_per_second) / 1000;
            self.bytes_used = less(self.bytes_used, refilled);
        }
        self.bytes_used = self.bytes_used.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// One more frame was received.
    pub fn on_frame(&mut self, limits: &RateLimits) -> RateVerdict {
        let frames = if limits.frames_per_second == 0 {
            RateVerdict::Within
        } else {
            self.frames_used = self.frames_used.saturating_add(1000);
            let burst = limits.frames_burst.saturating_mul(1000);
            judge(self.frames_used, burst, limits.frames_per_second.into())
        };
        if limits.bytes_per_second == 0 {
            self.bytes_used = 0;
            return frames;
        }
        let per_ms = (limits.bytes_per_second / 1000).max(1);
        worse(frames, judge(self.bytes_used, limits.bytes_burst, per_ms.into()))
    }
}

fn less(used: u32, refilled: u64) -> u32 {
    used.saturating_sub(u32::try_from(refilled).unwrap_or(u32::MAX))
}

fn judge(used: u32, burst: u32, refill_per_ms: u64) -> RateVerdict {
    match used.checked_sub(burst) {
        None | Some(0) => RateVerdict::Within,
        Some(over) if over > burst => RateVerdict::Exceeded,
        Some(over) => {
            let retry_after_ms = u64::from(over).div_ceil(refill_per_ms);
            RateVerdict::Overdrawn {
                retry_after_ms: u32::try_from(retry_after_ms).unwrap_or(u32::MAX),
            }
        }
    }
}

fn worse(a: RateVerdict, b: RateVerdict) -> RateVerdict {
    use RateVerdict::{Exceeded, Overdrawn, Within};
    match (a, b) {
        (Exceeded, _) | (_, Exceeded) => Exceeded,
        (Overdrawn { retry_after_ms: a }, Overdrawn { retry_after_ms: b }) => {
            Overdrawn { retry_after_ms: a.max(b) }
        }
        (over @ Overdrawn { .. }, Within) | (Within, over @ Overdrawn { .. }) => over,
        (Within, Within) => Within,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RateLimits = RateLimits {
        frames_per_second: 100,
        frames_burst: 10,
        bytes_per_second: 10_000,
        bytes_burst: 5_000,
    };

    #[test]
    fn a_burst_is_free_then_refused_then_closed() {
        let mut meter = RateMeter::new(0);
        meter.on_bytes(64, &LIMITS, 0);
        let verdicts: Vec<_> = (0..21).map(|_| meter.on_frame(&LIMITS)).collect();
        assert!(verdicts[..10].iter().all(|v| *v == RateVerdict::Within));
        assert_eq!(verdicts[10], RateVerdict::Overdrawn { retry_after_ms: 10 });
        assert_eq!(verdicts[19], RateVerdict::Overdrawn { retry_after_ms: 100 });
        assert_eq!(verdicts[20], RateVerdict::Exceeded);
    }

    #[test]
    fn the_average_is_never_refused() {
        let mut meter = RateMeter::new(u32::MAX - 500);
        for n in 0..10_000u32 {
            meter.on_bytes(64, &LIMITS, (u32::MAX - 500).wrapping_add(n * 10));
            assert_eq!(meter.on_frame(&LIMITS), RateVerdict::Within, "frame {n}");
        }
    }

    #[test]
    fn bytes_count_too_and_come_back() {
        let mut meter = RateMeter::new(0);
        meter.on_bytes(6_000, &LIMITS, 0);
        assert_eq!(meter.on_frame(&LIMITS), RateVerdict::Overdrawn { retry_after_ms: 100 });
        meter.on_bytes(0, &LIMITS, 100);
        assert_eq!(meter.on_frame(&LIMITS), RateVerdict::Within);
        meter.on_bytes(10_001, &LIMITS, 10_000);
        assert_eq!(meter.on_frame(&LIMITS), RateVerdict::Exceeded);
    }

    #[test]
    fn zero_means_no_limit() {
        let limits = RateLimits { frames_per_second: 0, bytes_per_second: 0, ..LIMITS };
        let mut meter = RateMeter::new(0);
        for _ in 0..100_000 {
            meter.on_bytes(60_000, &limits, 0);
            assert_eq!(meter.on_frame(&limits), RateVerdict::Within);
        }
    }
}
