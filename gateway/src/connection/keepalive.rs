//! Everything about one connection that happens because time passed: silence, expiry, stalls, deliveries nobody acknowledged.
//!
//! One timer per connection. It is set to the earliest of these deadlines and, when it fires, everything is looked at again:
//! a byte received does not touch the timer, and a deadline that moved away costs one firing in vain.

use roost_protocol::CloseReason;

use crate::io::ConnectionKey;
use crate::session::inflight::ANSWER_TIMEOUT_MS;

use super::limits::{ConnectionLimits, TIMER_MS_MAX};
use super::{Active, Connected};

/// Deliveries that the device has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unacknowledged {
    /// Highest position delivered.
    pub(crate) inbox_seq: u64,
    /// Since when nothing was acknowledged.
    since_ms: u32,
    /// Digests sent since.
    hints: u8,
}

/// What a timer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing; look again after this long.
    Nothing { again_in_ms: u32 },
    /// Tell the device again how far its inbox is, then look again.
    Digest { inbox_seq: u64 },
    /// End it.
    Close(CloseReason),
}

impl Active {
    /// A delivery was queued.
    pub(crate) fn on_deliver(&mut self, inbox_seq: u64, now_ms: u32) {
        match &mut self.unacknowledged {
            Some(open) => open.inbox_seq = open.inbox_seq.max(inbox_seq),
            None => {
                self.unacknowledged =
                    Some(Unacknowledged { inbox_seq, since_ms: now_ms, hints: 0 });
            }
        }
    }

    /// The device stored everything up to `inbox_seq`.
    pub(crate) fn on_deliver_ack(&mut self, inbox_seq: u64, now_ms: u32) {
        let Some(open) = &mut self.unacknowledged else { return };
        if inbox_seq >= open.inbox_seq {
            self.unacknowledged = None;
        } else {
            // Progress, or at least a sign that it knows: the clock starts again.
            *open = Unacknowledged { since_ms: now_ms, hints: 0, ..*open };
        }
    }

    /// The digest owed for deliveries not acknowledged in time, at most `deliver_hints_max` times.
    fn poll_hint(&mut self, limits: &ConnectionLimits, now_ms: u32) -> Option<u64> {
        let open = self.unacknowledged.as_mut()?;
        if now_ms.wrapping_sub(open.since_ms) < limits.deliver_ack_timeout_ms {
            return None;
        }
        if open.hints == limits.deliver_hints_max {
            // From here on the client's own digest, in its heartbeat, finds what it missed.
            self.unacknowledged = None;
            return None;
        }
        open.hints += 1;
        open.since_ms = now_ms;
        Some(open.inbox_seq)
    }

    fn is_stalled(&self, limits: &ConnectionLimits, now_ms: u32) -> bool {
        self.outbox
            .stalled_since_ms()
            .is_some_and(|since| now_ms.wrapping_sub(since) >= limits.slow_consumer_timeout_ms)
    }

    fn next_in_ms(&self, limits: &ConnectionLimits, now_ms: u32) -> u32 {
        let stall = (self.outbox.stalled_since_ms(), limits.slow_consumer_timeout_ms);
        let hint = (self.unacknowledged.map(|open| open.since_ms), limits.deliver_ack_timeout_ms);
        let answer = (self.inflight.oldest_ms(), ANSWER_TIMEOUT_MS);
        [stall, hint, answer]
            .into_iter()
            .filter_map(|(since, limit)| since.map(|since| remaining(since, limit, now_ms)))
            .min()
            .unwrap_or(u32::MAX)
    }
}

impl Connected {
    /// What time has brought.
    pub(crate) fn poll_timer(
        &mut self,
        key: ConnectionKey,
        limits: &ConnectionLimits,
        now_ms: u32,
        wall_us: u64,
    ) -> Due {
        let lifetime_ms = self.lifetime_ms(wall_us);
        let silence_max_ms = limits.idle_timeout_ms + jitter(key, limits.idle_timeout_ms / 10);
        let silence_ms = self.meter.silence_ms(now_ms);
        if lifetime_ms == 0 {
            return Due::Close(CloseReason::TokenExpired);
        }
        if silence_ms >= silence_max_ms {
            return Due::Close(CloseReason::IdleTimeout);
        }
        let mut again_in_ms = lifetime_ms.min(silence_max_ms.saturating_sub(silence_ms).max(1000));
        if let Some(active) = &mut self.active {
            if active.is_stalled(limits, now_ms) {
                return Due::Close(CloseReason::SlowConsumer);
            }
            active.inflight.expire(now_ms);
            if let Some(inbox_seq) = active.poll_hint(limits, now_ms) {
                return Due::Digest { inbox_seq };
            }
            again_in_ms = again_in_ms.min(active.next_in_ms(limits, now_ms));
        }
        Due::Nothing { again_in_ms }
    }

    /// Until the credential expires; at most [`TIMER_MS_MAX`].
    pub(crate) fn lifetime_ms(&self, wall_us: u64) -> u32 {
        let expires_us = u64::from(self.session.expires_s()) * 1_000_000;
        let ms = expires_us.saturating_sub(wall_us).div_ceil(1000);
        u32::try_from(ms).map_or(TIMER_MS_MAX, |ms| ms.min(TIMER_MS_MAX))
    }
}

/// A number below `range` (0 for none) that is this connection's own, so that a crowd that came together does not leave together.
pub(crate) fn jitter(key: ConnectionKey, range: u32) -> u32 {
    let mixed = (u64::from(key.index) << 32 | u64::from(key.generation))
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The high half times the range, its high half: no division, no bias worth a word.
    (((mixed >> 32) * u64::from(range)) >> 32) as u32
}

fn remaining(since_ms: u32, limit_ms: u32, now_ms: u32) -> u32 {
    limit_ms.saturating_sub(now_ms.wrapping_sub(since_ms))
}

#[cfg(test)]
mod tests {
    use roost_protocol::Decoder;
    use roost_protocol::envelope::ConnectionAddress;
    use roost_protocol::frame::connect::DeviceClass;

    use super::*;
    use crate::connection::SpareActive;
    use crate::session::inflight::{AnswerTime, Question};
    use crate::session::{AppIndex, SessionIdentity, SessionParts};

    const KEY: ConnectionKey = ConnectionKey { index: 7, generation: 3 };

    fn connected(expires_s: u32) -> Connected {
        let session = SessionIdentity::new(&SessionParts {
            app: AppIndex(0),
            user: "alice",
            device: "d",
            device_class: DeviceClass::Phone,
            epoch: 1,
            address: ConnectionAddress::default(),
            expires_s,
        });
        Connected::new(session, Decoder::new(), 0)
    }

    fn poll(connected: &mut Connected, now_ms: u32) -> Due {
        let wall_us = 1_000_000_000 + u64::from(now_ms) * 1000;
        let due = connected.poll_timer(KEY, &ConnectionLimits::default(), now_ms, wall_us);
        connected.rest(&mut SpareActive::default());
        due
    }

    #[test]
    fn silence_ends_a_connection_after_the_timeout_and_its_jitter() {
        let mut connected = connected(u32::MAX);
        let Due::Nothing { again_in_ms } = poll(&mut connected, 0) else { panic!() };
        assert!((300_000..330_000).contains(&again_in_ms), "{again_in_ms}");
        assert_eq!(poll(&mut connected, again_in_ms), Due::Close(CloseReason::IdleTimeout));
    }

    #[test]
    fn an_expired_token_ends_a_connection() {
        let mut connected = connected(1010);
        assert_eq!(poll(&mut connected, 0), Due::Nothing { again_in_ms: 10_000 });
        assert_eq!(poll(&mut connected, 10_000), Due::Close(CloseReason::TokenExpired));
    }

    #[test]
    fn an_unacknowledged_delivery_is_followed_by_three_digests() {
        let mut connected = connected(u32::MAX);
        connected.active().on_deliver(41, 0);
        connected.active().on_deliver(42, 100);
        assert_eq!(poll(&mut connected, 100), Due::Nothing { again_in_ms: 3900 });
        for now_ms in [4000, 8000, 12_000] {
            assert_eq!(poll(&mut connected, now_ms), Due::Digest { inbox_seq: 42 });
            assert_eq!(poll(&mut connected, now_ms), Due::Nothing { again_in_ms: 4000 });
        }
        assert!(matches!(poll(&mut connected, 16_000), Due::Nothing { again_in_ms: 200_000.. }));
        assert!(connected.active.is_none());
    }

    #[test]
    fn an_acknowledgement_stops_it_and_progress_restarts_the_clock() {
        let mut connected = connected(u32::MAX);
        connected.active().on_deliver(42, 0);
        connected.active().on_deliver_ack(41, 3000);
        assert_eq!(poll(&mut connected, 4000), Due::Nothing { again_in_ms: 3000 });
        connected.active().on_deliver_ack(42, 5000);
        poll(&mut connected, 9000);
        assert!(connected.active.is_none());
    }

    #[test]
    fn a_question_without_answer_is_given_up() {
        let mut connected = connected(u32::MAX);
        connected.active().inflight.ask(Question::Send, 1, 64, (0, AnswerTime::default())).unwrap();
        assert_eq!(poll(&mut connected, 0), Due::Nothing { again_in_ms: 30_000 });
        poll(&mut connected, 30_000);
        assert!(connected.active.is_none());
    }

    #[test]
    fn jitter_spreads() {
        let values: Vec<_> =
            (0..1000).map(|index| jitter(ConnectionKey { index, generation: 1 }, 1000)).collect();
        assert!(values.iter().all(|value| *value < 1000));
        let low = values.iter().filter(|value| **value < 500).count();
        assert!((400..600).contains(&low), "{low}");
        assert_eq!(jitter(KEY, 0), 0);
    }
}
