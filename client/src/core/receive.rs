//! What the server sends: bytes to frames, frames to the part they concern.
//!
//! Whatever arrives, the worst that happens is a disconnect with a name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::connect::Connected;
use roost_protocol::frame::deliver::Message as WireMessage;
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::receipt::Receipt as WireReceipt;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::{CloseReason, ConversationId, Decoder, Frame, RawFrame, RefusalCode};

use super::Core;
use super::connection::State;
use super::conversations::ConversationIndex;
use super::event::{Acked, Disconnect, Event, Message, Receipt};
use super::{backoff, send_queue};

/// Numbers refused so often before the resend is slowed down.
const OUT_OF_ORDER_PATIENCE: u8 = 3;
/// Least wait after `busy` and its like.
const BUSY_WAIT_MIN: Duration = Duration::from_millis(20);

impl Core {
    /// Bytes from the socket, cut anywhere.
    pub fn handle_bytes(&mut self, now: Instant, mut bytes: &[u8]) {
        self.now = now;
        let mut decoder = match &self.link.state {
            State::Handshaking { .. } | State::Online(_) => std::mem::take(&mut self.link.decoder),
            State::Stopped
            | State::NeedToken
            | State::Waiting { .. }
            | State::Connecting { .. } => return,
        };
        let mut scratch = Vec::new();
        loop {
            match decoder.next(&mut bytes, &mut scratch) {
                Ok(Some(frame)) => {
                    if let Err(ended) = self.handle_frame(frame, &mut decoder) {
                        self.disconnect(ended.reason, ended.retry_after);
                        return;
                    }
                }
                Ok(None) => break,
                Err(reason) => {
                    self.disconnect(Disconnect::Protocol(reason), Duration::ZERO);
                    return;
                }
            }
        }
        self.link.decoder = decoder;
        let awaiting = self.send_queue.in_flight() > 0 || self.requests.is_any_asked();
        if let Some(session) = self.link.session() {
            session.on_received(now, awaiting);
        }
        self.plan_pull();
    }

    fn handle_frame(&mut self, frame: RawFrame<'_>, decoder: &mut Decoder) -> Result<(), Ended> {
        let header = frame.header;
        let payload = Frame::decode(header.kind, frame.payload)
            .map_err(|_| Ended::protocol(CloseReason::BadPayload))?;
        let online = self.is_online();
        match payload {
            Frame::Connected(connected) if !online => {
                self.on_connected(&connected)?;
                decoder.set_connected();
            }
            Frame::Redirect(redirect) => {
                return Err(Ended::by(Disconnect::Redirected(redirect.address.into())));
            }
            Frame::Close(close) => {
                let reason =
                    Disconnect::ByServer { reason: close.reason, detail: close.detail.into() };
                let retry_after = Duration::from_millis(u64::from(close.retry_after_ms));
                return Err(Ended { reason, retry_after });
            }
            Frame::Pong(_) if online => self.on_pong(),
            Frame::SendAck(ack) if online => self.on_send_ack(&ack, header.inbox_seq)?,
            Frame::SendRefused(refused) if online => {
                self.on_send_refused(&refused, header.correlation)?;
            }
            Frame::Deliver(message) if online => self.on_message(&message, header.inbox_seq),
            Frame::Receipt(receipt) if online => self.on_receipt(&receipt),
            Frame::Event(notice) if online => self.on_notice(notice),
            Frame::Response(response) if online => self.on_response(header.correlation, response),
            Frame::GoAway(go_away) if online => {
                let delay = Duration::from_millis(u64::from(go_away.reconnect_after_ms));
                if let Some(session) = self.link.session() {
                    session.leave_at = Some(self.now + delay);
                }
            }
            Frame::Connected(_)
            | Frame::Pong(_)
            | Frame::SendAck(_)
            | Frame::SendRefused(_)
            | Frame::Deliver(_)
            | Frame::Receipt(_)
            | Frame::Event(_)
            | Frame::Response(_)
            | Frame::GoAway(_)
            | Frame::Connect(_)
            | Frame::Ping(_)
            | Frame::Send(_)
            | Frame::DeliverAck(_)
            | Frame::Request(_) => return Err(Ended::protocol(CloseReason::UnexpectedFrame)),
        }
        Ok(())
    }

    fn on_connected(&mut self, connected: &Connected<'_>) -> Result<(), Ended> {
        if connected.user_id.as_str() != &*self.user {
            return Err(Ended::by(Disconnect::OtherUser(connected.user_id.as_str().into())));
        }
        self.link.on_connected(self.now, connected, &mut self.rng);
        self.send_queue.begin_session(&mut self.conversations);
        self.events.push(Event::Connected {
            session_epoch: connected.session_epoch,
            gateway: connected.gateway.into(),
        });
        self.sync();
        Ok(())
    }

    fn on_pong(&mut self) {
        if let Some(session) = self.link.session() {
            session.on_pong();
        }
    }

    fn on_send_ack(&mut self, ack: &SendAck<'_>, inbox_seq: u64) -> Result<(), Ended> {
        let index = self.conversations.index_of(ack.conversation);
        let known = self.send_queue.position(ack.client_msg_id);
        if known.is_some_and(|at| self.send_queue.entry(at).conversation != index) {
            return Err(Ended::protocol(CloseReason::BadPayload));
        }
        let entry = self.send_queue.remove(ack.client_msg_id);
        let conversation = self.conversations[index].id.clone();
        self.events.push(Event::Acked(Acked {
            client_msg_id: ack.client_msg_id,
            conversation: conversation.clone(),
            seq: ack.seq,
            message_id: ack.message_id,
            server_time_ms: ack.server_time_ms,
            repeated: entry.is_none(),
        }));
        self.on_traffic();
        let Some(send_queue::Entry { kind, body, .. }) = entry else {
            self.inbox.on_latest(inbox_seq);
            return Ok(());
        };
        let message = Box::new(Message {
            conversation,
            seq: ack.seq,
            inbox_seq,
            message_id: ack.message_id,
            sender: self.user.clone(),
            client_msg_id: ack.client_msg_id,
            kind,
            body,
            server_time_ms: ack.server_time_ms,
            from_this_device: true,
        });
        self.inbox.accept(index, message, &mut self.conversations, &mut self.events);
        Ok(())
    }

    fn on_send_refused(
        &mut self,
        refused: &SendRefused<'_>,
        correlation: u16,
    ) -> Result<(), Ended> {
        let Some(at) = self.send_queue.position(refused.client_msg_id) else {
            self.send_queue.on_late_answer();
            return Ok(());
        };
        if !refused.code.is_retryable() {
            if let Some(entry) = self.send_queue.remove(refused.client_msg_id) {
                self.events.push(Event::Refused {
                    client_msg_id: refused.client_msg_id,
                    conversation: self.conversations[entry.conversation].id.clone(),
                    code: refused.code,
                    detail: refused.detail.into(),
                });
            }
            return Ok(());
        }
        if !self.send_queue.is_current(at, correlation) {
            self.send_queue.on_late_answer();
            return Ok(());
        }
        let wait = Duration::from_millis(u64::from(refused.retry_after_ms));
        match refused.code {
            RefusalCode::StaleSession => return Err(Ended::by(Disconnect::SessionOver)),
            RefusalCode::OutOfOrder => {
                let attempts = self.send_queue.attempts(at);
                let expected = refused.expected_client_seq;
                let known = self.send_queue.on_out_of_order(self.now, at, expected);
                let Some(excess) = attempts.checked_sub(OUT_OF_ORDER_PATIENCE) else {
                    return Ok(());
                };
                if !known {
                    return Err(Ended::by(Disconnect::SessionOver));
                }
                let first = self.tuning.send_timeout / 16;
                let slow = backoff::exponential(first, excess.into(), self.tuning.send_timeout_max);
                self.send_queue.pause(self.now, slow.max(wait), &mut self.rng);
            }
            RefusalCode::Busy | RefusalCode::Unavailable | RefusalCode::RateLimited => {
                self.send_queue.go_back(self.now, at);
                let wait = wait.max(BUSY_WAIT_MIN);
                self.send_queue.pause(self.now, wait, &mut self.rng);
            }
            RefusalCode::UnknownUser
            | RefusalCode::UnknownConversation
            | RefusalCode::IdReuse
            | RefusalCode::BodyTooLarge
            | RefusalCode::Invalid
            | RefusalCode::Quarantined
            | RefusalCode::Unauthorized
            | RefusalCode::Conflict => {}
        }
        Ok(())
    }

    pub(super) fn on_message(&mut self, message: &WireMessage<'_>, inbox_seq: u64) {
        let index = self.conversations.index_of(message.conversation);
        let message = self.message(index, message, inbox_seq);
        self.inbox.accept(index, message, &mut self.conversations, &mut self.events);
        self.on_traffic();
    }

    pub(super) fn message(
        &mut self,
        index: ConversationIndex,
        message: &WireMessage<'_>,
        inbox_seq: u64,
    ) -> Box<Message> {
        let sender = self.shared_name(index, message.sender.as_str());
        Box::new(Message {
            conversation: self.conversations[index].id.clone(),
            seq: message.seq,
            inbox_seq,
            message_id: message.message_id,
            sender,
            client_msg_id: message.client_msg_id,
            kind: message.kind,
            body: Bytes::copy_from_slice(message.body),
            server_time_ms: message.server_time_ms,
            from_this_device: false,
        })
    }

    fn shared_name(&mut self, index: ConversationIndex, user: &str) -> Arc<str> {
        if user == &*self.user {
            return self.user.clone();
        }
        self.conversations[index].member_name(user)
    }

    fn on_traffic(&mut self) {
        let now = self.now;
        if let State::Online(session) = &mut self.link.state {
            session.on_traffic(now, &self.tuning);
        }
    }

    fn on_receipt(&mut self, receipt: &WireReceipt<'_>) {
        let Some(user) = receipt.user else { return };
        self.merge_receipt(
            receipt.conversation,
            user.as_str(),
            receipt.kind,
            receipt.seq,
            (receipt.by_server, receipt.server_time_ms),
        );
    }

    pub(super) fn merge_receipt(
        &mut self,
        conversation: ConversationId<'_>,
        user: &str,
        kind: ReceiptKind,
        seq: u64,
        (by_server, server_time_ms): (bool, u64),
    ) {
        let index = self.conversations.index_of(conversation);
        let entry = &mut self.conversations[index];
        if user == &*self.user && kind == ReceiptKind::Read {
            // Read on another device: this one need not tell less.
            entry.read = entry.read.max(seq);
        }
        if let Some(user) = entry.merge(user, kind, seq) {
            let conversation = entry.id.clone();
            let receipt = Receipt { conversation, user, kind, seq, by_server, server_time_ms };
            self.events.push(Event::Receipt(receipt));
        }
    }

    fn on_notice(&mut self, notice: Notice<'_>) {
        let inbox_seq = match notice {
            Notice::Digest { inbox_seq } => inbox_seq,
            Notice::Hint { conversation, inbox_seq, .. } => {
                // The server misses our acknowledgement at least: tell it again.
                let index = self.conversations.index_of(conversation);
                if self.conversations[index].stored > 0 {
                    self.acks.add(
                        self.now,
                        (index, inbox_seq),
                        &mut self.conversations,
                        &self.tuning,
                    );
                }
                inbox_seq
            }
            Notice::Unknown(_) => return,
        };
        self.inbox.on_latest(inbox_seq);
        if self.inbox.watermark() < inbox_seq {
            self.pull();
        }
    }
}

/// Why a frame ends the connection.
struct Ended {
    reason: Disconnect,
    retry_after: Duration,
}

impl Ended {
    fn by(reason: Disconnect) -> Self {
        Self { reason, retry_after: Duration::ZERO }
    }

    fn protocol(reason: CloseReason) -> Self {
        Self::by(Disconnect::Protocol(reason))
    }
}
