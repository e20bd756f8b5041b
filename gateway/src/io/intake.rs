//! How sockets come into a shard: its free places, and the way to hand one over.
//!
//! The acceptor takes a place before it hands a socket over, the shard's driver gives the place back when the
//! socket's descriptor is closed. So a shard never meets a full descriptor table, and the acceptor knows the
//! emptiest shard from one counter per shard.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;

use crate::io::Waker;

/// A socket on its way to a shard that has no ring.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) socket: OwnedFd,
    pub(crate) address: u32,
    pub(crate) listener: u8,
}

/// The way into the shard.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A descriptor of the shard's ring, for MSG_RING.
    Ring(OwnedFd),
    /// The shard's queue and waker.
    Queue(Box<ArrayQueue<Handed>>, Arc<Waker>),
}

/// One shard as the acceptor sees it.
#[derive(Debug)]
pub struct Intake {
    capacity: u32,
    taken: AtomicU32,
    pub(crate) delivery: Delivery,
    /// The acceptor's; set when it starts.
    acceptor: OnceLock<Arc<Waker>>,
}

impl Intake {
    pub(crate) fn new(capacity: u32, delivery: Delivery) -> Self {
        Self { capacity, taken: AtomicU32::new(0), delivery, acceptor: OnceLock::new() }
    }

    /// Connections the shard can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Connections it holds or was promised.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Acquire)
    }

    /// Places left.
    pub fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.taken())
    }

    /// Takes a place; the acceptor looked at `free` before and is the only one that takes.
    pub(crate) fn take(&self) {
        self.taken.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives a place back and wakes the acceptor if it waits for one.
    pub(crate) fn give_back(&self) {
        let before = self.taken.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "gave back more places than were taken");
        self.wake_acceptor();
    }

    pub(crate) fn wake_acceptor(&self) {
        if let Some(acceptor) = self.acceptor.get() {
            acceptor.wake();
        }
    }

    /// Names the acceptor to wake. False when another acceptor serves this shard already.
    pub(crate) fn set_acceptor(&self, acceptor: &Arc<Waker>) -> bool {
        self.acceptor.set(Arc::clone(acceptor)).is_ok()
    }
}

/// The shard with the most free places that can be handed a socket now.
pub(crate) fn emptiest(intakes: &[Arc<Intake>]) -> Option<usize> {
    let free = |intake: &Intake| match &intake.delivery {
        Delivery::Queue(queue, _) if queue.is_full() => 0,
        Delivery::Queue(..) | Delivery::Ring(_) => intake.free(),
    };
    let best = (0..intakes.len()).max_by_key(|&shard| free(&intakes[shard]))?;
    (free(&intakes[best]) > 0).then_some(best)
}
