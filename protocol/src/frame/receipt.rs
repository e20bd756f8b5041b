//! RECEIPT: a watermark of one user in one conversation, merged by maximum. From a client only `read` is accepted;
//! `delivered` follows from DELIVER_ACK.

use crate::generated::roost::wire;
use crate::id::{ConversationId, UserId};
use crate::payload::{Encoder, PayloadError, number, required, root};

use super::FrameKind;

/// Which watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReceiptKind {
    /// A device of the user stored everything up to seq.
    Delivered = 1,
    /// The user read everything up to seq.
    Read = 2,
}

/// One watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// Where.
    pub conversation: ConversationId<'a>,
    /// Who received or read; `None` from a client: the session's user.
    pub user: Option<UserId<'a>>,
    /// Which watermark.
    pub kind: ReceiptKind,
    /// Everything up to here.
    pub seq: u64,
    /// Delivered to the inbox while no device of the receiver was online.
    pub by_server: bool,
    /// When the server merged it, ms since 1970; 0 from a client.
    pub server_time_ms: u64,
}

impl<'a> Receipt<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let payload = self.payload(encoder);
        let header = super::Header::new(FrameKind::Receipt, 0, 0, payload.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
    }

    /// The payload alone.
    pub fn payload<'e>(&self, encoder: &'e mut Encoder) -> &'e [u8] {
        encoder.payload(|b| {
            let args = wire::ReceiptArgs {
                conversation: Some(b.create_string(&self.conversation.to_string())),
                user: self.user.map(|u| b.create_string(u.as_str())),
                kind: self.kind as u8,
                seq: self.seq,
                by_server: self.by_server,
                server_time_ms: self.server_time_ms,
            };
            wire::Receipt::create(b, &args)
        })
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Receipt<'_>>(payload)?;
        let conversation = required("conversation", t.conversation())?;
        let user = match t.user().unwrap_or("") {
            "" => None,
            text => Some(UserId::new(text).map_err(|e| PayloadError::Id("user", e))?),
        };
        let kind = match t.kind() {
            1 => ReceiptKind::Delivered,
            2 => ReceiptKind::Read,
            _ => return Err(PayloadError::Invalid("kind")),
        };
        Ok(Self {
            conversation: ConversationId::parse(conversation)
                .map_err(|e| PayloadError::Id("conversation", e))?,
            user,
            kind,
            seq: number("seq", t.seq())?,
            by_server: t.by_server(),
            server_time_ms: t.server_time_ms(),
        })
    }
}
