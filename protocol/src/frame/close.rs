//! CLOSE: the connection ends now, and why.

use crate::close_reason::CloseReason;
use crate::generated::roost::wire;
use crate::payload::{Encoder, PayloadError, root};

use super::FrameKind;

/// Last frame of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    /// Why. A code this version does not know is read as [`CloseReason::Internal`].
    pub reason: CloseReason,
    /// For people.
    pub detail: &'a str,
    /// Wait at least this long before reconnecting.
    pub retry_after_ms: u32,
}

impl<'a> Close<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Close, 0, |b| {
            let detail = (!self.detail.is_empty()).then(|| b.create_string(self.detail));
            let args = wire::CloseArgs {
                reason: self.reason as u16,
                detail,
                retry_after_ms: self.retry_after_ms,
            };
            wire::Close::create(b, &args)
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Close<'_>>(payload)?;
        Ok(Self {
            reason: CloseReason::from_code(t.reason()).unwrap_or(CloseReason::Internal),
            detail: t.detail().unwrap_or(""),
            retry_after_ms: t.retry_after_ms(),
        })
    }
}
