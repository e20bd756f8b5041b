//! Everything a run recorded: tables of names and the events in order.
//!
//! Invariant: the events of one device stand in the order in which they happened; events of
//! different devices are ordered only by their times. One recorder (thread) fills one history;
//! [`History::absorb`] joins them afterwards. It judges nothing.

use super::event::{ConversationId, DeviceId, Event, LabelId, MessageId, Record, UserId};
use super::intern::{Interner, Renaming};

/// Recorded events and the names they use.
#[derive(Debug, Default)]
pub struct History {
    pub(super) users: Interner<String>,
    pub(super) devices: Interner<(u32, String)>,
    pub(super) conversations: Interner<String>,
    pub(super) messages: Interner<(u32, u128)>,
    pub(super) labels: Interner<String>,
    pub(super) events: Vec<Event>,
    pub(super) written: super::archive::Written,
}

impl History {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for so many more messages and events: growing a table of a million at once takes
    /// longer than a recorder that also measures can spare.
    pub fn reserve(&mut self, messages: usize, events: usize) {
        self.messages.reserve(messages);
        self.events.reserve(events);
    }

    /// The id of a user.
    pub fn user(&mut self, name: &str) -> UserId {
        UserId(self.users.intern(name).0)
    }

    /// The id of a device, by the user's and its own name.
    pub fn device(&mut self, user: UserId, name: &str) -> DeviceId {
        DeviceId(self.devices.intern(&(user.0, name.to_owned())).0)
    }

    /// The id of a conversation of any kind. Members are told by [`Record::Joined`].
    pub fn conversation(&mut self, name: &str) -> ConversationId {
        ConversationId(self.conversations.intern(name).0)
    }

    /// The single chat of two users, who are its members from the first message on.
    pub fn single_chat(&mut self, one: &str, other: &str) -> ConversationId {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let (id, is_new) = self.conversations.intern(format!("s:{low}:{high}").as_str());
        let conversation = ConversationId(id);
        if is_new {
            for name in [low, high] {
                let user = self.user(name);
                self.record(0, Record::Joined { conversation, user, seq: 1 });
            }
        }
        conversation
    }

    /// The id of a message, by its sender and `client_msg_id`.
    pub fn message(&mut self, sender: UserId, client_msg_id: u128) -> MessageId {
        MessageId(self.messages.intern(&(sender.0, client_msg_id)).0)
    }

    /// The id of something counted.
    pub fn label(&mut self, name: &str) -> LabelId {
        LabelId(self.labels.intern(name).0)
    }

    /// Adds an event at the end.
    pub fn record(&mut self, at_us: u64, record: Record) {
        self.events.push(Event::pack(at_us, record));
    }

    /// How many events there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// All records with their times, in order.
    pub fn records(&self) -> impl Iterator<Item = (u64, Record)> + '_ {
        self.events.iter().filter_map(|event| Some((event.at_us(), event.unpack()?)))
    }

    /// All conversations with their names.
    pub fn conversations(&self) -> impl Iterator<Item = (ConversationId, &str)> {
        (0..).map(ConversationId).zip(self.conversations.keys().iter().map(String::as_str))
    }

    /// Appends another history. Of a device that occurs in both, `other` has the later events.
    pub fn absorb(&mut self, other: &Self) {
        let users: Vec<u32> = other.users.keys().iter().map(|k| self.users.intern(k).0).collect();
        let owner = |id: u32| users.get(id as usize).copied().unwrap_or(u32::MAX);
        let devices = other
            .devices
            .keys()
            .iter()
            .map(|(user, name)| self.devices.intern(&(owner(*user), name.clone())).0)
            .collect();
        let conversations =
            other.conversations.keys().iter().map(|k| self.conversations.intern(k).0).collect();
        let messages = other
            .messages
            .keys()
            .iter()
            .map(|(user, id)| self.messages.intern(&(owner(*user), *id)).0)
            .collect();
        let labels = other.labels.keys().iter().map(|k| self.labels.intern(k).0).collect();
        let map = Renaming { users, devices, conversations, messages, labels };
        self.events.extend(other.events.iter().map(|event| event.renamed(&map)));
    }

    /// Whose device it is.
    #[must_use]
    pub fn user_of(&self, device: DeviceId) -> UserId {
        UserId(self.devices.get(device.0).map_or(u32::MAX, |(user, _)| *user))
    }

    /// The name of a user.
    #[must_use]
    pub fn user_name(&self, user: UserId) -> String {
        self.users.get(user.0).cloned().unwrap_or_else(|| "nobody".to_owned())
    }

    pub(super) fn device_name(&self, device: DeviceId) -> String {
        match self.devices.get(device.0) {
            Some((user, name)) => format!("{}/{name}", self.user_name(UserId(*user))),
            None => "database".to_owned(),
        }
    }

    pub(super) fn conversation_name(&self, conversation: ConversationId) -> String {
        self.conversations.get(conversation.0).cloned().unwrap_or_default()
    }

    pub(super) fn message_name(&self, message: MessageId) -> String {
        match self.messages.get(message.0) {
            Some((user, id)) => format!("{}:{id:032x}", self.user_name(UserId(*user))),
            None => String::new(),
        }
    }

    pub(super) fn label_name(&self, label: LabelId) -> String {
        self.labels.get(label.0).cloned().unwrap_or_default()
    }
}

/// Hash of a message body: FNV-1a of 64 bits, the same in every process and version, never 0.
#[must_use]
pub fn payload_hash(body: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in body {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash.max(1)
}

/// What a repeated acknowledgement must repeat beside conversation and seq, in 32 bits.
#[must_use]
pub fn answer_digest(message_id: u64, server_time_ms: u64) -> u32 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&message_id.to_le_bytes());
    bytes[8..].copy_from_slice(&server_time_ms.to_le_bytes());
    let hash = payload_hash(&bytes);
    (hash ^ hash >> 32) as u32
}
