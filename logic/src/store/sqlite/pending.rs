//! What is committed to the journal and not yet in the tables.
//!
//! Two layers: the *open* one takes every commit; when it is large enough it is *sealed*, and another one is opened. A sealed layer
//! does not change; it is written into the tables a share at a time and dropped as a whole when everything is there. Whoever reads
//! asks the layers first and the tables second: rows that moved in between are seen twice, never missed.
//!
//! Per conversation and per owner, rows reach the tables in the order of their numbers. So what the tables hold of one is always its
//! dense beginning, and the layers hold the rest.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use rapidhash::fast::RandomState;

use super::super::key::{Borrowed, Key};
use super::super::{
    ConversationRow, CursorRow, DeviceCursorRow, IdentityKey, InboxRow, Name, NewMessage, Placed,
    UserRow, WatermarkRow, Writes,
};

type Map<const N: usize, V> = HashMap<Key<N>, V, RandomState>;

/// Many bytes weigh as much as many rows: both take memory, and time to write.
const BYTES_PER_ROW: usize = 256;

/// Rows of one conversation.
#[derive(Debug, Default)]
struct Conversation {
    last_seq: Option<u64>,
    /// By ascending seq.
    messages: Vec<NewMessage>,
    cursors: Vec<CursorRow>,
    watermarks: Vec<WatermarkRow>,
}

/// Rows of one user.
#[derive(Debug, Default)]
struct Owner {
    last_inbox_seq: Option<u64>,
    /// By ascending inbox_seq.
    inbox: Vec<InboxRow>,
    devices: Vec<DeviceCursorRow>,
}

/// One layer.
#[derive(Debug, Default)]
struct Layer {
    conversations: Map<2, Conversation>,
    owners: Map<2, Owner>,
    /// Of all messages here: most look-ups end with it.
    ids: HashSet<[u8; 16], RandomState>,
    /// Rows that were added, whether or not they replaced others, and a row for each [`BYTES_PER_ROW`] of their batches.
    weight: usize,
    /// The last batch in it.
    last_id: i64,
}

/// An entry of an inbox with its message.
pub(super) type Entry = (u64, NewMessage);

impl Layer {
    fn add(&mut self, id: i64, bytes: usize, writes: Writes) {
        self.weight += writes.rows() + bytes / BYTES_PER_ROW;
        self.last_id = id;
        let Writes {
            messages,
            inbox,
            conversations,
            inboxes,
            cursors,
            watermarks,
            device_cursors,
            ..
        } = writes;
        for row in messages {
            self.ids.insert(row.client_msg_id);
            self.conversation(&row.app, &row.conversation).messages.push(row);
        }
        for row in conversations {
            self.conversation(&row.app, &row.conversation).last_seq = Some(row.last_seq);
        }
        for row in cursors {
            let cursors = &mut self.conversation(&row.app, &row.conversation).cursors;
            match cursors.iter_mut().find(|c| c.sender == row.sender && c.device == row.device) {
                Some(known) => *known = row,
                None => cursors.push(row),
            }
        }
        for row in watermarks {
            let watermarks = &mut self.conversation(&row.app, &row.conversation).watermarks;
            raise(watermarks, row);
        }
        for row in inbox {
            self.owner(&row.app, &row.owner).inbox.push(row);
        }
        for row in inboxes {
            self.owner(&row.app, &row.user).last_inbox_seq = Some(row.last_inbox_seq);
        }
        for row in device_cursors {
            let devices = &mut self.owner(&row.app, &row.user).devices;
            match devices.iter_mut().find(|d| d.device == row.device) {
                Some(known) => known.inbox_seq = known.inbox_seq.max(row.inbox_seq),
                None => devices.push(row),
            }
        }
    }

    fn conversation(&mut self, app: &Name, conversation: &Name) -> &mut Conversation {
        entry(&mut self.conversations, app, conversation)
    }

    fn owner(&mut self, app: &Name, owner: &Name) -> &mut Owner {
        entry(&mut self.owners, app, owner)
    }

    /// Everything, in key order: neighbours share pages.
    fn to_writes(&self) -> Writes {
        let mut writes = Writes::default();
        let mut conversations: Vec<_> = self.conversations.iter().collect();
        conversations.sort_unstable_by_key(|(key, _)| *key);
        for (Key([app, conversation]), rows) in conversations {
            if let Some(last_seq) = rows.last_seq {
                let (app, conversation) = (Arc::clone(app), Arc::clone(conversation));
                writes.conversations.push(ConversationRow { app, conversation, last_seq });
            }
            writes.messages.extend_from_slice(&rows.messages);
            writes.cursors.extend_from_slice(&rows.cursors);
            writes.watermarks.extend_from_slice(&rows.watermarks);
        }
        let mut owners: Vec<_> = self.owners.iter().collect();
        owners.sort_unstable_by_key(|(key, _)| *key);
        for (Key([app, user]), rows) in owners {
            if let Some(last_inbox_seq) = rows.last_inbox_seq {
                let (app, user) = (Arc::clone(app), Arc::clone(user));
                writes.inboxes.push(UserRow { app, user, last_inbox_seq });
            }
            writes.inbox.extend_from_slice(&rows.inbox);
            writes.device_cursors.extend_from_slice(&rows.devices);
        }
        writes
    }

    fn message(&self, app: &str, conversation: &str, seq: u64) -> Option<&NewMessage> {
        let messages = &self.conversations.get(&Borrowed([app, conversation]))?.messages;
        let index = messages.binary_search_by_key(&seq, |m| m.placed.seq).ok()?;
        Some(&messages[index])
    }

    fn identity(&self, key: &IdentityKey) -> Option<Placed> {
        if !self.ids.contains(&key.client_msg_id) {
            return None;
        }
        let messages = &self.conversations.get(&Borrowed([&key.app, &key.conversation]))?.messages;
        let is_it =
            |m: &&NewMessage| m.client_msg_id == key.client_msg_id && m.sender == key.sender;
        messages.iter().find(is_it).map(|m| m.placed)
    }
}

fn entry<'a, V: Default>(map: &'a mut Map<2, V>, a: &Name, b: &Name) -> &'a mut V {
    map.entry(Key([Arc::clone(a), Arc::clone(b)])).or_default()
}

/// Adds a member of one conversation, or merges by maximum.
pub(super) fn raise(watermarks: &mut Vec<WatermarkRow>, row: WatermarkRow) {
    match watermarks.iter_mut().find(|known| known.user == row.user) {
        Some(known) => known.raise(&row),
        None => watermarks.push(row),
    }
}

#[derive(Debug, Default)]
struct Layers {
    sealed: Option<Arc<Layer>>,
    open: Layer,
}

impl Layers {
    /// The older one first.
    fn each(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        self.sealed.as_deref().into_iter().chain([&self.open])
    }
}

/// Both layers, shared by the writer and all readers.
#[derive(Debug, Default)]
pub(super) struct Pending(RwLock<Layers>);

impl Pending {
    /// Takes in what was committed.
    pub(super) fn add(&self, id: i64, bytes: usize, writes: Writes) {
        self.0.write().open.add(id, bytes, writes);
    }

    /// How large the open layer is, in rows.
    pub(super) fn weight(&self) -> usize {
        self.0.read().open.weight
    }

    /// Seals the open layer, if nothing is sealed and it has batches. Returns its rows in key order and the last batch in it.
    pub(super) fn seal(&self) -> Option<(Writes, i64)> {
        let mut layers = self.0.write();
        if layers.sealed.is_some() || layers.open.last_id == 0 {
            return None;
        }
        let sealed = Arc::new(std::mem::take(&mut layers.open));
        layers.sealed = Some(Arc::clone(&sealed));
        drop(layers);
        Some((sealed.to_writes(), sealed.last_id))
    }

    /// The sealed layer is in the tables.
    pub(super) fn drop_sealed(&self) {
        let sealed = self.0.write().sealed.take();
        // Thousands of rows are freed here, after the lock.
        drop(sealed);
    }

    /// Counter of a conversation.
    pub(super) fn last_seq(&self, app: &str, conversation: &str) -> Option<u64> {
        let key = Borrowed([app, conversation]);
        self.0.read().each().rev().find_map(|l| l.conversations.get(&key)?.last_seq)
    }

    /// Counter of an inbox.
    pub(super) fn last_inbox_seq(&self, app: &str, owner: &str) -> Option<u64> {
        let key = Borrowed([app, owner]);
        self.0.read().each().rev().find_map(|l| l.owners.get(&key)?.last_inbox_seq)
    }

    /// Seq of the newest message here.
    pub(super) fn newest_message(&self, app: &str, conversation: &str) -> Option<u64> {
        let newest = self.history((app, conversation), (0, u64::MAX), 1, true);
        newest.first().map(|m| m.placed.seq)
    }

    /// Position of the newest inbox entry here.
    pub(super) fn newest_entry(&self, app: &str, owner: &str) -> Option<u64> {
        let key = Borrowed([app, owner]);
        let layers = self.0.read();
        layers.each().rev().find_map(|l| Some(l.owners.get(&key)?.inbox.last()?.inbox_seq))
    }

    pub(super) fn cursor(
        &self,
        app: &str,
        conversation: &str,
        sender: &str,
        device: &str,
    ) -> Option<CursorRow> {
        let key = Borrowed([app, conversation]);
        self.0.read().each().rev().find_map(|layer| {
            let cursors = &layer.conversations.get(&key)?.cursors;
            cursors.iter().find(|c| *c.sender == *sender && *c.device == *device).cloned()
        })
    }

    /// All watermarks of a conversation.
    pub(super) fn watermarks(&self, app: &str, conversation: &str) -> Vec<WatermarkRow> {
        let mut merged = Vec::new();
        for layer in self.0.read().each() {
            if let Some(rows) = layer.conversations.get(&Borrowed([app, conversation])) {
                rows.watermarks.iter().for_each(|row| raise(&mut merged, row.clone()));
            }
        }
        merged
    }

    pub(super) fn identity(&self, key: &IdentityKey) -> Option<Placed> {
        self.0.read().each().find_map(|layer| layer.identity(key))
    }

    /// Up to `limit` messages of a conversation with `after < seq < before`, from one end.
    pub(super) fn history(
        &self,
        (app, conversation): (&str, &str),
        (after, before): (u64, u64),
        limit: usize,
        newest_first: bool,
    ) -> Vec<NewMessage> {
        let layers = self.0.read();
        let key = Borrowed([app, conversation]);
        let wanted = layers.each().flat_map(|layer| {
            let messages = layer.conversations.get(&key).map_or(&[][..], |c| &c.messages);
            let start = messages.partition_point(|m| m.placed.seq <= after);
            let end = messages.partition_point(|m| m.placed.seq < before).max(start);
            &messages[start..end]
        });
        if newest_first {
            wanted.rev().take(limit).cloned().collect()
        } else {
            wanted.take(limit).cloned().collect()
        }
    }

    /// Up to `limit` entries of an inbox after `after`, ascending.
    pub(super) fn inbox(&self, app: &str, owner: &str, after: u64, limit: usize) -> Vec<Entry> {
        let layers = self.0.read();
        let key = Borrowed([app, owner]);
        let entries = layers.each().flat_map(|layer| {
            let rows = layer.owners.get(&key).map_or(&[][..], |o| &o.inbox);
            let start = rows.partition_point(|row| row.inbox_seq <= after);
            rows[start..].iter().map(move |row| (layer, row))
        });
        entries
            .take(limit)
            .filter_map(|(layer, row)| {
                // An entry and its message are of one batch, so of one layer.
                let message = layer.message(&row.app, &row.conversation, row.seq)?;
                Some((row.inbox_seq, message.clone()))
            })
            .collect()
    }
}
