//! What the client knows of each conversation: numbers of sends, what was shown, watermarks of its members.
//!
//! An entry is never removed, so its index is stable for the client's life.

use std::sync::Arc;
use std::time::Instant;

use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::frame::send::Target;
use roost_protocol::{ConversationId, UserId};

/// Place in [`Conversations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConversationIndex(pub(crate) u32);

/// One conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: Arc<str>,
    /// Last seq given out as an event; `None` until known where this device begins.
    pub(crate) shown: Option<u64>,
    /// Last seq the application is done with.
    pub(crate) stored: u64,
    /// `stored` waits for a DELIVER_ACK.
    pub(crate) ack_queued: bool,
    /// Number of the next SEND in this session.
    pub(crate) next_client_seq: u32,
    /// Read by this user, as told by the application.
    pub(crate) read: u64,
    /// `read` waits to be sent.
    pub(crate) read_queued: bool,
    /// When `read` last rose: recent ones are repeated after a reconnect.
    pub(crate) read_at: Option<Instant>,
    /// Watermarks of the others; a single chat has one.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    user: Arc<str>,
    delivered: u64,
    read: u64,
}

impl Conversation {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            shown: None,
            stored: 0,
            ack_queued: false,
            next_client_seq: 1,
            read: 0,
            read_queued: false,
            read_at: None,
            members: Vec::new(),
        }
    }

    /// This device begins after `seq`, or nothing is there up to it.
    pub(crate) fn begin_after(&mut self, seq: u64) {
        if self.shown.is_none_or(|shown| shown < seq) {
            self.shown = Some(seq);
            self.stored = self.stored.max(seq);
        }
    }

    /// Merges a watermark by maximum; the member's shared name if it rose. Read includes delivered.
    pub(crate) fn merge(&mut self, user: &str, kind: ReceiptKind, seq: u64) -> Option<Arc<str>> {
        let member = self.member(user);
        let known = match kind {
            ReceiptKind::Delivered => &mut member.delivered,
            ReceiptKind::Read => &mut member.read,
        };
        if seq <= *known {
            return None;
        }
        *known = seq;
        Some(member.user.clone())
    }

    /// The shared name of a member.
    pub(crate) fn member_name(&mut self, user: &str) -> Arc<str> {
        self.member(user).user.clone()
    }

    fn member(&mut self, user: &str) -> &mut Member {
        let at = self.members.iter().position(|m| &*m.user == user).unwrap_or_else(|| {
            self.members.reserve_exact(1);
            self.members.push(Member { user: user.into(), delivered: 0, read: 0 });
            self.members.len() - 1
        });
        &mut self.members[at]
    }

    /// How a SEND of `user` names this conversation: single chats by the other user, so that the first message makes them.
    pub(crate) fn target(&self, user: UserId<'_>) -> Target<'_> {
        let id = self.parsed();
        id.peer_of(user).map_or(Target::Conversation(id), Target::User)
    }

    /// The id; it was checked when the entry was made.
    pub(crate) fn parsed(&self) -> ConversationId<'_> {
        ConversationId::parse(&self.id).expect("entries are made of checked ids")
    }
}

/// All conversations of a client.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    entries: Vec<Conversation>,
    /// Indices in the order of their ids.
    by_id: Vec<ConversationIndex>,
}

impl Conversations {
    /// The entry of `id`, made when new.
    pub(crate) fn index_of(&mut self, id: ConversationId<'_>) -> ConversationIndex {
        let mut text = [0u8; roost_protocol::limits::CONVERSATION_ID_BYTES_MAX];
        let text = write_id(id, &mut text);
        match self.search(text) {
            Ok(at) => self.by_id[at],
            Err(at) => {
                let index = ConversationIndex(self.entries.len() as u32);
                self.entries.reserve_exact(if self.entries.is_empty() { 1 } else { 0 });
                self.entries.push(Conversation::new(text));
                self.by_id.insert(at, index);
                index
            }
        }
    }

    fn search(&self, text: &str) -> Result<usize, usize> {
        self.by_id.binary_search_by(|index| (*self[*index].id).cmp(text))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conversation> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conversation> {
        self.entries.iter_mut()
    }
}

impl std::ops::Index<ConversationIndex> for Conversations {
    type Output = Conversation;
    fn index(&self, index: ConversationIndex) -> &Conversation {
        &self.entries[index.0 as usize]
    }
}

impl std::ops::IndexMut<ConversationIndex> for Conversations {
    fn index_mut(&mut self, index: ConversationIndex) -> &mut Conversation {
        &mut self.entries[index.0 as usize]
    }
}

/// The text of an id without an allocation.
fn write_id<'b>(id: ConversationId<'_>, buffer: &'b mut [u8]) -> &'b str {
    use std::io::Write;
    let room = buffer.len();
    let mut rest = &mut *buffer;
    let written = write!(rest, "{id}").map(|()| room - rest.len());
    let length = written.expect("ids are at most CONVERSATION_ID_BYTES_MAX long");
    std::str::from_utf8(&buffer[..length]).expect("ids are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_entry() {
        let mut table = Conversations::default();
        let ids = ["s:a:b", "g:x", "s:a:c", "s:a:b", "r:x", "g:x"];
        let found: Vec<u32> =
            ids.iter().map(|id| table.index_of(ConversationId::parse(id).unwrap()).0).collect();
        assert_eq!(found, [0, 1, 2, 0, 3, 1]);
        assert_eq!(
            table.iter().map(|c| &*c.id).collect::<Vec<_>>(),
            ["s:a:b", "g:x", "s:a:c", "r:x"]
        );
        let longest = format!("s:{0}:{0}", "z".repeat(64));
        let index = table.index_of(ConversationId::parse(&longest).unwrap());
        assert_eq!(*table[index].id, *longest);
    }

    #[test]
    fn watermarks_merge_by_maximum() {
        let mut c = Conversation::new("s:a:b");
        assert!(c.merge("b", ReceiptKind::Delivered, 3).is_some());
        assert!(c.merge("b", ReceiptKind::Delivered, 3).is_none());
        assert!(c.merge("b", ReceiptKind::Delivered, 2).is_none());
        assert!(c.merge("b", ReceiptKind::Read, 2).is_some());
        assert!(c.merge("c", ReceiptKind::Delivered, 1).is_some());
    }
}
