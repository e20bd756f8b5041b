//! From the shards' turns to batches on the bus, in order and without loss.
//!
//! ```text
//! records ─► open ──full, or the bus is ready──► sealed ─► unconfirmed (at most two) ─► confirmed: released
//!                                                  ▲                    │ one failed, all are answered
//!                                                  └──── go back to the first that failed, after a pause
//! ```
//! One [`Lane`] per partition decides what is published when; this file is the loop around them. Batches size themselves: when the bus
//! is ready a message leaves at once, alone; while two batches are unconfirmed, what arrives becomes the next batch. Rounds of a busy
//! gateway are `publish_interval` apart. Acknowledgements of clients, half of all that arrives, wait a little for a message of their partition that takes them along. Everything is bounded by
//! the [`Gate`], which is released only by confirms, so nothing is ever dropped here: shards are refused instead.

mod lane;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use roost_bus::{BoxFuture, Bus, PublishError};
use roost_protocol::topology::Partition;
use roost_trace::{Hop, Passage, TraceWriter};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Phase;
use crate::clock::WallClock;
use crate::config::InboundSettings;
use crate::metrics::ControlCounters;
use crate::router::Closer;
use crate::shard::inbound::{Gate, InboundSource, InboundTurn, Traced};
use lane::{Lane, TracedBatch};

/// How soon a close that found a full mailbox is tried again.
const CLOSE_RETRY: Duration = Duration::from_millis(5);

type Answer = (usize, u64, Result<(), PublishError>);

/// Publishes what all shards hand over.
pub(crate) struct Publisher<'a> {
    bus: &'a dyn Bus,
    settings: &'a InboundSettings,
    gate: Arc<Gate>,
    sources: Vec<InboundSource>,
    closer: Closer,
    counters: Arc<ControlCounters>,
    lanes: Vec<Lane>,
    /// Lanes that may have something to publish now.
    ready: Vec<usize>,
    in_flight: FuturesUnordered<BoxFuture<'a, Answer>>,
    next_ticket: u64,
    /// Nothing is published before.
    next_round: Instant,
    trace: PublisherTrace<'a>,
}

impl<'a> Publisher<'a> {
    /// A publisher for the gateway `origin`.
    pub(crate) fn new(
        bus: &'a dyn Bus,
        origin: &str,
        settings: &'a InboundSettings,
        ends: (Arc<Gate>, Vec<InboundSource>),
        (closer, counters): (Closer, Arc<ControlCounters>),
    ) -> Self {
        let (gate, sources) = ends;
        Self {
            bus,
            settings,
            gate,
            sources,
            closer,
            counters,
            lanes: (0..bus.partitions()).map(|_| Lane::new(origin)).collect(),
            ready: Vec::new(),
            in_flight: FuturesUnordered::new(),
            next_ticket: 0,
            next_round: Instant::now(),
            trace: PublisherTrace { writer: TraceWriter::off(), clock: None },
        }
    }

    /// The same, recording what it sees of traced messages, by this clock.
    pub(crate) fn tracing(mut self, writer: TraceWriter, clock: &'a WallClock) -> Self {
        self.trace = PublisherTrace { writer, clock: Some(clock) };
        self
    }

    /// Works until it is to finish and everything handed over is confirmed. Dropping the future gives up the rest.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        loop {
            if Instant::now() < self.next_round {
                tokio::time::sleep_until(self.next_round).await;
            }
            let took = self.take_turns();
            self.publish_ready();
            self.take_answers();
            if took || !self.ready.is_empty() {
                // The consumer and the admin endpoint share this thread.
                tokio::task::yield_now().await;
                continue;
            }
            if *phase.borrow() != Phase::Run && self.is_idle() {
                return;
            }
            self.wait(&mut phase).await;
        }
    }

    async fn wait(&mut self, phase: &mut watch::Receiver<Phase>) {
        self.gate.prepare_wait();
        if self.sources.iter().any(|source| !source.is_empty()) {
            return;
        }
        let wakes_at = self.wakes_at();
        tokio::select! {
            biased;
            Some(answer) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                self.handle_answer(answer);
            }
            () = self.gate.wait() => {}
            () = tokio::time::sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {
                self.ready.extend(0..self.lanes.len());
            }
            _ = phase.changed() => {}
        }
    }

    fn wakes_at(&self) -> Option<Instant> {
        let closes = (!self.closer.is_empty()).then(|| Instant::now() + CLOSE_RETRY);
        self.lanes.iter().filter_map(Lane::wakes_at).chain(closes).min()
    }

    /// Batches what the shards said. False when they said nothing.
    fn take_turns(&mut self) -> bool {
        let mut took = false;
        for source in &self.sources {
            while let Some(turn) = source.pop() {
                took = true;
                for (connection, reason) in turn.closes() {
                    self.closer.close(*connection, *reason);
                }
                push_records(&turn, &mut self.lanes, &mut self.ready, self.settings);
                source.recycle(turn);
            }
        }
        self.closer.flush();
        took
    }

    fn publish_ready(&mut self) {
        let now = Instant::now();
        let mut ready = std::mem::take(&mut self.ready);
        ready.sort_unstable();
        ready.dedup();
        for index in ready.drain(..) {
            self.publish_lane(index, now);
        }
        if self.ready.is_empty() {
            self.ready = ready;
        }
    }

    fn publish_lane(&mut self, index: usize, now: Instant) {
        let Ok(number) = u16::try_from(index) else { return };
        while let Some(body) = self.lanes[index].poll_publish(now, self.next_ticket) {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.next_round = now + self.settings.publish_interval;
            if let Some(batch) = self.lanes[index].traced(ticket) {
                self.trace.record(Hop::Published, index, &batch);
            }
            let mut confirm = self.bus.publish_inbound(Partition(number), body);
            // Polled once in order, so that the bus sees the batches of a partition in order; often it answers at once.
            match (&mut confirm).now_or_never() {
                Some(answer) => self.handle_answer((index, ticket, answer)),
                None => {
                    self.in_flight.push(Box::pin(confirm.map(move |a| (index, ticket, a))));
                }
            }
        }
    }

    fn take_answers(&mut self) {
        while let Some(Some(answer)) = self.in_flight.next().now_or_never() {
            self.handle_answer(answer);
        }
    }

    fn handle_answer(&mut self, (index, ticket, answer): Answer) {
        if let Err(error) = &answer {
            self.counters.publish_failures.increment();
            tracing::warn!(partition = index, %error, "the bus did not confirm a batch; it is repeated");
        }
        let now = Instant::now();
        let lane = &mut self.lanes[index];
        if let (Err(_), Some(batch)) = (&answer, lane.traced(ticket)) {
            self.trace.record(Hop::PublishFailed, index, &batch);
        }
        let released = lane.handle_answer(ticket, answer.is_ok(), now, self.settings);
        lane.visit_confirmed(|batch| self.trace.record(Hop::PublishConfirmed, index, &batch));
        self.ready.push(index);
        if released.batches > 0 {
            self.counters.batches_published.add(released.batches);
            self.counters.messages_published.add(released.messages);
            self.gate.release(released.bytes, released.messages);
            self.sources.iter().for_each(InboundSource::offer_room);
        }
        self.counters.bus_failing.set(u64::from(answer.is_err()));
    }

    fn is_idle(&self) -> bool {
        self.lanes.iter().all(Lane::is_idle)
            && self.sources.iter().all(InboundSource::is_empty)
            && self.closer.is_empty()
    }
}

/// What the publisher records of traced messages.
struct PublisherTrace<'a> {
    writer: TraceWriter,
    /// The one of the shards, so that what they saw stands before this.
    clock: Option<&'a WallClock>,
}

impl PublisherTrace<'_> {
    fn record(&mut self, hop: Hop, partition: usize, batch: &TracedBatch<'_>) {
        let Some(clock) = self.clock else { return };
        let ns = |at: Instant| clock.wall_us(at.into_std()).saturating_mul(1_000);
        let at_ns = ns(Instant::now());
        let since_ns = if hop == Hop::PublishConfirmed { ns(batch.published_at) } else { at_ns };
        for Traced { id, received_us } in batch.traced {
            self.writer.record(&Passage {
                since_ns,
                received_us: *received_us,
                number: partition as u64,
                count: u32::try_from(batch.messages).unwrap_or(u32::MAX),
                ..Passage::new(*id, hop, at_ns)
            });
        }
    }
}

fn push_records(
    turn: &InboundTurn,
    lanes: &mut [Lane],
    ready: &mut Vec<usize>,
    settings: &InboundSettings,
) {
    let now = Instant::now();
    for record in turn.records() {
        let index = usize::from(record.partition.0);
        // Partitions were computed for this number of lanes.
        if let Some(lane) = lanes.get_mut(index) {
            lane.push(&record, now, settings);
            if ready.last() != Some(&index) {
                ready.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_bus::in_process::{FaultRates, Faults, InProcessBus};

    use super::lane::tests::{envelope, numbers, settings};
    use super::*;
    use crate::io::Waker;
    use crate::shard::inbound::{InboundQueue, inbound};

    fn push(queue: &mut InboundQueue, number: u32) {
        let partition = Partition(u16::try_from(number % 2).unwrap());
        queue.push(partition, &envelope(), &number.to_le_bytes()).unwrap();
    }

    /// A message after a quiet time leaves at once; of a busy gateway rounds leave, at most one in each interval.
    #[tokio::test(start_paused = true)]
    async fn rounds_of_a_busy_gateway_are_an_interval_apart() {
        let in_process = InProcessBus::with_capacity(1, 1_000, 1_000);
        let gate = Gate::new(1 << 24, 10_000);
        let (mut queue, source) = inbound(&gate, 1, Arc::new(Waker::new().unwrap()));
        let (phase, phases) = watch::channel(Phase::Run);
        let bus = in_process.shared();
        let settings = InboundSettings { batch_messages_max: 256, ..settings() };
        let interval = settings.publish_interval;
        let counters = Arc::new(ControlCounters::default());
        let parts = (Closer::new(Vec::new()), Arc::clone(&counters));
        let publisher = Publisher::new(&*bus, "gw", &settings, (gate, vec![source]), parts);
        let busy = async {
            let mut consumer = bus.consume_inbound().await.unwrap();
            tokio::time::sleep(interval * 10).await;
            let started = Instant::now();
            let mut left = Vec::new();
            for number in 0..100_u32 {
                queue.push(Partition(0), &envelope(), &number.to_le_bytes()).unwrap();
                queue.hand_over();
                tokio::time::sleep(interval / 2).await;
                while let Some(delivery) = consumer.try_next() {
                    left.push((started.elapsed(), numbers(delivery.body.clone()).len()));
                    delivery.acknowledge().await;
                }
            }
            phase.send(Phase::Finish).unwrap();
            left
        };
        let (left, ()) = tokio::join!(busy, publisher.run(phases));
        assert_eq!(left[0], (interval / 2, 1), "at once, alone");
        // Seen with the next tick of half an interval: two rounds are as far apart, but for one tick.
        let apart = |rounds: &[(Duration, usize)]| rounds[2].0 - rounds[0].0 >= interval * 3 / 2;
        assert!(left.windows(3).all(apart), "{left:?}");
        assert!(left.len() > 40 && left.len() <= 51, "{left:?}");
    }

    /// A bus that loses, repeats and refuses: every message arrives, and the last words of each partition are in order.
    #[test]
    fn nothing_is_lost_on_a_failing_bus() {
        const MESSAGES: u32 = 2000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let in_process = InProcessBus::with_capacity(2, 2, 2);
        let rates = FaultRates { refuse: 0.2, lose_confirm: 0.2, ..FaultRates::default() };
        in_process.set_faults(&Faults { seed: 7, inbound: rates, ..Faults::default() });
        let gate = Gate::new(1 << 24, 10_000);
        let (mut queue, source) = inbound(&gate, 2, Arc::new(Waker::new().unwrap()));
        let (phase, phases) = watch::channel(Phase::Run);
        let bus = in_process.shared();
        let settings = settings();
        let counters = Arc::new(ControlCounters::default());
        let parts = (Closer::new(Vec::new()), Arc::clone(&counters));
        let ends = (Arc::clone(&gate), vec![source]);
        let publisher = Publisher::new(&*bus, "gw", &settings, ends, parts);
        let (publishing, published) = tokio::sync::oneshot::channel();
        let mut seen = [Vec::new(), Vec::new()];
        let consume = async {
            let mut consumer = bus.consume_inbound().await.unwrap();
            for number in 0..MESSAGES {
                push(&mut queue, number);
                if number % 10 == 0 {
                    queue.hand_over();
                    tokio::task::yield_now().await;
                }
            }
            queue.hand_over();
            phase.send(Phase::Finish).unwrap();
            let (mut is_published, mut published) = (false, published);
            while !is_published || in_process.inbound_depth() > 0 {
                tokio::select! {
                    delivery = consumer.next() => {
                        let delivery = delivery.unwrap();
                        seen[usize::from(delivery.partition.0)].extend(numbers(delivery.body.clone()));
                        delivery.acknowledge().await;
                    }
                    _ = &mut published, if !is_published => is_published = true,
                }
            }
        };
        let publish = async {
            publisher.run(phases).await;
            _ = publishing.send(());
        };
        let all = async { tokio::join!(publish, consume) };
        let limit = Duration::from_secs(30);
        runtime.block_on(async { tokio::time::timeout(limit, all).await }).expect("all arrive");
        for (remainder, seen) in seen.iter().enumerate() {
            let mut last_words: Vec<u32> = Vec::new();
            for number in seen.iter().rev() {
                if !last_words.contains(number) {
                    last_words.push(*number);
                }
            }
            last_words.reverse();
            let sent = (0..MESSAGES).filter(|n| usize::try_from(n % 2).unwrap() == remainder);
            assert_eq!(last_words, sent.collect::<Vec<_>>());
        }
        assert!(counters.publish_failures.get() > 0, "the test proves something");
        assert_eq!(gate.bytes(), 0);
    }
}
