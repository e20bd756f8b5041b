//! What the users of one thread record.

use std::collections::BTreeMap;

use crate::checker::{History, MessageId};
use crate::histogram::{Latency, LatencyHistogram};

/// What the users of one worker record.
#[derive(Default)]
pub struct Ledger {
    pub(crate) history: History,
    pub(crate) ack: Latency,
    pub(crate) delivery: Latency,
    pub(crate) generator_lag: LatencyHistogram,
    pub(crate) connect: LatencyHistogram,
    pub(crate) disconnects: BTreeMap<String, u64>,
    pub(crate) absences: Vec<Absence>,
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) start_us: u64,
    /// Of bodies, by message.
    hashes: Vec<u64>,
}

/// A time during which a user was not logged in, after it had been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// The user's name.
    pub user: String,
    /// On the clock of the run.
    pub lost_us: u64,
    /// The same; `None` when the run ended first.
    pub back_us: Option<u64>,
}

/// Sent, acknowledged, shown to both, two receipts.
const EVENTS_PER_MESSAGE: usize = 6;

impl Ledger {
    /// Makes room for what so many messages leave here.
    pub(crate) fn reserve(&mut self, messages: usize) {
        self.history.reserve(messages, messages.saturating_mul(EVENTS_PER_MESSAGE));
        self.hashes.reserve(messages);
    }

    pub(super) fn set_hash(&mut self, message: MessageId, hash: u64) {
        let index = message.index();
        if self.hashes.len() <= index {
            self.hashes.resize(index + 1, 0);
        }
        self.hashes[index] = hash;
    }

    /// 0 when none was set.
    pub(super) fn hash_of(&self, message: MessageId) -> u64 {
        self.hashes.get(message.index()).copied().unwrap_or(0)
    }
}
