//! REDIRECT and GO_AWAY: continue elsewhere, or later.

use crate::generated::roost::wire;
use crate::payload::{Encoder, PayloadError, required, root};

use super::FrameKind;

/// Another gateway owns this user; CLOSE(redirected) follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect<'a> {
    /// `host:port` of the owner.
    pub address: &'a str,
}

impl<'a> Redirect<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Redirect, 0, |b| {
            let address = Some(b.create_string(self.address));
            wire::Redirect::create(b, &wire::RedirectArgs { address })
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Redirect<'_>>(payload)?;
        Ok(Self { address: required("address", t.address())? })
    }
}

/// The server is about to drain: finish what is in flight, reconnect after the delay. Each client gets another delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoAway {
    /// Wait this long before reconnecting.
    pub reconnect_after_ms: u32,
}

impl GoAway {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::GoAway, 0, |b| {
            let args = wire::GoAwayArgs { reconnect_after_ms: self.reconnect_after_ms };
            wire::GoAway::create(b, &args)
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::GoAway<'_>>(payload)?;
        Ok(Self { reconnect_after_ms: t.reconnect_after_ms() })
    }
}
