//! DELIVER, a message on its way out, and DELIVER_ACK, what the device stored.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use crate::generated::roost::wire;
use crate::id::{ClientMsgId, ConversationId, UserId};
use crate::limits::WATERMARKS_MAX;
use crate::payload::{Encoder, PayloadError, client_msg_id, number, required, root};

use super::FrameKind;
use super::send::MessageKind;

/// A committed message: payload of DELIVER and element of pages. The same bytes for every receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Where it stands.
    pub conversation: ConversationId<'a>,
    /// Its place there: 1, 2, 3 ...
    pub seq: u64,
    /// Snowflake, for references from outside.
    pub message_id: u64,
    /// Who sent it.
    pub sender: UserId<'a>,
    /// Its identity at the sender.
    pub client_msg_id: ClientMsgId,
    /// What the body is.
    pub kind: MessageKind,
    /// The body as sent.
    pub body: &'a [u8],
    /// When it was accepted, ms since 1970.
    pub server_time_ms: u64,
}

impl<'a> Message<'a> {
    /// The payload alone; the gateway writes each receiver's header.
    pub fn payload<'e>(&self, encoder: &'e mut Encoder) -> &'e [u8] {
        encoder.payload(|b| self.create(b))
    }

    pub(crate) fn create<'b>(&self, b: &mut FlatBufferBuilder<'b>) -> WIPOffset<wire::Message<'b>> {
        let args = wire::MessageArgs {
            conversation: Some(b.create_string(&self.conversation.to_string())),
            seq: self.seq,
            message_id: self.message_id,
            sender: Some(b.create_string(self.sender.as_str())),
            client_msg_id: Some(&wire::ClientMsgId::new(&self.client_msg_id.0)),
            kind: self.kind.0,
            body: Some(b.create_vector(self.body)),
            server_time_ms: self.server_time_ms,
        };
        wire::Message::create(b, &args)
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        Self::from_table(root::<wire::Message<'_>>(payload)?)
    }

    pub(crate) fn from_table(t: wire::Message<'a>) -> Result<Self, PayloadError> {
        let conversation = required("conversation", t.conversation())?;
        let sender = required("sender", t.sender())?;
        Ok(Self {
            conversation: ConversationId::parse(conversation)
                .map_err(|e| PayloadError::Id("conversation", e))?,
            seq: number("seq", t.seq())?,
            message_id: t.message_id(),
            sender: UserId::new(sender).map_err(|e| PayloadError::Id("sender", e))?,
            client_msg_id: client_msg_id(t.client_msg_id())?,
            kind: MessageKind(t.kind()),
            body: t.body().map_or(&[], |body| body.bytes()),
            server_time_ms: t.server_time_ms(),
        })
    }
}

/// What a device stored: one number for its inbox, and per conversation for the sender's second tick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliverAck<'a> {
    /// Everything up to here is stored.
    pub inbox_seq: u64,
    /// Highest seq stored without a gap, for conversations in which something arrived since the last one.
    pub watermarks: Vec<(ConversationId<'a>, u64)>,
}

impl<'a> DeliverAck<'a> {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// With more than [`WATERMARKS_MAX`] watermarks: send several frames.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        assert!(self.watermarks.len() <= WATERMARKS_MAX, "split the watermarks");
        encoder.frame(out, FrameKind::DeliverAck, 0, |b| {
            let watermarks: Vec<_> = self
                .watermarks
                .iter()
                .map(|(conversation, seq)| {
                    let conversation = Some(b.create_string(&conversation.to_string()));
                    wire::Watermark::create(b, &wire::WatermarkArgs { conversation, seq: *seq })
                })
                .collect();
            let watermarks = (!watermarks.is_empty()).then(|| b.create_vector(&watermarks));
            wire::DeliverAck::create(
                b,
                &wire::DeliverAckArgs { inbox_seq: self.inbox_seq, watermarks },
            )
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::DeliverAck<'_>>(payload)?;
        let mut watermarks = Vec::new();
        if let Some(list) = t.watermarks() {
            if list.len() > WATERMARKS_MAX {
                return Err(PayloadError::Invalid("watermarks"));
            }
            for item in list {
                let text = required("conversation", item.conversation())?;
                let conversation =
                    ConversationId::parse(text).map_err(|e| PayloadError::Id("conversation", e))?;
                watermarks.push((conversation, number("seq", item.seq())?));
            }
        }
        Ok(Self { inbox_seq: number("inbox_seq", t.inbox_seq())?, watermarks })
    }
}
