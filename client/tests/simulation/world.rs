//! Clients, a network with faults, and the gateway's part of the server, on a virtual clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_client::{Action, Config, Disconnect, Event, SavedState, SendTo, core::Core};
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connected, Credential};
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::ping::Pong;
use roost_protocol::frame::redirect::{GoAway, Redirect};
use roost_protocol::frame::request::Response;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{
    ClientMsgId, CloseReason, Decoder, Encoder, Frame, FrameKind, Header, RefusalCode, UserId,
};

use super::model::{Logic, Outcome, Stored, busy};

/// How likely each fault is, in 1/1000, where it may strike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lose_send: u32,
    pub(crate) lose_answer: u32,
    pub(crate) lose_delivery: u32,
    pub(crate) repeat_delivery: u32,
    pub(crate) busy: u32,
    pub(crate) cut: u32,
    pub(crate) refuse_connect: u32,
    pub(crate) restart: u32,
    pub(crate) go_away: u32,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lose_send: 0,
        lose_answer: 0,
        lose_delivery: 0,
        repeat_delivery: 0,
        busy: 0,
        cut: 0,
        refuse_connect: 0,
        restart: 0,
        go_away: 0,
    };
    pub(crate) const LOSSY: Self = Self {
        lose_send: 20,
        lose_answer: 20,
        lose_delivery: 30,
        repeat_delivery: 30,
        busy: 20,
        cut: 3,
        refuse_connect: 100,
        restart: 0,
        go_away: 1,
    };
    pub(crate) const HOSTILE: Self = Self {
        lose_send: 120,
        lose_answer: 120,
        lose_delivery: 200,
        repeat_delivery: 150,
        busy: 150,
        cut: 15,
        refuse_connect: 300,
        restart: 10,
        go_away: 5,
    };
}

const USERS: [&str; 4] = ["ann", "ben", "cleo", "dan"];
const DEVICES: [&str; 2] = ["phone", "laptop"];
const WINDOW: usize = 8;
const SENDS_PER_DEVICE: usize = 60;
const FAULTY_TIME: Duration = Duration::from_secs(60);
const HEALING_TIME: Duration = Duration::from_secs(600);

enum Happening {
    SocketOpens {
        connection: usize,
    },
    ConnectFails {
        device: usize,
    },
    ToServer {
        connection: usize,
        bytes: Vec<u8>,
    },
    ToClient {
        connection: usize,
        bytes: Vec<u8>,
    },
    /// Server and client both lose the connection.
    Cut {
        connection: usize,
    },
    Commit {
        connection: usize,
        correlation: u16,
        payload: Vec<u8>,
    },
    Answer {
        connection: usize,
        correlation: u16,
        payload: Vec<u8>,
    },
    HintCheck {
        connection: usize,
        hints: u8,
    },
    Push {
        connection: usize,
        bytes: Vec<u8>,
    },
    Application {
        device: usize,
    },
}

struct Device {
    user: &'static str,
    device: &'static str,
    core: Core,
    connection: Option<usize>,
    sends_left: usize,
    order: Vec<ClientMsgId>,
    sent: BTreeMap<ClientMsgId, Option<(String, u64)>>,
    refused: BTreeSet<ClientMsgId>,
    shown: HashMap<String, Vec<ClientMsgId>>,
    stopped: Option<Disconnect>,
}

#[derive(Default)]
struct Connection {
    device: usize,
    open: bool,
    decoder: Decoder,
    epoch: u64,
    acked_inbox_seq: u64,
    delivered_inbox_seq: u64,
    hint_check: bool,
    /// Correlations of unanswered sends, and when the gateway forgets them.
    window: BTreeMap<u16, u64>,
    /// A direction keeps its order.
    to_server_at: u64,
    to_client_at: u64,
}

pub(crate) struct World {
    rng: fastrand::Rng,
    faults: Faults,
    begin: Instant,
    now_us: u64,
    happenings: BTreeMap<(u64, u64), Happening>,
    counter: u64,
    devices: Vec<Device>,
    connections: Vec<Connection>,
    /// Epoch and open connection per device.
    sessions: HashMap<usize, usize>,
    last_epoch: u64,
    partition_at: HashMap<String, u64>,
    logic: Logic,
}

fn config(user: &str, device: &str, seed: u64) -> Config {
    let mut config =
        Config::new(user, device, "gateway-1:7401", u128::from(seed) << 64 | u128::from(seed));
    config.addresses.push("gateway-2:7401".into());
    config.token = Some("token".into());
    config
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let begin = Instant::now();
        let mut devices = Vec::new();
        for user in USERS {
            for device in DEVICES {
                let core = Core::new(config(user, device, rng.u64(..)), begin).unwrap();
                devices.push(Device {
                    user,
                    device,
                    core,
                    connection: None,
                    sends_left: SENDS_PER_DEVICE,
                    order: Vec::new(),
                    sent: BTreeMap::new(),
                    refused: BTreeSet::new(),
                    shown: HashMap::new(),
                    stopped: None,
                });
            }
        }
        let mut world = Self {
            rng,
            faults,
            begin,
            now_us: 0,
            happenings: BTreeMap::new(),
            counter: 0,
            devices,
            connections: Vec::new(),
            sessions: HashMap::new(),
            last_epoch: 0,
            partition_at: HashMap::new(),
            logic: Logic::default(),
        };
        for device in 0..world.devices.len() {
            world.devices[device].core.start(begin);
            world.drive(device);
            world.after(1000, Happening::Application { device });
        }
        world
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_micros(self.now_us)
    }

    fn strikes(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }

    fn at(&mut self, at_us: u64, happening: Happening) {
        self.counter += 1;
        self.happenings.insert((at_us, self.counter), happening);
    }

    fn after(&mut self, us: u64, happening: Happening) {
        self.at(self.now_us + us, happening);
    }

    pub(crate) fn run_with_faults(&mut self) {
        let end = self.now_us + FAULTY_TIME.as_micros() as u64;
        self.run_until(|world| world.now_us >= end);
    }

    pub(crate) fn heal(&mut self) {
        self.faults = Faults::NONE;
        let end = self.now_us + HEALING_TIME.as_micros() as u64;
        self.run_until(|world| world.now_us >= end);
    }

    fn run_until(&mut self, end: impl Fn(&Self) -> bool) {
        let mut steps = 0u64;
        while !end(self) {
            steps += 1;
            assert!(steps < 3_000_000, "the world spins at {} us", self.now_us);
            let next_happening = self.happenings.first_key_value().map(|(&(at, _), _)| at);
            let timeouts = self.devices.iter().enumerate();
            let next_timeout = timeouts
                .filter_map(|(i, d)| d.core.poll_timeout().map(|at| (at, i)))
                .min()
                .map(|(at, i)| {
                    let us = at.saturating_duration_since(self.begin).as_nanos().div_ceil(1000);
                    (us as u64, i)
                });
            match (next_happening, next_timeout) {
                (Some(at), timeout) if timeout.is_none_or(|(us, _)| at <= us) => {
                    self.now_us = self.now_us.max(at);
                    let (_, happening) = self.happenings.pop_first().unwrap();
                    self.happen(happening);
                }
                (_, Some((us, device))) => {
                    self.now_us = self.now_us.max(us);
                    let now = self.now();
                    self.devices[device].core.handle_timeout(now);
                    self.drive(device);
                }
                (_, None) => unreachable!("devices always wait for something"),
            }
        }
    }

    /// What a driver does after each call.
    fn drive(&mut self, device: usize) {
        let now = self.now();
        while let Some(event) = self.devices[device].core.poll_event() {
            self.on_event(device, event);
        }
        let mut bytes = Vec::new();
        while self.devices[device].core.poll_transmit(now, &mut bytes) {}
        if let Some(connection) = self.devices[device].connection
            && !bytes.is_empty()
        {
            for piece in self.cut_up(bytes) {
                let delay = self.rng.u64(50..2000);
                let at = self.connections[connection].to_server_at.max(self.now_us + delay);
                self.connections[connection].to_server_at = at;
                self.at(at, Happening::ToServer { connection, bytes: piece });
            }
        }
        while let Some(action) = self.devices[device].core.poll_action() {
            match action {
                Action::Connect { .. } => self.open(device),
                Action::Disconnect => {
                    if let Some(connection) = self.devices[device].connection.take() {
                        self.connections[connection].open = false;
                    }
                }
                Action::NeedToken => {
                    self.devices[device].core.provide_token(now, "another token".into());
                    self.drive(device);
                }
            }
        }
    }

    fn open(&mut self, device: usize) {
        if self.strikes(self.faults.refuse_connect) {
            self.after(3000, Happening::ConnectFails { device });
            return;
        }
        let connection = self.connections.len();
        self.connections.push(Connection { device, ..Connection::default() });
        self.devices[device].connection = Some(connection);
        let delay = self.rng.u64(100..3000);
        self.after(delay, Happening::SocketOpens { connection });
    }

    fn cut_up(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if self.rng.bool() {
            return vec![bytes];
        }
        let at = self.rng.usize(0..=bytes.len());
        vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
    }

    fn on_event(&mut self, device: usize, event: Event) {
        let d = &mut self.devices[device];
        match event {
            Event::Message(message) => {
                let shown = d.shown.entry(message.conversation.to_string()).or_default();
                let expected = shown.len() as u64 + 1;
                assert_eq!(
                    message.seq, expected,
                    "{}/{} {}",
                    d.user, d.device, message.conversation
                );
                let stored = &self.logic.logs[&*message.conversation][message.seq as usize - 1];
                assert_eq!(stored.client_msg_id, message.client_msg_id);
                assert_eq!(stored.body, message.body);
                assert_eq!(stored.sender, *message.sender);
                shown.push(message.client_msg_id);
            }
            Event::Acked(acked) => {
                let place = (acked.conversation.to_string(), acked.seq);
                let known = d.sent.get_mut(&acked.client_msg_id).expect("only own sends are acked");
                match known {
                    Some(before) => {
                        assert_eq!(*before, place, "repeated acknowledgements are identical");
                    }
                    None => *known = Some(place),
                }
            }
            Event::Refused { client_msg_id, code, .. } => {
                assert_eq!(code, RefusalCode::UnknownUser);
                assert!(d.refused.insert(client_msg_id), "refused once");
            }
            Event::Disconnected { reason, next } => {
                if next == roost_client::NextStep::Stopped {
                    d.stopped = Some(reason);
                }
            }
            Event::Connected { .. }
            | Event::Receipt(_)
            | Event::Synced { .. }
            | Event::History { .. }
            | Event::RequestRefused { .. } => {}
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::SocketOpens { connection } => {
                let device = self.connections[connection].device;
                if self.devices[device].connection == Some(connection) {
                    self.connections[connection].open = true;
                    let now = self.now();
                    self.devices[device].core.handle_connected(now);
                    self.drive(device);
                }
            }
            Happening::ConnectFails { device } => {
                let now = self.now();
                self.devices[device].core.handle_disconnected(now);
                self.drive(device);
            }
            Happening::ToServer { connection, bytes } => self.receive(connection, &bytes),
            Happening::ToClient { connection, bytes } => {
                let device = self.connections[connection].device;
                if self.devices[device].connection == Some(connection) {
                    let now = self.now();
                    self.devices[device].core.handle_bytes(now, &bytes);
                    self.drive(device);
                }
            }
            Happening::Cut { connection } => self.cut(connection),
            Happening::Commit { connection, correlation, payload } => {
                self.commit(connection, correlation, &payload);
            }
            Happening::Answer { connection, correlation, payload } => {
                self.answer(connection, correlation, &payload);
            }
            Happening::HintCheck { connection, hints } => self.hint_check(connection, hints),
            Happening::Push { connection, bytes } => self.push_bytes(connection, bytes),
            Happening::Application { device } => self.application(device),
        }
    }

    fn cut(&mut self, connection: usize) {
        let device = self.connections[connection].device;
        self.connections[connection].open = false;
        if self.devices[device].connection == Some(connection) {
            self.devices[device].connection = None;
            let now = self.now();
            self.devices[device].core.handle_disconnected(now);
            self.drive(device);
        }
    }

    fn application(&mut self, device: usize) {
        let pause = self.rng.u64(1000..1_500_000);
        self.after(pause, Happening::Application { device });
        if self.strikes(self.faults.restart) {
            self.restart(device);
        }
        if self.strikes(self.faults.go_away)
            && let Some(&connection) = self.sessions.get(&device)
        {
            let mut bytes = Vec::new();
            GoAway { reconnect_after_ms: 700 }.encode(&mut Encoder::new(), &mut bytes);
            self.push_bytes(connection, bytes);
        }
        for _ in 0..self.rng.usize(0..6) {
            let d = &mut self.devices[device];
            if d.sends_left == 0 {
                break;
            }
            d.sends_left -= 1;
            let to = if self.rng.u32(0..20) == 0 {
                "ghost"
            } else {
                *self.rng.choice(USERS.iter()).unwrap()
            };
            let bytes = if self.rng.u32(0..30) == 0 { 9000 } else { self.rng.usize(0..40) };
            let body: Vec<u8> = (0..bytes).map(|_| self.rng.u8(..)).collect();
            let id = d
                .core
                .send_message(SendTo::User(to), MessageKind::TEXT, Bytes::from(body))
                .unwrap();
            d.order.push(id);
            assert!(d.sent.insert(id, None).is_none());
        }
        self.drive(device);
    }

    /// The program ends at once and starts again from what it saved.
    fn restart(&mut self, device: usize) {
        let saved: SavedState = self.devices[device].core.save();
        if let Some(connection) = self.devices[device].connection.take() {
            let later = self.rng.u64(0..20_000_000);
            self.after(later, Happening::Cut { connection });
        }
        let d = &self.devices[device];
        let mut config = config(d.user, d.device, self.rng.u64(..));
        config.saved = saved;
        let now = self.now();
        let mut core = Core::new(config, now).unwrap();
        core.start(now);
        self.devices[device].core = core;
        self.drive(device);
    }

    // The server.

    fn receive(&mut self, connection: usize, bytes: &[u8]) {
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

    fn commit(&mut self, connection: usize, correlation: u16, payload: &[u8]) {
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

    fn hint_check(&mut self, connection: usize, hints: u8) {
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

    fn answer(&mut self, connection: usize, correlation: u16, payload: &[u8]) {
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

    fn push_bytes(&mut self, connection: usize, bytes: Vec<u8>) {
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

    /// The promises.
    pub(crate) fn check(&self) {
        for d in &self.devices {
            let who = format!("{}/{}", d.user, d.device);
            assert_eq!(d.stopped, None, "{who} never stops by itself");
            assert!(d.core.is_online(), "{who} is online");
            assert_eq!(d.sends_left, 0, "{who} sent everything");
            assert_eq!(d.core.unsent(), 0, "{who}: the send queue is empty");
            for (id, place) in &d.sent {
                match place {
                    Some((conversation, seq)) => {
                        let stored = &self.logic.logs[conversation][*seq as usize - 1];
                        assert_eq!(stored.client_msg_id, *id);
                        assert!(!d.refused.contains(id));
                    }
                    None => assert!(d.refused.contains(id), "{who}: {id} is resolved"),
                }
            }
            assert_eq!(d.core.inbox_seq(), self.logic.latest_inbox_seq(d.user), "{who}: cursor");
            for (conversation, log) in &self.logic.logs {
                if conversation.split(':').skip(1).any(|member| member == d.user) {
                    let ids: Vec<_> = log.iter().map(|s| s.client_msg_id).collect();
                    assert_eq!(d.shown.get(conversation), Some(&ids), "{who}: {conversation}");
                }
            }
        }
        self.check_sender_order();
        for (connection, c) in self.connections.iter().enumerate() {
            if c.open && self.sessions.get(&c.device) == Some(&connection) {
                assert_eq!(c.acked_inbox_seq, c.delivered_inbox_seq.max(c.acked_inbox_seq));
            }
        }
        for log in self.logic.logs.values() {
            let ids: BTreeSet<_> = log.iter().map(|s| s.client_msg_id).collect();
            assert_eq!(ids.len(), log.len(), "one place per client_msg_id");
        }
    }

    fn check_sender_order(&self) {
        for d in &self.devices {
            let mut last = HashMap::new();
            for id in &d.order {
                if let Some((conversation, seq)) = &d.sent[id] {
                    let last = last.entry(conversation).or_insert(0);
                    assert!(
                        *seq > *last,
                        "{}/{}: {conversation} in the order of sending",
                        d.user,
                        d.device
                    );
                    *last = *seq;
                }
            }
        }
    }
}
