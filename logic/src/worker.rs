//! The worker: **take, handle, commit, publish, confirm, acknowledge**, in this order. No other file knows it.
//!
//! ```text
//! take         bodies that wait, up to a batch            (nothing waits: the next body alone)
//! handle       load what is not remembered, run handlers  (pure; a panic is caught per operation)
//! commit       one transaction, durable                   (nothing was said to anybody before)
//! publish      answers and pushes, per gateway            \
//! confirm      the bus has taken them                      > in a second task, while the next batch is handled
//! acknowledge  the bodies may be forgotten                /
//! ```
//! A crash anywhere before the last step has the bodies redelivered: identities make the second handling harmless, and because
//! bodies are redelivered their pushes are repeated.
//!
//! One bad operation never fails its batch: a panic quarantines the operation alone, and a batch that the database refuses is
//! bisected down to the operation that causes it. An unavailable database fails nobody for ever: sends are refused with
//! `unavailable`, watermarks are kept and tried again, and nothing is acknowledged to a client.

mod attempt;
mod operation;
mod outage;
mod outputs;
mod publisher;
mod reads;
mod tender;
mod trace;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use roost_bus::{InboundConsumer, InboundDelivery, SharedBus};
use roost_membership::SharedRoutes;
use roost_protocol::RefusalCode;
use roost_protocol::envelope::InboundBatch;
use roost_trace::{Passage, Traces};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::clock::Clock;
use crate::ids::MessageIds;
use crate::metrics::Metrics;
use crate::state::State;
use crate::store::{SharedStore, StoreError};
use attempt::Attempts;
use operation::{Item, Operation};
use outage::Outage;
use outputs::{Outputs, Refusal};
use publisher::Published;
use reads::Read;
use tender::Tender;
use trace::WorkerTrace;

/// Batches that are committed and not yet confirmed by the bus.
const PUBLISHING_MAX: usize = 4;
/// Bodies whose watermarks wait for the database to come back.
const KEPT_BODIES_MAX: usize = 64;
/// How often kept bodies are tried again.
const KEPT_RETRY: Duration = Duration::from_millis(200);
/// Batches of reads at work.
const READS_AT_WORK_MAX: usize = 4;
/// Batches of reads that wait; beyond, requests are refused as busy.
const READS_WAITING_MAX: usize = 256;
/// What a client waits before it sends again when the database is away.
const UNAVAILABLE_RETRY_MS: u32 = 1_000;

/// What a worker works with.
pub(crate) struct Parts {
    pub(crate) bus: SharedBus,
    pub(crate) routes: SharedRoutes,
    pub(crate) store: SharedStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) ids: MessageIds,
    /// Operations gathered into one transaction.
    pub(crate) batch_operations_max: usize,
    pub(crate) traces: Arc<Traces>,
    #[cfg(test)]
    pub(crate) before_handle: Option<fn(&[u8])>,
}

/// A body that was taken.
struct Body {
    batch: InboundBatch,
    delivery: InboundDelivery,
    operations: usize,
    /// Its sends were refused already, its reads answered: only watermarks are left to do.
    only_watermarks: bool,
}

/// Bodies, ascending, that were not done completely.
#[derive(Debug, Default)]
struct Failed {
    /// With watermarks left to do.
    bodies: Vec<usize>,
    given_back: Vec<usize>,
}

impl Failed {
    fn sorted(mut self) -> Self {
        self.bodies.sort_unstable();
        self.given_back.sort_unstable();
        self
    }
}

/// Whose operations a batch has, ascending.
fn partitions(bodies: &[Body]) -> Vec<u16> {
    let mut partitions: Vec<u16> = bodies.iter().map(|body| body.delivery.partition.0).collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}

/// Those of all databases; others than the first one's are given by the store before they are used.
fn ids_of_each(first: MessageIds, databases: usize) -> Vec<MessageIds> {
    let others = (1..databases).map(|_| MessageIds::new(0, 0));
    std::iter::once(first).chain(others).collect()
}

fn bodies_of(items: &[Item<'_>]) -> Vec<usize> {
    let mut bodies: Vec<usize> = items.iter().map(|item| item.body).collect();
    bodies.dedup();
    bodies
}

pub(crate) struct Worker {
    store: SharedStore,
    bus: SharedBus,
    metrics: Arc<Metrics>,
    attempts: Attempts,
    clock: Clock,
    batch_operations_max: usize,
    kept: VecDeque<Body>,
    outage: Outage,
    published: mpsc::Sender<Published>,
    tender: Tender,
    reads: Arc<Semaphore>,
    reads_waiting: Arc<Semaphore>,
}

impl Worker {
    /// Takes bodies until `stop` says so or the bus is closed; returns when everything taken is acknowledged or given back.
    pub(crate) async fn run(
        parts: Parts,
        mut consumer: Box<dyn InboundConsumer>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (published, queue) = mpsc::channel(PUBLISHING_MAX);
        let publisher = tokio::spawn(publisher::run(
            Arc::clone(&parts.bus),
            Arc::clone(&parts.routes),
            Arc::clone(&parts.metrics),
            parts.traces.writer(),
            queue,
        ));
        let mut worker = Self::new(parts, published);
        while !*stop.borrow() {
            tokio::select! {
                biased;
                changed = stop.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                delivery = consumer.next() => match delivery {
                    Some(delivery) => worker.turn(Some(delivery), consumer.as_mut()).await,
                    None => break,
                },
                () = tokio::time::sleep(KEPT_RETRY), if !worker.kept.is_empty() => {
                    worker.turn(None, consumer.as_mut()).await;
                }
            }
        }
        worker.tender.finish().await;
        drop(worker);
        let _ = publisher.await;
    }

    fn new(parts: Parts, published: mpsc::Sender<Published>) -> Self {
        let tender = Tender::start(&parts.store);
        Self {
            attempts: Attempts {
                state: State::new(),
                ids: ids_of_each(parts.ids, parts.store.databases()),
                is_unsure: false,
                store: Arc::clone(&parts.store),
                metrics: Arc::clone(&parts.metrics),
                trace: WorkerTrace::new(parts.traces.writer()),
                #[cfg(test)]
                before_handle: parts.before_handle,
            },
            store: parts.store,
            bus: parts.bus,
            metrics: parts.metrics,
            clock: parts.clock,
            batch_operations_max: parts.batch_operations_max,
            kept: VecDeque::new(),
            outage: Outage::default(),
            published,
            tender,
            reads: Arc::new(Semaphore::new(READS_AT_WORK_MAX)),
            reads_waiting: Arc::new(Semaphore::new(READS_WAITING_MAX)),
        }
    }

    /// One turn of the loop: take what waits, and do it.
    async fn turn(&mut self, first: Option<InboundDelivery>, consumer: &mut dyn InboundConsumer) {
        let mut bodies: Vec<Body> = self.kept.drain(..).collect();
        let mut operations = 0;
        let mut next = first;
        while let Some(delivery) = next {
            match InboundBatch::parse(delivery.body.clone()) {
                Ok(batch) => {
                    let count = batch.iter().count();
                    operations += count;
                    bodies.push(Body {
                        batch,
                        delivery,
                        operations: count,
                        only_watermarks: false,
                    });
                }
                Err(error) => {
                    // Of another version or damaged: nobody can be answered, and it would come again for ever.
                    tracing::error!(%error, partition = delivery.partition.0, "an inbound body was dropped");
                    self.metrics.malformed.inc();
                    delivery.acknowledge().await;
                }
            }
            next = match operations < self.batch_operations_max {
                true => consumer.try_next(),
                false => None,
            };
        }
        self.work(bodies).await;
        self.tender.wake_if_due();
    }

    async fn work(&mut self, bodies: Vec<Body>) {
        let now_ms = self.clock.now_ms();
        let origins: Vec<Arc<str>> = bodies.iter().map(|b| b.batch.origin().into()).collect();
        let (outputs, failed, taken) = {
            let records: Vec<Vec<_>> = bodies.iter().map(|b| self.records(b)).collect();
            let mut items = Vec::with_capacity(records.iter().map(Vec::len).sum());
            for (index, (body, records)) in bodies.iter().zip(&records).enumerate() {
                let redelivered = body.delivery.redelivered;
                items.extend(records.iter().map(|record| Item::read(index, redelivered, record)));
            }
            self.start_reads(&bodies, &items, &origins);
            items.retain(|item| match &item.operation {
                Operation::Send(_) => !bodies[item.body].only_watermarks,
                Operation::DeliverAck(..)
                | Operation::Receipt(..)
                | Operation::SessionClosed(_) => true,
                Operation::Read | Operation::SessionOpened => false,
                Operation::Malformed => {
                    self.metrics.malformed.inc();
                    false
                }
            });
            let taken = self.attempts.trace.taken(&items, |body| {
                let delivery = &bodies[body].delivery;
                (delivery.partition.0, delivery.redelivered)
            });
            let mut outputs = Outputs::new(now_ms);
            let failed = self.work_on(items, &partitions(&bodies), now_ms, &mut outputs).await;
            (outputs, failed, taken)
        };
        self.finish(bodies, &failed, (outputs, taken), origins).await;
    }

    /// Does what can be done. What needs a database that is away, one of several, is left out; the others are not held up by it.
    async fn work_on(
        &mut self,
        items: Vec<Item<'_>>,
        partitions: &[u16],
        now_ms: u64,
        outputs: &mut Outputs,
    ) -> Failed {
        self.attempts.is_unsure = false;
        let mut failed = Failed::default();
        let (mut items, mut away) = self.within_reach(items);
        let mut error = StoreError::Unavailable("one of the databases is away".to_owned());
        loop {
            failed.bodies.extend(self.refuse(&away, outputs, &error));
            let done = self.attempts.run(&items, partitions, now_ms, outputs).await;
            let Err((from, why)) = done else { break };
            items.drain(..from);
            if let StoreError::Fenced(_) = why {
                tracing::warn!(error = %why, "bodies are given back");
                failed.given_back.extend(bodies_of(&items));
                return failed.sorted();
            }
            error = why;
            (items, away) = self.within_reach(items);
            if away.is_empty() {
                // Nobody knows which of them it is.
                (items, away) = (Vec::new(), items);
            }
        }
        if failed.bodies.is_empty() && away.is_empty() {
            self.outage.end();
        }
        failed.sorted()
    }

    /// And the others.
    fn within_reach<'a>(&self, items: Vec<Item<'a>>) -> (Vec<Item<'a>>, Vec<Item<'a>>) {
        if self.store.databases() == 1 {
            return (items, Vec::new());
        }
        items.into_iter().partition(|item| item.is_within_reach(&*self.store))
    }

    fn records<'a>(
        &self,
        body: &'a Body,
    ) -> Vec<(roost_protocol::envelope::Inbound<'a>, bytes::Bytes)> {
        let read = |record: Result<_, roost_protocol::envelope::EnvelopeError>| {
            record.map_err(|_| self.metrics.malformed.inc()).ok()
        };
        let mut records = Vec::with_capacity(body.operations);
        records.extend(body.batch.iter().filter_map(read));
        records
    }

    /// The database is away: sends are refused for now. Returns the bodies with watermarks left to do.
    fn refuse(
        &mut self,
        items: &[Item<'_>],
        outputs: &mut Outputs,
        error: &StoreError,
    ) -> Vec<usize> {
        if items.is_empty() {
            return Vec::new();
        }
        self.metrics.store_failures.inc();
        self.outage.begin(error);
        let mut keep = Vec::new();
        for item in items {
            if let Operation::Send(input) = &item.operation {
                let refusal = Refusal {
                    code: RefusalCode::Unavailable,
                    retry_after_ms: UNAVAILABLE_RETRY_MS,
                    expected_client_seq: 0,
                    detail: "the database is away; try again later",
                };
                self.metrics.refused(refusal.code);
                self.attempts.trace.refuse_now(item, refusal.code);
                outputs.refused(item.body, item.envelope, input.send.client_msg_id, refusal);
            } else if keep.last() != Some(&item.body) {
                keep.push(item.body);
            }
        }
        keep
    }

    /// Hands what was said to the publisher, and keeps bodies with something left to do, or gives them back.
    async fn finish(
        &mut self,
        bodies: Vec<Body>,
        failed: &Failed,
        (outputs, taken): (Outputs, Vec<(usize, Passage)>),
        origins: Vec<Arc<str>>,
    ) {
        let mut deliveries = Vec::with_capacity(bodies.len());
        for (index, mut body) in bodies.into_iter().enumerate() {
            if failed.given_back.binary_search(&index).is_ok() {
                // Dropped: the bus delivers it to whoever has the partition.
                self.metrics.fenced.inc();
            } else if failed.bodies.binary_search(&index).is_err() {
                deliveries.push(body.delivery);
            } else if self.kept.len() < KEPT_BODIES_MAX {
                body.only_watermarks = true;
                self.kept.push_back(body);
            } else {
                self.metrics.dropped_watermarks.inc();
                deliveries.push(body.delivery);
            }
        }
        let is_done = |body: usize| failed.bodies.binary_search(&body).is_err();
        let acknowledged = taken.into_iter().filter(|(body, _)| is_done(*body));
        let acknowledged = acknowledged.map(|(_, passage)| passage).collect();
        // The publisher ends only after this sender is dropped.
        let _ = self.published.send(Published { outputs, origins, deliveries, acknowledged }).await;
    }

    /// Hands reads to the readers, one task per origin.
    fn start_reads(&self, bodies: &[Body], items: &[Item<'_>], origins: &[Arc<str>]) {
        let mut by_origin: Vec<(Arc<str>, Vec<Read>)> = Vec::new();
        for item in items {
            if !matches!(item.operation, Operation::Read) || bodies[item.body].only_watermarks {
                continue;
            }
            let origin = &origins[item.body];
            let read = Read::of(item);
            match by_origin.iter_mut().find(|(known, _)| known == origin) {
                Some((_, reads)) => reads.push(read),
                None => by_origin.push((Arc::clone(origin), vec![read])),
            }
        }
        for (origin, reads) in by_origin {
            self.metrics.reads.inc_by(reads.len() as u64);
            let (store, bus) = (Arc::clone(&self.store), Arc::clone(&self.bus));
            let waiting = Arc::clone(&self.reads_waiting).try_acquire_owned();
            let at_work = Arc::clone(&self.reads);
            tokio::spawn(async move {
                // A lost answer is asked for again: the outcome of the publish changes nothing.
                let publish = |body| {
                    let (bus, origin) = (Arc::clone(&bus), Arc::clone(&origin));
                    async move {
                        let _ = bus.publish_outbound(&origin, body).await;
                    }
                };
                if waiting.is_err() {
                    return publish(reads::busy(&reads)).await;
                }
                let _permit = at_work.acquire().await;
                reads::answer_all(&store, &reads, publish).await;
            });
        }
    }
}

#[cfg(test)]
mod tests;
