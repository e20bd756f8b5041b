//! The end of all connections: everyone is told to go, each at another moment and to come back at another moment; who stays is
//! closed. Then the shard's thread may end.
//!
//! ```text
//! Serving ── Drain ──► GO_AWAY to index 0, 1, 2 ... evenly over the window
//!                      CLOSE(draining) to the same, `close_after` behind ──► Over ── table empty ──► Finished
//! Serving, Drain ── Shutdown ──► CLOSE(draining) to all at once ──► Over
//! ```
//! Indexes are walked, not a list of connections: nothing is allocated, and nobody comes in behind the walk.

use std::time::{Duration, Instant};

use roost_protocol::frame::redirect::GoAway;
use roost_protocol::{CloseReason, FrameKind};

use crate::connection::Connection;
use crate::connection::keepalive::jitter;
use crate::connection::limits::milliseconds;
use crate::io::{ConnectionKey, Io};

use super::Shard;
use super::message::DrainPlan;

/// How often a draining shard takes its next portion.
const STEP: Duration = Duration::from_millis(20);

/// Where a shard is in its end.
#[derive(Debug, Default)]
pub(super) enum Drain {
    #[default]
    Serving,
    Draining(Progress),
    /// Everyone was told; what is left ends by its own timers.
    Over,
}

/// The two walks over the table.
#[derive(Debug)]
pub(super) struct Progress {
    plan: DrainPlan,
    since: Instant,
    index_end: u32,
    told_end: u32,
    closed_end: u32,
}

impl Drain {
    /// Whether the shard ends when its table is empty.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Drain::Over => true,
            Drain::Serving | Drain::Draining(_) => false,
        }
    }

    /// When the next portion is due.
    pub(super) fn next_in(&self) -> Option<Duration> {
        match self {
            Drain::Draining(_) => Some(STEP),
            Drain::Serving | Drain::Over => None,
        }
    }
}

impl Progress {
    /// How far a walk that began `elapsed` ago has to be.
    fn target(&self, elapsed: Option<Duration>) -> u32 {
        let Some(elapsed) = elapsed else { return 0 };
        let window = self.plan.go_away_window;
        if elapsed >= window {
            return self.index_end;
        }
        let share = elapsed.as_secs_f64() / window.as_secs_f64();
        // At least one, and below 2^24: the cast is exact.
        (f64::from(self.index_end) * share) as u32 + 1
    }
}

impl<I: Io> Shard<I> {
    pub(super) fn begin_drain(&mut self, plan: &DrainPlan) {
        self.context.is_draining = true;
        if let Drain::Serving = self.drain {
            self.drain = Drain::Draining(Progress {
                plan: *plan,
                since: self.context.time.now,
                index_end: self.table.index_end(),
                told_end: 0,
                closed_end: 0,
            });
        }
    }

    pub(super) fn begin_shutdown(&mut self) {
        self.context.is_draining = true;
        self.drain = Drain::Over;
        for index in 0..self.table.index_end() {
            self.close_at(index);
        }
    }

    /// Takes the portion of the drain that is due.
    pub(super) fn continue_drain(&mut self) {
        let Drain::Draining(progress) = &mut self.drain else { return };
        let elapsed = self.context.time.now.saturating_duration_since(progress.since);
        let told = progress.told_end..progress.target(Some(elapsed));
        let closing_for = elapsed.checked_sub(progress.plan.close_after);
        let closed = progress.closed_end..progress.target(closing_for);
        progress.told_end = told.end;
        progress.closed_end = closed.end;
        let reconnect_after_max_ms = milliseconds(progress.plan.reconnect_after_max);
        if closed.end == progress.index_end || (self.table.is_empty() && told.end > 0) {
            self.drain = Drain::Over;
        }
        for index in told {
            if let Some(key) = self.table.key_at(index) {
                self.tell_to_go(key, reconnect_after_max_ms);
            }
        }
        for index in closed {
            self.close_at(index);
        }
    }

    fn tell_to_go(&mut self, key: ConnectionKey, reconnect_after_max_ms: u32) {
        let Some(connected) = self.table.get_mut(key).and_then(Connection::connected_mut) else {
            return self.close(key, CloseReason::Draining);
        };
        let go_away = GoAway { reconnect_after_ms: jitter(key, reconnect_after_max_ms) };
        let encoder = &mut self.context.encoder;
        connected.outbox().enqueue_always(|own| go_away.encode(encoder, own));
        self.context.counters.count_frame_sent(FrameKind::GoAway);
        self.mark_dirty(key);
    }

    fn close_at(&mut self, index: u32) {
        if let Some(key) = self.table.key_at(index) {
            self.close(key, CloseReason::Draining);
        }
    }
}
