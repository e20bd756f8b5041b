//! What a worker may take: bodies of all its partitions, and what it has taken and not settled.
//!
//! A [`Lease`] is one subscription of one partition on one channel. When it is over (connection lost, partition moved, a body given
//! back, worker gone) nothing of it is handed out or acknowledged any more: the broker redelivers everything of it that was not
//! acknowledged, in order.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
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
    /// The worker looked for a body.
    polled: Notify,
    /// Told when the worker has dropped its consumer.
    pub(super) left: Notify,
    counters: Arc<BusCounters>,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Arrival>,
    is_closed: bool,
    /// The worker waits for a body.
    is_asking: bool,
}

/// A body that was received.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) lease: Arc<Lease>,
    pub(super) body: Bytes,
    pub(super) redelivered: bool,
    pub(super) tag: u64,
    /// Of a body that was handed out before.
    pub(super) attempt: Option<Attempt>,
    /// Held by a body that may have taken its worker down, so that it is alone.
    pub(super) alone: Option<OwnedSemaphorePermit>,
}

/// A body that the worker has acknowledged; the subscription tells the broker.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) tag: u64,
    pub(super) attempt: Option<Attempt>,
}

/// One subscription of a partition.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) partition: Partition,
    state: Mutex<LeaseState>,
    /// As many at most as the window of the subscription.
    settled: Mutex<Vec<Settled>>,
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

/// What a subscription has to do for its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Tell the broker of [`Lease::take_settled`].
    Acknowledge,
    /// The partition may go: nothing taken is unsettled.
    Leave,
    /// A body was given back: the broker has to deliver from there again.
    GiveBack,
}

impl Lease {
    pub(super) fn new(partition: Partition) -> Arc<Self> {
        let state = Mutex::new(LeaseState::Open { taken: 0 });
        Arc::new(Self { partition, state, settled: Mutex::default(), changed: Notify::new() })
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

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.state.lock(), LeaseState::Over { .. })
    }

    /// A body that was taken is acknowledged. False: too late, it was given back.
    fn settle(&self, settled: Settled) -> bool {
        {
            // Under the lock of the state: what stands in the list was acknowledged in time.
            let state = self.state.lock();
            if matches!(*state, LeaseState::Over { .. }) {
                return false;
            }
            self.settled.lock().push(settled);
        }
        self.changed.notify_one();
        true
    }

    /// What was acknowledged and the broker does not know yet.
    pub(super) fn take_settled(&self) -> Vec<Settled> {
        std::mem::take(&mut *self.settled.lock())
    }

    /// The broker knows of so many more.
    pub(super) fn told(&self, count: usize) {
        match &mut *self.state.lock() {
            LeaseState::Open { taken } | LeaseState::Draining { taken } => *taken -= count,
            LeaseState::Over { .. } => {}
        }
    }

    /// What the subscription has to do, if anything.
    fn task(&self) -> Option<Task> {
        if !self.settled.lock().is_empty() {
            return Some(Task::Acknowledge);
        }
        match *self.state.lock() {
            LeaseState::Draining { taken: 0 } => Some(Task::Leave),
            LeaseState::Over { given_back: true } => Some(Task::GiveBack),
            LeaseState::Open { .. }
            | LeaseState::Draining { .. }
            | LeaseState::Over { given_back: false } => None,
        }
    }

    /// Waits until the subscription has something to do. Only its task waits.
    pub(super) async fn next_task(&self) -> Task {
        loop {
            let changed = self.changed.notified();
            if let Some(task) = self.task() {
                return task;
            }
            changed.await;
        }
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
        drop(state);
        self.changed.notify_one();
    }
}

impl Hand {
    pub(super) fn new(counters: Arc<BusCounters>) -> Arc<Self> {
        let state = Mutex::new(State::default());
        let (arrived, polled, left) = (Notify::new(), Notify::new(), Notify::new());
        Arc::new(Self { state, arrived, polled, left, counters })
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
            state.is_asking = false;
            std::mem::take(&mut state.ready)
        };
        self.counters.waiting.set(self.counters.waiting.get().saturating_sub(ready.len() as u64));
        ready.into_iter().for_each(|arrival| arrival.lease.set_over(false));
        self.arrived.notify_one();
    }

    /// Waits until the worker looks for a body: it lives, and what is pushed now it takes soon.
    pub(super) async fn wait_polled(&self) {
        let polled = self.polled.notified();
        if !self.state.lock().is_asking {
            polled.await;
        }
    }

    /// `Some(None)`: no body comes any more. `is_waiting`: the worker waits when there is none.
    fn poll_take(self: &Arc<Self>, is_waiting: bool) -> Option<Option<InboundDelivery>> {
        let next = self.take(is_waiting);
        self.polled.notify_waiters();
        next
    }

    fn take(self: &Arc<Self>, is_waiting: bool) -> Option<Option<InboundDelivery>> {
        let mut state = self.state.lock();
        state.is_asking = false;
        while let Some(arrival) = state.ready.pop_front() {
            let waiting = self.counters.waiting.get();
            self.counters.waiting.set(waiting.saturating_sub(1));
            if arrival.lease.take() {
                self.counters.taken.add(1);
                self.counters.redelivered.add(u64::from(arrival.redelivered));
                return Some(Some(delivery(Arc::clone(self), arrival)));
            }
        }
        state.is_asking = is_waiting && !state.is_closed;
        state.is_closed.then_some(None)
    }
}

fn delivery(hand: Arc<Hand>, arrival: Arrival) -> InboundDelivery {
    let Arrival { lease, body, redelivered, tag, attempt, alone } = arrival;
    let partition = lease.partition;
    let settled = Some(Settled { tag, attempt });
    let receipt = Receipt { hand, lease, settled };
    let acknowledge = Box::new(move || -> BoxFuture<'static, ()> {
        receipt.settle();
        // The next suspicious body may come.
        drop(alone);
        Box::pin(ready(()))
    });
    InboundDelivery::new(partition, body, redelivered, acknowledge)
}

/// Settles one body, or gives it back with all later ones of its partition when it is dropped.
struct Receipt {
    hand: Arc<Hand>,
    lease: Arc<Lease>,
    settled: Option<Settled>,
}

impl Receipt {
    fn settle(mut self) {
        let is_late = self.settled.take().is_some_and(|settled| !self.lease.settle(settled));
        self.hand.counters.acknowledged_late.add(u64::from(is_late));
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.settled.is_some() && !self.lease.is_over() {
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
                if let Some(next) = self.hand.poll_take(true) {
                    return next;
                }
                arrived.await;
            }
        })
    }

    fn try_next(&mut self) -> Option<InboundDelivery> {
        self.hand.poll_take(false).flatten()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.hand.close();
        self.hand.left.notify_one();
    }
}
