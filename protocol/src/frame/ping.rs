//! PING and PONG: the heartbeat. A PING with an empty payload is valid and cheapest.

use crate::generated::roost::wire;
use crate::payload::{Encoder, Numbers, PayloadError, number, root};

use super::FrameKind;

/// Heartbeat of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ping {
    /// Opaque to the server, echoed in PONG.
    pub client_time_us: u64,
    /// The device's inbox cursor: asks for a digest when it is behind. 0 asks nothing.
    pub inbox_seq: u64,
}

impl Ping {
    /// Appends the frame to `out`; all-default: an empty payload.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        self.encode_padded(encoder, 0, out);
    }

    /// The same with `padding_bytes` ignored bytes, for measurements at a given frame size.
    pub fn encode_padded(&self, encoder: &mut Encoder, padding_bytes: usize, out: &mut Vec<u8>) {
        if *self == Self::default() && padding_bytes == 0 {
            out.extend_from_slice(&super::Header::new(FrameKind::Ping, 0, 0, 0).encode());
            return;
        }
        encoder.frame(out, FrameKind::Ping, 0, |b| {
            let padding = (padding_bytes > 0).then(|| b.create_vector(&vec![0u8; padding_bytes]));
            let args = wire::PingArgs {
                client_time_us: self.client_time_us,
                inbox_seq: self.inbox_seq,
                padding,
            };
            wire::Ping::create(b, &args)
        });
    }

    /// Reads the two numbers of the payload, whatever else it holds.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        if payload.is_empty() {
            return Ok(Self::default());
        }
        let read = || {
            let numbers = Numbers::root(payload)?;
            let client_time_us = numbers.get(wire::Ping::VT_CLIENT_TIME_US)?;
            Some((client_time_us, numbers.get(wire::Ping::VT_INBOX_SEQ)?))
        };
        let (client_time_us, inbox_seq) = read().ok_or(PayloadError::Malformed)?;
        Ok(Self { client_time_us, inbox_seq: number("inbox_seq", inbox_seq)? })
    }
}

/// Answer to a PING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pong {
    /// Echo of [`Ping::client_time_us`].
    pub client_time_us: u64,
    /// The server's clock, ms since 1970.
    pub server_time_ms: u64,
}

impl Pong {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, correlation: u16, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Pong, correlation, |b| {
            let args = wire::PongArgs {
                client_time_us: self.client_time_us,
                server_time_ms: self.server_time_ms,
            };
            wire::Pong::create(b, &args)
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Pong<'_>>(payload)?;
        Ok(Self { client_time_us: t.client_time_us(), server_time_ms: t.server_time_ms() })
    }
}
