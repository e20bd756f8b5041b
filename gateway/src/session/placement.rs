//! Where a user should connect. A wish: deliveries follow routes, so a session in the wrong place works as well.

use std::sync::Arc;

use arc_swap::ArcSwap;
use roost_membership::{Member, RingWatch};

/// The ring, seen from one gateway.
#[derive(Debug)]
pub struct Placement {
    ring: RingWatch,
    own_name: String,
    /// Gateways that take no deliveries: long before the ring knows, when one was killed.
    gone: ArcSwap<Vec<Arc<str>>>,
}

impl Placement {
    /// From the gateway of this name; the ring may change at any time.
    pub fn new(ring: RingWatch, own_name: &str) -> Self {
        Self { ring, own_name: own_name.to_owned(), gone: ArcSwap::default() }
    }

    /// From now on nobody is sent to these.
    pub fn set_gone(&self, gone: Vec<Arc<str>>) {
        if **self.gone.load() != gone {
            self.gone.store(Arc::new(gone));
        }
    }

    /// The address of the gateway that `user` belongs to, when that is another one. Nobody is sent away by a gateway that cannot prove its
    /// own membership: its ring may be old.
    pub fn elsewhere(&self, app: &str, user: &str) -> Option<Arc<str>> {
        if self.ring.is_fenced() {
            return None;
        }
        let ring = self.ring.load();
        let gone = self.gone.load();
        let is_other =
            |owner: &&Member| *owner.name != *self.own_name && !gone.contains(&owner.name);
        ring.owner(app, user).filter(is_other).map(|owner| Arc::clone(&owner.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roost_membership::Ring;

    fn member(name: &str) -> Member {
        Member { name: name.into(), address: format!("{name}:7401").into(), weight: 1 }
    }

    #[test]
    fn nobody_is_sent_to_a_gateway_that_is_gone() {
        let ring = Ring::new(vec![member("gw-1"), member("gw-2")]).unwrap();
        let placement =
            Placement::new(RingWatch::fixed(Arc::new(ArcSwap::from_pointee(ring))), "gw-1");
        let users: Vec<String> = (0..100).map(|number| format!("user-{number}")).collect();
        let sent_away =
            || users.iter().filter(|u| placement.elsewhere("demo", u).is_some()).count();
        let all = sent_away();
        assert!((20..80).contains(&all), "{all}");
        placement.set_gone(vec!["gw-2".into()]);
        assert_eq!(sent_away(), 0);
        placement.set_gone(Vec::new());
        assert_eq!(sent_away(), all);
    }
}
