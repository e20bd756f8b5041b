//! What a chat shares with somebody who directs it while it runs: a fault test that kills the server meanwhile, and ends the schedule when
//! it has done enough.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::ChatCounters;

/// Of one run.
#[derive(Debug, Default)]
pub struct Conductor {
    pub(super) counters: Arc<ChatCounters>,
    is_over: AtomicBool,
    kills: Mutex<Vec<(Instant, bool)>>,
}

impl Conductor {
    /// The schedule ends; what was sent is waited for and judged.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Messages acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.counters.acked.load(Relaxed)
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.counters.sent.load(Relaxed)
    }

    /// Displays at receivers so far.
    pub fn delivered(&self) -> u64 {
        self.counters.delivered.load(Relaxed)
    }

    /// Messages refused so far: not to be tried again, or given up.
    pub fn refused(&self) -> u64 {
        self.counters.refused.load(Relaxed)
    }

    /// Sessions of users that were lost so far.
    pub fn disconnects(&self) -> u64 {
        self.counters.disconnects.load(Relaxed)
    }

    /// Users that are logged in now.
    pub fn online(&self) -> u64 {
        self.counters.online.load(Relaxed)
    }

    /// Times a sender heard that a message was delivered to a receiver who has no device online.
    pub fn by_server(&self) -> u64 {
        self.counters.by_server.load(Relaxed)
    }

    /// Every user changes its network: the server does not hear of the end of every second connection before the user is back on another one.
    pub fn move_users(&self) {
        self.counters.moves.fetch_add(1, Relaxed);
    }

    /// Something was killed then; the checker counts it, and whether it met messages in flight.
    pub fn record_kill(&self, at: Instant, took_effect: bool) {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner).push((at, took_effect));
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub(super) fn kills(&self) -> Vec<(Instant, bool)> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
