//! SEND_ACK and SEND_REFUSED: the two answers to a SEND. The acknowledgement is the same for every resend, for ever.

use crate::generated::roost::wire;
use crate::id::{ClientMsgId, ConversationId};
use crate::payload::{Encoder, PayloadError, client_msg_id, number, required, root};
use crate::refusal::RefusalCode;

/// The message is committed in the durable store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendAck<'a> {
    /// Of the SEND.
    pub client_msg_id: ClientMsgId,
    /// Where it stands.
    pub conversation: ConversationId<'a>,
    /// Its place in the conversation: 1, 2, 3 ...
    pub seq: u64,
    /// Snowflake, for references from outside; neither identity nor order.
    pub message_id: u64,
    /// When it was accepted, ms since 1970.
    pub server_time_ms: u64,
}

impl<'a> SendAck<'a> {
    /// The payload alone; the gateway writes the header.
    pub fn payload<'e>(&self, encoder: &'e mut Encoder) -> &'e [u8] {
        encoder.payload(|b| {
            let conversation = Some(b.create_string(&self.conversation.to_string()));
            let args = wire::SendAckArgs {
                client_msg_id: Some(&wire::ClientMsgId::new(&self.client_msg_id.0)),
                conversation,
                seq: self.seq,
                message_id: self.message_id,
                server_time_ms: self.server_time_ms,
            };
            wire::SendAck::create(b, &args)
        })
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::SendAck<'_>>(payload)?;
        let conversation = required("conversation", t.conversation())?;
        Ok(Self {
            client_msg_id: client_msg_id(t.client_msg_id())?,
            conversation: ConversationId::parse(conversation)
                .map_err(|e| PayloadError::Id("conversation", e))?,
            seq: number("seq", t.seq())?,
            message_id: t.message_id(),
            server_time_ms: t.server_time_ms(),
        })
    }
}

/// The message was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRefused<'a> {
    /// Of the SEND.
    pub client_msg_id: ClientMsgId,
    /// Why; see [`RefusalCode::from_wire`] for codes this version does not know.
    pub code: RefusalCode,
    /// When to try again, for retryable codes.
    pub retry_after_ms: u32,
    /// The number expected next, with [`RefusalCode::OutOfOrder`].
    pub expected_client_seq: u32,
    /// For people.
    pub detail: &'a str,
}

impl<'a> SendRefused<'a> {
    /// The payload alone.
    pub fn payload<'e>(&self, encoder: &'e mut Encoder) -> &'e [u8] {
        encoder.payload(|b| {
            let detail = (!self.detail.is_empty()).then(|| b.create_string(self.detail));
            let args = wire::SendRefusedArgs {
                client_msg_id: Some(&wire::ClientMsgId::new(&self.client_msg_id.0)),
                code: self.code as u16,
                retry_after_ms: self.retry_after_ms,
                expected_client_seq: self.expected_client_seq,
                detail,
            };
            wire::SendRefused::create(b, &args)
        })
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::SendRefused<'_>>(payload)?;
        if t.code() == 0 {
            return Err(PayloadError::Missing("code"));
        }
        Ok(Self {
            client_msg_id: client_msg_id(t.client_msg_id())?,
            code: RefusalCode::from_wire(t.code()),
            retry_after_ms: t.retry_after_ms(),
            expected_client_seq: t.expected_client_seq(),
            detail: t.detail().unwrap_or(""),
        })
    }
}
