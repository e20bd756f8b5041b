//! What a worker may take: bodies of all its partitions, and what it has taken and not settled.
//!
//! A [`Lease`] is one subscription of one partition on one channel. When it is over (connection lost, partition moved, a body given
//! back, worker gone) nothing of it is handed out or acknowledged any more: the broker redelivers everything of it that was not
//! acknowledged, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lapin::Acker;
use lapin::options::BasicAckOptions;
use parking_lot::Mutex;
use roost_protocol::topology::Partition;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::counters::BusCounters;
use crate::{BoxFuture, InboundConsumer, InboundDelivery};

use super::attempts::Attempt;

/// Between the tasks of a worker's subscriptions and the worker.
#[derive(Debug)]
pub(super) struct Hand {
    state: Mutex<State>,
    arrived: Notify,
    /// Told when the worker has dropped its consumer.
    pub(super) left: Notify,
    counters: Arc<BusCounters>,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Arrival>,
    is_closed: bool,
}

/// A body that was received.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) lease: Arc<Lease>,
    pub(super) body: Bytes,
    pub(super) redelivered: bool,
    pub(super) acker: Acker,
    /// Of a body that was handed out before.
    pub(super) attempt: Option<Attempt>,
    /// Held by a body that may have taken its worker down, so that it is alone.
    pub(super) alone: Option<OwnedSemaphorePermit>,
}

/// One subscription of a partition.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) partition: Partition,
    state: Mutex<LeaseState>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    /// Handed out, and this many of it are not settled.
    Open { taken: usize },
    /// Nothing more is handed out; over when all that were taken are settled.
    Draining { taken: usize },
    /// `given_back`: because the worker dropped a body.
    Over { given_back: bool },
}

impl Lease {
    pub(super) fn new(partition: Partition) -> Arc<Self> {
        let state = Mutex::new(LeaseState::Open { taken: 0 });
        Arc::new(Self { partition, state, changed: Notify::new() })
    }

    /// Counts a body as taken; false when nothing of it may be handed out.
    fn take(&self) -> bool {
        match &mut *self.state.lock() {
            LeaseState::Open { taken } => {
                *taken += 1;
                true
            }
            LeaseState::Draining { .. } | LeaseState::Over { .. } => false,
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.state.lock(), LeaseState::Over { .. })
    }

    /// A body that was taken is acknowledged.
    fn settle(&self) {
        match &mut *self.state.lock() {
            LeaseState::Open { taken } | LeaseState::Draining { taken } => *taken -= 1,
            LeaseState::Over { .. } => {}
        }
        self.changed.notify_one();
    }

    fn set_over(&self, given_back: bool) {
        let mut state = self.state.lock();
        if !matches!(*state, LeaseState::Over { .. }) {
            *state = LeaseState::Over { given_back };
        }
        drop(state);
        self.changed.notify_one();
    }

    fn set_draining(&self) {
        let mut state = self.state.lock();
        if let LeaseState::Open { taken } = *state {
            *state = LeaseState::Draining { taken };
        }
    }

    /// Waits until a body was given back.
    pub(super) async fn given_back(&self) {
        self.wait(|state| state == LeaseState::Over { given_back: true }).await;
    }

    /// Waits until nothing taken is left unsettled.
    pub(super) async fn drained(&self) {
        let is_done =
            |state| matches!(state, LeaseState::Draining { taken: 0 } | LeaseState::Over { .. });
        self.wait(is_done).await;
    }

    /// Only the subscription's task waits.
    async fn wait(&self, is_so: impl Fn(LeaseState) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(*self.state.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl Hand {
    pub(super) fn new(counters: Arc<BusCounters>) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self { state, arrived: Notify::new(), left: Notify::new(), counters })
    }

    pub(super) fn push(&self, arrival: Arrival) {
        self.state.lock().ready.push_back(arrival);
        self.counters.waiting.set(self.counters.waiting.get() + 1);
        self.arrived.notify_one();
    }

    /// Nothing of the lease is handed out any more; what was taken may still be settled.
    pub(super) fn drain(&self, lease: &Arc<Lease>) {
        lease.set_draining();
        self.forget(lease);
    }

    /// Nothing of the lease counts any more.
    pub(super) fn end(&self, lease: &Arc<Lease>) {
        lease.set_over(false);
        self.forget(lease);
    }

    fn forget(&self, lease: &Arc<Lease>) {
        let mut state = self.state.lock();
        let before = state.ready.len();
        state.ready.retain(|arrival| !Arc::ptr_eq(&arrival.lease, lease));
        let gone = before - state.ready.len();
        self.counters.waiting.set(self.counters.waiting.get().saturating_sub(gone as u64));
    }

    /// No body comes any more.
    pub(super) fn close(&self) {
        let ready = {
            let mut state = self.state.lock();
            state.is_closed = true;
            std::mem::take(&mut state.ready)
        };
        self.counters.waiting.set(self.counters.waiting.get().saturating_sub(ready.len() as u64));
        ready.into_iter().for_each(|arrival| arrival.lease.set_over(false));
        self.arrived.notify_one();
    }

    fn poll_take(self: &Arc<Self>) -> Option<Option<InboundDelivery>> {
        let mut state = self.state.lock();
        while let Some(arrival) = state.ready.pop_front() {
            let waiting = self.counters.waiting.get();
            self.counters.waiting.set(waiting.saturating_sub(1));
            if arrival.lease.take() {
                self.counters.taken.add(1);
                self.counters.redelivered.add(u64::from(arrival.redelivered));
                return Some(Some(delivery(Arc::clone(self), arrival)));
            }
        }
        state.is_closed.then_some(None)
    }
}

fn delivery(hand: Arc<Hand>, arrival: Arrival) -> InboundDelivery {
    let Arrival { lease, body, redelivered, acker, attempt, alone } = arrival;
    let partition = lease.partition;
    let receipt = Receipt { hand, lease, is_open: true };
    let acknowledge = Box::new(move || -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if receipt.lease.is_over() {
                receipt.hand.counters.acknowledged_late.add(1);
            } else if !matches!(acker.ack(BasicAckOptions::default()).await, Ok(true)) {
                // The connection is gone: the body will come again.
                receipt.hand.counters.acknowledged_late.add(1);
            } else if let Some(attempt) = attempt {
                attempt.forget().await;
            }
            receipt.settle();
            drop(alone);
        })
    });
    InboundDelivery::new(partition, body, redelivered, acknowledge)
}

/// Settles one body, or gives it back with all later ones of its partition when it is dropped.
struct Receipt {
    hand: Arc<Hand>,
    lease: Arc<Lease>,
    is_open: bool,
}

impl Receipt {
    fn settle(mut self) {
        self.is_open = false;
        self.lease.settle();
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.is_open && !self.lease.is_over() {
            self.lease.set_over(true);
            self.hand.forget(&self.lease);
        }
    }
}

/// What the worker holds.
pub(super) struct Consumer {
    pub(super) hand: Arc<Hand>,
}

impl InboundConsumer for Consumer {
    fn next(&mut self) -> BoxFuture<'_, Option<InboundDelivery>> {
        Box::pin(async {
            loop {
                let arrived = self.hand.arrived.notified();
                if let Some(next) = self.hand.poll_take() {
                    return next;
                }
                arrived.await;
            }
        })
    }

    fn try_next(&mut self) -> Option<InboundDelivery> {
        self.hand.poll_take().flatten()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.hand.close();
        self.hand.left.notify_one();
    }
}
