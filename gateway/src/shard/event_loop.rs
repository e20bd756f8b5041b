//! One turn of a shard: submit and wait, reap all, handle all, mailbox, timers, hand over to logic, flush each dirty outbox once.
//!
//! Nothing is handled while reaping, nothing is submitted while handling but shutdowns: what a turn wants of the kernel goes with
//! the next turn's one system call.

use std::process;
use std::time::Duration;

use roost_protocol::CloseReason;

use crate::connection::keepalive::Due;
use crate::connection::outbox::OutboxFull;
use crate::connection::receive::Reading;
use crate::connection::{Connection, State, far};
use crate::io::{AcceptedSocket, Completion, ConnectionKey, Io, ReceiveEnd, ReceivedBuffer};

use super::Shard;
use super::context::Context;
use super::message::{ShardAction, ShardItem, ShardMessage};

/// A shard without any timer looks around this often.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Mailbox items of one turn, so that sockets are not starved by a flood of batches.
const MAILBOX_ITEMS_PER_TURN: usize = 64;
/// Connections whose receive resumes in one turn, so that they do not fill the way to logic in one blow.
const RESUMES_PER_TURN: usize = 64;

/// Whether the shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Yes.
    Continue,
    /// It was told to end, and holds no connection any more.
    Finished,
}

/// Aborts the process when the shard's thread unwinds.
struct AbortOnPanic {
    shard: u16,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "roost: shard {} panicked (the message is above); the process ends so that its supervisor restarts it. \
                 This is a bug: please report it with the message.",
                self.shard
            );
            process::abort();
        }
    }
}

impl<I: Io> Shard<I> {
    /// Runs until it was told to end and every connection is closed.
    pub fn run(mut self) {
        let _guard = AbortOnPanic { shard: self.context.shard };
        while self.turn() == Turn::Continue {}
    }

    /// One turn. See the module text.
    pub fn turn(&mut self) -> Turn {
        let mut completions = std::mem::take(&mut self.completions);
        self.wait(&mut completions);
        let now = self.io.now();
        let wall_us = self.context.gateway.clock.wall_us(now);
        self.context.time.set(now, wall_us);
        for completion in completions.drain(..) {
            self.handle(completion);
        }
        self.completions = completions;
        self.take_mail();
        self.tick();
        self.resume_waiting();
        self.close_superseded();
        self.context.inbound.hand_over();
        self.flush_dirty();
        self.publish_counters();
        if self.drain.is_over() && self.table.is_empty() { Turn::Finished } else { Turn::Continue }
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        let mut wait = self.wait_max();
        // From here on a sender, or room on the way to logic, wakes us. What came before is looked for now.
        if !self.mailbox.prepare_sleep() || self.can_hand_over_more() {
            wait = Duration::ZERO;
        }
        let result = self.io.turn(wait, completions);
        self.mailbox.awake();
        if let Err(error) = result {
            eprintln!(
                "roost: shard {}: the kernel driver failed: {error}; the process ends",
                self.context.shard
            );
            process::abort();
        }
    }

    fn can_hand_over_more(&self) -> bool {
        let inbound = &self.context.inbound;
        inbound.has_place() || (!self.waiting.is_empty() && inbound.has_room())
    }

    fn wait_max(&self) -> Duration {
        let now = self.context.time.now;
        let timer = self.wheel.next_deadline().map(|at| at.saturating_duration_since(now));
        let drain = self.drain.next_in();
        let shed = self.shed.next_in(now);
        [timer, drain, shed].into_iter().flatten().min().unwrap_or(WAIT_MAX).min(WAIT_MAX)
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Received { key, buffer } => self.on_received(key, buffer),
            Completion::Sent { key, bytes, finished } => self.on_sent(key, bytes, finished),
            Completion::Accepted { socket } => self.on_accepted(socket),
            Completion::ReceiveEnded { key, end } => self.on_receive_ended(key, end),
            Completion::SendFailed { key, errno: _ } => self.on_send_failed(key),
            Completion::Released { key } => self.on_released(key),
            Completion::Woken => {}
        }
    }

    fn on_accepted(&mut self, socket: AcceptedSocket) {
        if self.context.is_draining {
            return self.io.reject(socket);
        }
        let Some(key) = self.table.open(self.context.time.now_ms) else {
            return self.io.reject(socket);
        };
        self.io.attach(socket, key);
        if let Some(connection) = self.table.get_mut(key) {
            connection.kernel.attached = true;
        }
        self.io.start_receive(key);
        self.arm(key, self.context.limits.connect_timeout_ms);
        self.context.counters.connections.increment();
    }

    fn on_received(&mut self, key: ConnectionKey, buffer: ReceivedBuffer) {
        let was_connected = self.is_connected(key);
        let result = match self.table.get_mut(key) {
            Some(connection) => {
                let bytes = self.io.received(&buffer);
                connection.receive(key, bytes, &mut self.scratch, &mut self.context)
            }
            None => Ok(Reading::Continue),
        };
        self.io.release_buffer(buffer);
        self.after_receive(key, was_connected, result);
    }

    fn is_connected(&self, key: ConnectionKey) -> bool {
        self.table.get(key).is_some_and(|c| c.connected().is_some())
    }

    fn after_receive(
        &mut self,
        key: ConnectionKey,
        was_connected: bool,
        result: Result<Reading, CloseReason>,
    ) {
        match result {
            Ok(Reading::Continue) => {}
            Ok(Reading::Pause) => self.wait_for_room(key),
            Err(reason) => return self.close(key, reason),
        }
        self.regulate_reading(key);
        self.mark_dirty(key);
        if !was_connected {
            self.on_logged_in(key);
        }
    }

    /// A session has just begun: its timer is no longer that of CONNECT.
    fn on_logged_in(&mut self, key: ConnectionKey) {
        let Some(connected) = self.table.get(key).and_then(Connection::connected) else { return };
        let limits = &self.context.limits;
        let lifetime_ms = connected.lifetime_ms(self.context.time.wall_us);
        let in_ms = lifetime_ms.min(limits.idle_timeout_ms);
        self.disarm(key);
        self.arm(key, in_ms);
    }

    fn on_sent(&mut self, key: ConnectionKey, bytes: u32, finished: bool) {
        let now_ms = self.context.time.now_ms;
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.kernel.send_submitted = !finished;
        if let Some(outbox) = connection.outbox_mut() {
            outbox.on_sent(bytes, finished, now_ms);
        }
        if let Some(connected) = connection.connected_mut() {
            connected.rest(&mut self.context.spare);
        } else if finished {
            // What waited behind this send, CLOSE last, follows with the flush below.
            self.continue_close(key, false);
        }
        self.regulate_reading(key);
        self.mark_dirty(key);
    }

    fn on_receive_ended(&mut self, key: ConnectionKey, end: ReceiveEnd) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.kernel.receive_ended = true;
        match end {
            ReceiveEnd::EndOfStream => self.close(key, CloseReason::PeerClosed),
            ReceiveEnd::Failed(_) => self.close(key, CloseReason::SocketError),
        }
        self.continue_close(key, matches!(end, ReceiveEnd::Failed(_)));
    }

    fn on_send_failed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.kernel.send_submitted = false;
        if let Some(outbox) = connection.outbox_mut() {
            outbox.on_send_failed();
        }
        self.close(key, CloseReason::SocketError);
        self.continue_close(key, true);
    }

    fn take_mail(&mut self) {
        for _ in 0..MAILBOX_ITEMS_PER_TURN {
            match self.mailbox.pop() {
                None => return,
                Some(ShardMessage::Batch(items)) => {
                    for item in items {
                        self.take_item(item);
                    }
                }
                Some(ShardMessage::Drain(plan)) => self.begin_drain(&plan),
                Some(ShardMessage::Shed(plan)) => self.begin_shed(plan),
                Some(ShardMessage::Shutdown) => self.begin_shutdown(),
            }
        }
    }

    fn take_item(&mut self, ShardItem { key, action }: ShardItem) {
        let Some(connected) = self.table.get_mut(key).and_then(Connection::connected_mut) else {
            if let ShardAction::Frame { header, payload } = action {
                let Context { trace, time, .. } = &mut self.context;
                trace.missed(header.kind, &payload, *time);
            }
            return self.context.counters.items_missed.increment();
        };
        match action {
            ShardAction::Close(reason) => self.close(key, reason),
            ShardAction::Frame { header, payload } => {
                match connected.enqueue_frame(&header, payload, &mut self.context) {
                    Ok(None) => {}
                    Ok(Some(timer_in_ms)) => self.arm(key, timer_in_ms),
                    Err(OutboxFull) => return self.close(key, CloseReason::SlowConsumer),
                }
                self.regulate_reading(key);
                self.mark_dirty(key);
            }
        }
    }

    /// Fires what is due.
    fn tick(&mut self) {
        let mut expired = std::mem::take(&mut self.expired);
        self.wheel.advance(self.context.time.now, &mut expired);
        for index in expired.drain(..) {
            if let Some(key) = self.table.key_at(index) {
                self.on_timer(key);
            }
        }
        self.expired = expired;
        self.continue_drain();
        self.continue_shed();
    }

    fn on_timer(&mut self, key: ConnectionKey) {
        let Context { limits, time, .. } = &self.context;
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.timer_ms = far(time.now_ms);
        let is_paused = connection.kernel.receive_paused;
        let due = match &mut connection.state {
            State::Free { .. } => return,
            State::AwaitConnect { held, .. } if held.is_empty() => {
                return self.close(key, CloseReason::ConnectTimeout);
            }
            // Its CONNECT came in time, and there was no room on the way to logic since.
            State::AwaitConnect { .. } => return self.close(key, CloseReason::GatewayFull),
            State::Closing(_) => return self.continue_close(key, true),
            State::Connected(connected) => {
                if is_paused {
                    connected.meter.excuse_silence(time.now_ms);
                }
                connected.poll_timer(key, limits, time.now_ms, time.wall_us)
            }
        };
        match due {
            Due::Nothing { again_in_ms } => {
                self.arm(key, again_in_ms);
                self.mark_dirty(key);
            }
            Due::Close(reason) => self.close(key, reason),
            Due::Digest { inbox_seq } => self.send_digest(key, inbox_seq),
        }
    }

    fn send_digest(&mut self, key: ConnectionKey, inbox_seq: u64) {
        let Some(connected) = self.table.get_mut(key).and_then(Connection::connected_mut) else {
            return;
        };
        self.context.counters.deliveries_unacknowledged.increment();
        let again_in_ms = self.context.limits.deliver_ack_timeout_ms;
        if connected.enqueue_digest(inbox_seq, &mut self.context).is_err() {
            return self.close(key, CloseReason::SlowConsumer);
        }
        self.arm(key, again_in_ms);
        self.mark_dirty(key);
    }

    /// One send for each connection that has something to say.
    fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.flush(key);
        }
        self.dirty = dirty;
    }

    fn flush(&mut self, key: ConnectionKey) {
        let Context { limits, encoder, counters, time, .. } = &mut self.context;
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.listed.dirty = false;
        if connection.kernel.send_submitted {
            return;
        }
        let Some(outbox) = connection.outbox_mut() else { return };
        let hints = outbox.settle(&limits.outbox, encoder);
        if hints > 0 {
            counters.hints.add(hints as u64);
        }
        let Some(buffer) = outbox.poll_send(time.now_ms) else { return };
        connection.kernel.send_submitted = true;
        self.io.submit_send(key, buffer);
        let stall_in_ms = limits.slow_consumer_timeout_ms;
        if connection.connected().is_some() {
            self.arm(key, stall_in_ms);
        }
    }

    /// Stops reading until there is room on the way to logic.
    fn wait_for_room(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if !connection.listed.waiting {
            connection.listed.waiting = true;
            self.waiting.push_back(key);
            self.context.counters.pauses.increment();
        }
    }

    fn resume_waiting(&mut self) {
        for _ in 0..RESUMES_PER_TURN.min(self.waiting.len()) {
            if !self.context.inbound.has_room() {
                return;
            }
            let Some(key) = self.waiting.pop_front() else { return };
            let Some(connection) = self.table.get_mut(key) else { continue };
            connection.listed.waiting = false;
            let was_connected = connection.connected().is_some();
            let result = connection.receive_held(key, &mut self.scratch, &mut self.context);
            self.after_receive(key, was_connected, result);
        }
    }

    /// Pauses or resumes receiving, whichever the connection's state asks for.
    pub(super) fn regulate_reading(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let limits = &self.context.limits;
        let is_waiting = connection.listed.waiting;
        let pause = match &mut connection.state {
            State::AwaitConnect { .. } => is_waiting,
            State::Connected(connected) => {
                connected.outbox_paused = connected.is_overfull(limits);
                is_waiting || connected.outbox_paused
            }
            // What a closing peer still sends is thrown away, so that it can read why.
            State::Free { .. } | State::Closing(_) => false,
        };
        if pause == connection.kernel.receive_paused {
            return;
        }
        connection.kernel.receive_paused = pause;
        if pause {
            self.io.pause_receive(key);
        } else {
            self.io.start_receive(key);
        }
    }

    fn publish_counters(&mut self) {
        let (io, counters) = (self.io.counters(), &self.context.counters);
        counters.accepted.set(io.accepted);
        counters.received_bytes.set(io.received_bytes);
        counters.sent_bytes.set(io.sent_bytes);
        counters.buffers_exhausted.set(io.buffers_exhausted);
        counters.completion_overflows.set(io.completion_overflows);
        counters.promoted.set(io.promoted);
        counters.demoted.set(io.demoted);
        counters.turns.set(io.turns);
        counters.paused_receives.set(self.waiting.len() as u64);
        counters.mailbox_depth.set(self.mailbox.len() as u64);
    }
}
