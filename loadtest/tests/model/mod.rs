//! A small messaging system in memory that records its history, with switches for planted bugs.
//!
//! One seed decides everything: who sends when, which connections break, when the logic or the
//! whole server is killed, what lingers on a dead connection. Without a bug it keeps every
//! promise; with one it breaks those that the bug breaks in a real system. Clients trust the
//! server: they display what arrives unless they have it, and pull when they connect or are told
//! to. So a server's bug shows on the screen instead of being repaired.

mod client;
mod server;

use roost_loadtest::checker::{History, Record};

use client::Client;
use server::Server;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    AckBeforeCommit,
    SkipDedupe,
    FetchBeforeSubscribe,
    DropOldest,
    AcceptStaleEpoch,
    AutoAck,
    NoMandatory,
    DeleteRouteOnClose,
    RecallInPlace,
    Gap,
    Inversion,
    DuplicateDisplay,
    IdReuse,
    RepeatedAckDiffers,
    RealTimeOrder,
    WatermarkBack,
    DeliverToStrangers,
    AlteredContent,
    ForgetSend,
}

pub(crate) const USERS: usize = 3;
pub(crate) const DEVICES: usize = USERS * 2;
/// Conversations by their two users.
pub(crate) const CHATS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

/// More than any seed needs until each send is answered.
const HEAL_ROUNDS_MAX: usize = 100;

/// A message as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) chat: usize,
    pub(crate) user: usize,
    pub(crate) client_msg_id: u128,
    pub(crate) hash: u64,
}

/// A send on a connection of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) device: usize,
    pub(crate) epoch: u64,
    pub(crate) client_seq: u64,
    pub(crate) body: Body,
}

pub(crate) struct Model {
    pub(crate) bug: Option<Bug>,
    pub(crate) random: fastrand::Rng,
    pub(crate) now_us: u64,
    pub(crate) history: History,
    server: Server,
    clients: Vec<Client>,
    /// What the network still holds of connections that ended.
    lingering: Vec<Packet>,
}

/// Runs `turns` random events, heals, reads the database and returns what was recorded.
pub(crate) fn run(seed: u64, turns: usize, bug: Option<Bug>) -> History {
    let mut random = fastrand::Rng::with_seed(seed);
    let own_pushed = random.bool();
    let mut model = Model {
        bug,
        random,
        now_us: 1_000_000,
        history: History::new(),
        server: Server::new(own_pushed),
        clients: (0..DEVICES).map(Client::new).collect(),
        lingering: Vec::new(),
    };
    for (one, other) in CHATS {
        model.history.single_chat(&user_name(one), &user_name(other));
    }
    for _ in 0..turns {
        model.turn();
    }
    model.heal();
    model.history
}

pub(crate) fn user_name(user: usize) -> String {
    format!("u{user}")
}

impl Model {
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(0..n) == 0
    }

    pub(crate) fn record(&mut self, record: Record) {
        self.now_us += 1;
        self.history.record(self.now_us, record);
    }

    fn turn(&mut self) {
        let device = self.random.usize(0..DEVICES);
        match self.random.u32(0..100) {
            0..12 => self.write(device),
            12..42 => {
                let _ = self.transmit(device) && self.transmit(device);
            }
            42..54 => self.commit(),
            54..66 => self.publish(),
            66..82 => (0..DEVICES).for_each(|device| {
                self.deliver(device);
            }),
            82..84 => self.disconnect(device),
            84..88 => self.connect(device),
            88..90 => self.subscribe_late(device),
            90..92 => self.read(device),
            92 => self.recall(device),
            93 => self.reuse_id(device),
            94 => self.push_again(device),
            95 => self.arrive_late(),
            96 => self.kill_logic(),
            97 => self.kill_server(),
            _ => self.resend(device),
        }
    }

    /// A send of a dead connection arrives after all; the network gives no order among them.
    fn arrive_late(&mut self) {
        if !self.lingering.is_empty() {
            let at = self.random.usize(0..self.lingering.len());
            let packet = self.lingering.swap_remove(at);
            self.handle(packet);
        }
    }

    fn kill_server(&mut self) {
        self.record(Record::Kill { took_effect: true });
        self.server.die();
        for device in 0..DEVICES {
            self.disconnect(device);
        }
    }

    /// Faults end; everything gets its time.
    fn heal(&mut self) {
        for device in 0..DEVICES {
            self.connect(device);
            self.subscribe_late(device);
        }
        for _ in 0..HEAL_ROUNDS_MAX {
            if !self.clients.iter().any(Client::has_unresolved) {
                break;
            }
            for device in 0..DEVICES {
                self.resend(device);
                while self.transmit(device) {}
            }
            self.commit();
            self.publish();
            for device in 0..DEVICES {
                while self.deliver(device) {}
            }
        }
        self.commit();
        self.publish();
        for device in 0..DEVICES {
            while self.deliver(device) {}
            self.apply_all_recalls(device);
        }
        self.record(Record::Healed);
        for device in 0..DEVICES {
            let id = self.device_id(device);
            self.record(Record::Settled { device: id });
        }
        self.read_database();
    }
}
