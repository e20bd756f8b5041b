//! The devices of the model: a send queue, a screen, and trust in the server.

use std::collections::{BTreeSet, VecDeque};

use roost_loadtest::checker::{ConversationId, DeviceId, MessageId, Record, UserId, WatermarkKind};

use super::{Body, Bug, CHATS, Model, Packet, user_name};

/// Sends of one chat that may be on their way at once.
const WINDOW: usize = 3;

pub(super) struct Client {
    pub(super) user: usize,
    /// Epoch of the open connection.
    pub(super) epoch: Option<u64>,
    pub(super) last_epoch: u64,
    queue: [VecDeque<Body>; CHATS.len()],
    /// Client seq of the first message in the queue; the next to hand to the wire is `sent` later.
    base: [u64; CHATS.len()],
    sent: [usize; CHATS.len()],
    wire: VecDeque<Packet>,
    /// Highest seq on the screen.
    last: [u64; CHATS.len()],
    own: [BTreeSet<u64>; CHATS.len()],
    recalls_seen: [usize; CHATS.len()],
    done: Vec<Body>,
}

impl Client {
    pub(super) fn new(device: usize) -> Self {
        Self {
            user: device / 2,
            epoch: None,
            last_epoch: 0,
            queue: Default::default(),
            base: [1; CHATS.len()],
            sent: [0; CHATS.len()],
            wire: VecDeque::new(),
            last: [0; CHATS.len()],
            own: Default::default(),
            recalls_seen: [0; CHATS.len()],
            done: Vec::new(),
        }
    }

    pub(super) fn has_unresolved(&self) -> bool {
        self.queue.iter().any(|queue| !queue.is_empty())
    }
}

impl Model {
    pub(super) fn device_id(&mut self, device: usize) -> DeviceId {
        let user = self.user_id(device / 2);
        self.history.device(user, &format!("d{}", device % 2))
    }

    pub(super) fn user_id(&mut self, user: usize) -> UserId {
        self.history.user(&user_name(user))
    }

    pub(super) fn chat_id(&mut self, chat: usize) -> ConversationId {
        let (one, other) = CHATS[chat];
        self.history.single_chat(&user_name(one), &user_name(other))
    }

    pub(super) fn message_id(&mut self, body: Body) -> MessageId {
        let user = self.user_id(body.user);
        self.history.message(user, body.client_msg_id)
    }

    /// The user writes a message.
    pub(super) fn write(&mut self, device: usize) {
        let user = self.clients[device].user;
        let chats: Vec<usize> =
            (0..CHATS.len()).filter(|&c| CHATS[c].0 == user || CHATS[c].1 == user).collect();
        let chat = chats[self.random.usize(0..chats.len())];
        let client_msg_id = self.random.u128(..);
        let hash = self.random.u64(1..);
        self.clients[device].queue[chat].push_back(Body { chat, user, client_msg_id, hash });
    }

    /// Puts the next message on the wire, or lets the first one on the wire arrive.
    pub(super) fn transmit(&mut self, device: usize) -> bool {
        let client = &mut self.clients[device];
        let Some(epoch) = client.epoch else { return false };
        let ready = (0..CHATS.len()).find(|&c| client.sent[c] < client.queue[c].len().min(WINDOW));
        if let Some(chat) = ready {
            let index = client.sent[chat];
            let body = client.queue[chat][index];
            let client_seq = client.base[chat] + index as u64;
            client.sent[chat] += 1;
            client.wire.push_back(Packet { device, epoch, client_seq, body });
            self.record_send(device, body);
            return true;
        }
        let Some(packet) = client.wire.pop_front() else { return false };
        self.handle(packet);
        true
    }

    pub(super) fn record_send(&mut self, device: usize, body: Body) {
        let record = Record::Send {
            device: self.device_id(device),
            conversation: self.chat_id(body.chat),
            message: self.message_id(body),
            hash: body.hash,
            intended_us: self.now_us,
        };
        self.record(record);
    }

    /// No answer in time: go back to the first unanswered message.
    pub(super) fn resend(&mut self, device: usize) {
        let client = &mut self.clients[device];
        client.sent = [0; CHATS.len()];
    }

    pub(super) fn connect(&mut self, device: usize) {
        if self.clients[device].epoch.is_some() {
            return;
        }
        let epoch = self.clients[device].last_epoch.max(self.now_us) + 1;
        let client = &mut self.clients[device];
        client.epoch = Some(epoch);
        client.last_epoch = epoch;
        client.base = [1; CHATS.len()];
        client.sent = [0; CHATS.len()];
        if self.has(Bug::FetchBeforeSubscribe) {
            self.pull(device);
            self.server.late_subscribers.insert(device);
        } else {
            self.server.subscribe(device);
            self.pull(device);
        }
    }

    pub(super) fn subscribe_late(&mut self, device: usize) {
        if self.server.late_subscribers.remove(&device) && self.clients[device].epoch.is_some() {
            self.server.subscribe(device);
        }
    }

    pub(super) fn disconnect(&mut self, device: usize) {
        let wire = std::mem::take(&mut self.clients[device].wire);
        self.lingering.extend(wire);
        if self.clients[device].epoch.take().is_some() {
            let is_quick = self.random.bool();
            if is_quick && self.has(Bug::DeleteRouteOnClose) {
                // The new connection is there before the end of the old one is noticed.
                self.connect(device);
            }
            self.server.unsubscribe(device);
        }
    }

    pub(super) fn on_ack(&mut self, packet: Packet, seq: u64, answer: u32) {
        let Packet { device, epoch, body, .. } = packet;
        if self.clients[device].epoch != Some(epoch) || self.one_in(12) {
            return;
        }
        let record = Record::Ack {
            device: self.device_id(device),
            conversation: self.chat_id(body.chat),
            message: self.message_id(body),
            hash: body.hash,
            seq,
            answer,
        };
        self.record(record);
        self.clients[device].own[body.chat].insert(seq);
        self.resolve(device, body);
    }

    pub(super) fn on_refusal(&mut self, packet: Packet) {
        let Packet { device, body, .. } = packet;
        let record = Record::Refusal {
            device: self.device_id(device),
            conversation: self.chat_id(body.chat),
            message: self.message_id(body),
            hash: body.hash,
            code: 1,
        };
        self.record(record);
    }

    fn resolve(&mut self, device: usize, body: Body) {
        let client = &mut self.clients[device];
        // Acknowledgements come in order, so all before this one are committed as well, but only
        // their own acknowledgements tell where.
        if client.queue[body.chat].front() == Some(&body) {
            client.queue[body.chat].pop_front();
            client.base[body.chat] += 1;
            client.sent[body.chat] = client.sent[body.chat].saturating_sub(1);
            client.done.push(body);
        }
    }

    /// Takes what the server pushed to this device.
    pub(super) fn deliver(&mut self, device: usize) -> bool {
        if self.clients[device].epoch.is_none() {
            return false;
        }
        if self.server.take_hint(device) {
            self.pull(device);
        }
        let Some((chat, seq)) = self.server.next_push(device) else { return false };
        if let Some(body) = self.server.row(chat, seq) {
            self.display(device, chat, seq, body);
        }
        self.apply_recalls(device, chat);
        true
    }

    /// Everything after the screen's last message, and all recalls.
    pub(super) fn pull(&mut self, device: usize) {
        let user = self.clients[device].user;
        for chat in (0..CHATS.len()).filter(|&c| CHATS[c].0 == user || CHATS[c].1 == user) {
            for (seq, body) in self.server.rows_after(chat, self.clients[device].last[chat]) {
                self.display(device, chat, seq, body);
            }
            self.apply_recalls(device, chat);
        }
    }

    fn display(&mut self, device: usize, chat: usize, seq: u64, mut body: Body) {
        let client = &mut self.clients[device];
        let is_known = seq <= client.last[chat] || client.own[chat].contains(&seq);
        client.last[chat] = seq.max(client.last[chat]);
        if is_known && !self.has(Bug::DuplicateDisplay) && !self.has(Bug::RealTimeOrder) {
            return;
        }
        if self.server.is_recalled(chat, seq) {
            // Only that something was here.
            body.hash = 0;
        } else if self.has(Bug::AlteredContent) && self.one_in(10) {
            body.hash ^= 1;
        }
        let record = Record::Displayed {
            device: self.device_id(device),
            conversation: self.chat_id(chat),
            message: self.message_id(body),
            seq,
            hash: body.hash,
        };
        self.record(record);
    }

    /// Recalls are events in the log: at the end every device has them all.
    pub(super) fn apply_all_recalls(&mut self, device: usize) {
        let user = self.clients[device].user;
        for chat in (0..CHATS.len()).filter(|&c| CHATS[c].0 == user || CHATS[c].1 == user) {
            self.apply_recalls(device, chat);
        }
    }

    fn apply_recalls(&mut self, device: usize, chat: usize) {
        let known = self.clients[device].recalls_seen[chat];
        let recalls: Vec<u64> = self.server.recall_log[chat][known..].to_vec();
        self.clients[device].recalls_seen[chat] += recalls.len();
        for seq in recalls {
            let (device, conversation) = (self.device_id(device), self.chat_id(chat));
            self.record(Record::Removed { device, conversation, seq });
        }
    }

    /// The user reads up to somewhere; the other user's devices are told.
    pub(super) fn read(&mut self, device: usize) {
        let chat = self.random.usize(0..CHATS.len());
        let (one, other) = CHATS[chat];
        let user = self.clients[device].user;
        if (user != one && user != other) || self.clients[device].epoch.is_none() {
            return;
        }
        let seq = self.random.u64(0..=self.clients[device].last[chat]);
        let merge = !self.has(Bug::WatermarkBack);
        let seq = self.server.read_watermark(chat, user, seq, merge);
        let peer = if user == one { other } else { one };
        for observer in [peer * 2, peer * 2 + 1] {
            let record = Record::Watermark {
                observer: self.device_id(observer),
                conversation: self.chat_id(chat),
                subject: self.user_id(user),
                kind: WatermarkKind::Read,
                seq,
            };
            self.record(record);
        }
    }

    /// The sender takes back one of its messages.
    pub(super) fn recall(&mut self, device: usize) {
        let client = &self.clients[device];
        if client.done.is_empty() || client.epoch.is_none() {
            return;
        }
        let body = client.done[self.random.usize(0..client.done.len())];
        let is_logged = !self.has(Bug::RecallInPlace);
        if let Some(seq) = self.server.recall(body, is_logged) {
            let (device, conversation) = (self.device_id(device), self.chat_id(body.chat));
            self.record(Record::Recalled { device, conversation, seq });
        }
    }

    /// A broken client uses an id again with other content.
    pub(super) fn reuse_id(&mut self, device: usize) {
        let client = &self.clients[device];
        let (Some(epoch), Some(body)) = (client.epoch, client.done.last().copied()) else {
            return;
        };
        let body = Body { hash: self.random.u64(1..), ..body };
        self.record_send(device, body);
        self.handle(Packet { device, epoch, client_seq: 0, body });
    }
}
