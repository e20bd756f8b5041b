//! What the core tells its user: recorded with the time at which it was seen.

use std::sync::atomic::Ordering::Relaxed;

use roost_client::core::event::{Disconnect, Event, Message};
use roost_protocol::ClientMsgId;
use roost_protocol::frame::receipt::ReceiptKind;

use super::stamp::stamps;
use super::{Absence, Ledger, Pending, User, id_bits};
use crate::checker::{MessageId, Record, WatermarkKind, answer_digest, payload_hash};

impl User {
    pub(super) fn on_event(&self, now_us: u64, event: Event) {
        let counters = &self.plan.counters;
        let mut ledger = self.shared.ledger.borrow_mut();
        match event {
            Event::Connected { .. } => {
                counters.online.fetch_add(1, Relaxed);
                let started_us = self.started_us.replace(0);
                if started_us > 0 {
                    ledger.connect.record(now_us - started_us);
                    counters.first_logins.fetch_add(1, Relaxed);
                    counters.last_login_us.fetch_max(now_us, Relaxed);
                }
                self.is_counted_online.set(true);
                if let Some(lost_us) = self.lost_us.take() {
                    let (user, back_us) = (self.name.clone(), Some(now_us));
                    ledger.absences.push(Absence { user, lost_us, back_us });
                }
            }
            Event::Disconnected { reason, .. } => {
                if self.is_counted_online.replace(false) {
                    counters.online.fetch_sub(1, Relaxed);
                    self.lost_us.set(Some(now_us));
                }
                if reason != Disconnect::Closed {
                    *ledger.disconnects.entry(reason.to_string()).or_insert(0) += 1;
                    counters.disconnects.fetch_add(1, Relaxed);
                }
            }
            Event::Acked(acked) => {
                let pending = self.pending.borrow_mut().remove(&acked.client_msg_id);
                let message = self.answered(&mut ledger, acked.client_msg_id, pending.as_ref());
                let record = Record::Ack {
                    device: self.device,
                    conversation: ledger.history.conversation(&acked.conversation),
                    message,
                    hash: ledger.hash_of(message),
                    seq: acked.seq,
                    answer: answer_digest(acked.message_id, acked.server_time_ms),
                };
                ledger.history.record(now_us, record);
                if let Some(Pending { intended_us, sent_us, .. }) = pending {
                    let start_us = ledger.start_us;
                    ledger.ack.record(start_us, intended_us, sent_us, now_us);
                    counters.acked.fetch_add(1, Relaxed);
                }
            }
            Event::Refused { client_msg_id, conversation, code, .. } => {
                let pending = self.pending.borrow_mut().remove(&client_msg_id);
                let message = self.answered(&mut ledger, client_msg_id, pending.as_ref());
                let conversation = ledger.history.conversation(&conversation);
                let hash = ledger.hash_of(message);
                let (device, code_number) = (self.device, code as u32);
                let record =
                    Record::Refusal { device, conversation, message, hash, code: code_number };
                ledger.history.record(now_us, record);
                *ledger.refusals.entry(code.to_string()).or_insert(0) += 1;
                counters.refused.fetch_add(1, Relaxed);
            }
            Event::Message(message) => self.on_message(&mut ledger, now_us, &message),
            Event::Receipt(receipt) => {
                counters.by_server.fetch_add(u64::from(receipt.by_server), Relaxed);
                let record = Record::Watermark {
                    observer: self.device,
                    conversation: ledger.history.conversation(&receipt.conversation),
                    subject: ledger.history.user(&receipt.user),
                    kind: match receipt.kind {
                        ReceiptKind::Delivered => WatermarkKind::Delivered,
                        ReceiptKind::Read => WatermarkKind::Read,
                    },
                    seq: receipt.seq,
                };
                ledger.history.record(now_us, record);
            }
            Event::Synced { .. } | Event::History { .. } | Event::RequestRefused { .. } => {}
        }
    }

    fn on_message(&self, ledger: &mut Ledger, now_us: u64, shown: &Message) {
        let sender = ledger.history.user(&shown.sender);
        let record = Record::Displayed {
            device: self.device,
            conversation: ledger.history.conversation(&shown.conversation),
            message: ledger.history.message(sender, id_bits(shown.client_msg_id)),
            seq: shown.seq,
            hash: payload_hash(&shown.body),
        };
        ledger.history.record(now_us, record);
        if sender == self.user {
            return;
        }
        self.plan.counters.delivered.fetch_add(1, Relaxed);
        if let Some((intended_us, sent_us)) = stamps(&shown.body) {
            let start_us = ledger.start_us;
            ledger.delivery.record(start_us, intended_us, sent_us, now_us);
        }
    }

    /// The message that an answer is about.
    fn answered(
        &self,
        ledger: &mut Ledger,
        id: ClientMsgId,
        pending: Option<&Pending>,
    ) -> MessageId {
        let known = pending.map(|pending| pending.message);
        known.unwrap_or_else(|| ledger.history.message(self.user, id_bits(id)))
    }
}
