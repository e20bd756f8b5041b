//! What the worker remembers of the rows it owns, and the changes a batch makes to them.
//!
//! Counters, cursors and watermarks stay here between batches, so that a usual batch reads nothing at all. That is right
//! while this worker is the only writer of its partitions. Whenever that may have been untrue (a commit failed, an identity
//! collided, partitions moved) everything is forgotten by [`State::forget`] and read again.
//!
//! With several workers on one database, what is remembered of other partitions is a lower bound: counters only rise. A
//! position beyond it has the row read again. Inboxes belong to no partition: whoever adds to them has them locked and
//! loaded in that batch ([`LoadKeys::inboxes`]).
//!
//! The values change as handlers run; rows are collected once per batch by [`State::take_writes`].

mod acknowledged;
mod remembered;

use std::sync::Arc;

pub(crate) use acknowledged::{Acknowledged, Identity};
pub(crate) use remembered::Remembered;

use crate::store::key::Key;
use crate::store::{
    ConversationRow, CursorRow, DeviceCursorRow, IdentityKey, InboxRow, LoadKeys, Loaded, Name,
    NewMessage, UserRow, WatermarkRow, Writes,
};

/// Entries of each kind that are kept, at least half of them the most recently used.
const REMEMBERED_MAX: usize = 200_000;
/// Acknowledgements that are kept, the newest.
const ACKNOWLEDGED_MAX: usize = 100_000;

/// Counter of a conversation; 0: it does not exist yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conversation {
    pub(crate) last_seq: u64,
}

/// A user and its inbox.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct User {
    pub(crate) exists: bool,
    pub(crate) last_inbox_seq: u64,
}

/// How far a device's sends were taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SendCursor {
    pub(crate) session_epoch: u64,
    pub(crate) client_seq: u32,
}

/// How far a member is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watermarks {
    pub(crate) delivered_seq: u64,
    pub(crate) read_seq: u64,
}

/// How far a device is, and how far the store knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeviceCursor {
    pub(crate) inbox_seq: u64,
    pub(crate) stored_inbox_seq: u64,
}

/// Everything remembered.
#[derive(Debug)]
pub(crate) struct State {
    /// `(app, conversation)`
    pub(crate) conversations: Remembered<2, Conversation>,
    /// `(app, user)`
    pub(crate) users: Remembered<2, User>,
    /// `(app, conversation, sender, device)`
    pub(crate) cursors: Remembered<4, SendCursor>,
    /// `(app, conversation, user)`
    pub(crate) watermarks: Remembered<3, Watermarks>,
    /// `(app, user, device)`
    pub(crate) devices: Remembered<3, DeviceCursor>,
    /// Acknowledgements given lately.
    pub(crate) acknowledged: Acknowledged,
    messages: Vec<NewMessage>,
    inbox: Vec<InboxRow>,
    missing_users: Vec<Key<2>>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            conversations: Remembered::new(REMEMBERED_MAX),
            users: Remembered::new(REMEMBERED_MAX),
            cursors: Remembered::new(REMEMBERED_MAX),
            watermarks: Remembered::new(REMEMBERED_MAX),
            devices: Remembered::new(REMEMBERED_MAX),
            acknowledged: Acknowledged::new(ACKNOWLEDGED_MAX),
            messages: Vec::new(),
            inbox: Vec::new(),
            missing_users: Vec::new(),
        }
    }

    /// Forgets everything, also the changes of the batch under way.
    pub(crate) fn forget(&mut self) {
        *self = Self::new();
    }

    /// Before a batch: lets go of what was not used for long.
    pub(crate) fn begin(&mut self) {
        self.conversations.turn();
        self.users.turn();
        self.cursors.turn();
        self.watermarks.turn();
        self.devices.turn();
        // A user may be created at any time by the HTTP server: that it was missing is not remembered.
        for key in self.missing_users.drain(..) {
            self.users.remove(&key);
        }
    }

    /// Takes in what the store answered to `keys`; what it left out does not exist.
    pub(crate) fn absorb(&mut self, keys: &LoadKeys, loaded: Loaded) {
        for row in loaded.conversations {
            let key = Key([row.app, row.conversation]);
            self.conversations.insert(key, Conversation { last_seq: row.last_seq });
        }
        for row in loaded.users {
            let user = User { exists: true, last_inbox_seq: row.last_inbox_seq };
            self.users.insert(Key([row.app, row.user]), user);
        }
        // Read under lock, after the users.
        for row in loaded.inboxes {
            let user = User { exists: true, last_inbox_seq: row.last_inbox_seq };
            self.users.insert(Key([row.app, row.user]), user);
        }
        for row in loaded.cursors {
            let cursor =
                SendCursor { session_epoch: row.session_epoch, client_seq: row.client_seq };
            self.cursors.insert(Key([row.app, row.conversation, row.sender, row.device]), cursor);
        }
        for row in loaded.watermarks {
            let watermarks =
                Watermarks { delivered_seq: row.delivered_seq, read_seq: row.read_seq };
            self.watermarks.insert(Key([row.app, row.conversation, row.user]), watermarks);
        }
        for (key, placed) in loaded.identities {
            self.acknowledged.insert(key, placed);
        }
        for (app, conversation) in &keys.conversations {
            self.conversations.insert_absent([app, conversation]);
        }
        for (app, user) in &keys.users {
            if self.users.insert_absent([app, user]) {
                self.missing_users.push(Key([Arc::clone(app), Arc::clone(user)]));
            }
        }
        for (app, conversation, sender, device) in &keys.cursors {
            self.cursors.insert_absent([app, conversation, sender, device]);
        }
        for (app, conversation, user) in &keys.watermarks {
            self.watermarks.insert_absent([app, conversation, user]);
        }
    }

    /// Adds an accepted message to the batch.
    pub(crate) fn add_message(&mut self, message: NewMessage, peer: Name) {
        let key = IdentityKey {
            app: Arc::clone(&message.app),
            conversation: Arc::clone(&message.conversation),
            sender: Arc::clone(&message.sender),
            client_msg_id: message.client_msg_id,
        };
        self.acknowledged.insert(key, message.placed);
        let entry = |owner: &Name, inbox_seq| InboxRow {
            app: Arc::clone(&message.app),
            owner: Arc::clone(owner),
            inbox_seq,
            conversation: Arc::clone(&message.conversation),
            seq: message.placed.seq,
        };
        self.inbox.push(entry(&message.sender, message.placed.sender_inbox_seq));
        if peer != message.sender {
            self.inbox.push(entry(&peer, message.placed.peer_inbox_seq));
        }
        self.messages.push(message);
    }

    /// The rows this batch changed, in key order.
    pub(crate) fn take_writes(&mut self) -> Writes {
        let mut writes = Writes {
            messages: std::mem::take(&mut self.messages),
            inbox: std::mem::take(&mut self.inbox),
            ..Writes::default()
        };
        self.conversations.drain_changed(|Key([app, conversation]), value| {
            writes.conversations.push(ConversationRow {
                app,
                conversation,
                last_seq: value.last_seq,
            });
        });
        self.users.drain_changed(|Key([app, user]), value| {
            writes.inboxes.push(UserRow { app, user, last_inbox_seq: value.last_inbox_seq });
        });
        self.cursors.drain_changed(|Key([app, conversation, sender, device]), value| {
            let SendCursor { session_epoch, client_seq } = *value;
            writes.cursors.push(CursorRow {
                app,
                conversation,
                sender,
                device,
                session_epoch,
                client_seq,
            });
        });
        self.watermarks.drain_changed(|Key([app, conversation, user]), value| {
            let Watermarks { delivered_seq, read_seq } = *value;
            writes.watermarks.push(WatermarkRow {
                app,
                conversation,
                user,
                delivered_seq,
                read_seq,
            });
        });
        self.devices.drain_changed(|Key([app, user, device]), value| {
            value.stored_inbox_seq = value.inbox_seq;
            writes.device_cursors.push(DeviceCursorRow {
                app,
                user,
                device,
                inbox_seq: value.inbox_seq,
            });
        });
        writes.sort();
        writes
    }
}
