//! What the users of one thread record.

use std::collections::BTreeMap;

use crate::checker::History;
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
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) start_us: u64,
    /// By message id of the history.
    pub(crate) hashes: Vec<u64>,
}
