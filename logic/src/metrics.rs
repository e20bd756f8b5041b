//! Counters of the logic tier, in the Prometheus text format.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use roost_protocol::RefusalCode;

use crate::soft_state::redis::CacheCounters;

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: &'static str,
}

/// All counters; shared by worker and HTTP server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Messages placed.
    pub messages: Counter,
    /// Sends that were answered with an acknowledgement given before.
    pub repeats: Counter,
    /// Sends refused.
    pub refusals: Family<CodeLabel, Counter>,
    /// Envelopes that did not parse.
    pub malformed: Counter,
    /// Operations that made a handler fail.
    pub quarantined: Counter,
    /// Batches committed.
    pub batches: Counter,
    /// Operations per batch.
    pub batch_operations: Histogram,
    /// From the first statement to the durable commit.
    pub commit_seconds: Histogram,
    /// Batches that met an unavailable or damaged database.
    pub store_failures: Counter,
    /// Batches done again because an identity was stored already.
    pub identity_collisions: Counter,
    /// Batches done again because of other writers or a lost connection.
    pub agains: Counter,
    /// Bodies given back because another process has their partition by now.
    pub fenced: Counter,
    /// Deliveries returned because nobody takes them for that gateway.
    pub returned: Counter,
    /// Deliveries given up after the bus did not take them.
    pub abandoned: Counter,
    /// Requests and digest checks answered.
    pub reads: Counter,
    /// Watermarks and cursors dropped while the database was away for long.
    pub dropped_watermarks: Counter,
    /// Of the offline cache.
    pub cache: CacheCounters,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("roost_logic");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let messages = counter("messages", "Messages placed");
        let repeats = counter("repeats", "Sends answered with an earlier acknowledgement");
        let malformed = counter("malformed", "Envelopes that did not parse");
        let quarantined = counter("quarantined", "Operations that made a handler fail");
        let batches = counter("batches", "Batches committed");
        let store_failures = counter("store_failures", "Batches that met an unusable database");
        let identity_collisions = counter("identity_collisions", "Batches done again suspiciously");
        let agains =
            counter("agains", "Batches done again, because of others or a lost connection");
        let fenced = counter("fenced", "Bodies given back, because another process has them");
        let returned = counter("returned", "Deliveries returned by the bus");
        let abandoned = counter("abandoned", "Deliveries given up");
        let reads = counter("reads", "Requests and digest checks answered");
        let dropped_watermarks = counter("dropped_watermarks", "Watermarks dropped, database away");
        let cache = CacheCounters {
            hits: counter("offline_cache_hits", "Inbox pages answered by Redis alone"),
            misses: counter("offline_cache_misses", "Inbox pages that needed the database"),
            written: counter("offline_cache_written", "Batches whose entries are in Redis"),
            left_out: counter("offline_cache_left_out", "Batches not in Redis: away or slow"),
        };
        let refusals = Family::<CodeLabel, Counter>::default();
        registry.register("refusals", "Sends refused", refusals.clone());
        let batch_operations = Histogram::new(exponential_buckets(1.0, 2.0, 12));
        registry.register("batch_operations", "Operations per batch", batch_operations.clone());
        let commit_seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        registry.register("commit_seconds", "Duration of commits", commit_seconds.clone());
        Self {
            registry,
            messages,
            repeats,
            refusals,
            malformed,
            quarantined,
            batches,
            batch_operations,
            commit_seconds,
            store_failures,
            identity_collisions,
            agains,
            fenced,
            returned,
            abandoned,
            reads,
            dropped_watermarks,
            cache,
        }
    }
}

impl Metrics {
    /// Counts a refused send.
    pub fn refused(&self, code: RefusalCode) {
        self.refusals.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }

    /// Appends all counters in the Prometheus text format, without the closing EOF line.
    pub fn encode(&self, out: &mut String) {
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode_registry(out, &self.registry);
    }
}
