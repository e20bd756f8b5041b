//! Random clients, random logic and a kernel at its worst, against a model: per connection no frame is lost, invented, repeated or
//! reordered, in either direction; every session's end is reported once and last; at the end nothing is left.
//!
//! `ROOST_SIMULATION_SEED=n` replays one seed, `ROOST_SIMULATION_RUNS=n` runs more.

mod judge;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use roost_gateway::io::ConnectionKey;
use roost_gateway::io::simulated::Faults;
use roost_protocol::envelope::InboundKind;
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::deliver::{DeliverAck, Message};
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Encoder, Frame, FrameKind, Header, RefusalCode,
};

use crate::harness::{Client, Got, Received, World, user};
use judge::{judge_inbound, judge_outbound};

const RUNS: u64 = 40;
const STEPS: usize = 600;
const CLIENTS: usize = 6;

/// One life of a simulated client: a socket from connect to its end, and what the model knows of it.
struct Life {
    client: Client,
    /// What it wrote to be forwarded, in order: kind, correlation, payload.
    written: Vec<(FrameKind, u16, Vec<u8>)>,
    pings: u64,
    /// Answers and deliveries that logic pushed, in order: kind, correlation, inbox_seq.
    pushed: Vec<(FrameKind, u16, u64)>,
    /// It misbehaved, closed, reset, or was closed: its tail may be missing.
    broken: bool,
    /// It left, or broke the socket, by itself.
    left: bool,
    got: Vec<Got>,
}

struct Run {
    seed: u64,
    rng: Rng,
    world: World,
    lives: Vec<Life>,
    /// Which of `lives` is a client's newest.
    current: [Option<usize>; CLIENTS],
    received: HashMap<ConnectionKey, Vec<Received>>,
    life_of: HashMap<ConnectionKey, usize>,
    /// Taken by logic and not yet answered.
    unanswered: VecDeque<(ConnectionKey, Question)>,
    inbox_seq: u64,
}

#[derive(Clone, Copy)]
enum Question {
    Send(u16, ClientMsgId),
    Request(u16),
}

#[test]
fn nothing_is_lost_invented_or_left() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("ROOST_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROOST_SIMULATION_RUNS").unwrap_or(RUNS),
    };
    let mut seen = [0; 4];
    let is_full_run = seeds.end - seeds.start >= RUNS;
    for seed in seeds {
        match std::panic::catch_unwind(|| Run::new(seed).run()) {
            Ok(counts) => seen = std::array::from_fn(|n| seen[n] + counts[n]),
            Err(panic) => {
                eprintln!("replay with ROOST_SIMULATION_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(!is_full_run || seen.iter().all(|count| *count >= RUNS / 2), "proves little: {seen:?}");
}

impl Run {
    fn new(seed: u64) -> Self {
        let world = World::with_config(seed, Faults::HARSH, |config| {
            config.inbound.messages_max = 24;
            config.outbox.bytes_max = 64 * 1024;
            config.limits.frames_per_second = 0;
        });
        Self {
            seed,
            rng: Rng::with_seed(seed ^ 0x5eed),
            world,
            lives: Vec::new(),
            current: [None; CLIENTS],
            received: HashMap::new(),
            life_of: HashMap::new(),
            unanswered: VecDeque::new(),
            inbox_seq: 0,
        }
    }

    /// Returns how often the rare paths were taken: pauses, hints, superseded sessions, peers' errors.
    fn run(mut self) -> [u64; 4] {
        for _ in 0..STEPS {
            let who = self.rng.usize(..CLIENTS);
            self.act(who);
            self.logic();
            self.step();
        }
        self.quiesce();
        for life in &mut self.lives {
            // The way to logic may have been full when it logged in.
            life.broken |= life.client.ended;
        }
        for life in 0..self.lives.len() {
            self.judge(life);
        }
        self.end()
    }

    fn step(&mut self) {
        self.world.turn();
        for life in &mut self.lives {
            life.client.pump(&self.world.network);
            life.got.extend(life.client.take());
        }
    }

    /// One client does something.
    fn act(&mut self, who: usize) {
        let Some(index) = self.current[who] else {
            let mut client = self.world.connect();
            let (user, cursor) = (format!("user{who}"), self.lives.len() as u64);
            client.write(&self.world.connect_frame_at(&user, "d1", 7000, cursor));
            self.current[who] = Some(self.lives.len());
            self.lives.push(Life {
                client,
                written: Vec::new(),
                pings: 0,
                pushed: Vec::new(),
                broken: false,
                left: false,
                got: Vec::new(),
            });
            return;
        };
        let network = self.world.network.clone();
        let life = &mut self.lives[index];
        if life.client.ended {
            network.close(life.client.peer);
            life.broken = true;
            life.left = true;
            self.current[who] = None;
            return;
        }
        match self.rng.u8(..100) {
            0 => network.reset(life.client.peer),
            1 => network.close(life.client.peer),
            2 => network.half_close(life.client.peer),
            3 => {
                life.client.write(&[0xee; 40]);
                life.broken = true;
                return;
            }
            4..8 => {
                life.client.reads = !life.client.reads;
                return;
            }
            8..30 => {
                life.pings += 1;
                let ping = Ping { client_time_us: life.pings, inbox_seq: 0 };
                life.client.write_frame(&Frame::Ping(ping), 0);
                return;
            }
            choice => {
                let many = if self.rng.u8(..10) == 0 { 8 } else { 1 };
                for _ in 0..many {
                    life.write_to_logic(choice, &mut self.rng);
                }
                return;
            }
        }
        life.broken = true;
        life.left = true;
        self.current[who] = None;
    }

    /// Logic takes, confirms, answers and delivers, each now and then.
    fn logic(&mut self) {
        if self.rng.u8(..100) < 70 {
            let taken = self.world.take();
            self.record(taken);
        }
        if self.rng.u8(..100) < 40 {
            self.world.confirm();
        }
        let mut batch = Vec::new();
        for _ in 0..self.rng.usize(..4) {
            if let Some((key, question)) = self.unanswered.pop_front() {
                batch.push(self.answer(key, question));
            }
        }
        if self.rng.u8(..100) < 30
            && let Some(key) = self.random_key()
        {
            // Now and then a burst that no socket takes at once.
            let (count, body_bytes) = if self.rng.u8(..20) == 0 { (30, 9000) } else { (1, 50) };
            for _ in 0..count {
                batch.push(self.deliver(key, body_bytes));
            }
        }
        if !batch.is_empty() {
            self.world.push(batch);
        }
    }

    fn random_key(&mut self) -> Option<ConnectionKey> {
        let mut keys: Vec<_> = self.life_of.keys().copied().collect();
        keys.sort_unstable_by_key(|key| (key.index, key.generation));
        self.rng.choice(keys)
    }

    fn record(&mut self, taken: Vec<Received>) {
        for received in taken {
            let key = received.key;
            if received.kind == InboundKind::SessionOpened {
                // Each life connects with its own number as its cursor.
                let life = usize::try_from(received.inbox_seq).unwrap();
                self.lives[life].client.key = Some(key);
                assert!(self.life_of.insert(key, life).is_none(), "{key:?} twice");
            }
            if received.kind == InboundKind::Frame {
                match Frame::decode(received.frame_kind, &received.payload).unwrap() {
                    Frame::Send(send) => self
                        .unanswered
                        .push_back((key, Question::Send(received.correlation, send.client_msg_id))),
                    Frame::Request(_) => {
                        self.unanswered.push_back((key, Question::Request(received.correlation)));
                    }
                    _ => {}
                }
            }
            self.received.entry(key).or_default().push(received);
        }
    }

    fn answer(&mut self, key: ConnectionKey, question: Question) -> (ConnectionKey, Header, Bytes) {
        let mut encoder = Encoder::new();
        let (kind, correlation, inbox_seq, payload) = match question {
            Question::Send(correlation, client_msg_id) if self.rng.bool() => {
                let ack = SendAck {
                    client_msg_id,
                    conversation: ConversationId::parse("s:a:b").unwrap(),
                    seq: 1,
                    message_id: 1,
                    server_time_ms: 1,
                };
                let payload = Bytes::copy_from_slice(ack.payload(&mut encoder));
                (FrameKind::SendAck, correlation, 7, payload)
            }
            Question::Send(correlation, client_msg_id) => {
                let refused = SendRefused {
                    client_msg_id,
                    code: RefusalCode::UnknownUser,
                    retry_after_ms: 0,
                    expected_client_seq: 0,
                    detail: "",
                };
                let payload = Bytes::copy_from_slice(refused.payload(&mut encoder));
                (FrameKind::SendRefused, correlation, 0, payload)
            }
            Question::Request(correlation) => {
                let page = Response::SyncPage { entries: vec![], latest_inbox_seq: 3, more: false };
                let payload = Bytes::copy_from_slice(page.payload(&mut encoder));
                (FrameKind::Response, correlation, 0, payload)
            }
        };
        let life = self.life_of[&key];
        self.lives[life].pushed.push((kind, correlation, inbox_seq));
        (key, Header::new(kind, correlation, inbox_seq, payload.len()), payload)
    }

    fn deliver(&mut self, key: ConnectionKey, body_bytes: usize) -> (ConnectionKey, Header, Bytes) {
        self.inbox_seq += 1;
        let conversation = format!("g:room{}", self.rng.u8(..50));
        let message = Message {
            conversation: ConversationId::parse(&conversation).unwrap(),
            seq: self.inbox_seq,
            message_id: 1,
            sender: user("bob"),
            client_msg_id: ClientMsgId::default(),
            kind: MessageKind::TEXT,
            body: &vec![1; body_bytes],
            server_time_ms: 1,
        };
        let payload = Bytes::copy_from_slice(message.payload(&mut Encoder::new()));
        let header = Header::new(FrameKind::Deliver, 0, self.inbox_seq, payload.len());
        let life = self.life_of[&key];
        self.lives[life].pushed.push((FrameKind::Deliver, 0, self.inbox_seq));
        (key, header, payload)
    }

    /// Everyone reads, logic answers all, until nothing moves.
    fn quiesce(&mut self) {
        for life in &mut self.lives {
            life.client.reads = true;
        }
        for turn in 0..1000 {
            if turn == 500 {
                self.world.network.set_faults(Faults::NONE);
            }
            let taken = self.world.take_and_confirm();
            self.record(taken);
            let mut batch = Vec::new();
            while let Some((key, question)) = self.unanswered.pop_front() {
                batch.push(self.answer(key, question));
            }
            if !batch.is_empty() {
                self.world.push(batch);
            }
            self.step();
        }
        for life in &self.lives {
            assert!(life.broken || life.client.ended || life.client.unsent_bytes() == 0);
        }
    }

    fn judge(&self, index: usize) {
        let life = &self.lives[index];
        let context = format!("seed {} life {index} broken {}", self.seed, life.broken);
        match life.client.key {
            Some(key) => judge_inbound(life, &self.received[&key], &context),
            None => assert!(life.broken, "{context}: logged out without a session"),
        }
        judge_outbound(life, &context);
    }

    /// All leave; nothing stays behind.
    fn end(mut self) -> [u64; 4] {
        for life in &mut self.lives {
            self.world.network.close(life.client.peer);
        }
        for _ in 0..400 {
            let taken = self.world.take_and_confirm();
            self.record(taken);
            self.step();
            self.world.network.advance(Duration::from_millis(10));
        }
        let context = format!("seed {}", self.seed);
        assert_eq!(self.world.shard.connections(), 0, "{context}");
        assert_eq!(self.world.gateway.directory.count(), 0, "{context}");
        assert_eq!(self.world.counters.sessions.get(), 0, "{context}");
        assert_eq!(self.world.counters.connections.get(), 0, "{context}");
        assert_eq!((self.world.gate.bytes(), self.world.gate.messages()), (0, 0), "{context}");
        assert!(self.lives.iter().all(|life| self.world.network.is_released(life.client.peer)));
        for (key, received) in &self.received {
            let count = |kind| received.iter().filter(|r| r.kind == kind).count();
            let events = (count(InboundKind::SessionOpened), count(InboundKind::SessionClosed));
            assert_eq!(events, (1, 1), "{context} {key:?}");
        }
        let counters = &self.world.counters;
        let closes: u64 = counters.closes().map(|(_, count)| count).sum();
        assert_eq!(closes, self.lives.len() as u64, "{context}: one reason per connection");
        let closed = |reason| counters.closes().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n);
        [
            counters.pauses.get(),
            counters.deliveries_dropped_to_hint.get(),
            closed(CloseReason::Superseded),
            closed(CloseReason::SocketError),
        ]
    }
}

impl Life {
    fn write_to_logic(&mut self, choice: u8, rng: &mut Rng) {
        let n = u16::try_from(self.written.len() + 1).unwrap();
        let conversation = ConversationId::parse("s:a:b").unwrap();
        let body = vec![7; if rng.u8(..10) == 0 { 3000 } else { 10 }];
        let frame = match choice {
            30..75 => Frame::Send(Send {
                target: Target::User(user("bob")),
                client_msg_id: ClientMsgId([(n % 256) as u8; 16]),
                client_seq: u32::from(n),
                kind: MessageKind::TEXT,
                body: &body,
            }),
            75..80 => Frame::Request(Request::Sync { after_inbox_seq: u64::from(n), limit: 0 }),
            80..90 => Frame::Receipt(Receipt {
                conversation,
                user: None,
                kind: ReceiptKind::Read,
                seq: u64::from(n),
                by_server: false,
                server_time_ms: 0,
            }),
            _ => Frame::DeliverAck(DeliverAck { inbox_seq: u64::from(n), watermarks: vec![] }),
        };
        let correlation = match frame.kind() {
            FrameKind::Send | FrameKind::Request => n,
            _ => 0,
        };
        let mut bytes = Vec::new();
        frame.encode(&mut Encoder::new(), correlation, 0, &mut bytes);
        self.written.push((frame.kind(), correlation, bytes[16..].to_vec()));
        self.client.write(&bytes);
    }
}
