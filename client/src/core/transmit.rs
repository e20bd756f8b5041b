//! Everything that leaves, encoded at the moment it leaves: nothing is buffered here, so nothing can pile up.

use std::time::Instant;

use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connect, Credential};
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::send::Send;
use roost_protocol::limits::PROTOCOL_VERSION;
use roost_protocol::{CloseReason, DeviceId, Encoder, UserId};

use super::connection::{Proof, Session, State};
use super::{Core, next_correlation};

/// Bytes after which one `poll_transmit` ends; the next continues.
const TRANSMIT_BYTES: usize = 64 * 1024;
/// A larger frame makes the encoder give its memory back.
const ENCODER_BYTES_KEPT: usize = 1024;

impl Core {
    /// Appends frames that are due to `out`; `false`: there are none. Call again until then.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        self.now = now;
        let before = out.len();
        if let Some(reason) = self.farewell.take() {
            self.transmit_farewell(reason, out);
        }
        match &mut self.link.state {
            State::Handshaking { connect_sent, .. } if !*connect_sent => {
                *connect_sent = true;
                self.transmit_connect(out);
            }
            State::Online(_) => self.transmit_session(out),
            State::Handshaking { .. }
            | State::Stopped
            | State::NeedToken
            | State::Waiting { .. }
            | State::Connecting { .. } => {}
        }
        if out.len() - before > ENCODER_BYTES_KEPT {
            self.encoder = Encoder::new();
        }
        out.len() > before
    }

    fn transmit_farewell(&mut self, reason: CloseReason, out: &mut Vec<u8>) {
        if reason == CloseReason::Normal && self.acks.is_due(self.now, &self.tuning, true) {
            self.transmit_acks(out);
        }
        Close { reason, detail: "", retry_after_ms: 0 }.encode(&mut self.encoder, out);
    }

    fn transmit_connect(&mut self, out: &mut Vec<u8>) {
        let credential = match self.link.proof() {
            Some(Proof::Token(token)) => Credential::Token(token),
            Some(Proof::Resume(token)) => Credential::Resume(token),
            None => return,
        };
        let Ok(device_id) = DeviceId::new(&self.device) else { return };
        let inbox_seq = self.inbox.stored_watermark(&self.events);
        self.acks.on_connect(inbox_seq);
        let connect = Connect {
            protocol_version: PROTOCOL_VERSION,
            credential,
            device_id,
            device_class: self.device_class,
            client_name: &self.client_name,
            last_session_epoch: self.link.session_epoch,
            inbox_seq,
        };
        connect.encode(&mut self.encoder, out);
    }

    fn transmit_session(&mut self, out: &mut Vec<u8>) {
        let before = out.len();
        self.transmit_sends(out);
        let Self { requests, conversations, tuning, encoder, .. } = self;
        requests.encode(self.now, conversations, tuning, encoder, out);
        let asks = out.len() > before;
        if self.reads_queued {
            self.transmit_reads(out);
        }
        let along = out.len() > before;
        if self.acks.is_due(self.now, &self.tuning, along) {
            self.transmit_acks(out);
        }
        let sent = out.len() > before;
        let cursor = self.inbox.watermark();
        let State::Online(session) = &mut self.link.state else { return };
        if sent {
            session.on_sent(self.now, asks);
        }
        if session.take_ping(self.now, &self.tuning) {
            Ping { client_time_us: 0, inbox_seq: cursor }.encode(&mut self.encoder, out);
        }
    }

    fn transmit_sends(&mut self, out: &mut Vec<u8>) {
        let before = out.len();
        let (Some(Session { window, .. }), Ok(user)) =
            (self.link.session(), UserId::new(&self.user))
        else {
            return;
        };
        let window = *window;
        let mut last = self.last_correlation;
        let mut correlation = || {
            last = next_correlation(last);
            last
        };
        while out.len() - before < TRANSMIT_BYTES
            && let Some(next) = self.send_queue.next_transmission(
                self.now,
                window,
                &mut self.conversations,
                &mut correlation,
            )
        {
            let entry = self.send_queue.entry(next.at);
            let send = Send {
                target: self.conversations[entry.conversation].target(user),
                client_msg_id: entry.client_msg_id,
                client_seq: next.client_seq,
                kind: entry.kind,
                body: &entry.body,
            };
            send.encode(&mut self.encoder, next.correlation, out);
            self.send_queue.on_transmitted(self.now, next, &self.tuning, &mut self.rng);
        }
        self.last_correlation = last;
    }

    fn transmit_reads(&mut self, out: &mut Vec<u8>) {
        for conversation in self.conversations.iter_mut() {
            if std::mem::take(&mut conversation.read_queued) {
                let receipt = Receipt {
                    conversation: conversation.parsed(),
                    user: None,
                    kind: ReceiptKind::Read,
                    seq: conversation.read,
                    by_server: false,
                    server_time_ms: 0,
                };
                receipt.encode(&mut self.encoder, out);
            }
        }
        self.reads_queued = false;
    }

    fn transmit_acks(&mut self, out: &mut Vec<u8>) {
        let cursor = self.inbox.stored_watermark(&self.events);
        self.acks.encode(cursor, &mut self.conversations, &mut self.encoder, out);
    }
}
