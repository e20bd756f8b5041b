//! What a receiver is owed whose deliveries were dropped: one hint per conversation, and beyond a number of them one digest. The
//! receiver pulls what they announce; no payload is kept.

use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::event::Event;
use roost_protocol::{ConversationId, Encoder};

use super::OutboxLimits;

/// What is owed to a receiver whose deliveries were dropped.
#[derive(Debug, Default)]
pub(super) struct Degraded {
    hints: Vec<Hint>,
    /// Highest position dropped without a hint of its own; 0: none.
    digest_inbox_seq: u64,
}

#[derive(Debug)]
struct Hint {
    conversation: Box<str>,
    seq: u64,
    inbox_seq: u64,
}

impl Degraded {
    /// Heap memory it owns, itself included.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.hints.capacity() * size_of::<Hint>()
            + self.hints.iter().map(|hint| hint.conversation.len()).sum::<usize>()
    }

    /// Remembers how far the inbox is, without a conversation.
    pub(super) fn note_position(&mut self, inbox_seq: u64) {
        self.digest_inbox_seq = self.digest_inbox_seq.max(inbox_seq);
    }

    /// Remembers a dropped delivery. Only here a gateway looks into a message.
    pub(super) fn note(&mut self, limits: &OutboxLimits, inbox_seq: u64, payload: &[u8]) {
        let Ok(message) = Message::decode(payload) else {
            self.digest_inbox_seq = self.digest_inbox_seq.max(inbox_seq);
            return;
        };
        if self.digest_inbox_seq > 0 {
            self.digest_inbox_seq = self.digest_inbox_seq.max(inbox_seq);
            return;
        }
        let conversation = message.conversation.to_string();
        if let Some(hint) = self.hints.iter_mut().find(|hint| *hint.conversation == *conversation) {
            hint.seq = hint.seq.max(message.seq);
            hint.inbox_seq = hint.inbox_seq.max(inbox_seq);
        } else if self.hints.len() < usize::from(limits.hints_max) {
            self.hints.push(Hint {
                conversation: conversation.into_boxed_str(),
                seq: message.seq,
                inbox_seq,
            });
        } else {
            self.merge_into_digest(inbox_seq);
        }
    }

    fn merge_into_digest(&mut self, inbox_seq: u64) {
        let hinted = self.hints.iter().map(|hint| hint.inbox_seq).max().unwrap_or(0);
        self.digest_inbox_seq = self.digest_inbox_seq.max(hinted).max(inbox_seq);
        self.hints = Vec::new();
    }

    pub(super) fn write(&self, encoder: &mut Encoder, out: &mut Vec<u8>) -> usize {
        for hint in &self.hints {
            // It was printed from a parsed id.
            if let Ok(conversation) = ConversationId::parse(&hint.conversation) {
                Event::Hint { conversation, seq: hint.seq, inbox_seq: hint.inbox_seq }
                    .encode(encoder, out);
            }
        }
        if self.digest_inbox_seq > 0 {
            Event::Digest { inbox_seq: self.digest_inbox_seq }.encode(encoder, out);
        }
        self.hints.len() + usize::from(self.digest_inbox_seq > 0)
    }
}
