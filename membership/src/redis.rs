//! The route table in Redis: soft state that gateways write and logic reads.
//!
//! ```text
//! PREFIXroutes:APP/USER   hash   GATEWAY/DEVICE → "EPOCH INCARNATION LEASE_END"
//! PREFIXgateways          hash   GATEWAY        → "INCARNATION STATE LEASE_END"      state: complete | registering | gone
//! ```
//! Invariants:
//! * **A gateway whose routes are not known to be complete gets every delivery.** So a Redis that is away, was flushed, or is only being
//!   filled costs deliveries that nobody needed, never one that somebody needed.
//! * A set loses against a higher epoch, a clear needs the very epoch: the end of an old connection never removes the route of a new one.
//! * A route counts only with its gateway's present incarnation: those of a process that died end at once when its successor announces itself.
//! * Times are those of the Redis server; clocks of gateways and logic do not meet here. In a cluster those of its servers do.
//!
//! Every command names one key, so that a cluster of Redis servers divides them. What it does not do: promise anything. The truth
//! about messages is the database; a wrong route costs the time until the receiver's next digest.

mod config;
mod link;
mod reader;
mod table;

use redis::{FromRedisValue, Pipeline, Value};

use crate::RoutesUnavailable;

pub use config::{RedisMode, RoutesConfig};
pub use link::{Failure, Link};
pub use reader::RedisRoutes;
pub use table::{Announced, RouteChange, RouteTable, SessionRoute};

/// The way to Redis, and the names of keys.
#[derive(Clone)]
struct Store {
    link: Link,
    prefix: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// The tokio runtime of the first use drives the connections.
    fn open(config: &RoutesConfig) -> Result<Self, RoutesUnavailable> {
        let link = Link::open(config).map_err(unavailable)?;
        Ok(Self { link, prefix: config.key_prefix.clone() })
    }

    fn gateways(&self) -> String {
        format!("{}gateways", self.prefix)
    }

    fn user(&self, app: &str, user: &str) -> String {
        format!("{}routes:{app}/{user}", self.prefix)
    }

    async fn ask<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RoutesUnavailable> {
        let values = self.link.ask(pipeline).await.map_err(unavailable)?;
        T::from_redis_value(Value::Array(values)).map_err(unavailable)
    }
}

fn unavailable(error: impl std::fmt::Display) -> RoutesUnavailable {
    RoutesUnavailable(format!("Redis: {error}"))
}

/// Whether Redis would serve us. One that is away is no error: it may come.
///
/// # Errors
/// When it is there and refuses: wrong credentials, missing permissions, one server of a cluster or a server that is no Sentinel where
/// the configuration says otherwise, or Sentinels that do not know the master.
pub async fn probe(config: &RoutesConfig) -> Result<(), RoutesUnavailable> {
    let patient = RoutesConfig { response_timeout: PROBE_TIMEOUT, ..config.clone() };
    let store = Store::open(&patient)?;
    let mut pipeline = Pipeline::new();
    pipeline.cmd("EVAL").arg(PROBE).arg(1).arg(store.gateways());
    match store.link.ask(&pipeline).await {
        Err(refused) if refused.is_refusal() => Err(RoutesUnavailable(format!(
            "Redis refuses: {refused}; correct mode, username and password of [routes]"
        ))),
        Err(error) => {
            tracing::warn!(%error, "Redis is away; until it comes every delivery goes to every gateway");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// A start waits this long for an answer.
const PROBE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// What the two tiers do with Redis, without a change.
const PROBE: &str = "redis.call('TIME') return redis.call('HGET', KEYS[1], '')";

/// Where a gateway is with its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Complete,
    Registering,
    /// A delivery came back: nobody takes what is for it.
    Gone,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Registering => "registering",
            Self::Gone => "gone",
        }
    }
}

/// An entry of the hash of gateways, or a route: three words.
fn three_words(text: &str) -> Option<(&str, &str, u64)> {
    let mut words = text.split(' ');
    let (first, second) = (words.next()?, words.next()?);
    Some((first, second, words.next()?.parse().ok()?))
}

/// An entry of the hash of gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    incarnation: String,
    state: State,
    lease_end_ms: u64,
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let (incarnation, state, lease_end_ms) = three_words(text)?;
        let states = [State::Complete, State::Registering, State::Gone];
        let state = states.into_iter().find(|known| known.as_str() == state)?;
        Some(Self { incarnation: incarnation.to_owned(), state, lease_end_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_three_words() {
        let entry = Entry::parse("1f complete 12").unwrap();
        assert_eq!((entry.incarnation.as_str(), entry.state), ("1f", State::Complete));
        for damaged in ["", "1f", "1f complete", "1f complete x", "1f sleeping 12"] {
            assert_eq!(Entry::parse(damaged), None, "{damaged}");
        }
    }
}
