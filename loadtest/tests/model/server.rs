//! The server of the model: sessions, a batch that commits as one, pushes after the commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roost_loadtest::checker::{Record, answer_digest};

use super::{Body, Bug, CHATS, DEVICES, Model, Packet};

/// Pushes that wait for a device before it counts as a slow consumer.
const PUSHES_MAX: usize = 4;

#[derive(Clone, Copy)]
struct Row {
    body: Body,
    answer: u32,
    is_recalled: bool,
}

pub(super) struct Server {
    own_pushed: bool,
    rows: [BTreeMap<u64, Row>; CHATS.len()],
    /// Accepted, not committed; lost when the logic dies.
    batch: Vec<Packet>,
    /// Committed, not yet pushed and acknowledged; the bus gives it again after a death.
    unpublished: Vec<(Packet, u64)>,
    /// Seq left out by the two sequence counters of a planted bug.
    hole: [Option<u64>; CHATS.len()],
    /// Epoch and next client seq.
    expected: BTreeMap<(usize, usize), (u64, u64)>,
    subscribed: BTreeSet<usize>,
    pub(super) late_subscribers: BTreeSet<usize>,
    pushes: Vec<VecDeque<(usize, u64)>>,
    hints: BTreeSet<usize>,
    watermarks: BTreeMap<(usize, usize), u64>,
    pub(super) recall_log: [Vec<u64>; CHATS.len()],
}

impl Server {
    pub(super) fn new(own_pushed: bool) -> Self {
        Self {
            own_pushed,
            rows: Default::default(),
            batch: Vec::new(),
            unpublished: Vec::new(),
            hole: [None; CHATS.len()],
            expected: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            late_subscribers: BTreeSet::new(),
            pushes: vec![VecDeque::new(); DEVICES],
            hints: BTreeSet::new(),
            watermarks: BTreeMap::new(),
            recall_log: Default::default(),
        }
    }

    pub(super) fn die(&mut self) {
        self.batch.clear();
        self.unpublished.clear();
        self.expected.clear();
    }

    pub(super) fn subscribe(&mut self, device: usize) {
        self.subscribed.insert(device);
    }

    pub(super) fn unsubscribe(&mut self, device: usize) {
        self.subscribed.remove(&device);
        self.hints.remove(&device);
        self.pushes[device].clear();
    }

    pub(super) fn take_hint(&mut self, device: usize) -> bool {
        self.hints.remove(&device)
    }

    pub(super) fn next_push(&mut self, device: usize) -> Option<(usize, u64)> {
        self.pushes[device].pop_front()
    }

    pub(super) fn row(&self, chat: usize, seq: u64) -> Option<Body> {
        self.rows[chat].get(&seq).map(|row| row.body)
    }

    pub(super) fn is_recalled(&self, chat: usize, seq: u64) -> bool {
        self.rows[chat].get(&seq).is_some_and(|row| row.is_recalled)
            && self.recall_log[chat].contains(&seq)
    }

    pub(super) fn rows_after(&self, chat: usize, seq: u64) -> Vec<(u64, Body)> {
        self.rows[chat].range(seq + 1..).map(|(&seq, row)| (seq, row.body)).collect()
    }

    pub(super) fn read_watermark(
        &mut self,
        chat: usize,
        user: usize,
        seq: u64,
        merge: bool,
    ) -> u64 {
        let mark = self.watermarks.entry((chat, user)).or_insert(0);
        *mark = if merge { seq.max(*mark) } else { seq };
        *mark
    }

    pub(super) fn recall(&mut self, body: Body, is_logged: bool) -> Option<u64> {
        let (seq, row) = self.rows[body.chat]
            .iter_mut()
            .find(|(_, row)| row.body.client_msg_id == body.client_msg_id && !row.is_recalled)?;
        row.is_recalled = true;
        if is_logged {
            self.recall_log[body.chat].push(*seq);
        }
        Some(*seq)
    }

    fn find(&self, body: Body) -> Option<(u64, Row)> {
        let same =
            |row: &Row| (row.body.user, row.body.client_msg_id) == (body.user, body.client_msg_id);
        self.rows[body.chat].iter().find(|(_, row)| same(row)).map(|(&seq, row)| (seq, *row))
    }

    /// Whether this session may send this number now; identity was looked at before.
    fn is_next(&mut self, packet: &Packet) -> bool {
        let known =
            self.expected.entry((packet.device, packet.body.chat)).or_insert((packet.epoch, 1));
        if packet.epoch > known.0 {
            *known = (packet.epoch, 1);
        }
        if (packet.epoch, packet.client_seq) != *known {
            return false;
        }
        known.1 += 1;
        true
    }
}

impl Model {
    /// A send arrives at the logic.
    pub(super) fn handle(&mut self, packet: Packet) {
        let is_stale = self.clients[packet.device].last_epoch > packet.epoch;
        if is_stale && !self.has(Bug::AcceptStaleEpoch) {
            return;
        }
        if self.has(Bug::ForgetSend) && packet.body.client_msg_id.is_multiple_of(16) {
            return;
        }
        let waits = |p: &Packet| p.body.client_msg_id == packet.body.client_msg_id;
        let in_batch = self.server.batch.iter().any(waits);
        if !self.has(Bug::SkipDedupe)
            && let Some((seq, row)) = self.server.find(packet.body)
        {
            if row.body.hash != packet.body.hash && !self.has(Bug::IdReuse) {
                self.on_refusal(packet);
                return;
            }
            self.server.is_next(&packet);
            let differs = self.has(Bug::RepeatedAckDiffers);
            let answer = if differs { answer_digest(seq, self.now_us) } else { row.answer };
            self.on_ack(packet, seq, answer);
            return;
        }
        if in_batch && !self.has(Bug::SkipDedupe) {
            return;
        }
        if !is_stale && !self.server.is_next(&packet) && !self.has(Bug::SkipDedupe) {
            return;
        }
        self.server.batch.push(packet);
        if self.has(Bug::AckBeforeCommit) {
            let chat = packet.body.chat;
            let waiting = self.server.batch.iter().filter(|p| p.body.chat == chat).count() as u64;
            let last = self.server.rows[chat].last_key_value().map_or(0, |(&seq, _)| seq);
            self.on_ack(packet, last + waiting, answer_digest(last + waiting, 0));
        }
    }

    pub(super) fn commit(&mut self) {
        if self.has(Bug::Inversion) && self.server.batch.len() > 1 {
            let end = self.server.batch.len();
            self.server.batch.swap(end - 1, end - 2);
        }
        for packet in std::mem::take(&mut self.server.batch) {
            let seq = self.next_seq(packet.body.chat);
            let row = Row { body: packet.body, answer: answer_digest(seq, 0), is_recalled: false };
            self.server.rows[packet.body.chat].insert(seq, row);
            self.server.unpublished.push((packet, seq));
        }
    }

    fn next_seq(&mut self, chat: usize) -> u64 {
        let next = self.server.rows[chat].last_key_value().map_or(0, |(&seq, _)| seq) + 1;
        if self.has(Bug::Gap) && self.one_in(10) {
            return next + 1;
        }
        if self.has(Bug::RealTimeOrder) {
            if let Some(hole) = self.server.hole[chat].take() {
                return hole;
            }
            if self.one_in(4) {
                self.server.hole[chat] = Some(next);
                return next + 1;
            }
        }
        next
    }

    /// Acknowledges to the sender and pushes to all devices of both users.
    pub(super) fn publish(&mut self) {
        for (packet, seq) in std::mem::take(&mut self.server.unpublished) {
            let chat = packet.body.chat;
            if let Some(row) = self.server.rows[chat].get(&seq).copied()
                && !self.has(Bug::AckBeforeCommit)
            {
                self.on_ack(packet, seq, row.answer);
            }
            for device in 0..DEVICES {
                let user = device / 2;
                let is_member = CHATS[chat].0 == user || CHATS[chat].1 == user;
                let is_own = device == packet.device && !self.server.own_pushed;
                if (is_member && !is_own) || self.has(Bug::DeliverToStrangers) {
                    self.push(device, chat, seq);
                }
            }
        }
    }

    fn push(&mut self, device: usize, chat: usize, seq: u64) {
        if !self.server.subscribed.contains(&device) {
            return;
        }
        if self.has(Bug::NoMandatory) && self.one_in(20) {
            return;
        }
        let pushes = &mut self.server.pushes[device];
        if pushes.len() >= PUSHES_MAX {
            if self.bug == Some(Bug::DropOldest) {
                pushes.pop_front();
            } else {
                pushes.clear();
                self.server.hints.insert(device);
                return;
            }
        }
        self.server.pushes[device].push_back((chat, seq));
    }

    /// An acknowledgement of the device is late, so the server pushes again.
    pub(super) fn push_again(&mut self, device: usize) {
        let user = device / 2;
        let chat = self.random.usize(0..CHATS.len());
        let is_member = CHATS[chat].0 == user || CHATS[chat].1 == user;
        let waits = !self.server.pushes[device].is_empty() || !self.server.unpublished.is_empty();
        if is_member
            && !waits
            && let Some((&seq, _)) = self.server.rows[chat].last_key_value()
        {
            self.push(device, chat, seq);
        }
    }

    /// Only the logic dies: connections stay, the bus gives again what was not acknowledged to it.
    pub(super) fn kill_logic(&mut self) {
        self.record(Record::Kill { took_effect: true });
        if self.has(Bug::AutoAck) {
            self.server.unpublished.clear();
            for lost in std::mem::take(&mut self.server.batch) {
                let key = (lost.device, lost.body.chat);
                if let Some(known) = self.server.expected.get_mut(&key)
                    && known.0 == lost.epoch
                {
                    known.1 = known.1.min(lost.client_seq);
                }
            }
        }
    }

    pub(super) fn read_database(&mut self) {
        for chat in 0..CHATS.len() {
            let conversation = self.chat_id(chat);
            let rows: Vec<(u64, Row)> =
                self.server.rows[chat].iter().map(|(&seq, row)| (seq, *row)).collect();
            for (seq, row) in rows {
                let message = self.message_id(row.body);
                let hash = if row.is_recalled { 0 } else { row.body.hash };
                let reading = 1;
                self.record(Record::Stored { conversation, message, seq, hash, reading });
            }
            self.record(Record::ReadingEnd { conversation, reading: 1 });
        }
    }
}
