//! The bus within one process: `roost dev`, tests and benches.
//!
//! Invariants, beside those of [`Bus`]:
//! * **Order of calls**: a body is queued when `publish_*` is called, before its future is first polled, so that two
//!   publishes without an await between them keep their order.
//! * **Back-pressure is the confirm**: a partition takes every body, but withholds the confirm while it holds its capacity or more
//!   (waiting and unacknowledged together). A publisher that keeps to two unconfirmed bodies per partition is thereby stopped,
//!   its own queue fills, and shards answer `busy`. One that does not wait meets [`PublishError::Full`] at twice the capacity.
//! * **One owner**: a partition that has to move to another consumer stops delivering, and moves when everything taken from it is
//!   acknowledged or given back.
//! * **A body that is given back takes the later ones with it**: all that were taken after it from the same partition are
//!   redelivered too, in order; acknowledging those later changes nothing.
//! * A delivery queue dies with its consumer, and a successor of the same name starts with an empty one: connection addresses
//!   in old bodies mean nothing to it.
//!
//! One short lock guards each direction; nothing is polled and no timer runs unless [`Faults`] delay something. What is
//! deliberately absent: persistence, and dead-letter queues (logic quarantines by itself).

mod consumers;
mod faults;
mod outbound;
mod partitions;

use std::future::ready;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;
use roost_protocol::topology::{PARTITIONS_MAX, Partition};
use tokio::sync::oneshot;

use crate::{BoxFuture, Bus, InboundConsumer, OutboundConsumer, PublishError, SharedBus};

use consumers::{Consumer, DeliveryQueue};
use faults::{Draw, FaultSource};
pub use faults::{FaultRates, Faults};
use outbound::{Accepted, Outbound};
use partitions::{Partitions, Published};

/// Bodies a partition holds before it withholds confirms: at 64 KiB each, 32 partitions stay under 32 MiB.
pub const INBOUND_BODIES_MAX: usize = 16;
/// Bodies a delivery queue holds before it withholds confirms.
pub const OUTBOUND_BODIES_MAX: usize = 256;

/// The in-process adapter. Clones are the same bus.
#[derive(Clone)]
pub struct InProcessBus {
    shared: Arc<Shared>,
}

struct Shared {
    partitions: u16,
    inbound: Mutex<InboundSide>,
    outbound: Mutex<OutboundSide>,
}

struct InboundSide {
    partitions: Partitions,
    faults: FaultSource,
    is_closed: bool,
}

struct OutboundSide {
    queues: Outbound,
    faults: FaultSource,
    is_closed: bool,
}

impl std::fmt::Debug for InProcessBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcessBus").field("partitions", &self.shared.partitions).finish()
    }
}

impl InProcessBus {
    /// A bus of `partitions` partitions and the default capacities.
    ///
    /// # Panics
    /// With no partition, or more than [`PARTITIONS_MAX`].
    pub fn new(partitions: u16) -> Self {
        Self::with_capacity(partitions, INBOUND_BODIES_MAX, OUTBOUND_BODIES_MAX)
    }

    /// The same with other capacities: bodies per partition, and per delivery queue.
    ///
    /// # Panics
    /// With no partition, or more than [`PARTITIONS_MAX`], or a capacity of 0.
    pub fn with_capacity(
        partitions: u16,
        inbound_bodies_max: usize,
        outbound_bodies_max: usize,
    ) -> Self {
        assert!((1..=PARTITIONS_MAX).contains(&partitions), "1 to {PARTITIONS_MAX} partitions");
        assert!(inbound_bodies_max > 0 && outbound_bodies_max > 0, "a queue holds something");
        let inbound = InboundSide {
            partitions: Partitions::new(partitions, inbound_bodies_max),
            faults: FaultSource::default(),
            is_closed: false,
        };
        let outbound = OutboundSide {
            queues: Outbound::new(outbound_bodies_max),
            faults: FaultSource::default(),
            is_closed: false,
        };
        let (inbound, outbound) = (Mutex::new(inbound), Mutex::new(outbound));
        Self { shared: Arc::new(Shared { partitions, inbound, outbound }) }
    }

    /// As both tiers take it.
    pub fn shared(&self) -> SharedBus {
        Arc::new(self.clone())
    }

    /// From now on every publish meets these faults; `Faults::default()` heals the bus.
    pub fn set_faults(&self, faults: &Faults) {
        self.shared.inbound.lock().faults = FaultSource::new(faults.seed, faults.inbound);
        self.shared.outbound.lock().faults =
            FaultSource::new(faults.seed.wrapping_add(1), faults.outbound);
    }

    /// Loses every body that waits, in both directions; what is taken and unacknowledged stays.
    pub fn purge(&self) {
        self.shared.inbound.lock().partitions.purge();
        self.shared.outbound.lock().queues.purge();
    }

    /// Ends the bus: consumers get `None`, publishers `Unavailable`, unconfirmed bodies an unknown outcome.
    pub fn close(&self) {
        let inbound = {
            let mut side = self.shared.inbound.lock();
            side.is_closed = true;
            side.partitions.close()
        };
        let outbound = {
            let mut side = self.shared.outbound.lock();
            side.is_closed = true;
            side.queues.close()
        };
        wake_all(inbound);
        wake_all(outbound);
    }
}

impl Shared {
    fn publish_inbound(&self, partition: Partition, body: Bytes) -> Confirmation {
        if partition.0 >= self.partitions {
            return Confirmation::Now(Err(PublishError::Returned(partition.queue())));
        }
        let mut side = self.inbound.lock();
        if side.is_closed {
            return Confirmation::Now(Err(closed()));
        }
        let draw = side.faults.draw();
        if draw.is_refused {
            return Confirmation::Now(Err(injected()));
        }
        if draw.is_lost {
            return Confirmation::Now(Ok(()));
        }
        let is_confirm_lost = draw.is_confirm_lost;
        let (published, waker) = side.partitions.publish(partition.0, body, &draw);
        drop(side);
        wake(waker);
        match published {
            Published::Full => Confirmation::Now(Err(PublishError::Full(partition.queue()))),
            Published::Held | Published::Unconfirmed(_) if is_confirm_lost => {
                Confirmation::Now(Err(injected()))
            }
            Published::Held => Confirmation::Now(Ok(())),
            Published::Unconfirmed(confirm) => Confirmation::Later(confirm, closed()),
        }
    }

    fn publish_outbound(&self, gateway: &str, body: Bytes) -> Confirmation {
        let returned = || PublishError::Returned(gateway.to_owned());
        let mut side = self.outbound.lock();
        if side.is_closed {
            return Confirmation::Now(Err(closed()));
        }
        let Draw { is_refused, is_lost, is_confirm_lost, repeat, hold } = side.faults.draw();
        if is_refused {
            return Confirmation::Now(Err(injected()));
        }
        if is_lost && side.queues.exists(gateway) {
            return Confirmation::Now(Ok(()));
        }
        let (accepted, waker) = side.queues.publish(gateway, body, repeat.is_some(), hold);
        drop(side);
        wake(waker);
        match accepted {
            Accepted::Nobody => Confirmation::Now(Err(returned())),
            Accepted::Full => Confirmation::Now(Err(PublishError::Full(gateway.to_owned()))),
            Accepted::Held | Accepted::Unconfirmed(_) if is_confirm_lost => {
                Confirmation::Now(Err(injected()))
            }
            Accepted::Held => Confirmation::Now(Ok(())),
            Accepted::Unconfirmed(confirm) => Confirmation::Later(confirm, returned()),
        }
    }
}

impl Bus for InProcessBus {
    fn partitions(&self) -> u16 {
        self.shared.partitions
    }

    fn publish_inbound(
        &self,
        partition: Partition,
        body: Bytes,
    ) -> BoxFuture<'_, Result<(), PublishError>> {
        self.shared.publish_inbound(partition, body).future()
    }

    fn consume_inbound(&self) -> BoxFuture<'_, Result<Box<dyn InboundConsumer>, PublishError>> {
        let (id, wakers) = {
            let mut side = self.shared.inbound.lock();
            if side.is_closed {
                return Box::pin(ready(Err(closed())));
            }
            side.partitions.join()
        };
        wake_all(wakers);
        let consumer = Consumer { shared: Arc::clone(&self.shared), id };
        Box::pin(ready(Ok(Box::new(consumer) as Box<dyn InboundConsumer>)))
    }

    fn publish_outbound<'a>(
        &'a self,
        gateway: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        self.shared.publish_outbound(gateway, body).future()
    }

    fn consume_outbound<'a>(
        &'a self,
        gateway: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn OutboundConsumer>, PublishError>> {
        let (id, former) = {
            let mut side = self.shared.outbound.lock();
            if side.is_closed {
                return Box::pin(ready(Err(closed())));
            }
            side.queues.open(gateway)
        };
        wake(former);
        let queue =
            DeliveryQueue { shared: Arc::clone(&self.shared), gateway: gateway.to_owned(), id };
        Box::pin(ready(Ok(Box::new(queue) as Box<dyn OutboundConsumer>)))
    }

    fn inbound_depth(&self) -> usize {
        self.shared.inbound.lock().partitions.waiting()
    }
}

/// How a publish ends.
enum Confirmation {
    Now(Result<(), PublishError>),
    /// Confirmed when the channel says so; this error when it is dropped.
    Later(oneshot::Receiver<()>, PublishError),
}

impl Confirmation {
    fn future(self) -> BoxFuture<'static, Result<(), PublishError>> {
        match self {
            Self::Now(result) => Box::pin(ready(result)),
            Self::Later(confirm, otherwise) => {
                Box::pin(async move { confirm.await.map_err(|_| otherwise) })
            }
        }
    }
}

fn closed() -> PublishError {
    PublishError::Unavailable("the bus was closed".to_owned())
}

fn injected() -> PublishError {
    PublishError::Unavailable("injected fault".to_owned())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
