//! Acknowledgements given lately, by identity: the idempotency cache in front of the unique index. It only makes repeated
//! sends fast; what it has forgotten the store still knows.

use std::hash::{Hash, Hasher};

use hashbrown::{Equivalent, HashMap};
use rapidhash::fast::RandomState;

use crate::store::{IdentityKey, Placed};

/// Acknowledgements that are kept in each of two generations.
const GENERATION_MAX: usize = 50_000;

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

#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    young: HashMap<IdentityKey, Placed, RandomState>,
    old: HashMap<IdentityKey, Placed, RandomState>,
}

impl Acknowledged {
    pub(crate) fn get(&self, identity: &Identity<'_>) -> Option<Placed> {
        self.young.get(identity).or_else(|| self.old.get(identity)).copied()
    }

    pub(crate) fn insert(&mut self, key: IdentityKey, placed: Placed) {
        self.young.insert(key, placed);
    }

    /// Between batches: lets the older half go when full.
    pub(crate) fn turn(&mut self) {
        if self.young.len() > GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_its_borrowed_identity() {
        let key = IdentityKey {
            app: "demo".into(),
            conversation: "s:a:b".into(),
            sender: "a".into(),
            client_msg_id: [7; 16],
        };
        let placed = Placed {
            seq: 3,
            message_id: 4,
            server_time_ms: 5,
            payload_hash: 6,
            sender_inbox_seq: 7,
            peer_inbox_seq: 8,
        };
        let mut acknowledged = Acknowledged::default();
        acknowledged.insert(key, placed);
        let identity =
            Identity { app: "demo", conversation: "s:a:b", sender: "a", client_msg_id: [7; 16] };
        assert_eq!(acknowledged.get(&identity), Some(placed));
        assert_eq!(acknowledged.get(&Identity { sender: "b", ..identity }), None);
    }
}
