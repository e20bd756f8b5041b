//! Acknowledgements given lately, by identity: the idempotency cache in front of the unique index. It only makes repeated
//! sends fast; what it has forgotten the store still knows.

use std::hash::{BuildHasher as _, Hash, Hasher};

use hashbrown::{Equivalent, HashTable};
use rapidhash::fast::RandomState;

use crate::store::{IdentityKey, Placed};

/// An [`IdentityKey`], borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) app: &'a str,
    pub(crate) conversation: &'a str,
    pub(crate) sender: &'a str,
    pub(crate) client_msg_id: [u8; 16],
}

impl Hash for Identity<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As derived for `IdentityKey`: field by field.
        self.app.hash(state);
        self.conversation.hash(state);
        self.sender.hash(state);
        self.client_msg_id.hash(state);
    }
}

impl Equivalent<IdentityKey> for Identity<'_> {
    fn equivalent(&self, key: &IdentityKey) -> bool {
        self.client_msg_id == key.client_msg_id
            && self.conversation == &*key.conversation
            && self.sender == &*key.sender
            && self.app == &*key.app
    }
}

/// A place in the ring, and the hash of what is there: no step of the table reads an identity.
#[derive(Debug)]
struct Slot {
    hash: u64,
    index: usize,
}

#[derive(Debug)]
pub(crate) struct Acknowledged {
    slots: HashTable<Slot>,
    ring: Vec<(u64, IdentityKey, Placed)>,
    /// Where the next one goes once the ring is full.
    oldest: usize,
    kept_max: usize,
    hasher: RandomState,
}

impl Acknowledged {
    /// Keeps the newest `kept_max`.
    pub(crate) fn new(kept_max: usize) -> Self {
        // Room for all: pages that nobody has written to cost nothing, and nothing is ever moved.
        Self {
            slots: HashTable::with_capacity(kept_max),
            ring: Vec::with_capacity(kept_max),
            oldest: 0,
            kept_max,
            hasher: RandomState::default(),
        }
    }

    pub(crate) fn get(&self, identity: &Identity<'_>) -> Option<Placed> {
        let hash = self.hasher.hash_one(identity);
        let slot = self.slots.find(hash, |slot| identity.equivalent(&self.ring[slot.index].1))?;
        Some(self.ring[slot.index].2)
    }

    /// Keeps it, in the place of the oldest one when the ring is full; what was known of the same identity is replaced.
    pub(crate) fn insert(&mut self, key: IdentityKey, placed: Placed) {
        let hash = self.hasher.hash_one(&key);
        if let Some(known) = self.slots.find(hash, |slot| self.ring[slot.index].1 == key) {
            self.ring[known.index].2 = placed;
            return;
        }
        let index = if self.ring.len() < self.kept_max {
            self.ring.push((hash, key, placed));
            self.ring.len() - 1
        } else {
            let index = self.oldest;
            self.oldest = (index + 1) % self.kept_max;
            let (former, ..) = std::mem::replace(&mut self.ring[index], (hash, key, placed));
            if let Ok(slot) = self.slots.find_entry(former, |slot| slot.index == index) {
                slot.remove();
            }
            index
        };
        self.slots.insert_unique(hash, Slot { hash, index }, |slot| slot.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> IdentityKey {
        IdentityKey {
            app: "demo".into(),
            conversation: "s:a:b".into(),
            sender: "a".into(),
            client_msg_id: [n; 16],
        }
    }

    fn identity(n: u8) -> Identity<'static> {
        Identity { app: "demo", conversation: "s:a:b", sender: "a", client_msg_id: [n; 16] }
    }

    fn placed(seq: u64) -> Placed {
        Placed {
            seq,
            message_id: 4,
            server_time_ms: 5,
            payload_hash: 6,
            sender_inbox_seq: 7,
            peer_inbox_seq: 8,
        }
    }

    #[test]
    fn found_by_its_borrowed_identity() {
        let mut acknowledged = Acknowledged::new(2);
        acknowledged.insert(key(7), placed(3));
        assert_eq!(acknowledged.get(&identity(7)), Some(placed(3)));
        assert_eq!(acknowledged.get(&Identity { sender: "b", ..identity(7) }), None);
    }

    #[test]
    fn the_oldest_one_makes_room() {
        let mut acknowledged = Acknowledged::new(10);
        for n in 0..=250 {
            acknowledged.insert(key(n), placed(u64::from(n)));
            for kept in 0..=n {
                let expected = (n - kept < 10).then(|| placed(u64::from(kept)));
                assert_eq!(acknowledged.get(&identity(kept)), expected, "{kept} after {n}");
            }
        }
        assert_eq!(acknowledged.slots.len(), 10);
    }

    #[test]
    fn what_was_known_is_replaced() {
        let mut acknowledged = Acknowledged::new(2);
        for (n, seq) in [(1, 1), (2, 2), (1, 3)] {
            acknowledged.insert(key(n), placed(seq));
        }
        assert_eq!(acknowledged.get(&identity(1)), Some(placed(3)));
        assert_eq!(acknowledged.get(&identity(2)), Some(placed(2)));
        assert_eq!(acknowledged.slots.len(), 2);
    }
}
