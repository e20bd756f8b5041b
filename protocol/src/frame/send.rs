//! SEND: a message on its way in. Identity is `client_msg_id`, order is `client_seq`.

use crate::generated::roost::wire;
use crate::id::{ClientMsgId, ConversationId, UserId};
use crate::payload::{Encoder, PayloadError, client_msg_id, root};

use super::FrameKind;

/// What a body is. The server stores and relays it unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKind(pub u8);

impl MessageKind {
    /// UTF-8 text.
    pub const TEXT: Self = Self(1);
    /// The integrator's own format.
    pub const CUSTOM: Self = Self(8);
    /// Highest kind a client may send; 128 and above are written by the server.
    pub const CLIENT_MAX: u8 = 127;
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The single chat with this user.
    User(UserId<'a>),
    /// A conversation by its id.
    Conversation(ConversationId<'a>),
}

impl<'a> Target<'a> {
    /// The conversation, seen from `sender`.
    pub fn conversation(self, sender: UserId<'a>) -> ConversationId<'a> {
        match self {
            Self::User(user) => ConversationId::single(sender, user),
            Self::Conversation(conversation) => conversation,
        }
    }
}

/// A message of a client. Its sender is the session's user, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send<'a> {
    /// Where it goes.
    pub target: Target<'a>,
    /// Made once by the client, the same in every resend.
    pub client_msg_id: ClientMsgId,
    /// 1, 2, 3 ... per session epoch and conversation.
    pub client_seq: u32,
    /// What the body is.
    pub kind: MessageKind,
    /// At most [`crate::limits::BODY_BYTES_MAX`]; logic refuses longer ones, so that the refusal reaches the sender.
    pub body: &'a [u8],
}

impl<'a> Send<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, correlation: u16, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Send, correlation, |b| {
            let (conversation, to_user) = match self.target {
                Target::Conversation(c) => (Some(b.create_string(&c.to_string())), None),
                Target::User(u) => (None, Some(b.create_string(u.as_str()))),
            };
            let args = wire::SendArgs {
                conversation,
                to_user,
                client_msg_id: Some(&wire::ClientMsgId::new(&self.client_msg_id.0)),
                client_seq: self.client_seq,
                kind: self.kind.0,
                body: Some(b.create_vector(self.body)),
            };
            wire::Send::create(b, &args)
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Send<'_>>(payload)?;
        let target = match (t.conversation().unwrap_or(""), t.to_user().unwrap_or("")) {
            ("", "") => return Err(PayloadError::Missing("to_user")),
            (text, "") => Target::Conversation(
                ConversationId::parse(text).map_err(|e| PayloadError::Id("conversation", e))?,
            ),
            ("", user) => {
                Target::User(UserId::new(user).map_err(|e| PayloadError::Id("to_user", e))?)
            }
            _ => return Err(PayloadError::Invalid("to_user")),
        };
        if t.client_seq() == 0 {
            return Err(PayloadError::Invalid("client_seq"));
        }
        if t.kind() == 0 || t.kind() > MessageKind::CLIENT_MAX {
            return Err(PayloadError::Invalid("kind"));
        }
        Ok(Self {
            target,
            client_msg_id: client_msg_id(t.client_msg_id())?,
            client_seq: t.client_seq(),
            kind: MessageKind(t.kind()),
            body: t.body().map_or(&[], |body| body.bytes()),
        })
    }
}
