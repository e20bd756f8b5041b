//! A gateway's side: it writes the routes of its own sessions.

use std::collections::HashMap;
use std::sync::Arc;

use redis::Pipeline;

use super::reader::NOW;
use super::{Entry, RoutesConfig, State, Store};
use crate::RoutesUnavailable;

/// Removes what ran out, then sets a route unless a higher epoch has it. Epochs have equal lengths: text compares like the numbers,
/// which a double could not hold.
const SET: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local routes = redis.call('HGETALL', KEYS[1])
for i = 1, #routes, 2 do
  local epoch, lease_end = string.match(routes[i + 1], '^(%d+) %x+ (%d+)$')
  if not epoch or tonumber(lease_end) <= now then
    redis.call('HDEL', KEYS[1], routes[i])
  elseif routes[i] == ARGV[1] and epoch > ARGV[2] then
    return 0
  end
end
local lease_end = string.format('%.0f', now + ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. lease_end)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1";

/// Clears a route of exactly this epoch.
const CLEAR: &str = r"
local route = redis.call('HGET', KEYS[1], ARGV[1])
if route and string.match(route, '^%d+') == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0";

/// Writes a gateway's entry and returns what stood there. Routes are complete only where the same process was known before.
const ANNOUNCE: &str = r"
local time = redis.call('TIME')
local lease_end = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4])
local before = redis.call('HGET', KEYS[1], ARGV[1])
local is_known = before and string.match(before, '^%x+') == ARGV[2]
local state = ARGV[3]
if state == 'complete' and not is_known then state = 'registering' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. state .. ' ' .. lease_end)
return before";

/// A session of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRoute<'a> {
    /// Tenant.
    pub app: &'a str,
    /// Whose.
    pub user: &'a str,
    /// On which device: a user has at most one route for each of its devices and gateways.
    pub device: &'a str,
    /// Of the session.
    pub epoch: u64,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteChange<'a> {
    /// It began, or it is still there.
    Set(SessionRoute<'a>),
    /// It ended.
    Clear(SessionRoute<'a>),
}

/// What Redis knew of this process when it announced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// What it said last time: its routes are still there.
    Again,
    /// Nothing: it is new here, or Redis lost its memory. All routes have to be written.
    Unknown,
}

/// Writes routes of one gateway process. To be used by one task: order is kept within a call and between awaited calls.
#[derive(Debug, Clone)]
pub struct RouteTable {
    store: Store,
    gateway: String,
    incarnation: String,
    lease_ms: u64,
    gateway_lease_ms: u64,
}

impl RouteTable {
    /// For the gateway of this name, as `incarnation` of it: a number that none of its processes had before. Connects at the first use;
    /// the tokio runtime of that use drives the connection.
    ///
    /// # Errors
    /// When the address is none. A server that is away is no error.
    pub fn open(
        config: &RoutesConfig,
        gateway: &str,
        incarnation: u64,
    ) -> Result<Self, RoutesUnavailable> {
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis());
        Ok(Self {
            store: Store::open(config)?,
            gateway: gateway.to_owned(),
            incarnation: format!("{incarnation:x}"),
            lease_ms: ms(config.lease).unwrap_or(u64::MAX),
            gateway_lease_ms: ms(config.gateway_lease).unwrap_or(u64::MAX),
        })
    }

    /// Writes changes in their order, in one round trip. Bound the batch: it is held in memory at both ends.
    ///
    /// # Errors
    /// When it is unknown whether all are written.
    pub async fn write(&self, changes: &[RouteChange<'_>]) -> Result<(), RoutesUnavailable> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::with_capacity(changes.len() + 2);
        // Redis forgets scripts when it restarts; a few hundred bytes a batch spare a second round trip that finds out.
        for script in [SET, CLEAR] {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        let (set, clear) = (redis::Script::new(SET), redis::Script::new(CLEAR));
        for change in changes {
            let (script, route) = match change {
                RouteChange::Set(route) => (&set, route),
                RouteChange::Clear(route) => (&clear, route),
            };
            let command = pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(1);
            command.arg(self.store.user(route.app, route.user));
            command.arg(format!("{}/{}", self.gateway, route.device));
            command.arg(format!("{:020}", route.epoch));
            if matches!(change, RouteChange::Set(_)) {
                command.arg(&self.incarnation).arg(self.lease_ms);
            }
        }
        let _: Vec<redis::Value> = self.store.ask(&pipeline).await?;
        Ok(())
    }

    /// Renews the gateway's own lease, and says whether all its routes are written; who is [`Announced::Unknown`] counts as registering.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn announce(&self, is_complete: bool) -> Result<Announced, RoutesUnavailable> {
        let state = if is_complete { State::Complete } else { State::Registering };
        let before = self.put(state).await?;
        let is_known = before.is_some_and(|entry| entry.incarnation == self.incarnation);
        Ok(if is_known { Announced::Again } else { Announced::Unknown })
    }

    /// The process ends: no delivery needs to come here.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn leave(&self) -> Result<(), RoutesUnavailable> {
        self.put(State::Gone).await.map(|_| ())
    }

    /// The gateways that take no deliveries, as somebody found who had one for them.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn gone(&self) -> Result<Vec<Arc<str>>, RoutesUnavailable> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("EVAL").arg(NOW).arg(1).arg(self.store.gateways());
        pipeline.cmd("HGETALL").arg(self.store.gateways());
        let ((seconds, _), entries): ((u64, u64), HashMap<String, String>) =
            self.store.ask(&pipeline).await?;
        let is_gone = |text: &str| {
            let entry = Entry::parse(text);
            entry.is_some_and(|it| it.state == State::Gone && it.lease_end_ms > seconds * 1000)
        };
        Ok(entries
            .into_iter()
            .filter(|(_, text)| is_gone(text))
            .map(|(name, _)| name.into())
            .collect())
    }

    async fn put(&self, state: State) -> Result<Option<Entry>, RoutesUnavailable> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("EVAL").arg(ANNOUNCE).arg(1).arg(self.store.gateways());
        pipeline.arg(&self.gateway).arg(&self.incarnation).arg(state.as_str());
        pipeline.arg(self.gateway_lease_ms);
        let (before,): (Option<String>,) = self.store.ask(&pipeline).await?;
        Ok(before.as_deref().and_then(Entry::parse))
    }
}
