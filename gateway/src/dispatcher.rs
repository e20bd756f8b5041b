//! Inbound: what each frame of a logged-in client leads to. Branch at the top, one thing per function below.
//!
//! A frame is verified here, once; logic trusts the payload it gets. Heartbeats are answered on the spot. Everything else goes to
//! logic in the partition of its conversation (SEND, RECEIPT) or of the session's user (the rest).
//!
//! A question beyond the window is refused `busy`, and so is a new one when the way to logic is full. What cannot be refused then
//! (RECEIPT, DELIVER_ACK) is held with all that came behind it. While the way is full the connection is not read: [`Flow`].

use roost_protocol::decoder::RawFrame;
use roost_protocol::envelope::InboundKind;
use roost_protocol::frame::SentBy;
use roost_protocol::frame::ack::SendRefused;
use roost_protocol::frame::deliver::DeliverAck;
use roost_protocol::frame::ping::{Ping, Pong};
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::request::Response;
use roost_protocol::frame::send::Send;
use roost_protocol::topology::Partition;
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Frame, FrameKind, Header, RefusalCode, UserId,
};

use crate::connection::Connected;
use crate::connection::outbox::OutboxFull;
use crate::connection::rate_limit::RateVerdict;
use crate::session::inflight::{Ask, Question, WindowFull};
use crate::shard::context::Context;
use crate::shard::inbound::{Full, Traced};

/// How to go on with what was received behind a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Handle it.
    Continue,
    /// Handle it, but read no more: the way to logic is full, this frame was refused.
    Pause,
    /// Keep it with this frame, and read no more: the way to logic is full.
    Hold,
}

/// A refusal of one question, before it has a frame.
#[derive(Clone, Copy)]
struct Refusal {
    code: RefusalCode,
    retry_after_ms: u32,
}

/// Handles one frame of a logged-in client.
///
/// # Errors
/// Why the connection ends.
pub(crate) fn dispatch(
    connected: &mut Connected,
    raw: RawFrame<'_>,
    cx: &mut Context,
) -> Result<Flow, CloseReason> {
    let Header { kind, correlation, .. } = raw.header;
    if kind.sent_by() == SentBy::Server {
        return Err(CloseReason::UnexpectedFrame);
    }
    cx.counters.count_frame_received(kind);
    let refusal = match connected.meter.on_frame(&cx.limits.rate) {
        RateVerdict::Within => None,
        RateVerdict::Overdrawn { retry_after_ms } => {
            Some(Refusal { code: RefusalCode::RateLimited, retry_after_ms })
        }
        RateVerdict::Exceeded => return Err(CloseReason::RateLimited),
    };
    match Frame::decode(kind, raw.payload)? {
        Frame::Ping(ping) => pong(connected, &ping, correlation, cx),
        Frame::Send(send) => send_message(connected, &send, raw, refusal, cx),
        Frame::Request(_) => request(connected, raw, refusal, cx),
        Frame::DeliverAck(ack) => deliver_ack(connected, &ack, raw, cx),
        Frame::Receipt(receipt) => relay_receipt(connected, &receipt, raw, cx),
        Frame::Close(_) => Err(CloseReason::Normal),
        Frame::Connect(_)
        | Frame::Connected(_)
        | Frame::Pong(_)
        | Frame::SendAck(_)
        | Frame::SendRefused(_)
        | Frame::Deliver(_)
        | Frame::Event(_)
        | Frame::Response(_)
        | Frame::Redirect(_)
        | Frame::GoAway(_) => Err(CloseReason::UnexpectedFrame),
    }
}

fn pong(
    connected: &mut Connected,
    ping: &Ping,
    correlation: u16,
    cx: &mut Context,
) -> Result<Flow, CloseReason> {
    let pong = Pong { client_time_us: ping.client_time_us, server_time_ms: cx.time.wall_us / 1000 };
    cx.counters.count_frame_sent(FrameKind::Pong);
    let outbox = &mut connected.activate(&mut cx.spare).outbox;
    outbox.enqueue_own(&cx.limits.outbox, |own| cx.pong.write(&pong, correlation, own))?;
    if ping.inbox_seq > 0 {
        check_digest(connected, ping.inbox_seq, cx);
    }
    Ok(Flow::Continue)
}

/// Asks logic whether the client's cursor is behind. When the way is full, the next heartbeat asks.
fn check_digest(connected: &mut Connected, inbox_seq: u64, cx: &mut Context) {
    let now_s = cx.time.now_s();
    if now_s.wrapping_sub(connected.digest_s) >= cx.limits.digest_interval_s
        && cx.report(&connected.session, InboundKind::DigestCheck, inbox_seq).is_ok()
    {
        connected.digest_s = now_s;
    }
}

fn send_message(
    connected: &mut Connected,
    send: &Send<'_>,
    raw: RawFrame<'_>,
    refusal: Option<Refusal>,
    cx: &mut Context,
) -> Result<Flow, CloseReason> {
    let correlation = raw.header.correlation;
    if let Some(refusal) = refusal {
        refuse_send(connected, send, correlation, refusal, cx)?;
        return Ok(Flow::Continue);
    }
    let traced = Some(send.client_msg_id).filter(|id| cx.trace.wants(*id));
    let ask = match ask(connected, Question::Send, correlation, cx) {
        Ok(Ask::Joined) => {
            if let Some(id) = traced {
                cx.trace.received(id, cx.time, &connected.session, true);
            }
            return Ok(Flow::Continue);
        }
        Ok(ask) => ask,
        Err(WindowFull) => {
            let busy = busy(cx);
            refuse_send(connected, send, correlation, busy, cx)?;
            return Ok(Flow::Continue);
        }
    };
    let sender = UserId::new(connected.session.user()).map_err(|_| CloseReason::Internal)?;
    let conversation = send.target.conversation(sender);
    let partition = partition_of(connected, &conversation, cx);
    match cx.forward(&connected.session, partition, FrameKind::Send, correlation, raw.payload) {
        Ok(()) => {
            if let Some(id) = traced {
                follow_send(connected, id, cx);
            }
            Ok(Flow::Continue)
        }
        // Its earlier copy may still be on its way: the place stays, the client asks again by its own clock.
        Err(Full) if ask == Ask::Overdue => Ok(Flow::Pause),
        Err(Full) => {
            connected.active().inflight.answer(Question::Send, correlation);
            let busy = busy(cx);
            refuse_send(connected, send, correlation, busy, cx)?;
            Ok(Flow::Pause)
        }
    }
}

/// A traced SEND was passed on.
fn follow_send(connected: &mut Connected, id: ClientMsgId, cx: &mut Context) {
    let received_us = cx.time.wall_us;
    cx.trace.received(id, cx.time, &connected.session, false);
    cx.inbound.trace_last(Traced { id, received_us });
    connected.active().followed.await_answer(id, received_us);
}

/// Gives a question its place in the window.
fn ask(
    connected: &mut Connected,
    question: Question,
    correlation: u16,
    cx: &mut Context,
) -> Result<Ask, WindowFull> {
    let max = match question {
        Question::Send => cx.limits.inflight_sends_max,
        Question::Request => cx.limits.inflight_requests_max,
    };
    let inflight = &mut connected.activate(&mut cx.spare).inflight;
    let ask = inflight.ask(question, correlation, max, (cx.time.now_ms, cx.answer_time));
    if ask == Ok(Ask::Joined) {
        cx.counters.repeats_joined.increment();
    }
    ask
}

fn refuse_send(
    connected: &mut Connected,
    send: &Send<'_>,
    correlation: u16,
    refusal: Refusal,
    cx: &mut Context,
) -> Result<(), OutboxFull> {
    cx.counters.count_refusal(refusal.code);
    if cx.trace.wants(send.client_msg_id) {
        cx.trace.refused(send.client_msg_id, cx.time, &connected.session, refusal.code);
    }
    let refused = SendRefused {
        client_msg_id: send.client_msg_id,
        code: refusal.code,
        retry_after_ms: refusal.retry_after_ms,
        expected_client_seq: 0,
        detail: "",
    };
    let payload = refused.payload(&mut cx.encoder);
    answer(connected, FrameKind::SendRefused, correlation, payload, &cx.limits)
}

fn request(
    connected: &mut Connected,
    raw: RawFrame<'_>,
    refusal: Option<Refusal>,
    cx: &mut Context,
) -> Result<Flow, CloseReason> {
    let correlation = raw.header.correlation;
    if let Some(refusal) = refusal {
        refuse_request(connected, correlation, refusal, cx)?;
        return Ok(Flow::Continue);
    }
    let ask = match ask(connected, Question::Request, correlation, cx) {
        Ok(Ask::Joined) => return Ok(Flow::Continue),
        Ok(ask) => ask,
        Err(WindowFull) => {
            let busy = busy(cx);
            refuse_request(connected, correlation, busy, cx)?;
            return Ok(Flow::Continue);
        }
    };
    let partition = cx.partition_of_user(&connected.session);
    match cx.forward(&connected.session, partition, FrameKind::Request, correlation, raw.payload) {
        Ok(()) => Ok(Flow::Continue),
        Err(Full) if ask == Ask::Overdue => Ok(Flow::Pause),
        Err(Full) => {
            connected.active().inflight.answer(Question::Request, correlation);
            let busy = busy(cx);
            refuse_request(connected, correlation, busy, cx)?;
            Ok(Flow::Pause)
        }
    }
}

/// A page finds too much unread before it: the client asks again when it has read.
pub(crate) fn refuse_page(
    connected: &mut Connected,
    correlation: u16,
    cx: &mut Context,
) -> Result<(), OutboxFull> {
    let busy = busy(cx);
    refuse_request(connected, correlation, busy, cx)
}

fn refuse_request(
    connected: &mut Connected,
    correlation: u16,
    refusal: Refusal,
    cx: &mut Context,
) -> Result<(), OutboxFull> {
    let Refusal { code, retry_after_ms } = refusal;
    cx.counters.count_refusal(code);
    let response = Response::Refused { code, retry_after_ms, detail: "" };
    let payload = response.payload(&mut cx.encoder);
    answer(connected, FrameKind::Response, correlation, payload, &cx.limits)
}

fn answer(
    connected: &mut Connected,
    kind: FrameKind,
    correlation: u16,
    payload: &[u8],
    limits: &crate::connection::limits::ConnectionLimits,
) -> Result<(), OutboxFull> {
    let header = Header::new(kind, correlation, 0, payload.len());
    connected.outbox().enqueue_own(&limits.outbox, |own| {
        own.extend_from_slice(&header.encode());
        own.extend_from_slice(payload);
    })
}

fn deliver_ack(
    connected: &mut Connected,
    ack: &DeliverAck<'_>,
    raw: RawFrame<'_>,
    cx: &mut Context,
) -> Result<Flow, CloseReason> {
    if let Some(active) = &mut connected.active {
        while let Some(follow) = active.followed.pop_acknowledged(ack.inbox_seq) {
            cx.trace.acknowledged(follow, cx.time, &connected.session);
        }
        active.on_deliver_ack(ack.inbox_seq, cx.time.now_ms);
    }
    let partition = cx.partition_of_user(&connected.session);
    Ok(forward_or_hold(connected, partition, raw, cx))
}

fn relay_receipt(
    connected: &mut Connected,
    receipt: &Receipt<'_>,
    raw: RawFrame<'_>,
    cx: &mut Context,
) -> Result<Flow, CloseReason> {
    match receipt.kind {
        ReceiptKind::Read => {
            let partition = partition_of(connected, &receipt.conversation, cx);
            Ok(forward_or_hold(connected, partition, raw, cx))
        }
        // Follows from DELIVER_ACK; a client does not say it itself.
        ReceiptKind::Delivered => Err(CloseReason::BadPayload),
    }
}

fn forward_or_hold(
    connected: &Connected,
    partition: Partition,
    raw: RawFrame<'_>,
    cx: &mut Context,
) -> Flow {
    let Header { kind, correlation, .. } = raw.header;
    match cx.forward(&connected.session, partition, kind, correlation, raw.payload) {
        Ok(()) => Flow::Continue,
        Err(Full) => Flow::Hold,
    }
}

fn partition_of(
    connected: &Connected,
    conversation: &ConversationId<'_>,
    cx: &Context,
) -> Partition {
    let app = cx.gateway.directory.app_name(connected.session.app());
    Partition::of_conversation(app, conversation, cx.inbound.partitions())
}

fn busy(cx: &Context) -> Refusal {
    Refusal { code: RefusalCode::Busy, retry_after_ms: cx.limits.busy_retry_after_ms }
}

impl From<OutboxFull> for CloseReason {
    /// A peer that asks and does not read.
    fn from(_: OutboxFull) -> Self {
        CloseReason::SlowConsumer
    }
}
