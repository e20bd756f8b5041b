//! How much may be on its way from all shards to logic: one count for the process, added to by shards and released by the publisher.
//! It also wakes the publisher, which waits on it. It does not hold anything itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use tokio::sync::Notify;

/// What is on its way from all shards to logic, and how much may be. Shared by all shards and the publisher.
#[derive(Debug)]
pub struct Gate {
    bytes_max: u64,
    messages_max: u64,
    bytes: AtomicU64,
    messages: AtomicU64,
    /// True while the publisher waits or is about to.
    publisher_idle: AtomicBool,
    publisher: Notify,
}

impl Gate {
    /// For at most so many bytes and messages at once.
    pub fn new(bytes_max: u64, messages_max: u32) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            messages_max: u64::from(messages_max),
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            publisher_idle: AtomicBool::new(false),
            publisher: Notify::new(),
        })
    }

    /// Bytes on their way.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages on their way.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn fits(&self, more: Amount) -> bool {
        self.bytes() + more.bytes <= self.bytes_max
            && self.messages() + more.messages <= self.messages_max
    }

    /// A quarter is free: below this, paused connections are read again, so that they do not swing at the limit.
    pub(super) fn has_room(&self, held: Amount) -> bool {
        self.bytes() + held.bytes <= self.bytes_max / 4 * 3
            && self.messages() + held.messages < (self.messages_max / 4 * 3).max(1)
    }

    pub(super) fn add(&self, amount: Amount) {
        self.bytes.fetch_add(amount.bytes, Ordering::Relaxed);
        self.messages.fetch_add(amount.messages, Ordering::Relaxed);
    }

    /// Confirmed by the bus: no longer on its way. [`InboundSource::offer_room`] tells the shards.
    pub fn release(&self, bytes: u64, messages: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.messages.fetch_sub(messages, Ordering::Relaxed);
    }

    pub(super) fn wake_publisher(&self) {
        fence(Ordering::SeqCst);
        if self.publisher_idle.load(Ordering::Relaxed)
            && self.publisher_idle.swap(false, Ordering::AcqRel)
        {
            self.publisher.notify_one();
        }
    }

    /// The publisher announces that it is about to wait. It looks into every source once more before it does.
    pub(crate) fn prepare_wait(&self) {
        self.publisher_idle.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Waits until a shard handed something over since [`prepare_wait`](Self::prepare_wait).
    pub(crate) async fn wait(&self) {
        self.publisher.notified().await;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    pub(super) messages: u64,
}
