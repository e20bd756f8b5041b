//! One partition's order of batches: which body is published next, and what follows from the bus' answers. No I/O: the clock and
//! the answers are passed in.
//!
//! Invariants: batches leave in order, at most two are unconfirmed, and after a failure everything from the first that failed is
//! published again. Nothing is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use roost_protocol::envelope::InboundBatchBuilder;
use tokio::time::Instant;

use crate::config::InboundSettings;
use crate::shard::inbound::{Record, Traced};

/// Batches of one partition that may be unconfirmed.
const UNCONFIRMED_MAX: usize = 2;

/// A sealed batch.
#[derive(Debug)]
struct Batch {
    body: Bytes,
    messages: u64,
    /// Bytes of its records: what the gate counts.
    record_bytes: u64,
    /// Traced messages in it; mostly none, without memory.
    traced: Vec<Traced>,
    /// When it was given to the bus for the first time.
    published_at: Option<Instant>,
}

/// A batch with traced messages, as the bus is given it or has confirmed it.
#[derive(Debug)]
pub(super) struct TracedBatch<'a> {
    pub(super) traced: &'a [Traced],
    pub(super) messages: u64,
    pub(super) published_at: Instant,
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
pub(super) struct Lane {
    open: InboundBatchBuilder,
    open_record_bytes: u64,
    open_traced: Vec<Traced>,
    /// When the open batch leaves at the latest, unless the bus is not ready.
    open_due: Option<Instant>,
    sealed: VecDeque<Batch>,
    unconfirmed: VecDeque<Unconfirmed>,
    /// With traced messages, until [`Lane::visit_confirmed`].
    confirmed: VecDeque<Batch>,
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
pub(super) struct Released {
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) batches: u64,
}

impl Lane {
    pub(super) fn new(origin: &str) -> Self {
        Self {
            open: InboundBatchBuilder::new(origin),
            open_record_bytes: 0,
            open_traced: Vec::new(),
            open_due: None,
            sealed: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            confirmed: VecDeque::new(),
            state: LaneState::Flowing,
        }
    }

    pub(super) fn push(&mut self, record: &Record<'_>, now: Instant, settings: &InboundSettings) {
        let &Record { bytes, may_wait, traced, .. } = record;
        let is_full = self.open.count() >= usize::from(settings.batch_messages_max)
            || self.open.bytes() as u64 + bytes.len() as u64 > u64::from(settings.batch_bytes_max);
        if is_full && !self.open.is_empty() {
            self.seal();
        }
        let due = if may_wait { now + settings.acknowledgement_wait } else { now };
        self.open_due = Some(self.open_due.map_or(due, |open_due| open_due.min(due)));
        self.open.push_record(bytes);
        self.open_record_bytes += bytes.len() as u64;
        self.open_traced.extend(traced);
    }

    fn seal(&mut self) {
        let messages = self.open.count() as u64;
        let record_bytes = std::mem::take(&mut self.open_record_bytes);
        let traced = std::mem::take(&mut self.open_traced);
        let body = self.open.take();
        self.open_due = None;
        self.sealed.push_back(Batch { body, messages, record_bytes, traced, published_at: None });
    }

    /// The next body to publish now, which counts as unconfirmed under `ticket`.
    pub(super) fn poll_publish(&mut self, now: Instant, ticket: u64) -> Option<Bytes> {
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
        if self.sealed.is_empty() && self.open_due.is_some_and(|due| due <= now) {
            self.seal();
        }
        let mut batch = self.sealed.pop_front()?;
        batch.published_at.get_or_insert(now);
        let body = batch.body.clone();
        self.unconfirmed.push_back(Unconfirmed { batch, ticket, is_confirmed: None });
        Some(body)
    }

    /// Traced messages of the batch that is published under `ticket`.
    pub(super) fn traced(&self, ticket: u64) -> Option<TracedBatch<'_>> {
        let entry = self.unconfirmed.iter().find(|u| u.ticket == ticket)?;
        traced(&entry.batch)
    }

    /// Has `visit` see the batches with traced messages that were confirmed since the last time.
    pub(super) fn visit_confirmed(&mut self, mut visit: impl FnMut(TracedBatch<'_>)) {
        self.confirmed.drain(..).for_each(|batch| {
            if let Some(batch) = traced(&batch) {
                visit(batch);
            }
        });
    }

    /// Takes the bus' answer. What is released left the lane in order.
    pub(super) fn handle_answer(
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
            if !batch.traced.is_empty() {
                self.confirmed.push_back(batch);
            }
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
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.state {
            LaneState::Pausing { until, .. } if self.unconfirmed.is_empty() => Some(until),
            LaneState::Flowing if self.unconfirmed.len() < UNCONFIRMED_MAX => self.open_due,
            LaneState::Flowing | LaneState::Failed { .. } | LaneState::Pausing { .. } => None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty() && self.unconfirmed.is_empty()
    }
}

fn traced(batch: &Batch) -> Option<TracedBatch<'_>> {
    let Batch { traced, messages, published_at, .. } = batch;
    let published_at = (*published_at).filter(|_| !traced.is_empty())?;
    Some(TracedBatch { traced, messages: *messages, published_at })
}

#[cfg(test)]
pub(super) mod tests {
    use roost_protocol::envelope::{ConnectionAddress, Inbound, InboundBatch, InboundKind};
    use roost_protocol::topology::Partition;
    use roost_protocol::{ClientMsgId, FrameKind};

    use super::*;

    pub(in super::super) fn settings() -> InboundSettings {
        InboundSettings { batch_messages_max: 3, ..InboundSettings::default() }
    }

    pub(in super::super) fn envelope() -> Inbound<'static> {
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

    pub(in super::super) fn numbers(body: Bytes) -> Vec<u32> {
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
            self.push_all(count, false);
        }
        fn push_acknowledgement(&mut self) {
            self.push_all(1, true);
        }
        fn push_all(&mut self, count: u32, may_wait: bool) {
            for _ in 0..count {
                let mut record = Vec::new();
                let payload = self.next.to_le_bytes();
                roost_protocol::envelope::record(&mut record, &envelope(), &payload);
                let traced = Traced { id: ClientMsgId([0; 16]), received_us: self.next.into() };
                let record = Record {
                    partition: Partition(0),
                    bytes: &record,
                    may_wait,
                    traced: Some(traced),
                };
                self.lane.push(&record, self.now, &settings());
                self.next += 1;
            }
        }
        fn publish(&mut self) -> Option<(u64, Vec<u32>)> {
            let body = self.lane.poll_publish(self.now, self.ticket)?;
            self.ticket += 1;
            Some((self.ticket - 1, numbers(body)))
        }
        /// Numbers of the traced messages that were confirmed since, and how long ago they were published first.
        fn confirmed(&mut self) -> Vec<(u64, Duration)> {
            let (now, mut seen) = (self.now, Vec::new());
            self.lane.visit_confirmed(|batch| {
                let ago = now - batch.published_at;
                seen.extend(batch.traced.iter().map(|traced| (traced.received_us, ago)));
            });
            seen
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
    fn an_acknowledgement_leaves_with_a_message_or_when_its_time_is_over() {
        let mut b = Bench::new();
        b.push_acknowledgement();
        let due = b.now + settings().acknowledgement_wait;
        assert_eq!((b.publish(), b.lane.wakes_at()), (None, Some(due)));
        b.push(1);
        assert_eq!(b.publish(), Some((0, vec![0, 1])));
        assert_eq!(b.lane.wakes_at(), None);
        b.push_acknowledgement();
        b.now += settings().acknowledgement_wait / 2;
        b.push_acknowledgement();
        assert_eq!(b.publish(), None);
        assert!(!b.lane.is_idle(), "a drain waits for it");
        b.now += settings().acknowledgement_wait / 2;
        assert_eq!(b.publish(), Some((1, vec![2, 3])), "as of the first");
        b.push_acknowledgement();
        assert_eq!(b.lane.wakes_at(), None, "two are unconfirmed: their answer is what counts");
        b.push(2);
        assert_eq!((b.answer(0, true), b.publish()), (2, Some((2, vec![4, 5, 6]))));
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
        assert!(b.confirmed().is_empty());
        assert_eq!(b.answer(3, true), 3);
        let since_first = 3 * settings().retry_first;
        assert_eq!(b.confirmed(), [0, 1, 2].map(|number| (number, since_first)));
        assert!(b.confirmed().is_empty(), "told once");
        assert_eq!(b.publish(), Some((4, vec![3, 4, 5])));
        assert_eq!(b.publish(), Some((5, vec![6, 7])));
        assert_eq!((b.answer(4, true), b.answer(5, true)), (3, 2));
        assert!(b.lane.is_idle());
    }
}
