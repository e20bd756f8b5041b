//! One ring's share of the ballast: opens its connections at a pace, keeps them alive, counts.
//!
//! ```text
//! Free → Opening → Waiting (CONNECT is sent) → Held
//!           ↑            │ redirected            │ lost, redirected
//!           └─ Pausing ← Closing ←───────────────┘
//!                           └─ failed → Free
//! ```
//! Invariant: a connection that was never let in is counted once, with its reason, and not tried again: a
//! server that refuses must show in the result. One that was let in comes back when the plan says so.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::{SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use roost_client::core::config::Tuning;
use roost_protocol::{Decoder, Encoder, Frame, FrameKind, Header};

use super::ring::{BallastRing, Completion, Key};
use super::way::{End, Way};
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
    /// The descriptor is given back; then it is opened again at this time, if at all.
    Closing(Option<u64>),
    /// In `due`.
    Pausing,
}

#[derive(Default)]
struct Slot {
    decoder: Decoder,
    /// Of the first opening.
    started_us: u64,
    /// When it was lost, until it is back; 0 when it is not.
    lost_us: u64,
    state: State,
    way: Way,
    /// Openings before this one.
    generation: u32,
    was_held: bool,
    /// A heartbeat is on its way, so the descriptor must not be closed yet.
    is_pinging: bool,
    /// Closes when the heartbeat is through.
    is_ending: bool,
}

/// What an agent leaves behind.
#[derive(Debug, Default)]
pub(super) struct AgentResult {
    pub(super) connect: LatencyHistogram,
    pub(super) back: LatencyHistogram,
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
    /// Connections in `Closing` that are opened again, and in `Pausing`.
    returning: u32,
    /// When connections in `Pausing` are opened again.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    heartbeats: VecDeque<(u64, Key)>,
    heartbeat_us: u64,
    tuning: Tuning,
    /// Addresses that redirects named.
    resolved: BTreeMap<String, Option<SocketAddrV4>>,
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
            returning: 0,
            due: BinaryHeap::new(),
            heartbeats: VecDeque::new(),
            heartbeat_us: u64::MAX,
            tuning: Tuning::default(),
            resolved: BTreeMap::new(),
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
            self.return_some(now_us);
            self.send_heartbeats(now_us);
            let is_settled = self.opening == 0 && self.returning == 0;
            let is_ramped = self.started as usize == self.slots.len() && is_settled;
            if is_ramped && let Some(call) = on_ramped.take() {
                call();
            }
            let is_quiet = is_ramped || (is_settled && self.counters.is_at_level());
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
            let connection = &mut self.slots[slot as usize];
            connection.started_us = now_us;
            connection.way = Way::new(self.first + u64::from(slot));
            self.open(slot);
        }
    }

    /// Opens again what is due.
    fn return_some(&mut self, now_us: u64) {
        while self.opening < OPENING_MAX
            && let Some(&Reverse((due_us, slot))) = self.due.peek()
            && due_us <= now_us
        {
            self.due.pop();
            self.returning -= 1;
            let connection = &mut self.slots[slot as usize];
            connection.generation += 1;
            connection.decoder = Decoder::default();
            self.open(slot);
        }
    }

    fn open(&mut self, slot: u32) {
        self.opening += 1;
        let connection = &mut self.slots[slot as usize];
        connection.state = State::Opening;
        let (number, generation) = (self.first + u64::from(slot), connection.generation);
        let target = connection.way.target(&self.plan.targets);
        let bytes = self.plan.connect_frame(number, &mut self.encoder);
        let source = self.plan.source_of(number, generation).filter(|_| self.ring.has_bind());
        self.ring.open(Key { slot, generation }, source, target, bytes);
    }

    fn send_heartbeats(&mut self, now_us: u64) {
        while let Some(&(due_us, key)) = self.heartbeats.front()
            && due_us <= now_us
        {
            self.heartbeats.pop_front();
            let connection = &mut self.slots[key.slot as usize];
            let is_same = connection.generation == key.generation;
            if is_same && connection.state == State::Held && !connection.is_pinging {
                connection.is_pinging = true;
                self.ring.ping(key);
                self.heartbeats.push_back((now_us.saturating_add(self.heartbeat_us), key));
            }
        }
    }

    fn on_complete(&mut self, key: Key, completion: Completion) {
        let connection = &mut self.slots[key.slot as usize];
        if connection.generation != key.generation {
            // What is left of a chain that failed.
            return;
        }
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
                    Err(End::Failed(reason)) => self.fail(key, &reason),
                    Err(End::Redirected(address)) => self.follow(key, &address),
                }
            }
            // A failed heartbeat shows at the poll as well.
            Completion::Pinged => {
                connection.is_pinging = false;
                if std::mem::take(&mut connection.is_ending) {
                    self.ring.close(key);
                }
            }
            Completion::Closed => match connection.state {
                State::Closing(Some(due_us)) => {
                    connection.state = State::Pausing;
                    self.due.push(Reverse((due_us, key.slot)));
                }
                State::Closing(None) => connection.state = State::Free,
                State::Free | State::Opening | State::Waiting | State::Held | State::Pausing => {}
            },
        }
    }

    fn on_bytes(&mut self, key: Key, bytes: &[u8]) -> Result<(), End> {
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
                    let why = format!("the server sent an invalid frame: {reason}");
                    verdict = Err(End::Failed(why));
                    break;
                }
            }
        }
        self.scratch = scratch;
        self.slots[key.slot as usize].decoder = decoder;
        verdict
    }

    fn on_frame(&mut self, key: Key, kind: FrameKind, payload: &[u8]) -> Result<(), End> {
        match kind {
            FrameKind::Connected => {
                self.on_connected(key, payload);
                Ok(())
            }
            FrameKind::Close => Err(End::Failed(match Frame::decode(kind, payload) {
                Ok(Frame::Close(close)) => {
                    format!("closed by the server: {} {}", close.reason, close.detail)
                        .trim_end()
                        .to_owned()
                }
                Ok(_) | Err(_) => "closed by the server".to_owned(),
            })),
            FrameKind::Redirect => Err(match Frame::decode(kind, payload) {
                Ok(Frame::Redirect(redirect)) => End::Redirected(redirect.address.to_owned()),
                Ok(_) | Err(_) => End::Failed("redirected to nowhere".to_owned()),
            }),
            FrameKind::GoAway => {
                Err(End::Failed("told to go away: the server is draining".to_owned()))
            }
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
        if connection.state != State::Waiting {
            return;
        }
        connection.state = State::Held;
        connection.way.arrive();
        self.opening -= 1;
        self.counters.held.fetch_add(1, Relaxed);
        if !std::mem::replace(&mut connection.was_held, true) {
            self.result.connect.record(now_us.saturating_sub(connection.started_us));
            self.counters.connected.fetch_add(1, Relaxed);
            self.counters.last_connected_us.fetch_max(now_us, Relaxed);
        }
        let lost_us = std::mem::take(&mut connection.lost_us);
        if lost_us > 0 {
            self.result.back.record(now_us.saturating_sub(lost_us));
            self.counters.back.fetch_add(1, Relaxed);
        }
        self.heartbeats.push_back((now_us.saturating_add(self.heartbeat_us), key));
    }

    fn follow(&mut self, key: Key, address: &str) {
        let Some(target) = self.resolve(address) else {
            return self.fail(key, &format!("redirected to {address}, which has no IPv4 address"));
        };
        if !self.slots[key.slot as usize].way.follow(target, &self.tuning) {
            return self.fail(key, "redirected again and again");
        }
        let now_us = self.plan.clock.now_us();
        self.leave(key, Some(now_us));
    }

    fn fail(&mut self, key: Key, reason: &str) {
        let now_us = self.plan.clock.now_us();
        let connection = &mut self.slots[key.slot as usize];
        if !matches!(connection.state, State::Opening | State::Waiting | State::Held) {
            return;
        }
        if connection.was_held && self.plan.comes_back {
            let bound = connection.way.turn_around(&self.tuning).as_micros() as u64;
            return self.leave(key, Some(now_us + fastrand::u64(0..=bound)));
        }
        self.counters.failed.fetch_add(1, Relaxed);
        *self.result.failures.entry(reason.to_owned()).or_insert(0) += 1;
        self.leave(key, None);
    }

    /// Gives the descriptor back, to be opened again at a time or never.
    fn leave(&mut self, key: Key, again_us: Option<u64>) {
        let connection = &mut self.slots[key.slot as usize];
        match connection.state {
            State::Free | State::Closing(_) | State::Pausing => return,
            State::Opening | State::Waiting => self.opening -= 1,
            State::Held => {
                connection.lost_us = self.plan.clock.now_us();
                self.counters.held.fetch_sub(1, Relaxed);
                self.counters.lost.fetch_add(1, Relaxed);
            }
        }
        connection.state = State::Closing(again_us);
        self.returning += u32::from(again_us.is_some());
        if connection.is_pinging {
            connection.is_ending = true;
        } else {
            self.ring.close(key);
        }
    }

    /// The first IPv4 address of a gateway that a redirect names; names are looked up once.
    fn resolve(&mut self, address: &str) -> Option<SocketAddrV4> {
        if let Some(known) = self.resolved.get(address) {
            return *known;
        }
        let found = address.to_socket_addrs().ok().into_iter().flatten();
        let mut of_v4 = found.filter_map(|found| match found {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        });
        let first = of_v4.next();
        self.resolved.insert(address.to_owned(), first);
        first
    }
}
