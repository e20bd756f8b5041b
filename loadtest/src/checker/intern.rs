//! Tables that turn names into small numbers.
//!
//! Invariant: a number, once given, means the same key for the table's life; numbers are dense.

use std::borrow::Borrow;
use std::hash::Hash;

use rapidhash::RapidHashMap;

/// Keys in the order in which they were first seen.
#[derive(Debug)]
pub(super) struct Interner<K> {
    ids: RapidHashMap<K, u32>,
    keys: Vec<K>,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self { ids: RapidHashMap::default(), keys: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash> Interner<K> {
    /// The number of `key`, and whether it is new. Only a new key is copied.
    pub(super) fn intern<Q>(&mut self, key: &Q) -> (u32, bool)
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Eq + Hash + ?Sized,
    {
        if let Some(&id) = self.ids.get(key) {
            return (id, false);
        }
        let id = u32::try_from(self.keys.len()).expect("fewer than 2^32 names");
        self.ids.insert(key.to_owned(), id);
        self.keys.push(key.to_owned());
        (id, true)
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.ids.reserve(more);
        self.keys.reserve(more);
    }

    pub(super) fn get(&self, id: u32) -> Option<&K> {
        self.keys.get(id as usize)
    }

    pub(super) fn keys(&self) -> &[K] {
        &self.keys
    }

    pub(super) fn count(&self) -> usize {
        self.keys.len()
    }
}

/// How the numbers of one history become those of another; absent numbers stay absent.
#[derive(Debug, Default)]
pub(super) struct Renaming {
    pub(super) users: Vec<u32>,
    pub(super) devices: Vec<u32>,
    pub(super) conversations: Vec<u32>,
    pub(super) messages: Vec<u32>,
    pub(super) labels: Vec<u32>,
}

impl Renaming {
    pub(super) fn user(&self, id: u32) -> u32 {
        lookup(&self.users, id)
    }

    pub(super) fn device(&self, id: u32) -> u32 {
        lookup(&self.devices, id)
    }

    pub(super) fn conversation(&self, id: u32) -> u32 {
        lookup(&self.conversations, id)
    }

    pub(super) fn message(&self, id: u32) -> u32 {
        lookup(&self.messages, id)
    }

    pub(super) fn label(&self, id: u32) -> u32 {
        lookup(&self.labels, id)
    }
}

fn lookup(table: &[u32], id: u32) -> u32 {
    table.get(id as usize).copied().unwrap_or(u32::MAX)
}
