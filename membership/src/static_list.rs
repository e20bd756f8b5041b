//! Membership by a fixed list: `roost dev`, and clusters small enough to list their gateways in the configuration.
//!
//! The list is trusted: a member that is down still owns its users, who then fail to connect until it is back or the list is changed.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::ring::{Member, Ring, RingError};
use crate::{BoxFuture, Routes, RoutesUnavailable};

/// The members of the configuration.
#[derive(Debug, Clone)]
pub struct StaticList {
    ring: Arc<Ring>,
    own_name: Arc<str>,
}

/// Why a static list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StaticListError {
    /// A member is wrong.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// This gateway is not in its own list.
    #[error(
        "this gateway is named {0:?}, but the list of members has no such name: add it, or correct the name"
    )]
    OwnNameMissing(String),
}

impl StaticList {
    /// The list, seen from the gateway `own_name`.
    pub fn new(own_name: &str, members: Vec<Member>) -> Result<Self, StaticListError> {
        let ring = Ring::new(members)?;
        let own = ring
            .member(own_name)
            .ok_or_else(|| StaticListError::OwnNameMissing(own_name.to_owned()))?;
        let own_name = Arc::clone(&own.name);
        Ok(Self { ring: Arc::new(ring), own_name })
    }

    /// One gateway that owns everybody.
    pub fn alone(own_name: &str, address: &str) -> Result<Self, StaticListError> {
        let member = Member { name: own_name.into(), address: address.into(), weight: 1 };
        Self::new(own_name, vec![member])
    }

    /// The members.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Where `user` should connect instead; `None` when it is right here.
    pub fn elsewhere(&self, app: &str, user: &str) -> Option<&Member> {
        self.ring.owner(app, user).filter(|owner| owner.name != self.own_name)
    }
}

/// Routes without a route table: every gateway of the ring may hold a session of anybody, so deliveries go to all of them. Each drops
/// what is not for its own sessions.
#[derive(Debug, Clone)]
pub struct EveryGateway {
    ring: Arc<ArcSwap<Ring>>,
}

impl EveryGateway {
    /// All members of the ring, as it is at each question.
    pub fn of(ring: Arc<ArcSwap<Ring>>) -> Self {
        Self { ring }
    }

    /// The answer for that many users.
    pub(crate) fn answer(&self, users: usize) -> Vec<Vec<Arc<str>>> {
        let ring = self.ring.load();
        let gateways: Vec<_> = ring.members().iter().map(|m| Arc::clone(&m.name)).collect();
        vec![gateways; users]
    }
}

impl Routes for EveryGateway {
    fn gateways_of<'a>(
        &'a self,
        _app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<Arc<str>>>, RoutesUnavailable>> {
        Box::pin(std::future::ready(Ok(self.answer(users.len()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_owns_everybody() {
        let list = StaticList::alone("gw-1", "127.0.0.1:7401").unwrap();
        assert_eq!(list.elsewhere("demo", "alice"), None);
        assert_eq!(list.ring().members().len(), 1);
    }

    #[test]
    fn each_user_is_at_home_in_one_place() {
        let members: Vec<_> = ["gw-1", "gw-2", "gw-3"]
            .into_iter()
            .map(|name| Member { name: name.into(), address: "h:1".into(), weight: 1 })
            .collect();
        let lists: Vec<_> =
            members.iter().map(|m| StaticList::new(&m.name, members.clone()).unwrap()).collect();
        for user in ["alice", "bob", "carol", "dave"] {
            let home: Vec<_> =
                lists.iter().filter(|l| l.elsewhere("demo", user).is_none()).collect();
            assert_eq!(home.len(), 1);
            let owner = lists[0].ring().owner("demo", user).unwrap();
            assert_eq!(owner.name, home[0].own_name);
        }
    }

    #[test]
    fn a_gateway_must_be_in_its_list() {
        let error = StaticList::new("gw-9", Vec::new()).unwrap_err();
        assert!(error.to_string().contains("\"gw-9\""), "{error}");
    }
}
