//! How many connections each peer address has, over all shards.
//!
//! Only the acceptor thread gives out slots ([`AddressIndex`]), so looking an address up needs no lock; any
//! shard gives a connection back by slot number ([`AddressTable::release`]), one atomic decrement. A slot
//! whose count fell to 0 is found and reused by the acceptor, a few slots with each admission.
//!
//! IPv6 peers count by /64, the part a provider gives to one customer.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;
use rapidhash::fast::RandomState;
use std::hash::BuildHasher;

const CHUNK_SLOTS: usize = 4096;
const CHUNKS: usize = 4096;
/// Slots looked at for reuse with each admission: more than one is freed per one taken.
const SWEEP_STEP: usize = 2;

#[derive(Default)]
struct Slot {
    connections: AtomicU32,
    /// The address as IPv6 (IPv4 mapped), upper and lower half. Written by the acceptor while the count is 0,
    /// read by shards that hold a connection of the slot: the hand-over of the socket orders the two.
    upper: AtomicU64,
    lower: AtomicU64,
}

/// Shared by the acceptor and all shards.
pub struct AddressTable {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
}

impl std::fmt::Debug for AddressTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressTable").finish_non_exhaustive()
    }
}

impl Default for AddressTable {
    fn default() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }
}

impl AddressTable {
    fn slot(&self, number: u32) -> Option<&Slot> {
        let chunk = self.chunks.get(number as usize / CHUNK_SLOTS)?.get()?;
        chunk.get(number as usize % CHUNK_SLOTS)
    }

    /// One connection of the slot ended.
    pub(crate) fn release(&self, number: u32) {
        if let Some(slot) = self.slot(number) {
            let before = slot.connections.fetch_sub(1, Ordering::Release);
            debug_assert!(before > 0, "released more often than admitted");
        }
    }

    /// The address of a slot of which the caller holds a connection.
    pub(crate) fn address(&self, number: u32) -> Option<IpAddr> {
        let slot = self.slot(number)?;
        let upper = u128::from(slot.upper.load(Ordering::Relaxed));
        let lower = u128::from(slot.lower.load(Ordering::Relaxed));
        Some(IpAddr::V6(Ipv6Addr::from(upper << 64 | lower)).to_canonical())
    }

    /// Connections of all addresses; for tests and `readyz`, not for the data path.
    pub fn connections(&self) -> u64 {
        let slots = self.chunks.iter().filter_map(OnceLock::get).flatten();
        slots.map(|slot| u64::from(slot.connections.load(Ordering::Relaxed))).sum()
    }
}

/// Why an address gets no further connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AddressRefusal {
    /// It has as many as one address may have.
    TooManyConnections,
    /// More than 16 million addresses at once.
    TableFull,
}

/// The acceptor's side: address to slot.
pub(crate) struct AddressIndex {
    table: Arc<AddressTable>,
    by_address: HashTable<u32>,
    hasher: RandomState,
    slots: u32,
    free: Vec<u32>,
    sweep: u32,
    connections_per_address_max: u32,
}

/// The address connections are counted by, as 128 bits.
fn counted_by(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

impl AddressIndex {
    pub(crate) fn new(table: Arc<AddressTable>, connections_per_address_max: u32) -> Self {
        Self {
            table,
            by_address: HashTable::new(),
            hasher: RandomState::default(),
            slots: 0,
            free: Vec::new(),
            sweep: 0,
            connections_per_address_max,
        }
    }

    /// Counts one more connection of `address` and names its slot.
    pub(crate) fn admit(&mut self, address: IpAddr) -> Result<u32, AddressRefusal> {
        let address = counted_by(address);
        self.sweep();
        let hash = self.hasher.hash_one(address);
        let table = &self.table;
        let known = self.by_address.find(hash, |&number| stored(table, number) == Some(address));
        let number = match known {
            Some(&number) => number,
            None => self.insert(address, hash)?,
        };
        let Some(slot) = self.table.slot(number) else { return Err(AddressRefusal::TableFull) };
        // Acquire: pairs with the release of the connection that used the slot before.
        if slot.connections.load(Ordering::Acquire) >= self.connections_per_address_max {
            return Err(AddressRefusal::TooManyConnections);
        }
        slot.connections.fetch_add(1, Ordering::Relaxed);
        Ok(number)
    }

    /// The shared table.
    pub(crate) fn table(&self) -> &Arc<AddressTable> {
        &self.table
    }

    fn insert(&mut self, address: u128, hash: u64) -> Result<u32, AddressRefusal> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => self.new_slot()?,
        };
        let Some(slot) = self.table.slot(number) else { return Err(AddressRefusal::TableFull) };
        slot.upper.store((address >> 64) as u64, Ordering::Relaxed);
        slot.lower.store(address as u64, Ordering::Relaxed);
        let (table, hasher) = (&self.table, &self.hasher);
        self.by_address.insert_unique(hash, number, |&number| {
            hasher.hash_one(stored(table, number).unwrap_or_default())
        });
        Ok(number)
    }

    fn new_slot(&mut self) -> Result<u32, AddressRefusal> {
        let chunk = self.slots as usize / CHUNK_SLOTS;
        let chunk = self.table.chunks.get(chunk).ok_or(AddressRefusal::TableFull)?;
        chunk.get_or_init(|| (0..CHUNK_SLOTS).map(|_| Slot::default()).collect());
        self.slots += 1;
        Ok(self.slots - 1)
    }

    /// Looks at the next few slots and frees those without connections.
    fn sweep(&mut self) {
        for _ in 0..SWEEP_STEP.min(self.slots as usize) {
            self.sweep = (self.sweep + 1) % self.slots;
            let number = self.sweep;
            let Some(slot) = self.table.slot(number) else { continue };
            if slot.connections.load(Ordering::Acquire) > 0 {
                continue;
            }
            let Some(address) = stored(&self.table, number) else { continue };
            let hash = self.hasher.hash_one(address);
            // Not found: it is in the free list already.
            if let Ok(entry) = self.by_address.find_entry(hash, |&found| found == number) {
                entry.remove();
                self.free.push(number);
            }
        }
    }
}

fn stored(table: &AddressTable, number: u32) -> Option<u128> {
    let slot = table.slot(number)?;
    let upper = u128::from(slot.upper.load(Ordering::Relaxed));
    Some(upper << 64 | u128::from(slot.lower.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(limit: u32) -> (Arc<AddressTable>, AddressIndex) {
        let table = Arc::new(AddressTable::default());
        (Arc::clone(&table), AddressIndex::new(table, limit))
    }

    #[test]
    fn counts_each_address_and_frees() {
        let (table, mut index) = index(2);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let first = index.admit(address).unwrap();
        assert_eq!(index.admit(address), Ok(first));
        assert_eq!(index.admit(address), Err(AddressRefusal::TooManyConnections));
        assert_eq!(table.address(first), Some(address));
        table.release(first);
        assert!(index.admit(address).is_ok());
        assert_eq!(table.connections(), 2);
    }

    #[test]
    fn ipv6_counts_by_network_and_mapped_addresses_as_ipv4() {
        let (_, mut index) = index(9);
        let mut slot = |address: &str| index.admit(address.parse().unwrap()).unwrap();
        assert_eq!(slot("2001:db8::1"), slot("2001:db8::ffff"));
        assert_ne!(slot("2001:db8::1"), slot("2001:db8:0:1::1"));
        assert_eq!(slot("::ffff:192.0.2.1"), slot("192.0.2.1"));
    }

    #[test]
    fn slots_are_reused_when_addresses_come_and_go() {
        let (table, mut index) = index(1);
        for number in 0..100_000u32 {
            let slot = index.admit(IpAddr::from(number.to_be_bytes())).unwrap();
            table.release(slot);
        }
        assert!(index.slots < 8, "{} slots", index.slots);
        assert_eq!(table.connections(), 0);
    }
}
