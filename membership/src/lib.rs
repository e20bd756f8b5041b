//! Which gateways are alive (membership), which gateway a user belongs to (placement), and where sessions are (routes).
//!
//! Placement is a wish, the route is the truth: deliveries follow routes only.

mod etcd;
pub mod redis;
mod registry;
pub mod ring;
pub mod static_list;
mod zookeeper;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use redis::{RedisRoutes, RouteTable, RoutesConfig};
pub use registry::config::{MembershipConfig, RegistryKind};
pub use registry::ring_watch::RingWatch;
pub use registry::status::RegistryStatus;
pub use registry::{Registry, RegistryError};
pub use ring::{Member, Ring, RingError};
pub use static_list::{StaticList, StaticListError};

/// A boxed future: adapters are chosen at start and called once per batch.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The route table could not be asked. The caller goes on as if nobody were online: the cost is latency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routes are unavailable: {0}")]
pub struct RoutesUnavailable(pub String);

/// Where the sessions of users are.
pub trait Routes: Send + Sync {
    /// For each user, in the order asked: the gateways that hold a session of it. Empty: offline.
    fn gateways_of<'a>(
        &'a self,
        app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<Arc<str>>>, RoutesUnavailable>>;

    /// A delivery to `gateway` came back: nobody takes what is for it, its routes are stale. Without a route table there is nothing to clear.
    fn returned<'a>(&'a self, _gateway: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The route table as both tiers share it.
pub type SharedRoutes = Arc<dyn Routes>;
