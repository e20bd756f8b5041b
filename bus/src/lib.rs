//! The bus between gateways and logic workers: bodies in, bodies out, with confirms and acknowledgements.
//!
//! What every adapter promises, and what users of the trait may rely on:
//! * **Order**: bodies of one partition are taken in the order in which they were confirmed to one publisher; after a
//!   redelivery the same order starts again at the first body that was not acknowledged.
//! * **At least once**: a confirmed inbound body is delivered until it is acknowledged. Bodies may repeat at any time.
//! * **One owner**: at most one consumer at a time gets bodies of a partition.
//! * **A publish that returned an error may still have happened.** Identity is in the bodies, never in the bus.
//! * **Nothing acknowledged to a client is only here**: a bus that loses everything costs latency, no message.
//!
//! Payloads are opaque here: see `roost_protocol::envelope`.

pub mod config;
pub mod counters;
pub mod in_process;
pub mod planted;
pub mod rabbitmq;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use roost_protocol::topology::Partition;

pub use config::BusConfig;
pub use counters::BusCounters;
pub use in_process::{FaultRates, Faults, InProcessBus};
pub use rabbitmq::RabbitBus;

/// A boxed future: the bus is chosen at start, and is called once per batch, not per message.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a body was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nobody consumes at the address: an unknown or dead gateway. The route is stale.
    #[error("nobody takes deliveries for {0}")]
    Returned(String),
    /// The queue is full; try again later.
    #[error("the queue of {0} is full")]
    Full(String),
    /// The connection to the broker was lost before the confirm: the outcome is unknown.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// The bus will not do it, however often it is asked; the text says what to change.
    #[error("{0}")]
    Refused(String),
}

/// A body from a partition. It is redelivered until [`InboundDelivery::acknowledge`].
pub struct InboundDelivery {
    /// Whence.
    pub partition: Partition,
    /// An inbound batch.
    pub body: Bytes,
    /// Delivered before, perhaps handled before.
    pub redelivered: bool,
    acknowledge: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
}

impl std::fmt::Debug for InboundDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboundDelivery")
            .field("partition", &self.partition)
            .field("body_bytes", &self.body.len())
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

impl InboundDelivery {
    /// For adapters: a body, and what acknowledges it.
    pub fn new(
        partition: Partition,
        body: Bytes,
        redelivered: bool,
        acknowledge: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
    ) -> Self {
        Self { partition, body, redelivered, acknowledge }
    }

    /// Everything in the body is committed and pushed: it may be forgotten. Dropping a delivery without this has it redelivered.
    pub async fn acknowledge(self) {
        (self.acknowledge)().await;
    }
}

/// Takes bodies of the partitions that this worker owns. Dropping it gives the partitions and everything unacknowledged back.
pub trait InboundConsumer: Send {
    /// The next body; `None` when the bus was closed.
    fn next(&mut self) -> BoxFuture<'_, Option<InboundDelivery>>;
    /// A body that is already here, without waiting.
    fn try_next(&mut self) -> Option<InboundDelivery>;
}

/// Takes bodies for one gateway (or API node).
pub trait OutboundConsumer: Send {
    /// The next body; `None` when the bus was closed.
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>>;
    /// A body that is already here, without waiting.
    fn try_next(&mut self) -> Option<Bytes>;
}

/// An adapter of the bus.
pub trait Bus: Send + Sync {
    /// Partitions of the inbound side.
    fn partitions(&self) -> u16;

    /// Publishes an inbound batch; resolves when the bus has taken responsibility (publisher confirm). The caller keeps at
    /// most two of one partition unconfirmed, and publishes again after an error.
    fn publish_inbound(
        &self,
        partition: Partition,
        body: Bytes,
    ) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Joins the workers. Partitions are divided over all consumers.
    fn consume_inbound(&self) -> BoxFuture<'_, Result<Box<dyn InboundConsumer>, PublishError>>;

    /// Publishes an outbound batch to a gateway's delivery queue (`mandatory`).
    fn publish_outbound<'a>(
        &'a self,
        gateway: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>>;

    /// Opens the exclusive delivery queue of `gateway`. While another one has it: within a process the second takes over from the first,
    /// over RabbitMQ the second is [`PublishError::Refused`].
    fn consume_outbound<'a>(
        &'a self,
        gateway: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn OutboundConsumer>, PublishError>>;

    /// Bodies waiting on the inbound side, for metrics.
    fn inbound_depth(&self) -> usize;
}

/// The adapter as both tiers share it.
pub type SharedBus = Arc<dyn Bus>;
