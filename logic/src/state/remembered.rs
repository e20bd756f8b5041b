//! A map with names as keys that forgets what was not used for long, and knows which of its values changed.
//!
//! Two generations: what is used moves to the young one; when that is half of the limit, the old one is dropped and the
//! young one grows old. Both only between batches, when nothing has changed.

use std::sync::Arc;

use hashbrown::HashMap;
use rapidhash::fast::RandomState;

use crate::store::Name;
use crate::store::key::{Borrowed, Key};

/// A remembered value and its own key.
#[derive(Debug)]
pub(crate) struct Entry<const N: usize, V> {
    pub(crate) key: Key<N>,
    pub(crate) value: V,
    changed: bool,
}

#[derive(Debug)]
pub(crate) struct Remembered<const N: usize, V> {
    young: HashMap<Key<N>, Entry<N, V>, RandomState>,
    old: HashMap<Key<N>, Entry<N, V>, RandomState>,
    changed: Vec<Key<N>>,
    entries_max: usize,
}

impl<const N: usize, V: Default> Remembered<N, V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            changed: Vec::new(),
            entries_max,
        }
    }

    /// The entry, if remembered.
    pub(crate) fn get(&mut self, key: [&str; N]) -> Option<&mut Entry<N, V>> {
        let key = Borrowed(key);
        if !self.old.is_empty()
            && let Some((key, entry)) = self.old.remove_entry(&key)
        {
            self.young.insert(key, entry);
        }
        self.young.get_mut(&key)
    }

    /// The value, without counting as use.
    pub(crate) fn peek(&self, key: [&str; N]) -> Option<&V> {
        let key = Borrowed(key);
        self.young.get(&key).or_else(|| self.old.get(&key)).map(|entry| &entry.value)
    }

    /// Whether it is remembered.
    pub(crate) fn contains(&self, key: [&str; N]) -> bool {
        let key = Borrowed(key);
        self.young.contains_key(&key) || self.old.contains_key(&key)
    }

    /// Changes a value and notes that it changed; nothing happens when it is not remembered.
    pub(crate) fn change(&mut self, key: [&str; N], change: impl FnOnce(&mut V)) {
        let Some(entry) = self.get(key) else { return };
        change(&mut entry.value);
        if !entry.changed {
            entry.changed = true;
            let key = entry.key.clone();
            self.changed.push(key);
        }
    }

    pub(crate) fn insert(&mut self, key: Key<N>, value: V) {
        self.old.remove(&key);
        let entry = Entry { key: key.clone(), value, changed: false };
        self.young.insert(key, entry);
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
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Hands out every changed value once.
    pub(crate) fn drain_changed(&mut self, mut take: impl FnMut(Key<N>, &mut V)) {
        for key in self.changed.drain(..) {
            if let Some(entry) = self.young.get_mut(&key) {
                entry.changed = false;
                take(key, &mut entry.value);
            }
        }
    }

    /// Between batches: ages when full.
    pub(crate) fn turn(&mut self) {
        if self.young.len() > self.entries_max / 2 {
            self.age();
        }
    }

    /// The young generation grows old, the old one is dropped.
    pub(crate) fn age(&mut self) {
        debug_assert!(self.changed.is_empty(), "only between batches");
        self.old = std::mem::take(&mut self.young);
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
