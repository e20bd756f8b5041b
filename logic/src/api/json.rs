//! Messages and pages as JSON. Ids beyond 2^53 are strings, so that every language reads them whole.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roost_protocol::ClientMsgId;
use roost_protocol::frame::send::MessageKind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoredMessage;

/// A message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageJson {
    /// Conversation id.
    pub(crate) conversation: String,
    /// Place in the conversation: 1, 2, 3 ...
    pub(crate) seq: u64,
    /// Reference, as decimal digits.
    pub(crate) message_id: String,
    /// User id.
    pub(crate) sender: String,
    /// 32 hexadecimal digits.
    pub(crate) client_msg_id: String,
    /// 1: text, 8: custom.
    pub(crate) kind: u8,
    /// The body, when it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// The body in base64, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_base64: Option<String>,
    /// When it was accepted, ms since 1970.
    pub(crate) server_time_ms: u64,
}

impl From<StoredMessage> for MessageJson {
    fn from(stored: StoredMessage) -> Self {
        let (text, body_base64) = match String::from_utf8(stored.body) {
            Ok(text) if MessageKind(stored.kind) == MessageKind::TEXT => (Some(text), None),
            Ok(text) => (None, Some(STANDARD.encode(text))),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self {
            conversation: stored.conversation,
            seq: stored.seq,
            message_id: stored.message_id.to_string(),
            sender: stored.sender,
            client_msg_id: ClientMsgId(stored.client_msg_id).to_string(),
            kind: stored.kind,
            text,
            body_base64,
            server_time_ms: stored.server_time_ms,
        }
    }
}
