//! What handling an event of one connection needs beside that connection.
//!
//! Apart from the table, so that a connection can be borrowed while its event is handled. The time is read once per turn.

use std::sync::Arc;
use std::time::Instant;

use roost_protocol::envelope::{Inbound, InboundKind};
use roost_protocol::topology::Partition;
use roost_protocol::{Encoder, FrameKind};

use crate::connection::SpareActive;
use crate::connection::limits::ConnectionLimits;
use crate::connection::pong::PongTemplate;
use crate::gateway::GatewayContext;
use crate::metrics::ShardCounters;
use crate::session::SessionIdentity;
use crate::session::inflight::AnswerTime;

use super::inbound::{Full, InboundQueue};
use super::trace::ShardTrace;

/// See the module text.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) gateway: Arc<GatewayContext>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) counters: Arc<ShardCounters>,
    pub(crate) inbound: InboundQueue,
    pub(crate) encoder: Encoder,
    pub(crate) pong: PongTemplate,
    /// Index of this shard.
    pub(crate) shard: u16,
    pub(crate) time: TurnTime,
    /// Nobody new is let in.
    pub(crate) is_draining: bool,
    /// Sessions of this shard that a newer one of the same device took over from.
    pub(crate) superseded: Vec<SessionIdentity>,
    /// Where the connection that is about to be closed with `redirected` should go.
    pub(crate) redirect: Option<Arc<str>>,
    pub(crate) spare: SpareActive,
    pub(crate) answer_time: AnswerTime,
    pub(crate) trace: ShardTrace,
}

/// The time of this turn, in the three forms that are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnTime {
    /// When the shard started.
    start: Instant,
    pub(crate) now: Instant,
    /// Milliseconds since the start, wrapping after 49 days: compare differences only.
    pub(crate) now_ms: u32,
    /// Microseconds since 1970.
    pub(crate) wall_us: u64,
}

impl TurnTime {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, now: start, now_ms: 0, wall_us: 0 }
    }

    pub(crate) fn set(&mut self, now: Instant, wall_us: u64) {
        self.now = now;
        self.wall_us = wall_us;
        // The low 32 bits: the clock wraps.
        self.now_ms = now.saturating_duration_since(self.start).as_millis() as u32;
    }

    /// Seconds since the start, wrapping after 18 hours.
    pub(crate) fn now_s(&self) -> u16 {
        (self.now.saturating_duration_since(self.start).as_secs() & 0xffff) as u16
    }
}

impl Context {
    /// A frame of a client, verified, to logic.
    pub(crate) fn forward(
        &mut self,
        session: &SessionIdentity,
        partition: Partition,
        kind: FrameKind,
        correlation: u16,
        payload: &[u8],
    ) -> Result<(), Full> {
        let envelope =
            Envelope { kind: InboundKind::Frame, frame_kind: kind, correlation, inbox_seq: 0 };
        self.push(session, partition, envelope, payload)
    }

    /// Something about a session, to logic. `SessionClosed` is never refused.
    pub(crate) fn report(
        &mut self,
        session: &SessionIdentity,
        kind: InboundKind,
        inbox_seq: u64,
    ) -> Result<(), Full> {
        let partition = self.partition_of_user(session);
        let envelope = Envelope { kind, frame_kind: FrameKind::Ping, correlation: 0, inbox_seq };
        self.push(session, partition, envelope, &[])
    }

    /// Where what belongs to a session's user goes.
    pub(crate) fn partition_of_user(&self, session: &SessionIdentity) -> Partition {
        let app = self.gateway.directory.app_name(session.app());
        Partition::of_user(app, session.user(), self.inbound.partitions())
    }

    fn push(
        &mut self,
        session: &SessionIdentity,
        partition: Partition,
        envelope: Envelope,
        payload: &[u8],
    ) -> Result<(), Full> {
        let inbound = Inbound {
            kind: envelope.kind,
            frame_kind: envelope.frame_kind,
            correlation: envelope.correlation,
            connection: session.address(),
            session_epoch: session.epoch(),
            received_us: self.time.wall_us,
            inbox_seq: envelope.inbox_seq,
            app: self.gateway.directory.app_name(session.app()),
            user: session.user(),
            device: session.device(),
        };
        self.inbound.push(partition, &inbound, payload)
    }
}

/// The parts of an envelope that differ between callers.
struct Envelope {
    kind: InboundKind,
    frame_kind: FrameKind,
    correlation: u16,
    inbox_seq: u64,
}
