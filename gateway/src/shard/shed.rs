//! Users that belong to another gateway since the ring changed are sent there, one after the other.
//!
//! ```text
//! Idle ── Shed ──► Walking: index 0, 1, 2 ...; each session that belongs elsewhere: REDIRECT, CLOSE(redirected), pause ──► end ──► Idle
//!                     ▲ Shed: from index 0 again
//! ```
//! The pace is bounded and each pause another, so that neither this gateway nor the next meets all of them at once; a shard looks at a
//! bounded number of sessions in a turn. Who logs in behind the walk was placed by the new ring. Nothing is allocated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_protocol::CloseReason;

use crate::connection::Connection;
use crate::connection::keepalive::jitter;
use crate::io::{ConnectionKey, Io};

use super::Shard;
use super::message::ShardShedPlan;

/// Sessions that are looked at in one turn; each costs a hash for every member of the ring.
const LOOKS_PER_TURN: u32 = 256;
/// Until the next ones.
const STEP: Duration = Duration::from_millis(5);

/// Where a shard is with it.
#[derive(Debug, Default)]
pub(super) enum Shed {
    #[default]
    Idle,
    Walking {
        plan: ShardShedPlan,
        next_index: u32,
        next_at: Instant,
    },
}

impl Shed {
    /// When the next look is due.
    pub(super) fn next_in(&self, now: Instant) -> Option<Duration> {
        match self {
            Shed::Walking { next_at, .. } => Some(next_at.saturating_duration_since(now)),
            Shed::Idle => None,
        }
    }
}

impl<I: Io> Shard<I> {
    /// Begins the walk, or begins it again: the pace goes on as it was.
    pub(super) fn begin_shed(&mut self, plan: ShardShedPlan) {
        let now = self.context.time.now;
        let next_at = match self.shed {
            Shed::Walking { next_at, .. } => next_at,
            Shed::Idle => now,
        };
        self.shed = Shed::Walking { plan, next_index: 0, next_at };
    }

    /// Looks on, when it is time, for at most one session that belongs elsewhere.
    pub(super) fn continue_shed(&mut self) {
        let now = self.context.time.now;
        let Shed::Walking { plan, next_index, next_at } = self.shed else { return };
        if self.context.is_draining {
            self.shed = Shed::Idle;
            return;
        }
        if now < next_at {
            return;
        }
        let index_end = self.table.index_end();
        let looks_end = next_index.saturating_add(LOOKS_PER_TURN).min(index_end);
        let mut index = next_index;
        let mut pause = STEP;
        while index < looks_end {
            let moved = self.table.key_at(index).and_then(|key| Some((key, self.moved(key)?)));
            index += 1;
            if let Some((key, address)) = moved {
                self.context.redirect = Some(address);
                self.close(key, CloseReason::Redirected);
                self.context.counters.shed.increment();
                pause = plan.pause_after(key);
                break;
            }
        }
        self.shed = match index == index_end {
            true => Shed::Idle,
            false => Shed::Walking { plan, next_index: index, next_at: now + pause },
        };
    }

    /// Where a session belongs, when that is elsewhere.
    fn moved(&self, key: ConnectionKey) -> Option<Arc<str>> {
        let session = &self.table.get(key).and_then(Connection::connected)?.session;
        let gateway = &self.context.gateway;
        let app = gateway.directory.app_name(session.app());
        gateway.placement.as_ref()?.elsewhere(app, session.user())
    }
}

impl ShardShedPlan {
    /// From half to one and a half of the pause.
    fn pause_after(&self, key: ConnectionKey) -> Duration {
        let pause_us = u32::try_from(self.pause.as_micros()).unwrap_or(u32::MAX);
        self.pause / 2 + Duration::from_micros(jitter(key, pause_us).into())
    }
}
