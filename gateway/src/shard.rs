//! A shard: one pinned thread with its own kernel driver, its connections, mailbox and timers.
//!
//! Invariants:
//! * A connection lives and dies on one shard; nothing under a shard is locked. Other threads reach it through its mailbox.
//! * A shard blocks nowhere but in [`Io::turn`], and never waits there while work is at hand.
//! * It reads no clock but [`Io::now`], once per turn.
//! * A panic on a shard aborts the process: state that one broken assumption has touched serves nobody. A peer cannot cause one.
//!
//! Reading order: [`event_loop`] (a turn), `teardown` (the end of a connection), `drain` (the end of all), `shed` (users that move).

pub(crate) mod context;
mod drain;
pub mod event_loop;
pub mod inbound;
pub mod mailbox;
pub mod message;
mod shed;
mod teardown;
pub mod timer_wheel;
pub(crate) mod trace;

use std::sync::Arc;
use std::time::Duration;

use roost_protocol::Encoder;
use roost_trace::TraceWriter;

use crate::connection::SpareActive;
use crate::connection::far;
use crate::connection::limits::{ConnectionLimits, TIMER_MS_MAX};
use crate::connection::pong::PongTemplate;
use crate::connection::table::ConnectionTable;
use crate::gateway::GatewayContext;
use crate::io::{Completion, ConnectionKey, Io};
use crate::metrics::ShardCounters;
use crate::session::inflight::AnswerTime;

use context::{Context, TurnTime};
use drain::Drain;
use inbound::InboundQueue;
use mailbox::Mailbox;
use message::ShardMessage;
use shed::Shed;
use timer_wheel::TimerWheel;
use trace::ShardTrace;

/// Resolution of all timers of connections.
const TIMER_TICK: Duration = Duration::from_millis(100);

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardParts<I: Io> {
    /// Its place among the shards of this gateway.
    pub index: u16,
    /// The kernel, or a simulation of it.
    pub io: I,
    /// Connections it may hold.
    pub connections_max: u32,
    /// Shared with all shards.
    pub gateway: Arc<GatewayContext>,
    /// From other threads.
    pub mailbox: Mailbox<ShardMessage>,
    /// To logic; woken through the mailbox's waker.
    pub inbound: InboundQueue,
    /// Read by others.
    pub counters: Arc<ShardCounters>,
}

/// See the module text.
#[derive(Debug)]
pub struct Shard<I: Io> {
    io: I,
    table: ConnectionTable,
    wheel: TimerWheel,
    mailbox: Mailbox<ShardMessage>,
    context: Context,
    drain: Drain,
    shed: Shed,
    /// To be flushed at the end of this turn.
    dirty: Vec<ConnectionKey>,
    /// Not read until there is room on the way to logic, longest first.
    waiting: std::collections::VecDeque<ConnectionKey>,
    // Memory that is used again each turn.
    completions: Vec<Completion>,
    expired: Vec<u32>,
    scratch: Vec<u8>,
}

impl<I: Io> Shard<I> {
    /// A shard without connections.
    pub fn new(parts: ShardParts<I>) -> Self {
        let ShardParts { index, io, connections_max, gateway, mailbox, inbound, counters } = parts;
        let start = io.now();
        let mut encoder = Encoder::new();
        let pong = PongTemplate::new(&mut encoder);
        let context = Context {
            limits: ConnectionLimits::from(&gateway.config),
            gateway,
            counters,
            inbound,
            encoder,
            pong,
            shard: index,
            time: TurnTime::new(start),
            is_draining: false,
            superseded: Vec::new(),
            redirect: None,
            spare: SpareActive::default(),
            answer_time: AnswerTime::default(),
            trace: ShardTrace::new(TraceWriter::off()),
        };
        Self {
            table: ConnectionTable::new(connections_max),
            wheel: TimerWheel::new(start, TIMER_TICK),
            io,
            mailbox,
            context,
            drain: Drain::default(),
            shed: Shed::default(),
            dirty: Vec::new(),
            waiting: std::collections::VecDeque::new(),
            completions: Vec::new(),
            expired: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The same, recording what it sees of traced messages.
    pub fn tracing(mut self, writer: TraceWriter) -> Self {
        self.context.trace = ShardTrace::new(writer);
        self
    }

    /// Connections it holds, open or closing.
    pub fn connections(&self) -> u32 {
        self.table.len()
    }

    /// Makes sure that the connection's timer fires within `in_ms`.
    fn arm(&mut self, key: ConnectionKey, in_ms: u32) {
        let now_ms = self.context.time.now_ms;
        let Some(connection) = self.table.get_mut(key) else { return };
        // The difference of two wrapping times, as a signed number.
        let fires_in_ms = connection.timer_ms.wrapping_sub(now_ms).cast_signed();
        if fires_in_ms > in_ms.min(TIMER_MS_MAX).cast_signed() {
            connection.timer_ms = now_ms.wrapping_add(in_ms);
            let at = self.context.time.now + Duration::from_millis(in_ms.into());
            self.wheel.schedule(key.index, at);
        }
    }

    /// Takes the connection's timer back.
    fn disarm(&mut self, key: ConnectionKey) {
        self.wheel.cancel(key.index);
        if let Some(connection) = self.table.get_mut(key) {
            connection.timer_ms = far(self.context.time.now_ms);
        }
    }

    /// Has the connection flushed at the end of this turn, if there is something to send; else lets it rest.
    fn mark_dirty(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.wants_flush() {
            if !connection.listed.dirty {
                connection.listed.dirty = true;
                self.dirty.push(key);
            }
        } else if let Some(connected) = connection.connected_mut() {
            connected.rest(&mut self.context.spare);
        }
    }
}
