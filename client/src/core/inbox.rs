//! From received messages to shown ones: each once, each conversation strictly +1.
//!
//! Two orders meet here. The inbox counts everything this user gets; its received part is a [`SeqSet`], and a hole in it
//! is pulled by Sync. A conversation counts its own messages; one that comes early is held until those before it were
//! shown. Where a conversation begins for this device is known once every earlier inbox entry was received: then the
//! lowest held message is its first.
//!
//! Both stores are bounded. What finds no room is not marked as received, so it is pulled again.

use std::collections::BTreeMap;

use super::conversations::{ConversationIndex, Conversations};
use super::event::Message;
use super::events::Events;
use super::seq_set::SeqSet;

/// The receiving side of a client.
#[derive(Debug)]
pub(crate) struct Inbox {
    received: SeqSet,
    /// Newest position the server spoke of.
    latest: u64,
    /// The device knows where it begins; false only before the first session of [`super::config::Start::Latest`].
    begun: bool,
    held: BTreeMap<(ConversationIndex, u64), Box<Message>>,
    held_max: usize,
    /// Every held message was held before the running Sync was asked.
    sync_covers_held: bool,
}

/// A hole, and how to fill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// By Sync.
    Inbox,
    /// By History with `after < seq < before`.
    Conversation { index: ConversationIndex, after: u64, before: u64 },
}

impl Inbox {
    pub(crate) fn new(inbox_seq: u64, begun: bool, held_max: usize) -> Self {
        Self {
            received: SeqSet::from_watermark(inbox_seq),
            latest: inbox_seq,
            begun,
            held: BTreeMap::new(),
            held_max,
            sync_covers_held: false,
        }
    }

    /// Whether the position this device begins at is known.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Everything up to here was received.
    pub(crate) fn watermark(&self) -> u64 {
        self.received.watermark()
    }

    /// Everything up to here was received, and the application is done with it.
    pub(crate) fn stored_watermark(&self, events: &Events) -> u64 {
        let held = self.held.values().map(|m| m.inbox_seq).filter(|&seq| seq != 0).min();
        let pending = events.lowest_inbox_seq().into_iter().chain(held).min();
        pending.map_or(self.watermark(), |seq| self.watermark().min(seq - 1))
    }

    /// The server spoke of this position.
    pub(crate) fn on_latest(&mut self, inbox_seq: u64) {
        self.latest = self.latest.max(inbox_seq);
    }

    /// The device begins after `inbox_seq`, unless that was settled before.
    pub(crate) fn begin_after(&mut self, inbox_seq: u64) {
        if !self.begun {
            self.begun = true;
            self.received.insert(1, inbox_seq);
            self.on_latest(inbox_seq);
        }
    }

    /// Takes a message in: shows it, holds it, or drops it as known or for lack of room. Whether it is new.
    pub(crate) fn accept(
        &mut self,
        index: ConversationIndex,
        message: Box<Message>,
        conversations: &mut Conversations,
        events: &mut Events,
    ) -> bool {
        let (seq, inbox_seq) = (message.seq, message.inbox_seq);
        if seq == 0 {
            return false;
        }
        if inbox_seq != 0 {
            self.begin_after(inbox_seq - 1);
            self.on_latest(inbox_seq);
            if self.received.contains(inbox_seq) {
                return false;
            }
        }
        let shown = conversations[index].shown;
        if shown.is_some_and(|shown| seq <= shown) {
            events.attach(index, seq, inbox_seq);
            self.mark(inbox_seq, conversations, events);
            return false;
        }
        if let Some(held) = self.held.get_mut(&(index, seq)) {
            held.inbox_seq = held.inbox_seq.max(inbox_seq);
            self.mark(inbox_seq, conversations, events);
            return false;
        }
        if self.held.is_empty() && self.is_next(shown, seq, inbox_seq) {
            conversations[index].begin_after(seq - 1);
            conversations[index].shown = Some(seq);
            events.push_message(index, message);
            self.mark(inbox_seq, conversations, events);
            return true;
        }
        let next_in_line = self.is_next(shown, seq, inbox_seq);
        if self.held.len() >= self.held_max && !next_in_line {
            return false;
        }
        self.sync_covers_held &= shown.is_some();
        self.held.insert((index, seq), message);
        self.mark(inbox_seq, conversations, events);
        self.settle(conversations, events);
        true
    }

    fn is_next(&self, shown: Option<u64>, seq: u64, inbox_seq: u64) -> bool {
        match shown {
            Some(shown) => seq == shown + 1,
            None => seq == 1 || (inbox_seq != 0 && inbox_seq <= self.watermark() + 1),
        }
    }

    fn mark(&mut self, inbox_seq: u64, conversations: &mut Conversations, events: &mut Events) {
        if inbox_seq != 0 {
            self.received.insert(inbox_seq, inbox_seq);
            if !self.held.is_empty() {
                self.settle(conversations, events);
            }
        }
    }

    /// Shows every held message whose turn it is.
    fn settle(&mut self, conversations: &mut Conversations, events: &mut Events) {
        let mut at = (ConversationIndex(0), 0);
        while let Some((&(index, seq), message)) = self.held.range(at..).next() {
            let begins_here =
                seq == 1 || (message.inbox_seq != 0 && message.inbox_seq <= self.watermark());
            let conversation = &mut conversations[index];
            if conversation.shown.is_none() && begins_here {
                conversation.begin_after(seq - 1);
            }
            match conversation.shown {
                Some(shown) if seq <= shown + 1 => {
                    at = (index, seq);
                    if let Some(message) = self.held.remove(&at)
                        && seq == shown + 1
                    {
                        conversation.shown = Some(seq);
                        events.push_message(index, message);
                    }
                }
                Some(_) | None => at = (ConversationIndex(index.0 + 1), 0),
            }
        }
    }

    /// A Sync is asked now.
    pub(crate) fn on_sync_asked(&mut self) {
        self.sync_covers_held = true;
    }

    /// The server says that between `after` and `upto` there is nothing but what the page held.
    /// Stops at an entry that found no room; whether all were taken.
    pub(crate) fn close_page(&mut self, after: u64, page: &[u64]) -> bool {
        let mut before = after;
        for &inbox_seq in page {
            if !self.received.contains(inbox_seq) {
                return false;
            }
            self.received.insert(before.saturating_add(1), inbox_seq);
            before = inbox_seq;
        }
        true
    }

    /// The inbox was pulled to its end: conversations that still do not know their beginning begin with what is held.
    pub(crate) fn on_synced(&mut self, conversations: &mut Conversations, events: &mut Events) {
        if self.held.is_empty() {
            return;
        }
        self.settle(conversations, events);
        if self.sync_covers_held && self.watermark() >= self.latest {
            for &(index, seq) in self.held.keys() {
                if conversations[index].shown.is_none() {
                    conversations[index].begin_after(seq - 1);
                }
            }
            self.settle(conversations, events);
        }
    }

    /// The server says that the hole before the first held message cannot be filled: nothing is there.
    pub(crate) fn skip_gap(
        &mut self,
        index: ConversationIndex,
        before: u64,
        conversations: &mut Conversations,
        events: &mut Events,
    ) {
        conversations[index].begin_after(before - 1);
        self.settle(conversations, events);
    }

    /// The first hole, if any.
    pub(crate) fn gap(&self, conversations: &Conversations) -> Option<Gap> {
        if self.watermark() < self.latest || !self.begun {
            return Some(Gap::Inbox);
        }
        let (&(index, before), _) = self.held.first_key_value()?;
        Some(match conversations[index].shown {
            Some(after) => Gap::Conversation { index, after, before },
            None => Gap::Inbox,
        })
    }
}
