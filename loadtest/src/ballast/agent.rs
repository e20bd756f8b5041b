//! One ring's share of the ballast: opens its connections at a pace, keeps them alive, counts.
//!
//! ```text
//! Free → Opening → Waiting (CONNECT is sent) → Held → Free
//! ```
//! Invariant: a connection that fails is counted once, with its reason, and not tried again: a
//! server that refuses must show in the result.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use roost_protocol::{Decoder, Encoder, Frame, FrameKind, Header};

use super::ring::{BallastRing, Completion, Key};
use super::{BallastCounters, BallastPlan};
use crate::histogram::LatencyHistogram;

/// Connections of one ring on their way at once; more only fill the server's listen queue.
const OPENING_MAX: u32 = 256;
/// A client pings a little early.
const HEARTBEAT_SHARE: f64 = 0.9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum State {
    #[default]
    Free,
    Opening,
    Waiting,
    Held,
}

#[derive(Default)]
struct Slot {
    decoder: Decoder,
    started_us: u64,
    state: State,
    /// A heartbeat is on its way, so the descriptor must not be closed yet.
    is_pinging: bool,
    /// Closes when the heartbeat is through.
    is_ending: bool,
}

/// What an agent leaves behind.
#[derive(Debug, Default)]
pub(super) struct AgentResult {
    pub(super) connect: LatencyHistogram,
    pub(super) failures: BTreeMap<String, u64>,
}

pub(super) struct Agent {
    plan: Arc<BallastPlan>,
    counters: Arc<BallastCounters>,
    /// Number of its first connection in the whole ballast.
    first: u64,
    ring: BallastRing,
    slots: Vec<Slot>,
    started: u32,
    opening: u32,
    heartbeats: VecDeque<(u64, u32)>,
    heartbeat_us: u64,
    encoder: Encoder,
    scratch: Vec<u8>,
    result: AgentResult,
}

impl Agent {
    /// An agent for `count` connections, the first of which has the number `first`.
    pub(super) fn new(
        plan: Arc<BallastPlan>,
        counters: Arc<BallastCounters>,
        first: u64,
        count: u32,
    ) -> io::Result<Self> {
        let ping = Header::new(FrameKind::Ping, 0, 0, 0).encode();
        let ring = BallastRing::new(count, ping)?;
        Ok(Self {
            plan,
            counters,
            first,
            ring,
            slots: (0..count).map(|_| Slot::default()).collect(),
            started: 0,
            opening: 0,
            heartbeats: VecDeque::new(),
            heartbeat_us: u64::MAX,
            encoder: Encoder::default(),
            scratch: Vec::new(),
            result: AgentResult::default(),
        })
    }

    /// Runs until told to stop; `on_ramped` is called once, when no connection is left to open.
    pub(super) fn run(mut self, on_ramped: impl FnOnce()) -> io::Result<AgentResult> {
        let mut on_ramped = Some(on_ramped);
        let mut completions = Vec::new();
        while !self.counters.is_stopped.load(Relaxed) {
            let now_us = self.plan.clock.now_us();
            self.start_some(now_us);
            self.send_heartbeats(now_us);
            let is_ramped = self.started as usize == self.slots.len() && self.opening == 0;
            if is_ramped && let Some(call) = on_ramped.take() {
                call();
            }
            let is_quiet = is_ramped || (self.opening == 0 && self.counters.is_at_level());
            let pause = if is_quiet { 50 } else { 1 };
            self.ring.turn(Duration::from_millis(pause), &mut completions)?;
            for (key, completion) in completions.drain(..) {
                self.on_complete(key, completion);
            }
        }
        Ok(self.result)
    }

    fn start_some(&mut self, now_us: u64) {
        while (self.started as usize) < self.slots.len()
            && self.opening < OPENING_MAX
            && self.counters.may_start(&self.plan, now_us)
        {
            let slot = self.started;
            self.started += 1;
            self.opening += 1;
            self.slots[slot as usize].state = State::Opening;
            self.slots[slot as usize].started_us = now_us;
            let number = self.first + u64::from(slot);
            let bytes = self.plan.connect_frame(number, &mut self.encoder);
            let source = self.plan.source_of(number).filter(|_| self.ring.has_bind());
            self.ring.open(Key { slot, generation: 0 }, source, self.plan.target, bytes);
        }
    }

    fn send_heartbeats(&mut self, now_us: u64) {
        while let Some(&(due_us, slot)) = self.heartbeats.front()
            && due_us <= now_us
        {
            self.heartbeats.pop_front();
            let connection = &mut self.slots[slot as usize];
            if connection.state == State::Held && !connection.is_pinging {
                connection.is_pinging = true;
                self.ring.ping(Key { slot, generation: 0 });
                self.heartbeats.push_back((now_us.saturating_add(self.heartbeat_us), slot));
            }
        }
    }

    fn on_complete(&mut self, key: Key, completion: Completion) {
        let connection = &mut self.slots[key.slot as usize];
        match completion {
            Completion::Opened(Ok(())) => {
                connection.state = State::Waiting;
                self.ring.poll(key);
            }
            Completion::Opened(Err(e)) => self.fail(key, &format!("cannot connect: {e}")),
            Completion::Readable(Ok(())) => self.ring.receive(key),
            Completion::Readable(Err(e)) | Completion::Received(Err(e)) => {
                self.fail(key, &format!("connection lost: {e}"));
            }
            Completion::Received(Ok((buffer, 0))) => {
                self.ring.recycle(buffer);
                self.fail(key, "closed by the server without a reason");
            }
            Completion::Received(Ok((buffer, size))) => {
                let verdict = self.on_bytes(key, &buffer[..size]);
                self.ring.recycle(buffer);
                match verdict {
                    Ok(()) => self.ring.poll(key),
                    Err(reason) => self.fail(key, &reason),
                }
            }
            // A failed heartbeat shows at the poll as well.
            Completion::Pinged => {
                connection.is_pinging = false;
                if connection.is_ending {
                    self.ring.close(key);
                }
            }
            Completion::Closed => {}
        }
    }

    fn on_bytes(&mut self, key: Key, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        let mut decoder = std::mem::take(&mut self.slots[key.slot as usize].decoder);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut verdict = Ok(());
        loop {
            match decoder.next(&mut rest, &mut scratch) {
                Ok(Some(raw)) => {
                    if raw.header.kind == FrameKind::Connected {
                        decoder.set_connected();
                    }
                    verdict = self.on_frame(key, raw.header.kind, raw.payload);
                    if verdict.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(reason) => {
                    verdict = Err(format!("the server sent an invalid frame: {reason}"));
                    break;
                }
            }
        }
        self.scratch = scratch;
        self.slots[key.slot as usize].decoder = decoder;
        verdict
    }

    fn on_frame(&mut self, key: Key, kind: FrameKind, payload: &[u8]) -> Result<(), String> {
        match kind {
            FrameKind::Connected => {
                self.on_connected(key, payload);
                Ok(())
            }
            FrameKind::Close => Err(match Frame::decode(kind, payload) {
                Ok(Frame::Close(close)) => {
                    format!("closed by the server: {} {}", close.reason, close.detail)
                        .trim_end()
                        .to_owned()
                }
                Ok(_) | Err(_) => "closed by the server".to_owned(),
            }),
            FrameKind::Redirect => Err("redirected to another gateway".to_owned()),
            FrameKind::GoAway => Err("told to go away: the server is draining".to_owned()),
            // Pongs, and whatever else an idle client may be told.
            FrameKind::Connect
            | FrameKind::Ping
            | FrameKind::Pong
            | FrameKind::Send
            | FrameKind::SendAck
            | FrameKind::SendRefused
            | FrameKind::Deliver
            | FrameKind::DeliverAck
            | FrameKind::Receipt
            | FrameKind::Event
            | FrameKind::Request
            | FrameKind::Response => Ok(()),
        }
    }

    fn on_connected(&mut self, key: Key, payload: &[u8]) {
        let now_us = self.plan.clock.now_us();
        if self.heartbeat_us == u64::MAX
            && let Ok(Frame::Connected(connected)) = Frame::decode(FrameKind::Connected, payload)
        {
            let interval_us = f64::from(connected.heartbeat_interval_ms.max(1_000)) * 1e3;
            self.heartbeat_us = (interval_us * HEARTBEAT_SHARE) as u64;
        }
        let connection = &mut self.slots[key.slot as usize];
        if connection.state == State::Waiting {
            connection.state = State::Held;
            self.opening -= 1;
            self.result.connect.record(now_us.saturating_sub(connection.started_us));
            self.counters.held.fetch_add(1, Relaxed);
            self.counters.connected.fetch_add(1, Relaxed);
            self.counters.last_connected_us.fetch_max(now_us, Relaxed);
            self.heartbeats.push_back((now_us.saturating_add(self.heartbeat_us), key.slot));
        }
    }

    fn fail(&mut self, key: Key, reason: &str) {
        let connection = &mut self.slots[key.slot as usize];
        match std::mem::take(&mut connection.state) {
            State::Free => return,
            State::Opening | State::Waiting => self.opening -= 1,
            State::Held => {
                self.counters.held.fetch_sub(1, Relaxed);
            }
        }
        self.counters.failed.fetch_add(1, Relaxed);
        *self.result.failures.entry(reason.to_owned()).or_insert(0) += 1;
        if connection.is_pinging {
            connection.is_ending = true;
        } else {
            self.ring.close(key);
        }
    }
}
