//! Frames of logic on their way into a connection's outbox: what may be dropped, what must be an answer, what is tracked until the
//! device acknowledges it.

use bytes::Bytes;
use roost_protocol::frame::event::Event;
use roost_protocol::{FrameKind, Header};
use roost_trace::{Hop, Passage};

use crate::dispatcher;
use crate::session::inflight::Question;
use crate::shard::context::Context;
use crate::shard::trace::Answer;

use super::Connected;
use super::outbox::{Enqueued, OutboxFull};

impl Connected {
    /// Queues a frame of logic. Returns within how many milliseconds a timer is needed, if one is.
    pub(crate) fn enqueue_frame(
        &mut self,
        header: &Header,
        payload: Bytes,
        cx: &mut Context,
    ) -> Result<Option<u32>, OutboxFull> {
        let answers = match header.kind {
            FrameKind::Deliver => return Ok(self.enqueue_deliver(header, payload, cx)),
            FrameKind::Event => return self.enqueue_event(header, payload, cx).map(|()| None),
            FrameKind::SendAck | FrameKind::SendRefused => Some(Question::Send),
            FrameKind::Response => Some(Question::Request),
            FrameKind::Connect
            | FrameKind::Connected
            | FrameKind::Ping
            | FrameKind::Pong
            | FrameKind::Send
            | FrameKind::DeliverAck
            | FrameKind::Receipt
            | FrameKind::Request
            | FrameKind::Redirect
            | FrameKind::GoAway
            | FrameKind::Close => None,
        };
        if let Some(question) = answers {
            let inflight = self.active.as_mut().map(|active| &mut active.inflight);
            let asked_ms =
                inflight.and_then(|inflight| inflight.answer(question, header.correlation));
            let Some(asked_ms) = asked_ms else {
                cx.counters.items_missed.increment();
                return Ok(None);
            };
            cx.answer_time.add(cx.time.now_ms.wrapping_sub(asked_ms));
        }
        if header.kind == FrameKind::Response
            && !self.outbox().has_room_for_page(&cx.limits.outbox, &payload)
        {
            return dispatcher::refuse_page(self, header.correlation, cx).map(|()| None);
        }
        cx.counters.count_frame_sent(header.kind);
        let traced = self.traced_answer(header.kind, &payload, cx);
        self.outbox().enqueue(&cx.limits.outbox, header, payload)?;
        if let Some(passage) = traced {
            cx.trace.record(&passage);
        }
        Ok(None)
    }

    /// Tells the device again how far its inbox is.
    pub(crate) fn enqueue_digest(
        &mut self,
        inbox_seq: u64,
        cx: &mut Context,
    ) -> Result<(), OutboxFull> {
        let payload = Bytes::copy_from_slice(Event::Digest { inbox_seq }.payload(&mut cx.encoder));
        let header = Header::new(FrameKind::Event, 0, 0, payload.len());
        self.enqueue_event(&header, payload, cx)
    }

    fn enqueue_deliver(
        &mut self,
        header: &Header,
        payload: Bytes,
        cx: &mut Context,
    ) -> Option<u32> {
        let traced = cx.trace.wanted(FrameKind::Deliver, &payload);
        let active = self.activate(&mut cx.spare);
        let inbox_seq = header.inbox_seq;
        let pending_bytes = active.outbox.pending_bytes();
        let enqueued = active.outbox.enqueue_deliver(&cx.limits.outbox, header, payload);
        if let Some(id) = traced {
            let hop = match enqueued {
                Enqueued::Queued => Hop::DeliveryWritten,
                Enqueued::Hinted => Hop::DeliveryHinted,
            };
            active.followed.await_acknowledgement(id, inbox_seq, cx.time.wall_us);
            cx.trace.delivered(id, cx.time, &self.session, (hop, inbox_seq, pending_bytes));
        }
        let active = self.activate(&mut cx.spare);
        match enqueued {
            Enqueued::Queued => {
                cx.counters.count_frame_sent(FrameKind::Deliver);
                let is_new = active.unacknowledged.is_none();
                active.on_deliver(inbox_seq, cx.time.now_ms);
                is_new.then_some(cx.limits.deliver_ack_timeout_ms)
            }
            Enqueued::Hinted => {
                cx.counters.deliveries_dropped_to_hint.increment();
                None
            }
        }
    }

    /// What is to be recorded when an answer to a traced SEND is queued.
    fn traced_answer(&mut self, kind: FrameKind, payload: &[u8], cx: &Context) -> Option<Passage> {
        if !matches!(kind, FrameKind::SendAck | FrameKind::SendRefused) {
            return None;
        }
        let id = cx.trace.wanted(kind, payload)?;
        let active = self.active();
        let (since_us, pending_bytes) =
            (active.followed.take_answered(id), active.outbox.pending_bytes());
        let answer = Answer { kind, payload, since_us, pending_bytes };
        Some(answer.passage(id, cx.time, &self.session))
    }

    fn enqueue_event(
        &mut self,
        header: &Header,
        payload: Bytes,
        cx: &mut Context,
    ) -> Result<(), OutboxFull> {
        let (limits, outbox) = (&cx.limits.outbox, self.outbox());
        if outbox.pending_bytes() > limits.bytes_high {
            outbox.note_dropped_event(&payload);
            return Ok(());
        }
        cx.counters.count_frame_sent(FrameKind::Event);
        outbox.enqueue(limits, header, payload)
    }
}
