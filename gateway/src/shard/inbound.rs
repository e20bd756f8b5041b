//! The way from a shard to logic: encoded envelopes, handed to the publisher once per turn.
//!
//! ```text
//! shard: push, push, push, hand_over ──ArrayQueue──► publisher: pop, batch per partition, publish, confirm ──► release
//!        ▲ Full: busy, stop reading ◄──────────── wake when a quarter is free ◄───────────────────────────────┘
//! ```
//! Invariants:
//! * What was pushed is on its way until the bus confirmed it. All that is on its way counts against one process-wide limit of
//!   bytes and messages ([`Gate`]); a shard adds to it once per turn, so it may be passed by one turn of each shard.
//! * [`Full`] is the only refusal: the caller answers `busy` and stops reading the connection. The end of a session is never
//!   refused: there are at most as many as sessions.
//! * Order of one shard is kept. No wake-up is lost, by the argument of [`crate::io::Waker`], in both directions.

mod gate;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use roost_protocol::envelope::{self, ConnectionAddress, Inbound, InboundKind};
use roost_protocol::topology::Partition;
use roost_protocol::{ClientMsgId, CloseReason, FrameKind};

use crate::io::Waker;
use gate::Amount;
pub use gate::Gate;

/// Turns of one shard that may wait for the publisher; a shard that finds no place keeps its turn and adds to it.
const TURNS_WAITING_MAX: usize = 256;
/// A turn's memory is used again up to this size.
const TURN_BYTES_KEPT: usize = 256 * 1024;

/// The way to logic is full: answer `busy`, stop reading the connection, try again when [`InboundQueue::has_room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the way to logic is full")]
pub struct Full;

/// A traced message on its way to logic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// Which.
    pub id: ClientMsgId,
    /// When its SEND was read, microseconds since 1970.
    pub received_us: u64,
}

/// One envelope of a turn.
#[derive(Debug)]
struct Entry {
    partition: Partition,
    bytes: u32,
    may_wait: bool,
}

/// The same, as the publisher reads it.
#[derive(Debug)]
pub struct Record<'a> {
    /// Where it goes.
    pub partition: Partition,
    /// As [`envelope::record`] made it.
    pub bytes: &'a [u8],
    /// It may wait for company: nobody waits for what follows from it.
    pub may_wait: bool,
    /// The message, when it is traced.
    pub traced: Option<Traced>,
}

/// What one shard said in one turn.
#[derive(Debug, Default)]
pub struct InboundTurn {
    records: Vec<u8>,
    entries: Vec<Entry>,
    /// Traced messages among the entries, by their position, ascending.
    traced: Vec<(u32, Traced)>,
    closes: Vec<(ConnectionAddress, CloseReason)>,
    /// How much of it is in the gate's count already.
    counted: Amount,
}

impl InboundTurn {
    /// Envelopes, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = self.records.as_slice();
        let mut traced = self.traced.iter().peekable();
        self.entries.iter().zip(0u32..).map_while(move |(entry, position)| {
            let (bytes, next) = rest.split_at_checked(usize::try_from(entry.bytes).ok()?)?;
            rest = next;
            let traced = traced.next_if(|(traced, _)| *traced == position).map(|(_, t)| *t);
            Some(Record { partition: entry.partition, bytes, may_wait: entry.may_wait, traced })
        })
    }

    /// Connections of other shards to close.
    pub fn closes(&self) -> &[(ConnectionAddress, CloseReason)] {
        &self.closes
    }

    fn amount(&self) -> Amount {
        Amount { bytes: self.records.len() as u64, messages: self.entries.len() as u64 }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.closes.is_empty()
    }

    fn clear(&mut self) {
        self.records.clear();
        self.entries.clear();
        self.traced.clear();
        self.closes.clear();
        self.counted = Amount::default();
    }
}

/// Shared by one shard and the publisher.
#[derive(Debug)]
struct Link {
    handed_over: ArrayQueue<Box<InboundTurn>>,
    /// Read turns, to be filled again.
    spare: ArrayQueue<Box<InboundTurn>>,
    /// The shard found `handed_over` full and keeps its turn.
    is_holding: AtomicBool,
    /// The shard was refused by the gate.
    wants_room: AtomicBool,
    waker: Arc<Waker>,
}

/// Makes the two ends for one shard, which is woken through `waker`.
pub fn inbound(
    gate: &Arc<Gate>,
    partitions: u16,
    waker: Arc<Waker>,
) -> (InboundQueue, InboundSource) {
    let link = Arc::new(Link {
        handed_over: ArrayQueue::new(TURNS_WAITING_MAX),
        spare: ArrayQueue::new(4),
        is_holding: AtomicBool::new(false),
        wants_room: AtomicBool::new(false),
        waker,
    });
    let queue = InboundQueue {
        gate: Arc::clone(gate),
        link: Arc::clone(&link),
        turn: Box::default(),
        partitions,
    };
    (queue, InboundSource { gate: Arc::clone(gate), link })
}

/// The shard's end.
#[derive(Debug)]
pub struct InboundQueue {
    gate: Arc<Gate>,
    link: Arc<Link>,
    turn: Box<InboundTurn>,
    partitions: u16,
}

impl InboundQueue {
    /// Partitions of the bus, for [`Partition::of_conversation`] and [`Partition::of_user`].
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// Encodes one envelope into this turn.
    ///
    /// # Errors
    /// [`Full`], but never for `SessionClosed`.
    pub fn push(
        &mut self,
        partition: Partition,
        inbound: &Inbound<'_>,
        payload: &[u8],
    ) -> Result<(), Full> {
        let before = self.turn.records.len();
        if inbound.kind != InboundKind::SessionClosed && !self.admits(payload.len()) {
            return Err(Full);
        }
        envelope::record(&mut self.turn.records, inbound, payload);
        let bytes = self.turn.records.len() - before;
        self.turn.entries.push(Entry {
            partition,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            may_wait: inbound.frame_kind == FrameKind::DeliverAck,
        });
        Ok(())
    }

    /// What was pushed last is a traced message.
    pub fn trace_last(&mut self, traced: Traced) {
        let Some(last) = self.turn.entries.len().checked_sub(1) else { return };
        self.turn.traced.push((u32::try_from(last).unwrap_or(u32::MAX), traced));
    }

    /// Has a connection of another shard closed. Never refused: one per login.
    pub fn close_elsewhere(&mut self, connection: ConnectionAddress, reason: CloseReason) {
        self.turn.closes.push((connection, reason));
    }

    /// Hands everything of this turn to the publisher. Called once per turn, also when nothing was pushed: what found no place
    /// last time goes now. The shard is woken when there is place.
    pub fn hand_over(&mut self) {
        if self.turn.is_empty() {
            return;
        }
        let held = self.held();
        self.gate.add(held);
        self.turn.counted = self.turn.amount();
        let next = self.link.spare.pop().unwrap_or_default();
        let turn = std::mem::replace(&mut self.turn, next);
        if let Err(turn) = self.link.handed_over.push(turn) {
            self.link.is_holding.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if let Err(turn) = self.link.handed_over.push(turn) {
                self.turn = turn;
            }
        }
        self.gate.wake_publisher();
    }

    /// Whether connections that were paused for [`Full`] may be read again. The shard is woken when this becomes true: ask
    /// after it announced its sleep.
    pub fn has_room(&self) -> bool {
        if self.gate.has_room(self.held()) {
            return true;
        }
        self.link.wants_room.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Looked at once more: what was released before the flag was set wakes nobody.
        self.gate.has_room(self.held())
    }

    /// Whether a turn that found no place would find one now. The shard is woken when this becomes true: ask after it
    /// announced its sleep.
    pub fn has_place(&self) -> bool {
        !self.turn.is_empty() && !self.link.handed_over.is_full()
    }

    /// Of this turn, not in the gate's count yet.
    fn held(&self) -> Amount {
        let (amount, counted) = (self.turn.amount(), self.turn.counted);
        Amount { bytes: amount.bytes - counted.bytes, messages: amount.messages - counted.messages }
    }

    fn admits(&self, payload_bytes: usize) -> bool {
        let held = self.held();
        let bytes = held.bytes + payload_bytes as u64;
        self.gate.fits(Amount { bytes, messages: held.messages + 1 }) || self.has_room()
    }
}

/// The publisher's end.
#[derive(Debug)]
pub struct InboundSource {
    gate: Arc<Gate>,
    link: Arc<Link>,
}

impl InboundSource {
    /// The oldest turn. Give it back with [`recycle`](Self::recycle).
    pub fn pop(&self) -> Option<Box<InboundTurn>> {
        let turn = self.link.handed_over.pop()?;
        fence(Ordering::SeqCst);
        if self.link.is_holding.load(Ordering::Relaxed)
            && self.link.is_holding.swap(false, Ordering::AcqRel)
        {
            self.link.waker.wake();
        }
        Some(turn)
    }

    /// Whether no turn waits.
    pub fn is_empty(&self) -> bool {
        self.link.handed_over.is_empty()
    }

    /// Gives the memory of a turn back to its shard.
    pub fn recycle(&self, mut turn: Box<InboundTurn>) {
        if turn.records.capacity() <= TURN_BYTES_KEPT {
            turn.clear();
            let _ = self.link.spare.push(turn);
        }
    }

    /// Wakes the shard if it was refused and there is room again. Called after [`Gate::release`].
    pub fn offer_room(&self) {
        fence(Ordering::SeqCst);
        if self.link.wants_room.load(Ordering::Relaxed)
            && self.gate.has_room(Amount::default())
            && self.link.wants_room.swap(false, Ordering::AcqRel)
        {
            self.link.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use roost_protocol::FrameKind;

    use super::*;

    fn envelope(kind: InboundKind) -> Inbound<'static> {
        Inbound {
            kind,
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

    fn ends(bytes_max: u64, messages_max: u32) -> (Arc<Gate>, InboundQueue, InboundSource) {
        let gate = Gate::new(bytes_max, messages_max);
        let (queue, source) = inbound(&gate, 4, Arc::new(Waker::new().unwrap()));
        (gate, queue, source)
    }

    fn push(queue: &mut InboundQueue, number: u32) -> Result<(), Full> {
        queue.push(Partition(1), &envelope(InboundKind::Frame), &number.to_le_bytes())
    }

    fn numbers(turn: &InboundTurn) -> Vec<u32> {
        turn.records()
            .map(|record| u32::from_le_bytes(*record.bytes.last_chunk().unwrap()))
            .collect()
    }

    #[test]
    fn a_turn_arrives_in_order_and_counts_until_released() {
        let (gate, mut queue, source) = ends(1 << 20, 100);
        queue.hand_over();
        assert!(source.is_empty(), "nothing was said");
        for number in 0..3 {
            push(&mut queue, number).unwrap();
        }
        queue.close_elsewhere(ConnectionAddress::default(), CloseReason::Superseded);
        assert!(source.is_empty());
        queue.hand_over();
        let turn = source.pop().unwrap();
        assert_eq!(numbers(&turn), [0, 1, 2]);
        assert_eq!(turn.closes().len(), 1);
        assert_eq!((gate.messages(), gate.bytes()), (3, turn.records.len() as u64));
        gate.release(gate.bytes(), 3);
        source.recycle(turn);
        push(&mut queue, 9).unwrap();
        queue.hand_over();
        assert_eq!(numbers(&source.pop().unwrap()), [9]);
    }

    #[test]
    fn full_is_refused_until_a_quarter_is_free() {
        let (gate, mut queue, source) = ends(1 << 20, 8);
        for number in 0..8 {
            push(&mut queue, number).unwrap();
        }
        assert_eq!(push(&mut queue, 8), Err(Full), "this turn counts before it is handed over");
        queue.hand_over();
        assert_eq!(push(&mut queue, 8), Err(Full));
        queue.push(Partition(0), &envelope(InboundKind::SessionClosed), &[]).unwrap();
        queue.hand_over();
        let turn = source.pop().unwrap();
        let record_bytes = (turn.records.len() / 8) as u64;
        gate.release(3 * record_bytes, 3);
        assert!(!queue.has_room(), "6 of 8");
        gate.release(record_bytes, 1);
        assert!(queue.has_room());
        push(&mut queue, 8).unwrap();
    }

    #[test]
    fn bytes_are_limited_too() {
        let (_gate, mut queue, _source) = ends(300_000, 1000);
        let payload = vec![0; 60_000];
        let pushed = (0..10)
            .take_while(|_| {
                queue.push(Partition(0), &envelope(InboundKind::Frame), &payload).is_ok()
            })
            .count();
        assert_eq!(pushed, 4);
    }

    #[test]
    fn a_full_queue_keeps_the_turn() {
        let (_gate, mut queue, source) = ends(1 << 20, 10_000);
        let turns = u32::try_from(TURNS_WAITING_MAX).unwrap();
        for number in 0..turns + 2 {
            push(&mut queue, number).unwrap();
            queue.hand_over();
        }
        let mut seen = numbers(&source.pop().unwrap());
        queue.hand_over();
        while let Some(turn) = source.pop() {
            seen.extend(numbers(&turn));
        }
        assert_eq!(seen, (0..turns + 2).collect::<Vec<_>>());
    }

    /// The shard sleeps in `poll` whenever it is refused or holds a turn, the publisher in `wait` whenever nothing is there: a
    /// lost wake-up would hang the test.
    #[test]
    fn no_wake_up_is_lost() {
        const MESSAGES: u32 = 100_000;
        let gate = Gate::new(1 << 20, 64);
        let waker = Arc::new(Waker::new().unwrap());
        let (mut queue, source) = inbound(&gate, 4, Arc::clone(&waker));
        let shard = thread::spawn(move || {
            let mut number = 0;
            while number < MESSAGES {
                waker.awake();
                while number < MESSAGES && push(&mut queue, number).is_ok() {
                    number += 1;
                    if number.is_multiple_of(7) {
                        queue.hand_over();
                    }
                }
                queue.hand_over();
                waker.prepare_sleep();
                if number < MESSAGES && !queue.has_room() {
                    waker.wait_for_test();
                }
            }
            waker.awake();
            while !queue.turn.is_empty() {
                queue.hand_over();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut expected = 0;
        runtime.block_on(async {
            while expected < MESSAGES {
                while let Some(turn) = source.pop() {
                    for number in numbers(&turn) {
                        assert_eq!(number, expected);
                        expected += 1;
                    }
                    gate.release(turn.records.len() as u64, turn.entries.len() as u64);
                    source.recycle(turn);
                    source.offer_room();
                }
                gate.prepare_wait();
                if source.is_empty() && expected < MESSAGES {
                    gate.wait().await;
                }
            }
        });
        shard.join().unwrap();
        assert_eq!((gate.bytes(), gate.messages()), (0, 0));
    }
}
