//! The limits of one connection as its code uses them: milliseconds and bytes in the sizes they are compared in.

use std::time::Duration;

use roost_protocol::limits;

use super::outbox::OutboxLimits;
use super::rate_limit::RateLimits;
use crate::config::GatewayConfig;

/// What is neither a delivery nor a page (acknowledgements, receipts, refusals) may fill an outbox to this multiple of the watermark
/// before it is a slow consumer. A full window of acknowledgements takes a sixth of it.
const ANSWERS_FACTOR: u32 = 2;

/// See the fields of the configuration they come from.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// CONNECT must be complete this long after accept.
    pub connect_timeout_ms: u32,
    /// Silence after which a connection is closed; each connection gets up to a tenth more.
    pub idle_timeout_ms: u32,
    /// When clients are told to ping; each is told up to an eighth less.
    pub heartbeat_interval_ms: u32,
    /// An outbox that moved no byte for this long ends the connection.
    pub slow_consumer_timeout_ms: u32,
    /// A delivery not acknowledged for this long is followed by a digest.
    pub deliver_ack_timeout_ms: u32,
    /// Digests for the same unacknowledged delivery.
    pub deliver_hints_max: u8,
    /// At most one digest check per session and this time goes to logic.
    pub digest_interval_s: u16,
    /// How long a peer may take to read its CLOSE.
    pub close_linger_ms: u32,
    /// Sends without an answer.
    pub inflight_sends_max: u16,
    /// Requests without an answer.
    pub inflight_requests_max: u16,
    /// What a client is told to wait after `busy`.
    pub busy_retry_after_ms: u32,
    /// Of the outbox.
    pub outbox: OutboxLimits,
    /// Of what is received.
    pub rate: RateLimits,
}

impl From<&GatewayConfig> for ConnectionLimits {
    fn from(config: &GatewayConfig) -> Self {
        let GatewayConfig { limits: count, timeouts, outbox, inbound, .. } = config;
        Self {
            connect_timeout_ms: milliseconds(timeouts.connect),
            idle_timeout_ms: milliseconds(timeouts.idle),
            heartbeat_interval_ms: milliseconds(timeouts.heartbeat_interval),
            slow_consumer_timeout_ms: milliseconds(timeouts.slow_consumer),
            deliver_ack_timeout_ms: milliseconds(timeouts.deliver_ack),
            deliver_hints_max: limits::DELIVER_HINTS_MAX,
            digest_interval_s: u16::try_from(timeouts.digest_interval.as_secs())
                .unwrap_or(u16::MAX),
            close_linger_ms: milliseconds(timeouts.close_linger),
            inflight_sends_max: count.inflight_sends_max,
            inflight_requests_max: limits::INFLIGHT_REQUESTS_MAX,
            busy_retry_after_ms: milliseconds(inbound.busy_retry_after),
            outbox: OutboxLimits {
                bytes_high: outbox.bytes_max,
                bytes_low: outbox.bytes_low,
                bytes_max: outbox.bytes_max.saturating_mul(ANSWERS_FACTOR),
                hints_max: outbox.hints_max,
            },
            rate: RateLimits {
                frames_per_second: count.frames_per_second,
                frames_burst: count.frames_burst,
                bytes_per_second: count.bytes_per_second,
                bytes_burst: count.bytes_burst,
            },
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self::from(&GatewayConfig::default())
    }
}

/// Longest time a timer is set to: 12 days, so that differences of clocks that wrap keep their sign.
pub const TIMER_MS_MAX: u32 = i32::MAX as u32 / 2;

/// Whole milliseconds, at most [`TIMER_MS_MAX`].
pub fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).map_or(TIMER_MS_MAX, |ms| ms.min(TIMER_MS_MAX))
}
