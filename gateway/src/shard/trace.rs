//! What a shard records of traced messages. For others each call costs one comparison of their id.

use roost_protocol::frame::ack::SendRefused;
use roost_protocol::{ClientMsgId, FrameKind, RefusalCode, message_of};
use roost_trace::{Hop, Passage, Text, TraceWriter};

use crate::connection::followed::Follow;
use crate::session::SessionIdentity;

use super::context::TurnTime;

/// The ring of one shard.
#[derive(Debug)]
pub(crate) struct ShardTrace(TraceWriter);

impl ShardTrace {
    pub(crate) fn new(writer: TraceWriter) -> Self {
        Self(writer)
    }

    pub(crate) fn wants(&self, id: ClientMsgId) -> bool {
        self.0.wants(id)
    }

    /// The traced message that an answer or a delivery of logic is about.
    pub(crate) fn wanted(&self, kind: FrameKind, payload: &[u8]) -> Option<ClientMsgId> {
        if self.0.is_off() {
            return None;
        }
        message_of(kind, payload).filter(|id| self.0.wants(*id))
    }

    /// A SEND was read; `is_joined`: it is a repeat of one that is on its way.
    pub(crate) fn received(
        &mut self,
        id: ClientMsgId,
        time: TurnTime,
        session: &SessionIdentity,
        is_joined: bool,
    ) {
        let code = u16::from(is_joined);
        let passage = at(id, Hop::Received, time, session);
        self.0.record(&Passage { code, received_us: time.wall_us, ..passage });
    }

    pub(crate) fn record(&mut self, passage: &Passage) {
        self.0.record(passage);
    }

    pub(crate) fn refused(
        &mut self,
        id: ClientMsgId,
        time: TurnTime,
        session: &SessionIdentity,
        code: RefusalCode,
    ) {
        let passage = at(id, Hop::RefusedByGateway, time, session);
        self.0.record(&Passage { code: code as u16, received_us: time.wall_us, ..passage });
    }

    /// A delivery; `hop`: written, or replaced by a hint.
    pub(crate) fn delivered(
        &mut self,
        id: ClientMsgId,
        time: TurnTime,
        session: &SessionIdentity,
        (hop, inbox_seq, pending_bytes): (Hop, u64, u32),
    ) {
        let passage = at(id, hop, time, session);
        self.0.record(&Passage { number: inbox_seq, count: pending_bytes, ..passage });
    }

    pub(crate) fn acknowledged(
        &mut self,
        follow: Follow,
        time: TurnTime,
        session: &SessionIdentity,
    ) {
        let passage = at(follow.id, Hop::DeviceAcknowledged, time, session);
        let since_ns = nanoseconds(follow.since_us);
        self.0.record(&Passage { since_ns, number: follow.inbox_seq(), ..passage });
    }

    /// A frame of logic for a connection that had gone.
    pub(crate) fn missed(&mut self, kind: FrameKind, payload: &[u8], time: TurnTime) {
        if let Some(id) = self.wanted(kind, payload) {
            let passage = Passage::new(id, Hop::ConnectionGone, nanoseconds(time.wall_us));
            self.0.record(&Passage { code: kind as u16, ..passage });
        }
    }
}

/// An answer to a SEND on its way out.
pub(crate) struct Answer<'a> {
    pub(crate) kind: FrameKind,
    pub(crate) payload: &'a [u8],
    /// When the SEND was read, if that is known.
    pub(crate) since_us: Option<u64>,
    /// Before it.
    pub(crate) pending_bytes: u32,
}

impl Answer<'_> {
    pub(crate) fn passage(
        &self,
        id: ClientMsgId,
        time: TurnTime,
        session: &SessionIdentity,
    ) -> Passage {
        let passage = at(id, Hop::AnswerWritten, time, session);
        Passage {
            since_ns: self.since_us.map_or(passage.at_ns, nanoseconds),
            received_us: self.since_us.unwrap_or_default(),
            code: self.code(),
            number: self.pending_bytes.into(),
            ..passage
        }
    }

    /// Why it was refused; 0: it was not.
    fn code(&self) -> u16 {
        if self.kind != FrameKind::SendRefused {
            return 0;
        }
        SendRefused::decode(self.payload).map_or(0, |refused| refused.code as u16)
    }
}

fn at(id: ClientMsgId, hop: Hop, time: TurnTime, session: &SessionIdentity) -> Passage {
    let text = Text::of_device(session.user(), session.device());
    Passage { text, ..Passage::new(id, hop, nanoseconds(time.wall_us)) }
}

fn nanoseconds(us: u64) -> u64 {
    us.saturating_mul(1_000)
}
