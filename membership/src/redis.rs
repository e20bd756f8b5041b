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
//! * Times are those of the Redis server; clocks of gateways and logic do not meet here.
//!
//! Every command names one key, so that a cluster of Redis servers can divide them. What it does not do: promise anything. The truth
//! about messages is the database; a wrong route costs the time until the receiver's next digest.

mod config;
mod reader;
mod table;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, IntoConnectionInfo, Pipeline};

use crate::RoutesUnavailable;

pub use config::RoutesConfig;
pub use reader::RedisRoutes;
pub use table::{Announced, RouteChange, RouteTable, SessionRoute};

/// Pauses between attempts to connect.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// A connection that is made when it is first used and made again when it breaks; and the names of keys.
#[derive(Clone)]
struct Store {
    client: Client,
    /// It spawns tasks when it is made, so the first use makes it.
    connection: Arc<OnceLock<Result<ConnectionManager, RoutesUnavailable>>>,
    timeout: Duration,
    prefix: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// The tokio runtime of the first use drives the connection.
    fn open(config: &RoutesConfig) -> Result<Self, RoutesUnavailable> {
        let mut info = config.url.as_str().into_connection_info().map_err(unavailable)?;
        if !config.password.is_empty() {
            let settings = info.redis_settings().clone().set_password(&config.password);
            info = info.set_redis_settings(settings);
        }
        Ok(Self {
            client: Client::open(info).map_err(unavailable)?,
            connection: Arc::default(),
            timeout: config.response_timeout,
            prefix: config.key_prefix.clone(),
        })
    }

    fn connection(&self) -> Result<ConnectionManager, RoutesUnavailable> {
        let connect = || {
            let settings = ConnectionManagerConfig::new()
                .set_min_delay(RECONNECT_FIRST)
                .set_max_delay(RECONNECT_MAX)
                .set_number_of_retries(1)
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout));
            ConnectionManager::new_lazy_with_config(self.client.clone(), settings)
                .map_err(unavailable)
        };
        self.connection.get_or_init(connect).clone()
    }

    fn gateways(&self) -> String {
        format!("{}gateways", self.prefix)
    }

    fn user(&self, app: &str, user: &str) -> String {
        format!("{}routes:{app}/{user}", self.prefix)
    }

    /// One round trip.
    async fn ask<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RoutesUnavailable> {
        let mut connection = self.connection()?;
        let count = pipeline.len();
        let answer = connection.req_packed_commands(pipeline, 0, count);
        let answer = tokio::time::timeout(self.timeout, answer).await;
        let values = answer
            .map_err(|_| RoutesUnavailable(format!("Redis: no answer in {:?}", self.timeout)))?
            .map_err(unavailable)?;
        let whole = redis::Value::Array(values).extract_error().map_err(unavailable)?;
        T::from_redis_value(whole).map_err(|error| unavailable(error.into()))
    }
}

fn unavailable(error: redis::RedisError) -> RoutesUnavailable {
    RoutesUnavailable(format!("Redis: {error}"))
}

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
