//! Where a user should connect. A wish: deliveries follow routes, so a session in the wrong place works as well.

use std::sync::Arc;

use roost_membership::{Member, RingWatch};

/// The ring, seen from one gateway.
#[derive(Debug)]
pub struct Placement {
    ring: RingWatch,
    own_name: String,
}

impl Placement {
    /// From the gateway of this name; the ring may change at any time.
    pub fn new(ring: RingWatch, own_name: &str) -> Self {
        Self { ring, own_name: own_name.to_owned() }
    }

    /// The address of the gateway that `user` belongs to, when that is another one. Nobody is sent away by a gateway that cannot prove its
    /// own membership: its ring may be old.
    pub fn elsewhere(&self, app: &str, user: &str) -> Option<Arc<str>> {
        if self.ring.is_fenced() {
            return None;
        }
        let ring = self.ring.load();
        let is_other = |owner: &&Member| *owner.name != *self.own_name;
        ring.owner(app, user).filter(is_other).map(|owner| Arc::clone(&owner.address))
    }
}
