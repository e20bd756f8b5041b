//! Clients and a network with faults, on a virtual clock. The server is in `server`, what must hold in `promises`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_client::{Action, Config, Disconnect, Event, SavedState, SendTo, core::Core};
use roost_protocol::frame::redirect::GoAway;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{ClientMsgId, Decoder, Encoder, RefusalCode};

use super::faults::Faults;
use super::model::Logic;

const USERS: [&str; 4] = ["ann", "ben", "cleo", "dan"];
const DEVICES: [&str; 2] = ["phone", "laptop"];
const SENDS_PER_DEVICE: usize = 60;
const FAULTY_TIME: Duration = Duration::from_secs(60);
const HEALING_TIME: Duration = Duration::from_secs(600);

/// What waits for its time.
pub(super) enum Happening {
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

pub(super) struct Device {
    pub(super) user: &'static str,
    pub(super) device: &'static str,
    pub(super) core: Core,
    pub(super) connection: Option<usize>,
    pub(super) sends_left: usize,
    pub(super) order: Vec<ClientMsgId>,
    pub(super) sent: BTreeMap<ClientMsgId, Option<(String, u64)>>,
    pub(super) refused: BTreeSet<ClientMsgId>,
    pub(super) shown: HashMap<String, Vec<ClientMsgId>>,
    pub(super) stopped: Option<Disconnect>,
}

#[derive(Default)]
pub(super) struct Connection {
    pub(super) device: usize,
    pub(super) open: bool,
    pub(super) decoder: Decoder,
    pub(super) epoch: u64,
    pub(super) acked_inbox_seq: u64,
    pub(super) delivered_inbox_seq: u64,
    pub(super) hint_check: bool,
    /// Correlations of unanswered sends, and when the gateway forgets them.
    pub(super) window: BTreeMap<u16, u64>,
    /// A direction keeps its order.
    pub(super) to_server_at: u64,
    pub(super) to_client_at: u64,
}

pub(crate) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) faults: Faults,
    pub(super) begin: Instant,
    pub(super) now_us: u64,
    pub(super) happenings: BTreeMap<(u64, u64), Happening>,
    pub(super) counter: u64,
    pub(super) devices: Vec<Device>,
    pub(super) connections: Vec<Connection>,
    /// Epoch and open connection per device.
    pub(super) sessions: HashMap<usize, usize>,
    pub(super) last_epoch: u64,
    pub(super) partition_at: HashMap<String, u64>,
    pub(super) logic: Logic,
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

    pub(super) fn strikes(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }

    pub(super) fn at(&mut self, at_us: u64, happening: Happening) {
        self.counter += 1;
        self.happenings.insert((at_us, self.counter), happening);
    }

    pub(super) fn after(&mut self, us: u64, happening: Happening) {
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

    pub(super) fn cut_up(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
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
}
