//! The server's rules, as small as they can be: logs, inboxes, numbers of senders. No faults here.

use std::collections::HashMap;

use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::request::{PageBudget, Request, Response};
use roost_protocol::frame::send::{MessageKind, Send};
use roost_protocol::{ClientMsgId, ConversationId, Encoder, RefusalCode, UserId};

/// A committed message.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) conversation: String,
    pub(crate) seq: u64,
    pub(crate) sender: String,
    pub(crate) client_msg_id: ClientMsgId,
    pub(crate) body: Vec<u8>,
}

impl Stored {
    pub(crate) fn wire(&self) -> Message<'_> {
        Message {
            conversation: ConversationId::parse(&self.conversation).unwrap(),
            seq: self.seq,
            message_id: 1_000_000 + self.seq,
            sender: UserId::new(&self.sender).unwrap(),
            client_msg_id: self.client_msg_id,
            kind: MessageKind::TEXT,
            body: &self.body,
            server_time_ms: 7,
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Numbers {
    epoch: u64,
    client_seq: u32,
}

/// What logic keeps.
#[derive(Debug, Default)]
pub(crate) struct Logic {
    pub(crate) logs: HashMap<String, Vec<Stored>>,
    /// Per user: `(conversation, seq)` at inbox position index + 1.
    pub(crate) inboxes: HashMap<String, Vec<(String, u64)>>,
    numbers: HashMap<(String, String, String), Numbers>,
    known: HashMap<(String, String, ClientMsgId), u64>,
}

/// What a SEND leads to.
pub(crate) enum Outcome {
    /// Payload of the SEND_ACK and its inbox_seq.
    Acked {
        payload: Vec<u8>,
        inbox_seq: u64,
        committed: Option<Stored>,
    },
    Refused {
        payload: Vec<u8>,
    },
}

impl Logic {
    pub(crate) fn send(
        &mut self,
        user: &str,
        device: &str,
        epoch: u64,
        send: &Send<'_>,
    ) -> Outcome {
        let sender = UserId::new(user).unwrap();
        let id = send.target.conversation(sender);
        let conversation = id.to_string();
        let key = (conversation.clone(), user.to_owned(), device.to_owned());
        let numbers = self.numbers.entry(key).or_default();
        if epoch < numbers.epoch {
            return refused(send, RefusalCode::StaleSession, 0);
        }
        if epoch > numbers.epoch {
            *numbers = Numbers { epoch, client_seq: 0 };
        }
        let next = numbers.client_seq + 1;
        let identity = (conversation.clone(), user.to_owned(), send.client_msg_id);
        if let Some(&seq) = self.known.get(&identity) {
            if send.client_seq == next {
                numbers.client_seq = next;
            }
            let stored = self.logs[&conversation][seq as usize - 1].clone();
            assert_eq!(stored.body, send.body, "an id is never used for two payloads");
            return self.acked(user, &stored, false);
        }
        if send.client_seq != next {
            return refused(send, RefusalCode::OutOfOrder, next);
        }
        numbers.client_seq = next;
        let peer = id.peer_of(sender).unwrap();
        if peer.as_str().starts_with("ghost") {
            return refused(send, RefusalCode::UnknownUser, 0);
        }
        let log = self.logs.entry(conversation.clone()).or_default();
        let seq = log.len() as u64 + 1;
        let stored = Stored {
            conversation: conversation.clone(),
            seq,
            sender: user.to_owned(),
            client_msg_id: send.client_msg_id,
            body: send.body.to_vec(),
        };
        log.push(stored.clone());
        self.known.insert(identity, seq);
        for member in [user, peer.as_str()] {
            self.inboxes.entry(member.to_owned()).or_default().push((conversation.clone(), seq));
        }
        self.acked(user, &stored, true)
    }

    fn acked(&self, user: &str, stored: &Stored, committed: bool) -> Outcome {
        let ack = SendAck {
            client_msg_id: stored.client_msg_id,
            conversation: ConversationId::parse(&stored.conversation).unwrap(),
            seq: stored.seq,
            message_id: 1_000_000 + stored.seq,
            server_time_ms: 7,
        };
        let payload = ack.payload(&mut Encoder::new()).to_vec();
        let inbox_seq = self.inbox_seq(user, stored);
        Outcome::Acked { payload, inbox_seq, committed: committed.then(|| stored.clone()) }
    }

    pub(crate) fn inbox_seq(&self, user: &str, stored: &Stored) -> u64 {
        let is_it = |e: &(String, u64)| e.0 == stored.conversation && e.1 == stored.seq;
        self.inboxes[user].iter().position(is_it).unwrap() as u64 + 1
    }

    pub(crate) fn latest_inbox_seq(&self, user: &str) -> u64 {
        self.inboxes.get(user).map_or(0, |inbox| inbox.len() as u64)
    }

    pub(crate) fn request(&self, user: &str, request: &Request<'_>) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let (no_log, no_inbox) = (Vec::new(), Vec::new());
        let response = match request {
            Request::Sync { after_inbox_seq, limit } => {
                let inbox = self.inboxes.get(user).unwrap_or(&no_inbox);
                let mut budget = PageBudget::new(*limit);
                let mut entries = Vec::new();
                for (i, (conversation, seq)) in
                    inbox.iter().enumerate().skip(*after_inbox_seq as usize)
                {
                    let stored = &self.logs[conversation][*seq as usize - 1];
                    if !budget.take(conversation.len(), stored.sender.len(), stored.body.len()) {
                        break;
                    }
                    entries.push((i as u64 + 1, stored.wire()));
                }
                let latest_inbox_seq = inbox.len() as u64;
                let last = entries.last().map_or(*after_inbox_seq, |e| e.0);
                Response::SyncPage { entries, latest_inbox_seq, more: last < latest_inbox_seq }
            }
            Request::History { conversation, after_seq, before_seq, limit, .. } => {
                let log = self.logs.get(&conversation.to_string()).unwrap_or(&no_log);
                let before = if *before_seq == 0 { u64::MAX } else { *before_seq };
                let within = |s: &&Stored| s.seq > *after_seq && s.seq < before;
                let all: Vec<_> = log.iter().filter(within).collect();
                let taken = all.len().min(usize::from(*limit).clamp(1, 100));
                Response::HistoryPage {
                    conversation: *conversation,
                    messages: all[..taken].iter().map(|s| s.wire()).collect(),
                    latest_seq: log.len() as u64,
                    more: taken < all.len(),
                }
            }
            Request::Watermarks { conversation } => {
                Response::WatermarksPage { conversation: *conversation, members: Vec::new() }
            }
        };
        response.payload(&mut encoder).to_vec()
    }
}

fn refused(send: &Send<'_>, code: RefusalCode, expected_client_seq: u32) -> Outcome {
    let client_msg_id = send.client_msg_id;
    let refused =
        SendRefused { client_msg_id, code, retry_after_ms: 0, expected_client_seq, detail: "" };
    Outcome::Refused { payload: refused.payload(&mut Encoder::new()).to_vec() }
}

pub(crate) fn busy(send: &Send<'_>, retry_after_ms: u32) -> Vec<u8> {
    let code = RefusalCode::Busy;
    let refused = SendRefused {
        client_msg_id: send.client_msg_id,
        code,
        retry_after_ms,
        expected_client_seq: 0,
        detail: "",
    };
    refused.payload(&mut Encoder::new()).to_vec()
}
