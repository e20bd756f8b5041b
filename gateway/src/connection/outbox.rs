//! What waits to be sent on one connection, bounded, in order.
//!
//! Frames of this connection alone (answers, heartbeats, the close) lie one after the other in one small buffer. A delivery
//! that others receive too is 16 bytes of own header and a shared slice. Everything that waits at the end of a turn becomes one
//! send; while that is in flight the rest waits here.
//!
//! # Limits, and what happens at each
//! * `bytes_high`: DELIVER above it is not queued. One hint per conversation is kept instead, and for more than `hints_max`
//!   conversations a single digest; they are sent once the outbox drained to `bytes_low`. The receiver pulls.
//! * A page above `bytes_high`, unless no more than `bytes_low` waits before it, is refused `busy`: [`Outbox::has_room_for_page`].
//! * `bytes_max`: other answers above it end the connection: [`OutboxFull`].
//! * No byte moved for the slow consumer timeout: judged by `keepalive` from [`Outbox::stalled_since_ms`].
//!
//! A shared slice keeps the whole body alive that it lies in. So a slice is copied when it is small, and always while a send is in
//! flight: a stalled connection pins the bodies of one send, not of everything that waits.

mod degraded;

use bytes::Bytes;
use roost_bus::planted::{Bug, planted};
use roost_protocol::frame::event::Event;
use roost_protocol::limits::HEADER_BYTES;
use roost_protocol::{Encoder, Header};

use crate::io::{GatherEntry, SendBuffer};
use degraded::Degraded;

/// Payloads up to this size are copied: cheaper than a reference count shared between cores and two more I/O vectors.
pub const COPY_BYTES_MAX: usize = 512;
/// Entries of one gathered send; two I/O vectors each, far below the kernel's limit of 1024.
const GATHER_ENTRIES_MAX: usize = 256;

/// A buffer grows by at most this much beyond what it needs.
const GROWTH_BYTES_MAX: usize = 8 * 1024;

/// Limits of an outbox, in bytes that the kernel has not taken yet.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Above it deliveries become hints, and the peer's questions are not read.
    pub bytes_high: u32,
    /// Drained to this, it owes the hints and goes on with deliveries.
    pub bytes_low: u32,
    /// Above it the connection is closed.
    pub bytes_max: u32,
    /// Conversations of which a hint is kept.
    pub hints_max: u16,
}

/// An answer did not fit below `bytes_max`: the peer asks and does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFull;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It will be sent.
    Queued,
    /// It was dropped; a hint or digest will be sent instead.
    Hinted,
}

/// The queue of one connection. Wire order: `entries`, then `own`.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Whole frames of this connection, headers included.
    own: Vec<u8>,
    entries: Vec<GatherEntry>,
    entries_bytes: u32,
    /// Bytes of the send in flight that the kernel has not taken; 0: none in flight.
    in_flight_bytes: u32,
    progress_ms: u32,
    degraded: Option<Box<Degraded>>,
}

impl Outbox {
    /// Bytes that the kernel has not taken yet.
    pub fn pending_bytes(&self) -> u32 {
        self.queued_bytes() + self.in_flight_bytes
    }

    fn queued_bytes(&self) -> u32 {
        self.entries_bytes + size(self.own.len())
    }

    /// Whether it holds nothing: no byte, no hint.
    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0 && self.degraded.is_none()
    }

    /// Whether a send could be taken.
    pub fn has_queued(&self) -> bool {
        self.queued_bytes() > 0
    }

    /// Since when the send in flight has not moved; `None` without one.
    pub fn stalled_since_ms(&self) -> Option<u32> {
        (self.in_flight_bytes > 0).then_some(self.progress_ms)
    }

    /// Heap memory it owns, without shared slices.
    pub fn memory_bytes(&self) -> usize {
        let hints = self.degraded.as_ref().map_or(0, |degraded| degraded.memory_bytes());
        self.own.capacity() + self.entries.capacity() * size_of::<GatherEntry>() + hints
    }

    /// Appends frames of this connection: `write` adds whole frames at the end of the buffer.
    pub fn enqueue_own(
        &mut self,
        limits: &OutboxLimits,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), OutboxFull> {
        write(&mut self.own);
        if self.pending_bytes() > limits.bytes_max { Err(OutboxFull) } else { Ok(()) }
    }

    /// Forgets the hints owed: CLOSE is the last frame, and the next connection begins with a sync.
    pub fn forget_hints(&mut self) {
        self.degraded = None;
    }

    /// Appends a frame whatever waits: the first, GO_AWAY and the last one.
    pub fn enqueue_always(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.own);
    }

    /// Queues a frame that must not be dropped.
    pub fn enqueue(
        &mut self,
        limits: &OutboxLimits,
        header: &Header,
        payload: Bytes,
    ) -> Result<(), OutboxFull> {
        if self.pending_bytes() + frame_bytes(&payload) > limits.bytes_max {
            return Err(OutboxFull);
        }
        self.push(header, payload);
        Ok(())
    }

    /// Whether a page may be queued: behind little that is unread, or where it stays below the watermark.
    pub fn has_room_for_page(&self, limits: &OutboxLimits, payload: &Bytes) -> bool {
        self.pending_bytes() <= limits.bytes_low
            || self.pending_bytes() + frame_bytes(payload) <= limits.bytes_high
    }

    /// Queues a DELIVER, or keeps a hint of it. Once it has to drop one it drops all until it drained, so that the hints
    /// are the newest word.
    pub fn enqueue_deliver(
        &mut self,
        limits: &OutboxLimits,
        header: &Header,
        payload: Bytes,
    ) -> Enqueued {
        let fits = self.pending_bytes() + frame_bytes(&payload) <= limits.bytes_high;
        if fits && self.degraded.is_none() {
            self.push(header, payload);
            return Enqueued::Queued;
        }
        if !planted(Bug::DropOnSlowConsumer) {
            self.degraded.get_or_insert_default().note(limits, header.inbox_seq, &payload);
        }
        Enqueued::Hinted
    }

    /// Instead of an EVENT that would go above `bytes_high`: remembers the position it announced.
    pub fn note_dropped_event(&mut self, payload: &[u8]) {
        let inbox_seq = match Event::decode(payload) {
            Ok(Event::Digest { inbox_seq } | Event::Hint { inbox_seq, .. }) => inbox_seq,
            Ok(Event::Unknown(_)) | Err(_) => return,
        };
        self.degraded.get_or_insert_default().note_position(inbox_seq);
    }

    fn push(&mut self, header: &Header, payload: Bytes) {
        if payload.len() <= COPY_BYTES_MAX || self.in_flight_bytes > 0 {
            make_room(&mut self.own, HEADER_BYTES + payload.len());
            self.own.extend_from_slice(&header.encode());
            self.own.extend_from_slice(&payload);
            return;
        }
        self.seal_own();
        self.push_entry(GatherEntry { header: header.encode(), payload });
    }

    fn push_entry(&mut self, entry: GatherEntry) {
        self.entries_bytes += size(HEADER_BYTES + entry.payload.len());
        self.entries.push(entry);
    }

    /// Moves `own` behind the entries, so that something shared can follow.
    fn seal_own(&mut self) {
        let Some((header, _)) = self.own.split_first_chunk::<HEADER_BYTES>() else { return };
        let header = *header;
        let payload = Bytes::from(std::mem::take(&mut self.own)).slice(HEADER_BYTES..);
        self.push_entry(GatherEntry { header, payload });
    }

    /// When the outbox drained enough, queues the hints owed; how many.
    pub fn settle(&mut self, limits: &OutboxLimits, encoder: &mut Encoder) -> usize {
        if self.degraded.is_none() || self.pending_bytes() > limits.bytes_low {
            return 0;
        }
        match self.degraded.take() {
            Some(degraded) => degraded.write(encoder, &mut self.own),
            None => 0,
        }
    }

    /// The next send, when none is in flight and something waits. It counts as in flight from here.
    pub fn poll_send(&mut self, now_ms: u32) -> Option<SendBuffer> {
        if self.in_flight_bytes > 0 || !self.has_queued() {
            return None;
        }
        let buffer = self.take_buffer();
        self.in_flight_bytes = size(buffer.size_bytes());
        self.progress_ms = now_ms;
        Some(buffer)
    }

    fn take_buffer(&mut self) -> SendBuffer {
        if self.entries.is_empty() {
            return SendBuffer::Owned(std::mem::take(&mut self.own));
        }
        if self.entries.len() < GATHER_ENTRIES_MAX {
            self.seal_own();
            self.entries_bytes = 0;
            return SendBuffer::Gather(std::mem::take(&mut self.entries));
        }
        let rest = self.entries.split_off(GATHER_ENTRIES_MAX);
        let buffer = SendBuffer::Gather(std::mem::replace(&mut self.entries, rest));
        self.entries_bytes -= size(buffer.size_bytes());
        buffer
    }

    /// The kernel took `bytes` of the send in flight.
    pub fn on_sent(&mut self, bytes: u32, finished: bool, now_ms: u32) {
        self.progress_ms = now_ms;
        // `finished` decides: a driver that miscounted must not leave the outbox waiting for ever.
        self.in_flight_bytes =
            if finished { 0 } else { self.in_flight_bytes.saturating_sub(bytes).max(1) };
    }

    /// The send in flight failed: nothing can be sent any more.
    pub fn on_send_failed(&mut self) {
        *self = Self::default();
    }
}

/// Grows in small steps, so that a stalled connection holds little more than what waits.
fn make_room(own: &mut Vec<u8>, bytes: usize) {
    if own.capacity() - own.len() < bytes {
        own.reserve_exact(bytes.max(own.len().min(GROWTH_BYTES_MAX)));
    }
}

fn frame_bytes(payload: &Bytes) -> u32 {
    size(HEADER_BYTES + payload.len())
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use roost_protocol::frame::deliver::Message;
    use roost_protocol::frame::send::MessageKind;
    use roost_protocol::{ClientMsgId, ConversationId, Decoder, Frame, FrameKind, UserId};

    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits {
        bytes_high: 64 * 1024,
        bytes_low: 16 * 1024,
        bytes_max: 256 * 1024,
        hints_max: 32,
    };

    fn message(conversation: &str, seq: u64, body_bytes: usize) -> Bytes {
        let message = Message {
            conversation: ConversationId::parse(conversation).unwrap(),
            seq,
            message_id: seq,
            sender: UserId::new("bob").unwrap(),
            client_msg_id: ClientMsgId([3; 16]),
            kind: MessageKind::TEXT,
            body: &vec![7; body_bytes],
            server_time_ms: 1,
        };
        Bytes::copy_from_slice(message.payload(&mut Encoder::new()))
    }

    fn deliver(outbox: &mut Outbox, inbox_seq: u64, payload: &Bytes) -> Enqueued {
        let header = Header::new(FrameKind::Deliver, 0, inbox_seq, payload.len());
        outbox.enqueue_deliver(&LIMITS, &header, payload.clone())
    }

    /// Everything an endless reader would get from here on.
    fn drain(outbox: &mut Outbox) -> Vec<u8> {
        let mut wire = Vec::new();
        loop {
            outbox.settle(&LIMITS, &mut Encoder::new());
            let Some(buffer) = outbox.poll_send(0) else { return wire };
            buffer.for_each_piece(0, |piece| {
                wire.extend_from_slice(piece);
                true
            });
            outbox.on_sent(size(buffer.size_bytes()), true, 0);
        }
    }

    #[track_caller]
    fn check_wire(wire: &[u8], expected: &[(FrameKind, u64)]) {
        let (mut decoder, mut scratch, mut input) = (Decoder::new(), Vec::new(), wire);
        decoder.set_connected();
        let mut frames = Vec::new();
        while let Some(raw) = decoder.next(&mut input, &mut scratch).unwrap() {
            let frame = Frame::decode(raw.header.kind, raw.payload).unwrap();
            let mut position = raw.header.inbox_seq;
            if let Frame::Event(Event::Hint { inbox_seq, .. } | Event::Digest { inbox_seq }) = frame
            {
                position = inbox_seq;
            }
            frames.push((raw.header.kind, position));
        }
        assert_eq!(frames, expected);
        assert_eq!(decoder.buffered_bytes(), 0);
    }

    #[test]
    fn order_holds_across_own_and_shared_frames() {
        let mut outbox = Outbox::default();
        let (small, large) = (message("s:alice:bob", 1, 20), message("s:alice:bob", 2, 4000));
        deliver(&mut outbox, 1, &small);
        deliver(&mut outbox, 2, &large);
        let ping = Header::new(FrameKind::Ping, 0, 0, 0);
        outbox.enqueue_own(&LIMITS, |own| own.extend_from_slice(&ping.encode())).unwrap();
        deliver(&mut outbox, 3, &large);
        deliver(&mut outbox, 4, &small);
        let wire = drain(&mut outbox);
        use FrameKind::{Deliver, Ping};
        check_wire(&wire, &[(Deliver, 1), (Deliver, 2), (Ping, 0), (Deliver, 3), (Deliver, 4)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn large_deliveries_are_shared_and_small_answers_are_one_plain_send() {
        let mut outbox = Outbox::default();
        let large = message("s:alice:bob", 2, 4000);
        deliver(&mut outbox, 1, &large);
        let Some(SendBuffer::Gather(entries)) = outbox.poll_send(0) else { panic!("not gathered") };
        assert_eq!(entries[0].payload.as_ptr(), large.as_ptr());
        outbox.on_sent(size(HEADER_BYTES + large.len()), true, 0);
        deliver(&mut outbox, 2, &message("s:alice:bob", 3, 20));
        assert!(matches!(outbox.poll_send(0), Some(SendBuffer::Owned(_))));
    }

    #[test]
    fn many_large_entries_take_several_sends_in_order() {
        let limits = OutboxLimits { bytes_high: u32::MAX, bytes_max: u32::MAX, ..LIMITS };
        let mut outbox = Outbox::default();
        let payload = message("s:alice:bob", 1, 600);
        let mut expected = Vec::new();
        for inbox_seq in 1..=600 {
            let header = Header::new(FrameKind::Deliver, 0, inbox_seq, payload.len());
            outbox.enqueue_deliver(&limits, &header, payload.clone());
            expected.push((FrameKind::Deliver, inbox_seq));
        }
        let pending = outbox.pending_bytes();
        let first = outbox.poll_send(0).unwrap();
        assert_eq!(outbox.pending_bytes(), pending);
        let mut wire = Vec::new();
        first.for_each_piece(0, |piece| {
            wire.extend_from_slice(piece);
            true
        });
        outbox.on_sent(size(first.size_bytes()), true, 0);
        wire.extend(drain(&mut outbox));
        check_wire(&wire, &expected);
    }

    #[test]
    fn a_stalled_outbox_keeps_one_hint_per_conversation_within_its_memory() {
        let mut outbox = Outbox::default();
        let payload = message("s:alice:bob", 9, 3000);
        let mut delivered = Vec::new();
        assert_eq!(deliver(&mut outbox, 1, &payload), Enqueued::Queued);
        let in_flight = outbox.poll_send(0).unwrap();
        for inbox_seq in 2..2000 {
            if deliver(&mut outbox, inbox_seq, &payload) == Enqueued::Queued {
                delivered.push((FrameKind::Deliver, inbox_seq));
            }
        }
        assert!(outbox.pending_bytes() <= LIMITS.bytes_high);
        assert!(outbox.memory_bytes() <= LIMITS.bytes_high as usize + GROWTH_BYTES_MAX);
        assert_eq!(delivered.len(), 19, "of about 3.2 KiB each, one more is in flight");
        outbox.on_sent(size(in_flight.size_bytes()), true, 0);
        delivered.push((FrameKind::Event, 1999));
        check_wire(&drain(&mut outbox), &delivered);
        assert!(outbox.is_empty());
        assert_eq!(deliver(&mut outbox, 2000, &payload), Enqueued::Queued);
    }

    #[test]
    fn more_conversations_than_hints_become_one_digest() {
        let mut outbox = Outbox::default();
        let large = message("s:alice:bob", 1, 60_000);
        deliver(&mut outbox, 1, &large);
        for inbox_seq in 2..=100 {
            let payload = message(&format!("s:alice:user-{inbox_seq}"), 1, 10_000);
            assert_eq!(deliver(&mut outbox, inbox_seq, &payload), Enqueued::Hinted);
        }
        assert!(outbox.memory_bytes() < 2048);
        check_wire(&drain(&mut outbox), &[(FrameKind::Deliver, 1), (FrameKind::Event, 100)]);
    }

    #[test]
    fn answers_above_the_maximum_are_refused() {
        let mut outbox = Outbox::default();
        let page = Bytes::from(vec![0; 60_000]);
        let header = Header::new(FrameKind::Response, 1, 0, page.len());
        let results: Vec<_> =
            (0..5).map(|_| outbox.enqueue(&LIMITS, &header, page.clone())).collect();
        assert_eq!(results, [Ok(()), Ok(()), Ok(()), Ok(()), Err(OutboxFull)]);
    }
}
