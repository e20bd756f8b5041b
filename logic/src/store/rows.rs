//! What goes into and comes out of a store: plain rows, in the words of the schema.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::IdentityKey;

/// An id or key part, shared between the state and the rows made from it.
pub type Name = Arc<str>;

/// What a batch wants to know. Absent rows are simply not in [`Loaded`].
#[derive(Debug, Default)]
pub struct LoadKeys {
    /// `(app, conversation)`
    pub conversations: Vec<(Name, Name)>,
    /// `(app, user)`: existence and inbox counter.
    pub users: Vec<(Name, Name)>,
    /// `(app, conversation, sender, device)`
    pub cursors: Vec<(Name, Name, Name, Name)>,
    /// `(app, conversation, user)`
    pub watermarks: Vec<(Name, Name, Name)>,
    /// Messages that may be stored already.
    pub identities: Vec<IdentityKey>,
    /// Whether `inboxes` are wanted: [`super::Store::is_shared`].
    pub locks_inboxes: bool,
    /// `(app, owner)` of inboxes that the batch may add to: locked until it ends. May repeat.
    pub inboxes: Vec<(Name, Name)>,
}

impl LoadKeys {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.conversations.is_empty()
            && self.users.is_empty()
            && self.cursors.is_empty()
            && self.watermarks.is_empty()
            && self.identities.is_empty()
            && self.inboxes.is_empty()
    }
}

/// Answer to [`LoadKeys`].
#[derive(Debug, Default)]
pub struct Loaded {
    /// Counters.
    pub conversations: Vec<ConversationRow>,
    /// Users that exist.
    pub users: Vec<UserRow>,
    /// Cursors.
    pub cursors: Vec<CursorRow>,
    /// Watermarks.
    pub watermarks: Vec<WatermarkRow>,
    /// Messages with an asked identity.
    pub identities: Vec<(IdentityKey, Placed)>,
    /// Counters of the locked inboxes.
    pub inboxes: Vec<UserRow>,
}

/// Where and how a message was accepted: all of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// In the conversation.
    pub seq: u64,
    /// Snowflake.
    pub message_id: u64,
    /// When.
    pub server_time_ms: u64,
    /// Of kind and body.
    pub payload_hash: i64,
    /// In the sender's inbox.
    pub sender_inbox_seq: u64,
    /// In the other member's inbox; the sender's own in a chat with oneself.
    pub peer_inbox_seq: u64,
}

/// Counter of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct ConversationRow {
    pub app: Name,
    pub conversation: Name,
    pub last_seq: u64,
}

/// A user, and where its inbox is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct UserRow {
    pub app: Name,
    pub user: Name,
    pub last_inbox_seq: u64,
}

/// How far a device's sends were taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct CursorRow {
    pub app: Name,
    pub conversation: Name,
    pub sender: Name,
    pub device: Name,
    pub session_epoch: u64,
    pub client_seq: u32,
}

/// How far a member is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct WatermarkRow {
    pub app: Name,
    pub conversation: Name,
    pub user: Name,
    pub delivered_seq: u64,
    pub read_seq: u64,
}

impl WatermarkRow {
    /// Merges by maximum.
    pub fn raise(&mut self, other: &Self) {
        self.delivered_seq = self.delivered_seq.max(other.delivered_seq);
        self.read_seq = self.read_seq.max(other.read_seq);
    }
}

/// How far a device is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct DeviceCursorRow {
    pub app: Name,
    pub user: Name,
    pub device: Name,
    pub inbox_seq: u64,
}

/// A message about to be stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct NewMessage {
    pub app: Name,
    pub conversation: Name,
    pub sender: Name,
    pub client_msg_id: [u8; 16],
    pub kind: u8,
    pub body: Bytes,
    pub placed: Placed,
}

/// An inbox entry about to be stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct InboxRow {
    pub app: Name,
    pub owner: Name,
    pub inbox_seq: u64,
    pub conversation: Name,
    pub seq: u64,
}

/// Everything a batch changes; counters, cursors and watermarks as absolute values.
#[derive(Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after the tables")]
pub struct Writes {
    pub messages: Vec<NewMessage>,
    pub inbox: Vec<InboxRow>,
    pub conversations: Vec<ConversationRow>,
    pub inboxes: Vec<UserRow>,
    pub cursors: Vec<CursorRow>,
    pub watermarks: Vec<WatermarkRow>,
    pub device_cursors: Vec<DeviceCursorRow>,
    /// `(worker_id, until_ms)`, one of each database.
    pub worker_marks: Vec<(u16, u64)>,
}

impl Writes {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0 && self.worker_marks.is_empty()
    }

    /// Rows of all tables, the mark aside.
    pub fn rows(&self) -> usize {
        self.messages.len()
            + self.inbox.len()
            + self.conversations.len()
            + self.inboxes.len()
            + self.cursors.len()
            + self.watermarks.len()
            + self.device_cursors.len()
    }

    /// Puts rows into key order: neighbours share pages, and locks are taken in one order by everybody.
    pub fn sort(&mut self) {
        self.messages.sort_unstable_by(|a, b| {
            (&a.app, &a.conversation, a.placed.seq).cmp(&(&b.app, &b.conversation, b.placed.seq))
        });
        self.inbox.sort_unstable();
        self.conversations.sort_unstable();
        self.inboxes.sort_unstable();
        self.cursors.sort_unstable();
        self.watermarks.sort_unstable();
        self.device_cursors.sort_unstable();
    }
}

/// What made a handler fail.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct Quarantined {
    pub app: String,
    pub user: String,
    pub device: String,
    pub frame_kind: &'static str,
    pub payload: Vec<u8>,
    pub reason: String,
    pub server_time_ms: u64,
}

/// A message as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct StoredMessage {
    pub conversation: String,
    pub seq: u64,
    pub message_id: u64,
    pub sender: String,
    pub client_msg_id: [u8; 16],
    pub kind: u8,
    pub server_time_ms: u64,
    pub body: Vec<u8>,
}

impl From<NewMessage> for StoredMessage {
    fn from(row: NewMessage) -> Self {
        Self {
            conversation: row.conversation.to_string(),
            seq: row.placed.seq,
            message_id: row.placed.message_id,
            sender: row.sender.to_string(),
            client_msg_id: row.client_msg_id,
            kind: row.kind,
            server_time_ms: row.placed.server_time_ms,
            body: row.body.to_vec(),
        }
    }
}

/// An inbox entry with its message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct InboxMessage {
    pub inbox_seq: u64,
    pub message: StoredMessage,
}

/// Newest seq of a conversation, and rows of it in the order asked.
pub type HistoryRows = (u64, Vec<StoredMessage>);

/// Which part of a conversation: `after < seq < before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// Exclusive; 0: from the first.
    pub after: u64,
    /// Exclusive; 0: to the newest.
    pub before: u64,
    /// Rows at most.
    pub limit: usize,
    /// From the newest end, descending.
    pub newest_first: bool,
}

/// A user that may have a password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct Account {
    pub user: String,
    pub password_hash: Option<String>,
    pub display_name: String,
    pub created_ms: u64,
}

/// A login, with its first refresh token.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct RefreshFamily {
    pub family: [u8; 16],
    pub app: String,
    pub user: String,
    pub created_ms: u64,
    pub token_hash: [u8; 32],
    pub expires_ms: u64,
}

/// A refresh token and what its family says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct RefreshToken {
    pub family: [u8; 16],
    pub app: String,
    pub user: String,
    pub expires_ms: u64,
    pub used_ms: Option<u64>,
    pub revoked: bool,
}

/// One step of a refresh token to its successor.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns of the table")]
pub struct Rotation {
    pub family: [u8; 16],
    pub token_hash: [u8; 32],
    pub used_ms: u64,
    pub successor_hash: [u8; 32],
    pub successor_expires_ms: u64,
}
