//! What is committed to the journal and not yet in the tables.
//!
//! Two layers: the *open* one takes every commit; when it is large enough it is *sealed*, and another one is opened. A sealed layer
//! does not change; it is written into the tables a share at a time and dropped as a whole when everything is there. Whoever reads
//! asks the layers first and the tables second: rows that moved in between are seen twice, never missed.
//!
//! Per conversation and per owner, rows reach the tables in the order of their numbers. So what the tables hold of one is always its
//! dense beginning, and the layers hold the rest.

use std::sync::Arc;

use hashbrown::hash_map::IntoIter;
use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use rapidhash::fast::RandomState;

use super::super::key::{Borrowed, Key};
use super::super::{
    ConversationRow, CursorRow, DeviceCursorRow, IdentityKey, InboxRow, Name, NewMessage, Placed,
    UserRow, WatermarkRow, Writes,
};

type Map<const N: usize, V> = HashMap<Key<N>, V, RandomState>;

/// What a message costs to write, in rows of other tables: it is the longest row, and has an index.
const MESSAGE_COST: usize = 4;
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

impl Conversation {
    fn cost(&self) -> usize {
        1 + self.messages.len() * MESSAGE_COST + self.cursors.len() + self.watermarks.len()
    }
}

impl Owner {
    fn cost(&self) -> usize {
        1 + self.inbox.len() + self.devices.len()
    }
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

/// A sealed layer in the order in which it is written: conversations, then owners, because entries name messages; each by key, so that
/// neighbours share pages. Tens of thousands of rows are neither copied nor sorted at once: that held up commits for 40 ms.
#[derive(Debug)]
pub(super) struct Sealed {
    layer: Arc<Layer>,
    conversations: Vec<Key<2>>,
    owners: Vec<Key<2>>,
    /// Cost of all rows.
    cost: usize,
}

/// How far a sealed layer is written: keys that are done, and messages or entries of the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    keys: usize,
    rows: usize,
}

impl Sealed {
    fn new(layer: Arc<Layer>) -> Self {
        let mut conversations: Vec<_> = layer.conversations.keys().cloned().collect();
        conversations.sort_unstable();
        let mut owners: Vec<_> = layer.owners.keys().cloned().collect();
        owners.sort_unstable();
        let cost = layer.conversations.values().map(Conversation::cost).sum::<usize>()
            + layer.owners.values().map(Owner::cost).sum::<usize>();
        Self { layer, conversations, owners, cost }
    }

    /// The last batch in it.
    pub(super) fn last_id(&self) -> i64 {
        self.layer.last_id
    }

    /// What it costs to write everything, in rows of which a message counts as several.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(super) fn is_end(&self, place: Place) -> bool {
        place.keys == self.conversations.len() + self.owners.len()
    }

    /// Rows of about this cost from a place on, and where the next share begins.
    pub(super) fn share(&self, from: Place, cost: usize) -> (Writes, Place) {
        let (mut writes, mut place, mut rest) = (Writes::default(), from, cost);
        while rest > 0 && !self.is_end(place) {
            let used = match self.conversations.get(place.keys) {
                Some(key) => self.cut_conversation(key, &mut place, rest, &mut writes),
                None => {
                    let key = &self.owners[place.keys - self.conversations.len()];
                    self.cut_owner(key, &mut place, rest, &mut writes)
                }
            };
            rest = rest.saturating_sub(used);
        }
        (writes, place)
    }

    /// What `rest` allows of a conversation, the few other rows with its last messages.
    fn cut_conversation(
        &self,
        key: &Key<2>,
        place: &mut Place,
        rest: usize,
        writes: &mut Writes,
    ) -> usize {
        let rows = &self.layer.conversations[key];
        let end = rows.messages.len().min(place.rows + rest.div_ceil(MESSAGE_COST));
        let messages = &rows.messages[place.rows..end];
        writes.messages.extend_from_slice(messages);
        let used = messages.len() * MESSAGE_COST;
        if end < rows.messages.len() {
            place.rows = end;
            return used;
        }
        if let Some(last_seq) = rows.last_seq {
            let Key([app, conversation]) = key.clone();
            writes.conversations.push(ConversationRow { app, conversation, last_seq });
        }
        writes.cursors.extend_from_slice(&rows.cursors);
        writes.watermarks.extend_from_slice(&rows.watermarks);
        *place = Place { keys: place.keys + 1, rows: 0 };
        used + 1 + rows.cursors.len() + rows.watermarks.len()
    }

    /// The same of an inbox.
    fn cut_owner(
        &self,
        key: &Key<2>,
        place: &mut Place,
        rest: usize,
        writes: &mut Writes,
    ) -> usize {
        let rows = &self.layer.owners[key];
        let end = rows.inbox.len().min(place.rows + rest);
        let entries = &rows.inbox[place.rows..end];
        writes.inbox.extend_from_slice(entries);
        if end < rows.inbox.len() {
            place.rows = end;
            return entries.len();
        }
        if let Some(last_inbox_seq) = rows.last_inbox_seq {
            let Key([app, user]) = key.clone();
            writes.inboxes.push(UserRow { app, user, last_inbox_seq });
        }
        writes.device_cursors.extend_from_slice(&rows.devices);
        *place = Place { keys: place.keys + 1, rows: 0 };
        entries.len() + 1 + rows.devices.len()
    }
}

/// A layer that was written, freed a part at a time.
#[derive(Debug, Default)]
pub(super) struct Remains(Option<(IntoIter<Key<2>, Conversation>, IntoIter<Key<2>, Owner>)>);

impl Remains {
    /// Frees rows of about this cost.
    pub(super) fn free(&mut self, cost: usize) {
        let Some((conversations, owners)) = &mut self.0 else { return };
        let mut freed = 0;
        while freed < cost {
            freed += if let Some((_, conversation)) = conversations.next() {
                conversation.cost()
            } else if let Some((_, owner)) = owners.next() {
                owner.cost()
            } else {
                self.0 = None;
                return;
            };
        }
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

    /// Seals the open layer, if nothing is sealed and it has batches.
    pub(super) fn seal(&self) -> Option<Sealed> {
        let mut layers = self.0.write();
        if layers.sealed.is_some() || layers.open.last_id == 0 {
            return None;
        }
        let layer = Arc::new(std::mem::take(&mut layers.open));
        layers.sealed = Some(Arc::clone(&layer));
        drop(layers);
        Some(Sealed::new(layer))
    }

    /// The sealed layer is in the tables. What it held is freed by whoever drops the remains.
    pub(super) fn drop_sealed(&self, sealed: Sealed) -> Remains {
        let taken = self.0.write().sealed.take();
        drop(taken);
        // Readers hold a layer only under the lock, so this is the last one.
        let layer = Arc::into_inner(sealed.layer);
        Remains(layer.map(|layer| (layer.conversations.into_iter(), layer.owners.into_iter())))
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
