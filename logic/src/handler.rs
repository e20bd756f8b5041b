//! What operations mean. Pure: an operation and the loaded state go in; changes of the state and an outcome come out. No
//! store, bus or clock here; one operation a file.
//!
//! Each file has two functions: `wanted` names the rows the operation needs, `handle` decides. `handle` finds every row it
//! asked for in the state.

pub(crate) mod deliver_ack;
pub(crate) mod receipt;
pub(crate) mod request;
pub(crate) mod send;
pub(crate) mod session;

use roost_protocol::ConversationId as Conversation;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::id::{ConversationId, UserId};

use crate::store::Name;

/// Whose operation it is: authenticated by the tier that sent the envelope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) app: &'a str,
    pub(crate) user: UserId<'a>,
    pub(crate) device: &'a str,
    /// 0: not a session but a server's call, which has no `client_seq`.
    pub(crate) session_epoch: u64,
}

/// A watermark that rose: told to the other member, and a read one to the reader's other devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) app: Name,
    pub(crate) conversation: Name,
    pub(crate) user: Name,
    pub(crate) peer: Name,
    pub(crate) kind: ReceiptKind,
    pub(crate) seq: u64,
}

/// The other member of a single chat, if `user` is a member; a chat with oneself has oneself.
pub(crate) fn peer<'a>(conversation: &Conversation<'a>, user: UserId<'_>) -> Option<UserId<'a>> {
    match conversation {
        ConversationId::Single(..) => conversation.peer_of(user),
        // Not built yet: nobody is a member.
        ConversationId::Group(_) | ConversationId::Room(_) => None,
    }
}
