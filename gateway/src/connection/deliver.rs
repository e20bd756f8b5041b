//! Frames of logic on their way into a connection's outbox: what may be dropped, what must be an answer, what is tracked until the
//! device acknowledges it.

use bytes::Bytes;
use roost_protocol::frame::event::Event;
use roost_protocol::{FrameKind, Header};

use crate::dispatcher;
use crate::session::inflight::Question;
use crate::shard::context::Context;

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
        self.outbox().enqueue(&cx.limits.outbox, header, payload)?;
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
        let active = self.activate(&mut cx.spare);
        let inbox_seq = header.inbox_seq;
        match active.outbox.enqueue_deliver(&cx.limits.outbox, header, payload) {
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
