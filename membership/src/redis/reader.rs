//! Logic's side: where are the sessions of these users? Always an answer: without Redis, every gateway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::Pipeline;
use roost_health::{Breaker, BreakerState};

use super::{Entry, RoutesConfig, State, Store, three_words};
use crate::static_list::EveryGateway;
use crate::{BoxFuture, Ring, Routes, RoutesUnavailable};

/// Marks a gateway as gone, unless another incarnation has announced itself since.
const RETURNED: &str = r"
local time = redis.call('TIME')
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local incarnation = entry and string.match(entry, '^%x+') or '0'
if incarnation ~= ARGV[2] then return 0 end
local lease_end = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], incarnation .. ' gone ' .. lease_end)
return 1";

/// The time where the gateways are.
pub(super) const NOW: &str = "return redis.call('TIME')";

/// Stands for a gateway without an entry.
const NO_INCARNATION: &str = "0";

type Answer = Vec<Vec<Arc<str>>>;

/// Reads the route table.
#[derive(Debug)]
pub struct RedisRoutes {
    store: Store,
    ring: Arc<ArcSwap<Ring>>,
    gateway_lease_ms: u64,
    breaker: Arc<Breaker>,
    /// The gateways as the last answer had them.
    seen: Mutex<Arc<Gateways>>,
}

/// Gateways by name, at one time.
type Gateways = HashMap<Arc<str>, Entry>;

impl RedisRoutes {
    /// Of the route table that `config` names, among the gateways of `ring`. Connects at the first use;
    /// the tokio runtime of that use drives the connection.
    ///
    /// # Errors
    /// When the address is none. A server that is away is no error.
    pub fn open(
        config: &RoutesConfig,
        ring: Arc<ArcSwap<Ring>>,
    ) -> Result<Self, RoutesUnavailable> {
        Ok(Self {
            store: Store::open(config)?,
            ring,
            gateway_lease_ms: u64::try_from(config.gateway_lease.as_millis()).unwrap_or(u64::MAX),
            breaker: Arc::new(Breaker::new("redis_routes", 1, config.pause)),
            seen: Mutex::default(),
        })
    }

    async fn ask(&self, app: &str, users: &[&str]) -> Result<Answer, RoutesUnavailable> {
        let mut pipeline = Pipeline::with_capacity(users.len() + 2);
        pipeline.cmd("EVAL").arg(NOW).arg(1).arg(self.store.gateways());
        pipeline.cmd("HGETALL").arg(self.store.gateways());
        for user in users {
            pipeline.cmd("HGETALL").arg(self.store.user(app, user));
        }
        let values: Vec<redis::Value> = self.store.ask(&pipeline).await?;
        let mut values = values.into_iter();
        let (seconds, micros): (u64, u64) = take(values.next())?;
        let now_ms = seconds * 1000 + micros / 1000;
        let entries: HashMap<String, String> = take(values.next())?;
        let gateways: Gateways = entries
            .into_iter()
            .filter_map(|(name, text)| Some((Arc::from(name), Entry::parse(&text)?)))
            .collect();
        let incomplete = self.incomplete(&gateways, now_ms);
        let answer = values
            .map(|routes| {
                Ok(gateways_of_user(&take(Some(routes))?, &gateways, &incomplete, now_ms))
            })
            .collect();
        *self.seen.lock() = Arc::new(gateways);
        answer
    }

    /// Gateways that may hold sessions without a route.
    fn incomplete(&self, gateways: &Gateways, now_ms: u64) -> Vec<Arc<str>> {
        let is_current = |entry: &Entry| entry.lease_end_ms > now_ms;
        let registering = gateways
            .iter()
            .filter(|(_, entry)| is_current(entry) && entry.state == State::Registering)
            .map(|(name, _)| Arc::clone(name));
        let ring = self.ring.load();
        let silent = ring
            .members()
            .iter()
            .filter(|member| !gateways.get(&member.name).is_some_and(is_current))
            .map(|member| Arc::clone(&member.name));
        registering.chain(silent).collect()
    }

    /// What stands before Redis.
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    fn note(&self, result: Result<&(), &RoutesUnavailable>) {
        if let Err(error) = result
            && self.breaker.state() == BreakerState::Closed
        {
            tracing::warn!(%error, "no routes: deliveries go to every gateway");
        }
        self.breaker.note(Instant::now(), result.is_ok());
    }

    fn everywhere(&self, users: &[&str]) -> Answer {
        EveryGateway::of(Arc::clone(&self.ring)).answer(users.len())
    }
}

fn take<T: redis::FromRedisValue>(value: Option<redis::Value>) -> Result<T, RoutesUnavailable> {
    T::from_redis_value(value.unwrap_or(redis::Value::Nil)).map_err(super::unavailable)
}

/// The gateways with a live route of the user, and those that may have one.
fn gateways_of_user(
    routes: &HashMap<String, String>,
    gateways: &Gateways,
    incomplete: &[Arc<str>],
    now_ms: u64,
) -> Vec<Arc<str>> {
    let mut found = incomplete.to_vec();
    for (field, route) in routes {
        let Some((gateway, _device)) = field.split_once('/') else { continue };
        let Some((_epoch, incarnation, lease_end_ms)) = three_words(route) else { continue };
        let Some((name, entry)) = gateways.get_key_value(gateway) else { continue };
        let is_live = lease_end_ms > now_ms
            && entry.incarnation == incarnation
            && (entry.state != State::Gone || entry.lease_end_ms <= now_ms);
        if is_live && !found.contains(name) {
            found.push(Arc::clone(name));
        }
    }
    found
}

impl Routes for RedisRoutes {
    fn gateways_of<'a>(
        &'a self,
        app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Answer, RoutesUnavailable>> {
        Box::pin(async move {
            if !self.breaker.try_pass(Instant::now()) {
                return Ok(self.everywhere(users));
            }
            let answer = self.ask(app, users).await;
            self.note(answer.as_ref().map(|_| &()));
            Ok(answer.unwrap_or_else(|_| self.everywhere(users)))
        })
    }

    /// All routes to the gateway end at once, until it announces itself again.
    fn returned<'a>(&'a self, gateway: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !self.breaker.try_pass(Instant::now()) {
                return;
            }
            let seen = Arc::clone(&self.seen.lock());
            let incarnation = seen.get(gateway).map_or(NO_INCARNATION, |entry| &entry.incarnation);
            let mut pipeline = Pipeline::new();
            pipeline.cmd("EVAL").arg(RETURNED).arg(1).arg(self.store.gateways());
            pipeline.arg(gateway).arg(incarnation).arg(self.gateway_lease_ms);
            let marked = self.store.ask::<Vec<redis::Value>>(&pipeline).await;
            self.note(marked.as_ref().map(|_| &()));
        })
    }
}
