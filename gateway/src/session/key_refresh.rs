//! Between shards, which meet tokens of keys they do not know, and the control thread, which may ask logic for them.
//!
//! A shard only sets a flag and waits for nobody. A token is of a bad key when it was made before logic told all its keys; until then its
//! key may be a new one.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::keys::CLOCK_SKEW_S;

/// See the module text.
#[derive(Debug, Default)]
pub struct KeyRefresh {
    /// When all keys were told last, in seconds since 1970; 0: not yet, or not by every process that may have some.
    settled_s: AtomicU64,
    asked: Notify,
}

impl KeyRefresh {
    /// Whether a key that signed at this time would be known.
    pub fn knows_all_until(&self, made_s: u64) -> bool {
        made_s.saturating_add(u64::from(CLOCK_SKEW_S)) <= self.settled_s.load(Ordering::Relaxed)
    }

    /// Never waits; many questions are one.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// All keys are known as of then; 0: some may be missing.
    pub(crate) fn settle(&self, now_s: u64) {
        self.settled_s.store(now_s, Ordering::Relaxed);
    }

    /// Waits until a shard met an unknown key.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}
