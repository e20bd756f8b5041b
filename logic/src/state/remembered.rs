//! A map with names as keys that forgets what was not used for long, and knows which of its values changed.
//!
//! Two generations: what is used moves to the young one; when that is half of the limit, it grows old, and the one that was old
//! leaves. Both only between batches, when nothing has changed. No step stops a batch for long: entries carry their hash, so that a
//! table that grows reads no key, and what leaves is freed a little at a time.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::hash_table::IntoIter;
use hashbrown::{Equivalent as _, HashTable};
use rapidhash::fast::RandomState;

use crate::store::Name;
use crate::store::key::{Borrowed, Key};

/// Entries that are freed between two batches: as many as a large batch may add.
const FREED_AT_ONCE: usize = 1_000;

/// A remembered value and its key.
#[derive(Debug)]
pub(crate) struct Entry<const N: usize, V> {
    hash: u64,
    pub(crate) key: Key<N>,
    pub(crate) value: V,
    changed: bool,
}

#[derive(Debug)]
pub(crate) struct Remembered<const N: usize, V> {
    young: HashTable<Entry<N, V>>,
    old: HashTable<Entry<N, V>>,
    leaving: Option<IntoIter<Entry<N, V>>>,
    changed: Vec<(u64, Key<N>)>,
    hasher: RandomState,
    entries_max: usize,
}

impl<const N: usize, V: Default> Remembered<N, V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            young: HashTable::new(),
            old: HashTable::new(),
            leaving: None,
            changed: Vec::new(),
            hasher: RandomState::default(),
            entries_max,
        }
    }

    /// The entry, if remembered.
    pub(crate) fn get(&mut self, key: [&str; N]) -> Option<&mut Entry<N, V>> {
        let key = Borrowed(key);
        let hash = self.hasher.hash_one(&key);
        let is_it = |entry: &Entry<N, V>| key.equivalent(&entry.key);
        if let Ok(found) = self.old.find_entry(hash, is_it) {
            let (entry, _) = found.remove();
            return Some(self.young.insert_unique(hash, entry, |entry| entry.hash).into_mut());
        }
        self.young.find_mut(hash, is_it)
    }

    /// The value, without counting as use.
    pub(crate) fn peek(&self, key: [&str; N]) -> Option<&V> {
        let key = Borrowed(key);
        let hash = self.hasher.hash_one(&key);
        let is_it = |entry: &Entry<N, V>| key.equivalent(&entry.key);
        let found = self.young.find(hash, is_it).or_else(|| self.old.find(hash, is_it));
        found.map(|entry| &entry.value)
    }

    /// Whether it is remembered.
    pub(crate) fn contains(&self, key: [&str; N]) -> bool {
        self.peek(key).is_some()
    }

    /// Changes a value and notes that it changed; nothing happens when it is not remembered.
    pub(crate) fn change(&mut self, key: [&str; N], change: impl FnOnce(&mut V)) {
        let Some(entry) = self.get(key) else { return };
        change(&mut entry.value);
        if !entry.changed {
            entry.changed = true;
            let (hash, key) = (entry.hash, entry.key.clone());
            self.changed.push((hash, key));
        }
    }

    pub(crate) fn insert(&mut self, key: Key<N>, value: V) {
        let hash = self.hasher.hash_one(&key);
        self.take_out(hash, &key);
        let entry = Entry { hash, key, value, changed: false };
        self.young.insert_unique(hash, entry, |entry| entry.hash);
    }

    /// Remembers the default for a key that is not remembered; whether it was not.
    pub(crate) fn insert_absent(&mut self, key: [&Name; N]) -> bool {
        if self.get(key.map(|part| &**part)).is_some() {
            return false;
        }
        self.insert(Key(key.map(Arc::clone)), V::default());
        true
    }

    pub(crate) fn remove(&mut self, key: &Key<N>) {
        self.take_out(self.hasher.hash_one(key), key);
    }

    fn take_out(&mut self, hash: u64, key: &Key<N>) {
        for generation in [&mut self.young, &mut self.old] {
            if let Ok(found) = generation.find_entry(hash, |entry| entry.key == *key) {
                found.remove();
            }
        }
    }

    /// Hands out every changed value once.
    pub(crate) fn drain_changed(&mut self, mut take: impl FnMut(Key<N>, &mut V)) {
        for (hash, key) in self.changed.drain(..) {
            if let Some(entry) = self.young.find_mut(hash, |entry| entry.key == key) {
                entry.changed = false;
                take(key, &mut entry.value);
            }
        }
    }

    /// Between batches: ages when full.
    pub(crate) fn turn(&mut self) {
        if let Some(leaving) = &mut self.leaving
            && leaving.by_ref().take(FREED_AT_ONCE).count() == 0
        {
            self.leaving = None;
        }
        if self.young.len() > self.entries_max / 2 {
            self.age();
        }
    }

    /// The young generation grows old, the old one leaves.
    pub(crate) fn age(&mut self) {
        debug_assert!(self.changed.is_empty(), "only between batches");
        let young = HashTable::with_capacity(self.young.len());
        let old = std::mem::replace(&mut self.young, young);
        self.leaving = Some(std::mem::replace(&mut self.old, old).into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays() {
        let mut map: Remembered<1, u64> = Remembered::new(8);
        for round in 0..100 {
            map.insert(Key([Name::from(format!("k{round}"))]), round);
            map.change(["k0"], |v| *v += 1);
            map.drain_changed(|key, value| assert!(&*key.0[0] == "k0" && *value == round + 1));
            map.turn();
        }
        assert!(map.get(["k0"]).is_some());
        assert!(!map.contains(["k50"]));
        assert!(map.young.len() + map.old.len() <= 10);
    }

    #[test]
    fn a_change_is_handed_out_once() {
        let mut map: Remembered<2, u64> = Remembered::new(8);
        assert!(map.insert_absent([&Name::from("a"), &Name::from("b")]));
        map.change(["a", "b"], |v| *v = 1);
        map.change(["a", "b"], |v| *v = 2);
        map.change(["a", "c"], |v| *v = 3);
        let mut seen = Vec::new();
        map.drain_changed(|_, value| seen.push(*value));
        map.drain_changed(|_, value| seen.push(*value));
        assert_eq!(seen, [2]);
    }
}
