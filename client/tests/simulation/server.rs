//! The gateway's part of the server: sessions, the window, deliveries and hints on the way to the clients.

use std::collections::BTreeMap;

use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connected, Credential};
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::ping::Pong;
use roost_protocol::frame::redirect::Redirect;
use roost_protocol::frame::request::Response;
use roost_protocol::{CloseReason, Encoder, Frame, FrameKind, Header, RefusalCode, UserId};

use super::model::{Outcome, Stored, busy};
use super::world::{Happening, World};

const WINDOW: usize = 8;

impl World {
    pub(super) fn receive(&mut self, connection: usize, bytes: &[u8]) {
        if !self.connections[connection].open {
            return;
        }
        let mut decoder = std::mem::take(&mut self.connections[connection].decoder);
        let mut input = bytes;
        let mut scratch = Vec::new();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut input, &mut scratch).expect("clients send frames")
        {
            if frame.header.kind == FrameKind::Connect {
                decoder.set_connected();
            }
            frames.push((frame.header, frame.payload.to_vec()));
        }
        self.connections[connection].decoder = decoder;
        for (header, payload) in frames {
            if self.strikes(self.faults.cut) {
                self.after(0, Happening::Cut { connection });
                return;
            }
            self.on_frame(connection, header, payload);
        }
    }

    fn on_frame(&mut self, connection: usize, header: Header, payload: Vec<u8>) {
        let correlation = header.correlation;
        match Frame::decode(header.kind, &payload).expect("clients send valid frames") {
            Frame::Connect(connect) => {
                let resumed = matches!(connect.credential, Credential::Resume(_));
                let (epoch, cursor) = (connect.last_session_epoch, connect.inbox_seq);
                self.on_connect(connection, resumed, epoch, cursor);
            }
            Frame::Ping(ping) => {
                let mut bytes = Vec::new();
                Pong::default().encode(&mut Encoder::new(), correlation, &mut bytes);
                let user = self.devices[self.connections[connection].device].user;
                let latest = self.logic.latest_inbox_seq(user);
                if ping.inbox_seq != latest {
                    Notice::Digest { inbox_seq: latest }.encode(&mut Encoder::new(), &mut bytes);
                }
                self.push_bytes(connection, bytes);
            }
            Frame::Send(send) => {
                let now_us = self.now_us;
                let window = &mut self.connections[connection].window;
                window.retain(|_, until| *until > now_us);
                window.insert(correlation, now_us + 30_000_000);
                assert!(window.len() <= WINDOW, "the window is kept");
                if self.strikes(self.faults.busy) {
                    let refusal = busy(&send, self.rng.u32(1..300));
                    self.push(connection, FrameKind::SendRefused, correlation, 0, &refusal);
                    return;
                }
                if self.strikes(self.faults.lose_send) {
                    return;
                }
                let user = self.devices[self.connections[connection].device].user;
                let partition = send.target.conversation(UserId::new(user).unwrap()).to_string();
                let delay = self.rng.u64(100..20_000);
                let at = self
                    .partition_at
                    .get(&partition)
                    .copied()
                    .unwrap_or(0)
                    .max(self.now_us + delay);
                self.partition_at.insert(partition, at);
                self.at(at, Happening::Commit { connection, correlation, payload });
            }
            Frame::DeliverAck(ack) => {
                let acked = &mut self.connections[connection].acked_inbox_seq;
                *acked = ack.inbox_seq.max(*acked);
            }
            Frame::Request(_) => {
                if self.strikes(self.faults.lose_send) {
                    return;
                }
                let delay = self.rng.u64(100..30_000);
                self.after(delay, Happening::Answer { connection, correlation, payload });
            }
            Frame::Receipt(_) => {}
            Frame::Close(_) => self.connections[connection].open = false,
            other @ (Frame::Connected(_)
            | Frame::Pong(_)
            | Frame::SendAck(_)
            | Frame::SendRefused(_)
            | Frame::Deliver(_)
            | Frame::Event(_)
            | Frame::Response(_)
            | Frame::Redirect(_)
            | Frame::GoAway(_)) => panic!("a client never sends {other:?}"),
        }
    }

    fn on_connect(&mut self, connection: usize, resumed: bool, last_epoch: u64, cursor: u64) {
        let mut encoder = Encoder::new();
        let mut bytes = Vec::new();
        let fault = self.faults.refuse_connect;
        if self.strikes(fault / 4) {
            Redirect { address: "gateway-2:7401" }.encode(&mut encoder, &mut bytes);
            let reason = CloseReason::Redirected;
            Close { reason, detail: "", retry_after_ms: 0 }.encode(&mut encoder, &mut bytes);
            self.push_bytes(connection, bytes);
            return;
        }
        if self.strikes(fault / 4) {
            let reason = if resumed { CloseReason::BadToken } else { CloseReason::GatewayFull };
            Close { reason, detail: "", retry_after_ms: 40 }.encode(&mut encoder, &mut bytes);
            self.push_bytes(connection, bytes);
            return;
        }
        let device = self.connections[connection].device;
        self.last_epoch = self.last_epoch.max(last_epoch) + 1;
        self.connections[connection].epoch = self.last_epoch;
        self.connections[connection].acked_inbox_seq = cursor;
        self.connections[connection].delivered_inbox_seq = cursor;
        if let Some(older) = self.sessions.insert(device, connection) {
            self.connections[older].open = false;
        }
        let connected = Connected {
            session_epoch: self.last_epoch,
            user_id: UserId::new(self.devices[device].user).unwrap(),
            gateway: "gateway-1",
            resume_token: "resume",
            server_time_ms: 1,
            heartbeat_interval_ms: 240_000,
            idle_timeout_ms: 300_000,
            inflight_sends_max: WINDOW as u16,
            frame_bytes_max: 65_536,
            body_bytes_max: 16_384,
        };
        connected.encode(&mut encoder, &mut bytes);
        self.push_bytes(connection, bytes);
    }

    pub(super) fn commit(&mut self, connection: usize, correlation: u16, payload: &[u8]) {
        let Ok(Frame::Send(send)) = Frame::decode(FrameKind::Send, payload) else { unreachable!() };
        let (device, epoch) =
            (self.connections[connection].device, self.connections[connection].epoch);
        let (user, device_id) = (self.devices[device].user, self.devices[device].device);
        match self.logic.send(user, device_id, epoch, &send) {
            Outcome::Acked { payload, inbox_seq, committed } => {
                if !self.strikes(self.faults.lose_answer) {
                    self.push(connection, FrameKind::SendAck, correlation, inbox_seq, &payload);
                }
                if let Some(stored) = committed {
                    self.deliver(connection, &stored);
                }
            }
            Outcome::Refused { payload } => {
                if !self.strikes(self.faults.lose_answer) {
                    self.push(connection, FrameKind::SendRefused, correlation, 0, &payload);
                }
            }
        }
    }

    fn deliver(&mut self, from: usize, stored: &Stored) {
        let payload = stored.wire().payload(&mut Encoder::new()).to_vec();
        let sessions: BTreeMap<usize, usize> =
            self.sessions.iter().map(|(&d, &c)| (d, c)).collect();
        for (device, connection) in sessions {
            let user = self.devices[device].user;
            if connection == from || !stored.conversation.split(':').skip(1).any(|m| m == user) {
                continue;
            }
            let inbox_seq = self.logic.inbox_seq(user, stored);
            let c = &mut self.connections[connection];
            c.delivered_inbox_seq = c.delivered_inbox_seq.max(inbox_seq);
            if !std::mem::replace(&mut c.hint_check, true) {
                self.after(4_000_000, Happening::HintCheck { connection, hints: 0 });
            }
            let times = match (
                self.strikes(self.faults.lose_delivery),
                self.strikes(self.faults.repeat_delivery),
            ) {
                (true, _) => 0,
                (false, true) => 2,
                (false, false) => 1,
            };
            for _ in 0..times {
                self.push(connection, FrameKind::Deliver, 0, inbox_seq, &payload);
            }
        }
    }

    pub(super) fn hint_check(&mut self, connection: usize, hints: u8) {
        let c = &mut self.connections[connection];
        c.hint_check = false;
        if !c.open || c.acked_inbox_seq >= c.delivered_inbox_seq || hints >= 3 {
            return;
        }
        c.hint_check = true;
        let inbox_seq = c.delivered_inbox_seq;
        let user = self.devices[c.device].user;
        let (conversation, seq) = self.logic.inboxes[user][inbox_seq as usize - 1].clone();
        let conversation = roost_protocol::ConversationId::parse(&conversation).unwrap();
        let mut bytes = Vec::new();
        Notice::Hint { conversation, seq, inbox_seq }.encode(&mut Encoder::new(), &mut bytes);
        self.push_bytes(connection, bytes);
        self.after(4_000_000, Happening::HintCheck { connection, hints: hints + 1 });
    }

    pub(super) fn answer(&mut self, connection: usize, correlation: u16, payload: &[u8]) {
        let user = self.devices[self.connections[connection].device].user;
        let Ok(Frame::Request(request)) = Frame::decode(FrameKind::Request, payload) else {
            unreachable!()
        };
        let payload = if self.strikes(self.faults.busy) {
            let refused =
                Response::Refused { code: RefusalCode::Busy, retry_after_ms: 50, detail: "" };
            refused.payload(&mut Encoder::new()).to_vec()
        } else {
            self.logic.request(user, &request)
        };
        if !self.strikes(self.faults.lose_answer) {
            self.push(connection, FrameKind::Response, correlation, 0, &payload);
        }
    }

    fn push(
        &mut self,
        connection: usize,
        kind: FrameKind,
        correlation: u16,
        inbox_seq: u64,
        payload: &[u8],
    ) {
        let mut bytes = Header::new(kind, correlation, inbox_seq, payload.len()).encode().to_vec();
        bytes.extend_from_slice(payload);
        if matches!(kind, FrameKind::SendAck | FrameKind::SendRefused) {
            self.connections[connection].window.remove(&correlation);
        }
        // Workers and partitions overtake each other on the way to the gateway.
        let delay = self.rng.u64(0..5000);
        self.after(delay, Happening::Push { connection, bytes });
    }

    pub(super) fn push_bytes(&mut self, connection: usize, bytes: Vec<u8>) {
        if !self.connections[connection].open {
            return;
        }
        let delay = self.rng.u64(50..3000);
        let mut at = self.connections[connection].to_client_at.max(self.now_us + delay);
        for bytes in self.cut_up(bytes) {
            self.connections[connection].to_client_at = at;
            self.at(at, Happening::ToClient { connection, bytes });
            at += 1;
        }
        self.connections[connection].to_client_at = at;
    }
}
