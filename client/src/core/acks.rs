//! DELIVER_ACKs, coalesced: a conversation is told once, however many of its messages were stored meanwhile.

use std::time::Instant;

use roost_protocol::Encoder;
use roost_protocol::frame::deliver::DeliverAck;
use roost_protocol::limits::WATERMARKS_MAX;

use super::config::Tuning;
use super::conversations::{ConversationIndex, Conversations};

/// What waits to be acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    conversations: Vec<ConversationIndex>,
    messages: u32,
    due: Option<Instant>,
    /// The server knows that everything up to here is stored.
    told: u64,
    /// Highest inbox position that was delivered and is to be told.
    owed: u64,
}

impl Acks {
    /// CONNECT told the cursor.
    pub(crate) fn on_connect(&mut self, inbox_seq: u64) {
        self.told = inbox_seq;
    }

    /// The cursor rose by something that needs no acknowledgement itself, but passed deliveries that do.
    pub(crate) fn on_cursor(
        &mut self,
        now: Instant,
        cursor: impl FnOnce() -> u64,
        tuning: &Tuning,
    ) {
        if self.owed > self.told && self.due.is_none() && cursor() > self.told {
            self.due = Some(now + tuning.deliver_ack_delay);
        }
    }

    /// A message of this conversation was stored.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        (index, inbox_seq): (ConversationIndex, u64),
        conversations: &mut Conversations,
        tuning: &Tuning,
    ) {
        self.messages += 1;
        self.owed = self.owed.max(inbox_seq);
        self.due.get_or_insert(now + tuning.deliver_ack_delay);
        let conversation = &mut conversations[index];
        if !conversation.ack_queued {
            conversation.ack_queued = true;
            self.conversations.push(index);
        }
    }

    /// When the acknowledgement has to leave.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it leaves now: it is due, many messages wait, or something else leaves anyway.
    pub(crate) fn is_due(&self, now: Instant, tuning: &Tuning, along: bool) -> bool {
        self.due.is_some_and(|due| {
            along || due <= now || self.messages >= tuning.deliver_ack_messages_max
        })
    }

    /// Appends the acknowledgement of everything stored.
    pub(crate) fn encode(
        &mut self,
        inbox_seq: u64,
        conversations: &mut Conversations,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) {
        if self.conversations.is_empty() {
            DeliverAck { inbox_seq, watermarks: Vec::new() }.encode(encoder, out);
        }
        for chunk in self.conversations.chunks(WATERMARKS_MAX) {
            for &index in chunk {
                conversations[index].ack_queued = false;
            }
            let watermark = |&index: &ConversationIndex| {
                let conversation = &conversations[index];
                (conversation.parsed(), conversation.stored)
            };
            let watermarks = chunk.iter().map(watermark).collect();
            DeliverAck { inbox_seq, watermarks }.encode(encoder, out);
        }
        self.conversations.clear();
        if self.conversations.capacity() > 64 {
            self.conversations.shrink_to(4);
        }
        self.told = self.told.max(inbox_seq);
        self.messages = 0;
        self.due = None;
    }
}
