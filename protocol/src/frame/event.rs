//! EVENT: notices of the server that carry no message themselves. Losing one costs latency only.

use crate::generated::roost::wire;
use crate::id::ConversationId;
use crate::payload::{Encoder, PayloadError, required, root};

use super::FrameKind;

/// A notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The user's inbox is at this position: sync if the cursor is behind.
    Digest {
        /// Newest position.
        inbox_seq: u64,
    },
    /// Deliveries were not sent or not acknowledged: the conversation is now at this seq, pull.
    Hint {
        /// Where.
        conversation: ConversationId<'a>,
        /// Newest seq known to the gateway.
        seq: u64,
        /// Position of that message in the user's inbox.
        inbox_seq: u64,
    },
    /// A kind of a newer server: ignore.
    Unknown(u8),
}

const DIGEST: u8 = 1;
const HINT: u8 = 2;

impl<'a> Event<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let payload = self.payload(encoder);
        let header = super::Header::new(FrameKind::Event, 0, 0, payload.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
    }

    /// The payload alone.
    pub fn payload<'e>(&self, encoder: &'e mut Encoder) -> &'e [u8] {
        encoder.payload(|b| {
            let args = match self {
                Self::Digest { inbox_seq } => {
                    wire::EventArgs { kind: DIGEST, inbox_seq: *inbox_seq, ..Default::default() }
                }
                Self::Hint { conversation, seq, inbox_seq } => wire::EventArgs {
                    kind: HINT,
                    conversation: Some(b.create_string(&conversation.to_string())),
                    seq: *seq,
                    inbox_seq: *inbox_seq,
                },
                Self::Unknown(kind) => wire::EventArgs { kind: *kind, ..Default::default() },
            };
            wire::Event::create(b, &args)
        })
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Event<'_>>(payload)?;
        Ok(match t.kind() {
            DIGEST => Self::Digest { inbox_seq: t.inbox_seq() },
            HINT => {
                let text = required("conversation", t.conversation())?;
                let conversation =
                    ConversationId::parse(text).map_err(|e| PayloadError::Id("conversation", e))?;
                Self::Hint { conversation, seq: t.seq(), inbox_seq: t.inbox_seq() }
            }
            kind => Self::Unknown(kind),
        })
    }
}
