//! The connections of a shard: slots by index, each use of a slot with its own generation.
//!
//! * A key whose generation is not the slot's finds nothing: late events of a former connection are dropped here.
//! * Slots never move, see [`Chunks`], so that growing copies nothing while connections are alive.
//! * [`ConnectionTable::free`] is the only place that frees a slot.

use crate::chunks::Chunks;
use crate::io::{CONNECTION_INDEX_LIMIT, ConnectionKey};

use super::{Connection, State};

/// End of the list of free slots.
const NONE: u32 = u32::MAX;

/// See the module text.
#[derive(Debug)]
pub struct ConnectionTable {
    slots: Chunks<Connection>,
    free_head: u32,
    len: u32,
    capacity_max: u32,
}

impl ConnectionTable {
    /// An empty table for at most `capacity_max` connections; takes no memory yet.
    pub fn new(capacity_max: u32) -> Self {
        let capacity_max = capacity_max.min(CONNECTION_INDEX_LIMIT);
        Self { slots: Chunks::default(), free_head: NONE, len: 0, capacity_max }
    }

    /// Connections open or closing.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Indexes ever used are below this.
    pub fn index_end(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(CONNECTION_INDEX_LIMIT)
    }

    /// Takes a free slot in state `AwaitConnect`; `None` when the table is full.
    pub fn open(&mut self, now_ms: u32) -> Option<ConnectionKey> {
        if self.len == self.capacity_max {
            return None;
        }
        self.len += 1;
        if self.free_head == NONE {
            let index = self.index_end();
            self.slots.push(Connection::new(1, now_ms));
            return Some(ConnectionKey { index, generation: 1 });
        }
        let index = self.free_head;
        let slot = &mut self.slots[index as usize];
        let State::Free { next } = slot.state else {
            unreachable!("the free list is of free slots")
        };
        let generation = slot.generation.wrapping_add(1);
        *slot = Connection::new(generation, now_ms);
        self.free_head = next;
        Some(ConnectionKey { index, generation })
    }

    /// The connection of this key, unless it is gone.
    pub fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        let slot = self.slots.get(key.index as usize)?;
        (slot.generation == key.generation && !slot.is_free()).then_some(slot)
    }

    /// The connection of this key, unless it is gone.
    pub fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation && !slot.is_free()).then_some(slot)
    }

    /// The key of the connection in slot `index`, if there is one: for timers, which know indexes.
    pub fn key_at(&self, index: u32) -> Option<ConnectionKey> {
        let slot = self.slots.get(index as usize)?;
        (!slot.is_free()).then_some(ConnectionKey { index, generation: slot.generation })
    }

    /// Gives the slot back: the kernel holds nothing of it any more and its session has ended. Nothing happens for a key
    /// that is gone.
    pub fn free(&mut self, key: ConnectionKey) {
        let next = self.free_head;
        let Some(slot) = self.get_mut(key) else { return };
        debug_assert!(slot.kernel.is_released(), "{:?} is the kernel's", slot.kernel);
        debug_assert!(matches!(slot.state, State::Closing(_)), "its session has not ended");
        // The generation stays: a late key of this use is still recognised by `is_free`, then by the next generation.
        *slot = Connection { generation: slot.generation, ..Connection::free(next) };
        self.free_head = key.index;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::CloseReason;

    use super::*;

    fn end(table: &mut ConnectionTable, key: ConnectionKey) {
        let connection = table.get_mut(key).unwrap();
        connection.begin_close(CloseReason::Normal);
        connection.kernel = crate::connection::KernelFlags::default();
        table.free(key);
    }

    #[test]
    fn a_former_key_finds_nothing() {
        let mut table = ConnectionTable::new(10);
        let first = table.open(0).unwrap();
        end(&mut table, first);
        assert!(table.get(first).is_none());
        let second = table.open(0).unwrap();
        assert_eq!((second.index, second.generation), (first.index, first.generation + 1));
        assert!(table.get(first).is_none() && table.get(second).is_some());
        table.free(first);
        assert_eq!((table.len(), table.key_at(second.index)), (1, Some(second)));
    }

    #[test]
    fn fills_to_its_capacity_and_again() {
        const SLOTS: u32 = 20_000;
        let mut table = ConnectionTable::new(SLOTS);
        for _ in 0..2 {
            let keys: Vec<_> = std::iter::from_fn(|| table.open(0)).collect();
            assert_eq!(keys.len(), SLOTS as usize);
            assert!(keys.iter().all(|&key| table.get(key).is_some()));
            assert_eq!(table.index_end(), SLOTS);
            keys.into_iter().for_each(|key| end(&mut table, key));
            assert!(table.is_empty());
        }
    }
}
