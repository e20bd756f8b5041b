//! From the shards' turns to batches on the bus, in order and without loss.
//!
//! ```text
//! records ─► open ──full, or the bus is ready──► sealed ─► unconfirmed (at most two) ─► confirmed: released
//!                                                  ▲                    │ one failed, all are answered
//!                                                  └──── go back to the first that failed, after a pause
//! ```
//! One [`Lane`] per partition. Batches size themselves: when the bus is ready a message leaves at once, alone; while two batches
//! are unconfirmed, what arrives becomes the next batch. Everything is bounded by the [`Gate`], which is released only by
//! confirms, so nothing is ever dropped here: shards are refused instead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use roost_bus::{BoxFuture, Bus, PublishError};
use roost_protocol::envelope::InboundBatchBuilder;
use roost_protocol::topology::Partition;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Phase;
use crate::config::InboundSettings;
use crate::metrics::ControlCounters;
use crate::router::Closer;
use crate::shard::inbound::{Gate, InboundSource, InboundTurn};

/// Batches of one partition that may be unconfirmed.
const UNCONFIRMED_MAX: usize = 2;
/// How soon a close that found a full mailbox is tried again.
const CLOSE_RETRY: Duration = Duration::from_millis(5);

/// A sealed batch.
#[derive(Debug)]
struct Batch {
    body: Bytes,
    messages: u64,
    /// Bytes of its records: what the gate counts.
    record_bytes: u64,
}

/// An unconfirmed batch.
#[derive(Debug)]
struct Unconfirmed {
    batch: Batch,
    ticket: u64,
    /// The bus' answer; later batches may be answered first.
    is_confirmed: Option<bool>,
}

/// One partition's order of batches. No I/O: the clock and the bus' answers are passed in.
#[derive(Debug)]
struct Lane {
    open: InboundBatchBuilder,
    open_record_bytes: u64,
    sealed: VecDeque<Batch>,
    unconfirmed: VecDeque<Unconfirmed>,
    state: LaneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Flowing,
    /// A batch failed: nothing is published until all others are answered.
    Failed {
        pause: Duration,
    },
    /// Published again from then on. `pause` was the last one, for the next failure.
    Pausing {
        until: Instant,
        pause: Duration,
    },
}

/// What was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Released {
    bytes: u64,
    messages: u64,
    batches: u64,
}

impl Lane {
    fn new(origin: &str) -> Self {
        Self {
            open: InboundBatchBuilder::new(origin),
            open_record_bytes: 0,
            sealed: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            state: LaneState::Flowing,
        }
    }

    fn push(&mut self, record: &[u8], settings: &InboundSettings) {
        let is_full = self.open.count() >= usize::from(settings.batch_messages_max)
            || self.open.bytes() as u64 + record.len() as u64 > u64::from(settings.batch_bytes_max);
        if is_full && !self.open.is_empty() {
            self.seal();
        }
        self.open.push_record(record);
        self.open_record_bytes += record.len() as u64;
    }

    fn seal(&mut self) {
        let messages = self.open.count() as u64;
        let record_bytes = std::mem::take(&mut self.open_record_bytes);
        self.sealed.push_back(Batch { body: self.open.take(), messages, record_bytes });
    }

    /// The next body to publish now, which counts as unconfirmed under `ticket`.
    fn poll_publish(&mut self, now: Instant, ticket: u64) -> Option<Bytes> {
        match self.state {
            LaneState::Flowing => {}
            LaneState::Failed { .. } => return None,
            LaneState::Pausing { until, .. } if now < until => return None,
            // One at a time until the first success: no need to repeat two of them each time.
            LaneState::Pausing { .. } if !self.unconfirmed.is_empty() => return None,
            LaneState::Pausing { .. } => {}
        }
        if self.unconfirmed.len() >= UNCONFIRMED_MAX {
            return None;
        }
        if self.sealed.is_empty() && !self.open.is_empty() {
            self.seal();
        }
        let batch = self.sealed.pop_front()?;
        let body = batch.body.clone();
        self.unconfirmed.push_back(Unconfirmed { batch, ticket, is_confirmed: None });
        Some(body)
    }

    /// Takes the bus' answer. What is released left the lane in order.
    fn handle_answer(
        &mut self,
        ticket: u64,
        is_confirmed: bool,
        now: Instant,
        settings: &InboundSettings,
    ) -> Released {
        if let Some(entry) = self.unconfirmed.iter_mut().find(|u| u.ticket == ticket) {
            entry.is_confirmed = Some(is_confirmed);
        }
        let mut released = Released::default();
        while let Some(Unconfirmed { batch, .. }) =
            self.unconfirmed.pop_front_if(|u| u.is_confirmed == Some(true))
        {
            released.bytes += batch.record_bytes;
            released.messages += batch.messages;
            released.batches += 1;
        }
        if !is_confirmed {
            let pause = match self.state {
                LaneState::Flowing => settings.retry_first,
                LaneState::Failed { pause } => pause,
                LaneState::Pausing { pause, .. } => (pause * 2).min(settings.retry_max),
            };
            self.state = LaneState::Failed { pause };
        }
        let all_answered = self.unconfirmed.iter().all(|u| u.is_confirmed.is_some());
        match self.state {
            // Go back to the first that failed; a later one that was confirmed is repeated, so that the last words are in order.
            LaneState::Failed { pause } if all_answered => {
                for Unconfirmed { batch, .. } in self.unconfirmed.drain(..).rev() {
                    self.sealed.push_front(batch);
                }
                self.state = LaneState::Pausing { until: now + pause, pause };
            }
            LaneState::Pausing { .. } if is_confirmed => self.state = LaneState::Flowing,
            LaneState::Flowing | LaneState::Failed { .. } | LaneState::Pausing { .. } => {}
        }
        released
    }

    /// When to look again without an answer of the bus.
    fn wakes_at(&self) -> Option<Instant> {
        match self.state {
            LaneState::Pausing { until, .. } if self.unconfirmed.is_empty() => Some(until),
            LaneState::Flowing | LaneState::Failed { .. } | LaneState::Pausing { .. } => None,
        }
    }

    fn is_idle(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty() && self.unconfirmed.is_empty()
    }
}

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
        }
    }

    /// Works until it is to finish and everything handed over is confirmed. Dropping the future gives up the rest.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        loop {
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
        let released = lane.handle_answer(ticket, answer.is_ok(), now, self.settings);
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

fn push_records(
    turn: &InboundTurn,
    lanes: &mut [Lane],
    ready: &mut Vec<usize>,
    settings: &InboundSettings,
) {
    for (partition, record) in turn.records() {
        let index = usize::from(partition.0);
        // Partitions were computed for this number of lanes.
        if let Some(lane) = lanes.get_mut(index) {
            lane.push(record, settings);
            if ready.last() != Some(&index) {
                ready.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_bus::in_process::{FaultRates, Faults, InProcessBus};
    use roost_protocol::FrameKind;
    use roost_protocol::envelope::{ConnectionAddress, Inbound, InboundBatch, InboundKind};

    use super::*;
    use crate::io::Waker;
    use crate::shard::inbound::{InboundQueue, inbound};

    fn settings() -> InboundSettings {
        InboundSettings { batch_messages_max: 3, ..InboundSettings::default() }
    }

    fn envelope() -> Inbound<'static> {
        Inbound {
            kind: InboundKind::Frame,
            frame_kind: FrameKind::Send,
            correlation: 0,
            connection: ConnectionAddress::default(),
            session_epoch: 1,
            received_us: 2,
            inbox_seq: 0,
            app: "demo",
            user: "alice",
            device: "d1",
        }
    }

    fn numbers(body: Bytes) -> Vec<u32> {
        let batch = InboundBatch::parse(body).unwrap();
        let number = |payload: &Bytes| u32::from_le_bytes(payload[..].try_into().unwrap());
        batch.iter().map(|record| number(&record.unwrap().1)).collect()
    }

    /// A lane with what the bus would see.
    struct Bench {
        lane: Lane,
        now: Instant,
        ticket: u64,
        next: u32,
    }

    impl Bench {
        fn new() -> Self {
            Self { lane: Lane::new("gw"), now: Instant::now(), ticket: 0, next: 0 }
        }
        fn push(&mut self, count: u32) {
            for _ in 0..count {
                let mut record = Vec::new();
                let payload = self.next.to_le_bytes();
                roost_protocol::envelope::record(&mut record, &envelope(), &payload);
                self.lane.push(&record, &settings());
                self.next += 1;
            }
        }
        fn publish(&mut self) -> Option<(u64, Vec<u32>)> {
            let body = self.lane.poll_publish(self.now, self.ticket)?;
            self.ticket += 1;
            Some((self.ticket - 1, numbers(body)))
        }
        fn answer(&mut self, ticket: u64, is_confirmed: bool) -> u64 {
            self.lane.handle_answer(ticket, is_confirmed, self.now, &settings()).messages
        }
    }

    #[test]
    fn alone_when_idle_and_in_batches_when_busy() {
        let mut b = Bench::new();
        b.push(1);
        assert_eq!(b.publish(), Some((0, vec![0])));
        b.push(1);
        assert_eq!(b.publish(), Some((1, vec![1])));
        b.push(5);
        assert_eq!(b.publish(), None, "two are unconfirmed");
        assert_eq!(b.answer(1, true), 0, "released in order only");
        assert_eq!(b.answer(0, true), 2);
        assert_eq!(b.publish(), Some((2, vec![2, 3, 4])));
        assert_eq!(b.publish(), Some((3, vec![5, 6])));
        assert_eq!((b.answer(2, true), b.answer(3, true)), (3, 2));
        assert!(b.lane.is_idle());
    }

    #[test]
    fn goes_back_to_the_first_that_failed() {
        let mut b = Bench::new();
        b.push(8);
        assert_eq!(b.publish(), Some((0, vec![0, 1, 2])));
        assert_eq!(b.publish(), Some((1, vec![3, 4, 5])));
        assert_eq!(b.answer(0, false), 0);
        assert_eq!(b.publish(), None, "the other one is not answered yet");
        assert_eq!(b.answer(1, true), 0, "it is repeated");
        assert_eq!(b.publish(), None, "a pause first");
        assert_eq!(b.lane.wakes_at(), Some(b.now + settings().retry_first));
        b.now += settings().retry_first;
        assert_eq!(b.publish(), Some((2, vec![0, 1, 2])));
        assert_eq!(b.publish(), None, "one at a time until the first success");
        assert_eq!(b.answer(2, false), 0);
        assert_eq!(b.lane.wakes_at(), Some(b.now + 2 * settings().retry_first));
        b.now += 2 * settings().retry_first;
        assert_eq!(b.publish(), Some((3, vec![0, 1, 2])));
        assert_eq!(b.answer(3, true), 3);
        assert_eq!(b.publish(), Some((4, vec![3, 4, 5])));
        assert_eq!(b.publish(), Some((5, vec![6, 7])));
        assert_eq!((b.answer(4, true), b.answer(5, true)), (3, 2));
        assert!(b.lane.is_idle());
    }

    fn push(queue: &mut InboundQueue, number: u32) {
        let partition = Partition(u16::try_from(number % 2).unwrap());
        queue.push(partition, &envelope(), &number.to_le_bytes()).unwrap();
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
