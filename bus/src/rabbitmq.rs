//! The bus over RabbitMQ, 3.10 and later.
//!
//! ```text
//!             publishing connection                          consuming connections
//! publish_* ─► publisher ─► roost.in.N ──(single active)──► subscription ─► hand ─► InboundConsumer
//!                       └─► roost.out.GATEWAY ──(exclusive)──► outbound ─────────► OutboundConsumer
//! ```
//! Invariants, beside those of [`Bus`]:
//! * All of it runs on one thread of its own, so that callers may poll from any runtime, or from several.
//! * A failed connection is dropped with everything on it; nothing of it is acknowledged, answered or handed out afterwards.
//! * Publishing and consuming never share a connection: the broker may stop reading from publishers.
//! * Every queue has a bound: the publishers' window and as much again, prefetch, and the limits in [`topology`].
//!
//! Deliberately absent: durable messages, and quorum queues (see the dated decision in ARCHITECTURE.md).

mod attempts;
mod confirms;
mod connection;
mod hand;
mod inbound;
mod outbound;
mod publisher;
mod subscription;
pub mod topology;
mod workers;

use std::future::ready;
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use roost_protocol::topology::{Partition, delivery_queue};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::config::BusConfig;
use crate::counters::BusCounters;
use crate::planted::{Bug, planted};
use crate::{BoxFuture, Bus, InboundConsumer, OutboundConsumer, PublishError, SharedBus};

use connection::Failure;
use hand::{Consumer, Hand};
use outbound::Opening;
use publisher::Publication;

/// The RabbitMQ adapter. Clones are the same bus; it ends with the last one, or by [`RabbitBus::close`].
#[derive(Clone)]
pub struct RabbitBus {
    inner: Arc<Inner>,
    thread: Arc<BusThread>,
}

impl std::fmt::Debug for RabbitBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitBus").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// What all tasks share.
#[derive(Debug)]
struct Inner {
    config: BusConfig,
    /// The process, as the broker shows its connections.
    name: String,
    /// Distinguishes the bodies of this process from all others.
    instance: String,
    counters: Arc<BusCounters>,
    waiting: mpsc::Sender<Publication>,
    dead_letters: OnceLock<DeadLetterWatch>,
}

/// Is shown each body that is put aside, and its partition.
pub struct DeadLetterWatch(pub Box<OnDeadLetter>);

/// What is done with the body of a dead letter.
pub type OnDeadLetter = dyn Fn(Partition, &[u8]) + Send + Sync;

impl std::fmt::Debug for DeadLetterWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeadLetterWatch")
    }
}

/// The thread's end, and how to bring it about.
#[derive(Debug)]
struct BusThread {
    consumers: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    end: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Drop for BusThread {
    fn drop(&mut self) {
        self.end.send_replace(true);
    }
}

/// Tells a task to end.
#[derive(Debug, Clone)]
struct End(watch::Receiver<bool>);

impl End {
    async fn reached(&mut self) {
        // An error: the sender has gone, which is the same.
        _ = self.0.wait_for(|is_over| *is_over).await;
    }
}

/// What the thread tells when it can serve, or why it cannot.
type Ready = Result<Arc<Inner>, Failure>;

impl RabbitBus {
    /// Connects, and declares every shared queue. `name` is shown by the broker.
    ///
    /// # Errors
    /// When the broker cannot be used; the text says what to do.
    pub async fn connect(config: BusConfig, name: &str) -> Result<Self, PublishError> {
        config.check().map_err(|error| PublishError::Refused(format!("bus.{error}")))?;
        let (tell_ready, is_ready) = oneshot::channel::<Ready>();
        let (consumers, starting) = mpsc::unbounded_channel();
        let (end, ending) = watch::channel(false);
        let (tell_ended, ended) = watch::channel(false);
        let name = name.to_owned();
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    _ = tell_ready.send(Err(Failure::Refused(format!("no runtime: {error}"))));
                    return;
                }
            };
            runtime.block_on(serve(config, name, tell_ready, starting, End(ending)));
            drop(runtime);
            tell_ended.send_replace(true);
        };
        let thread = thread::Builder::new().name("roost-bus".to_owned()).spawn(run);
        thread.map_err(|error| PublishError::Refused(format!("no thread: {error}")))?;
        let ready = is_ready.await;
        let stopped = || Failure::Lost("the bus ended at its start".to_owned());
        let inner = ready.map_err(|_| stopped())??;
        Ok(Self { inner, thread: Arc::new(BusThread { consumers, end, ended }) })
    }

    /// As both tiers take it.
    pub fn shared(&self) -> SharedBus {
        Arc::new(self.clone())
    }

    /// Shows bodies that took their worker down too often to `watch`, from now on. Only the first call counts.
    pub fn watch_dead_letters(&self, watch: DeadLetterWatch) {
        let _ = self.inner.dead_letters.set(watch);
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<BusCounters> {
        &self.inner.counters
    }

    /// Ends it: consumers get `None`, publishers `Unavailable`. Returns when the broker knows.
    pub async fn close(&self) {
        self.thread.end.send_replace(true);
        let mut ended = self.thread.ended.clone();
        _ = ended.wait_for(|is_over| *is_over).await;
    }

    fn is_closed(&self) -> bool {
        *self.thread.end.borrow()
    }
}

/// The thread's work: the publisher, and consumers as they come, until the end.
async fn serve(
    config: BusConfig,
    name: String,
    ready: oneshot::Sender<Ready>,
    mut starting: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
    mut end: End,
) {
    let (waiting, publications) = mpsc::channel(usize::from(config.unconfirmed_max));
    let instance = format!("{:016x}", fastrand::u64(..));
    let counters = Arc::new(BusCounters::default());
    let inner = Arc::new(Inner {
        config,
        name,
        instance,
        counters,
        waiting,
        dead_letters: OnceLock::new(),
    });
    let first = match publisher::open(&inner).await {
        Ok(first) => first,
        Err(failure) => {
            _ = ready.send(Err(failure));
            return;
        }
    };
    let (end_publisher, publisher_ends) = watch::channel(false);
    let publisher = publisher::run(Arc::clone(&inner), first, publications, End(publisher_ends));
    let publisher = tokio::spawn(publisher);
    _ = ready.send(Ok(inner));
    let mut consumers = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = end.reached() => break,
            Some(consumer) = starting.recv() => {
                consumers.spawn(consumer);
            }
            Some(_) = consumers.join_next(), if !consumers.is_empty() => {}
        }
    }
    // They say goodbye through the publisher.
    while consumers.join_next().await.is_some() {}
    end_publisher.send_replace(true);
    _ = publisher.await;
}

impl Inner {
    /// The name publishers know a queue by.
    fn address_of(&self, queue: &str) -> String {
        queue.strip_prefix("roost.out.").unwrap_or(queue).to_owned()
    }

    /// Hands a body to the publisher; it is in order when this returns.
    fn publish(
        &self,
        exchange: &'static str,
        key: String,
        body: Bytes,
    ) -> Result<oneshot::Receiver<Result<(), PublishError>>, PublishError> {
        let (answer, answered) = oneshot::channel();
        let mandatory = exchange.is_empty() && !planted(Bug::NoMandatory);
        let address = self.address_of(&key);
        let publication = Publication { exchange, key, body, mandatory, answer };
        self.waiting.try_send(publication).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.counters.refused_full.add(1);
                PublishError::Full(address)
            }
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        Ok(answered)
    }

    /// Publishes what is worth nothing later.
    fn publish_unanswered(&self, exchange: &'static str, body: Bytes) {
        _ = self.publish(exchange, String::new(), body);
    }

    /// Publishes to a queue, and waits for the confirm.
    async fn publish_to(&self, queue: String, body: Bytes) -> Result<(), PublishError> {
        answered(self.publish("", queue, body)?).await
    }
}

async fn answered(answer: oneshot::Receiver<Result<(), PublishError>>) -> Result<(), PublishError> {
    answer.await.unwrap_or_else(|_| Err(closed()))
}

fn closed() -> PublishError {
    PublishError::Unavailable("the bus was closed".to_owned())
}

impl RabbitBus {
    fn publish(&self, queue: String, body: Bytes) -> BoxFuture<'static, Result<(), PublishError>> {
        if self.is_closed() {
            return Box::pin(ready(Err(closed())));
        }
        match self.inner.publish("", queue, body) {
            Ok(answer) => Box::pin(answered(answer)),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn start(&self, consumer: impl Future<Output = ()> + Send + 'static) {
        // The thread may have ended: then nobody is told, which callers take for the end.
        _ = self.thread.consumers.send(Box::pin(consumer));
    }
}

impl Bus for RabbitBus {
    fn partitions(&self) -> u16 {
        self.inner.config.partitions
    }

    fn publish_inbound(
        &self,
        partition: Partition,
        body: Bytes,
    ) -> BoxFuture<'_, Result<(), PublishError>> {
        if partition.0 >= self.inner.config.partitions {
            return Box::pin(ready(Err(PublishError::Returned(partition.queue()))));
        }
        self.publish(partition.queue(), body)
    }

    fn consume_inbound(&self) -> BoxFuture<'_, Result<Box<dyn InboundConsumer>, PublishError>> {
        let (started, is_started) = oneshot::channel();
        let hand = Hand::new(Arc::clone(&self.inner.counters));
        let end = End(self.thread.end.subscribe());
        self.start(inbound::run(Arc::clone(&self.inner), Arc::clone(&hand), started, end));
        // Dropped before it is ready: the worker leaves.
        let consumer = Consumer { hand };
        Box::pin(async move {
            is_started.await.map_err(|_| closed())??;
            Ok(Box::new(consumer) as Box<dyn InboundConsumer>)
        })
    }

    fn publish_outbound<'a>(
        &'a self,
        gateway: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        self.publish(delivery_queue(gateway), body)
    }

    fn consume_outbound<'a>(
        &'a self,
        gateway: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn OutboundConsumer>, PublishError>> {
        let (started, is_started) = oneshot::channel();
        let (opening, queue) = Opening::new(Arc::clone(&self.inner), gateway, started);
        self.start(opening.run(End(self.thread.end.subscribe())));
        Box::pin(async move {
            is_started.await.map_err(|_| closed())??;
            Ok(Box::new(queue) as Box<dyn OutboundConsumer>)
        })
    }

    fn inbound_depth(&self) -> usize {
        usize::try_from(self.inner.counters.waiting.get()).unwrap_or(usize::MAX)
    }
}
