//! Receiving: parked poll, one-shot receive, multishot receive, and the moves between them.
//!
//! ```text
//!          readable                bytes, 16th in a second
//!  POLL ────────────► RECEIVE ─────────────────────────────► MULTISHOT
//!   ▲                    │ bytes           first bytes after a quiet second: cancelled
//!   └────────────────────┴──────────────────────────────────────┘
//! ```
//! A one-shot receive never waits (MSG_DONTWAIT): only a busy connection holds the 864 bytes of a waiting one, and
//! a formerly busy one until its next message, at the latest its heartbeat.
//!
//! Receives are armed at the start of a turn, so that `pause_receive` during handling comes in time, and after
//! the shard gave its buffers back. A receive that found no buffer waits in the same list, and the list is
//! worked off only as far as there are buffers.
//!
//! # Why it is so
//! Messages/s of `examples/echo.rs` against the raw multishot echo of the same run, 64 bytes, one core each
//! side, Linux 6.18, medians of 4 to 5 rounds on a shared machine:
//!
//! | | 100 connections | 1,000 connections |
//! |---|---|---|
//! | multishot receive | 0.98-1.00 | 0.99-1.00 |
//! | one-shot poll, then one-shot receive | 0.92-0.97 | 0.95-0.96 |
//! | one-shot receive that waits (POLL_FIRST) | 0.92 | 0.94 |
//! | multishot poll, then one-shot receive | 1.07 | 0.99 |
//!
//! The last needs no promotion, but a multishot poll does not end when its socket is shut down: every close
//! would have to cancel it. Parking everybody one-shot would cost 5 %; the line is drawn at 16 receives a second,
//! where that begins to matter and login traffic does not reach.
//!
//! # What a cancel costs
//! It walks a 256th of the ring's waiting operations: measured 8 us with 20,000 of them, 33 us with 100,000,
//! 0.5-1.7 ms with a million, cold. Two things cancel, neither at teardown: parking a connection that was busy, within
//! a budget of half a per cent of a core, and a paused connection whose peer goes on sending.

use super::*;
use crate::io::buffer_ring::BUFFER_GROUP;
use crate::io::slot::Slot;
use crate::io::{BusyConfig, Errno, ReceiveEnd};

/// Cancels for parking per tick, times the ring's connections: half a per cent of a core at 0.4 ns per
/// connection and cancel.
const PARK_BUDGET: u32 = 12_000_000;
const PARKS_MAX: u32 = 1_000;
const PARKS_MIN: u32 = 5;

/// The coarse clock by which busy connections are recognised.
pub(super) struct BusyClock {
    config: BusyConfig,
    tick: u8,
    next_tick: Instant,
    /// Busy connections that may still be parked in this tick.
    parks_left: u32,
}

impl BusyClock {
    pub(super) fn new(config: BusyConfig, now: Instant) -> Self {
        let next_tick = now + config.tick;
        Self { config, tick: 0, next_tick, parks_left: PARKS_MIN }
    }

    /// A late call moves it by two ticks: for a connection all that matters is "this one", "the one before" or
    /// "longer ago".
    pub(super) fn advance(&mut self, now: Instant, connections: u32) {
        if now >= self.next_tick {
            let ticks = if now >= self.next_tick + self.config.tick { 2 } else { 1 };
            self.tick = self.tick.wrapping_add(ticks);
            self.next_tick = now + self.config.tick;
            self.parks_left = (PARK_BUDGET / connections.max(1)).clamp(PARKS_MIN, PARKS_MAX);
        }
    }

    /// Counts a receive of the connection and says whether it is busy: it received often in this tick or in the
    /// one before.
    fn on_receive(&self, slot: &mut Slot) -> bool {
        let ticks_ago = self.tick.wrapping_sub(slot.heat_tick);
        let was_busy = slot.heat >= self.config.receives;
        if ticks_ago == 0 {
            slot.heat = slot.heat.saturating_add(1);
            return slot.wish.any(Wish::BUSY) || slot.heat >= self.config.receives;
        }
        slot.heat_tick = self.tick;
        slot.heat = 1;
        ticks_ago == 1 && was_busy
    }
}

impl UringIo {
    pub(super) fn want_receive(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.wish.any(Wish::CLOSE.or(Wish::RECEIVE_ENDED)) {
            return;
        }
        slot.wish.set(Wish::RECEIVE);
        self.list_to_arm(key);
    }

    /// Costs nothing for a peer that stops sending by itself; see `on_bytes` for one that does not.
    pub(super) fn stop_receive(&mut self, key: ConnectionKey) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.wish.clear(Wish::RECEIVE);
        }
    }

    /// Ends the multishot receive of a live connection. Bytes it took still come.
    fn cancel_multishot(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.held.any(Held::MULTISHOT) && !slot.held.any(Held::CANCEL) {
            slot.held.set(Held::CANCEL);
            let target = UserData::Connection(ConnectionOperation::ReceiveMultishot, key).encode();
            let cancel = opcode::AsyncCancel::new(target).build();
            self.push_for(key, ConnectionOperation::Cancel, cancel);
        }
    }

    fn list_to_arm(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !slot.wish.any(Wish::LISTED) {
            slot.wish.set(Wish::LISTED);
            self.to_arm.push_back(key);
        }
    }

    /// Arms the receives that became due since the last turn, those with bytes waiting as far as there are
    /// buffers.
    pub(super) fn arm_receives(&mut self) {
        let mut buffers = self.buffers.provided();
        for _ in 0..self.to_arm.len() {
            let Some(key) = self.to_arm.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(key) else { continue };
            let takes_buffer = slot.wish.any(Wish::READABLE);
            if takes_buffer && buffers == 0 {
                self.to_arm.push_back(key);
                continue;
            }
            buffers -= usize::from(takes_buffer);
            slot.wish.clear(Wish::LISTED);
            self.arm_receive(key);
        }
    }

    fn arm_receive(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let armed = Held::POLL.or(Held::RECEIVE).or(Held::MULTISHOT);
        if !slot.wish.any(Wish::RECEIVE) || slot.held.any(armed) {
            return;
        }
        let socket = Fixed(slot.descriptor);
        let (held, operation, entry) = if slot.wish.any(Wish::BUSY) {
            let receive = opcode::RecvMulti::new(socket, BUFFER_GROUP).build();
            (Held::MULTISHOT, ConnectionOperation::ReceiveMultishot, receive)
        } else if slot.wish.any(Wish::READABLE) {
            let receive = opcode::Recv::new(socket, std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .flags(libc::MSG_DONTWAIT)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            (Held::RECEIVE, ConnectionOperation::Receive, receive)
        } else {
            let poll = opcode::PollAdd::new(socket, libc::POLLIN as u32).build();
            (Held::POLL, ConnectionOperation::Poll, poll)
        };
        slot.held.set(held);
        slot.wish.clear(Wish::READABLE);
        self.push_for(key, operation, entry);
    }

    /// A parked connection has bytes, its end, or an error: the receive will say which.
    pub(super) fn on_readable(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.wish.set(Wish::READABLE);
        self.on_ended(key, Held::POLL);
        self.list_to_arm(key);
    }

    pub(super) fn on_received(
        &mut self,
        key: ConnectionKey,
        operation: Held,
        cqe: Cqe,
        completions: &mut Vec<Completion>,
    ) {
        let buffer = cqueue::buffer_select(cqe.flags);
        if buffer.is_some() {
            self.buffers.on_taken();
        }
        let Some(slot) = self.slots.get_mut(key) else {
            debug_assert!(false, "receive of a connection that is not attached");
            return self.return_buffer(buffer);
        };
        let goes_on = cqueue::more(cqe.flags);
        if !goes_on {
            slot.held.clear(operation);
        }
        if slot.wish.any(Wish::CLOSE) {
            self.return_buffer(buffer);
            return self.close_when_idle(key);
        }
        match (u32::try_from(cqe.result), buffer) {
            (Ok(bytes @ 1..), Some(id)) => {
                self.on_bytes(key, bytes, cqueue::sock_nonempty(cqe.flags));
                let buffer = ReceivedBuffer { id, bytes };
                completions.push(Completion::Received { key, buffer });
            }
            (Ok(_), _) => {
                self.return_buffer(buffer);
                self.end_receive(key, ReceiveEnd::EndOfStream, completions);
            }
            (Err(_), _) => self.on_receive_error(key, Errno(-cqe.result), completions),
        }
        if !goes_on {
            self.list_to_arm(key);
        }
    }

    fn on_bytes(&mut self, key: ConnectionKey, bytes: u32, nonempty: bool) {
        self.counters.receives += 1;
        self.counters.received_bytes += u64::from(bytes);
        let Some(slot) = self.slots.get_mut(key) else { return };
        if nonempty {
            slot.wish.set(Wish::READABLE);
        }
        let mut ends_multishot = !slot.wish.any(Wish::RECEIVE);
        match (slot.wish.any(Wish::BUSY), self.busy.on_receive(slot)) {
            (false, true) => {
                slot.wish.set(Wish::BUSY);
                self.counters.promoted += 1;
            }
            (true, false) if self.busy.parks_left > 0 => {
                self.busy.parks_left -= 1;
                slot.wish.clear(Wish::BUSY);
                self.counters.demoted += 1;
                ends_multishot = true;
            }
            (true, _) | (false, false) => {}
        }
        if ends_multishot {
            self.cancel_multishot(key);
        }
    }

    fn on_receive_error(
        &mut self,
        key: ConnectionKey,
        errno: Errno,
        completions: &mut Vec<Completion>,
    ) {
        match errno.0 {
            libc::ENOBUFS => {
                self.counters.buffers_exhausted += 1;
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.wish.set(Wish::READABLE);
                }
            }
            // Cancelled to park or to pause, or nothing there after all: armed again if still wanted.
            libc::ECANCELED | libc::EAGAIN | libc::EINTR => {}
            _ => self.end_receive(key, ReceiveEnd::Failed(errno), completions),
        }
    }

    fn end_receive(
        &mut self,
        key: ConnectionKey,
        end: ReceiveEnd,
        completions: &mut Vec<Completion>,
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.wish.clear(Wish::RECEIVE);
        if !slot.wish.any(Wish::RECEIVE_ENDED) {
            slot.wish.set(Wish::RECEIVE_ENDED);
            completions.push(Completion::ReceiveEnded { key, end });
        }
    }

    fn return_buffer(&mut self, buffer: Option<u16>) {
        if let Some(id) = buffer {
            self.buffers.release(id);
        }
    }
}
