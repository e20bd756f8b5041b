//! One shard on simulated sockets and a virtual clock, clients that speak frames, and the test in the place of logic.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roost_gateway::clock::WallClock;
use roost_gateway::config::GatewayConfig;
use roost_gateway::gateway::GatewayContext;
use roost_gateway::io::simulated::{Faults, PeerId, PeerRead, SimulatedIo, SimulatedNetwork};
use roost_gateway::io::{ConnectionKey, IoConfig, Waker};
use roost_gateway::metrics::ShardCounters;
use roost_gateway::session::directory::Directory;
use roost_gateway::session::handshake::Handshake;
use roost_gateway::session::keys::VerificationKeys;
use roost_gateway::session::placement::Placement;
use roost_gateway::session::resume_token::{Resume, ResumeKey};
use roost_gateway::shard::event_loop::Turn;
use roost_gateway::shard::inbound::{Gate, InboundSource, InboundTurn, inbound};
use roost_gateway::shard::mailbox::{MailboxSender, mailbox};
use roost_gateway::shard::message::{ShardAction, ShardItem, ShardMessage};
use roost_gateway::shard::{Shard, ShardParts};
use roost_membership::RingWatch;
use roost_protocol::envelope::{InboundBatch, InboundBatchBuilder, InboundKind};
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connect, Credential, DeviceClass};
use roost_protocol::limits::PROTOCOL_VERSION;
use roost_protocol::{CloseReason, Decoder, DeviceId, Encoder, Frame, FrameKind, Header, UserId};

const SECRET: &[u8] = b"the secret of the simulation, 32+";
/// Wall clock at the start.
pub(crate) const START_US: u64 = 1_800_000_000_000_000;
/// One step of the virtual clock.
pub(crate) const STEP: Duration = Duration::from_millis(1);

/// What logic got, with its own memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: InboundKind,
    pub(crate) frame_kind: FrameKind,
    pub(crate) correlation: u16,
    pub(crate) key: ConnectionKey,
    pub(crate) epoch: u64,
    pub(crate) inbox_seq: u64,
    pub(crate) user: String,
    pub(crate) payload: Bytes,
}

/// One shard and everything around it.
pub(crate) struct World {
    pub(crate) network: SimulatedNetwork,
    pub(crate) shard: Shard<SimulatedIo>,
    pub(crate) to_shard: MailboxSender<ShardMessage>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) gateway: Arc<GatewayContext>,
    pub(crate) counters: Arc<ShardCounters>,
    pub(crate) finished: bool,
    source: InboundSource,
    /// Turns that logic took but has not confirmed.
    unconfirmed: VecDeque<Box<InboundTurn>>,
    resume: ResumeKey,
    clients: u32,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self::with_config(seed, faults, |_| ())
    }

    pub(crate) fn with_config(
        seed: u64,
        faults: Faults,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        Self::build(seed, faults, change, None)
    }

    /// A gateway that sends users where they belong.
    pub(crate) fn with_ring(seed: u64, ring: RingWatch) -> Self {
        Self::build(seed, Faults::NONE, |_| (), Some(Placement::new(ring, "gw")))
    }

    fn build(
        seed: u64,
        faults: Faults,
        change: impl FnOnce(&mut GatewayConfig),
        placement: Option<Placement>,
    ) -> Self {
        let mut config = GatewayConfig { name: "gw".to_owned(), ..GatewayConfig::default() };
        change(&mut config);
        config.check().expect("a usable configuration");
        let network = SimulatedNetwork::new(seed, faults);
        network.hold_clock();
        let io =
            SimulatedIo::new(&network, &IoConfig { connections_max: 1000, ..IoConfig::default() });
        let gate = Gate::new(config.inbound.bytes_max, config.inbound.messages_max);
        let resume = ResumeKey::new(SECRET);
        let gateway = Arc::new(GatewayContext {
            handshake: Handshake::new(VerificationKeys::new(), ResumeKey::new(SECRET)),
            directory: Arc::new(Directory::new(&config.name, config.limits.sessions_per_user_max)),
            placement,
            clock: WallClock::new(network.now(), START_US),
            config,
        });
        let waker = Arc::new(Waker::new().unwrap());
        let (to_shard, mailbox) = mailbox(64, Arc::clone(&waker));
        let (queue, source) = inbound(&gate, 32, waker);
        let counters = Arc::new(ShardCounters::default());
        let shard = Shard::new(ShardParts {
            index: 0,
            io,
            connections_max: 1000,
            gateway: Arc::clone(&gateway),
            mailbox,
            inbound: queue,
            counters: Arc::clone(&counters),
        });
        Self {
            network,
            shard,
            to_shard,
            gate,
            gateway,
            counters,
            finished: false,
            source,
            unconfirmed: VecDeque::new(),
            resume,
            clients: 0,
        }
    }

    /// One turn and one step of the clock.
    pub(crate) fn turn(&mut self) {
        if !self.finished {
            self.finished = self.shard.turn() == Turn::Finished;
        }
        self.network.advance(STEP);
    }

    /// Enough turns for everything at hand, without faults.
    pub(crate) fn settle(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..10 {
            self.turn();
            clients.iter_mut().for_each(|client| client.pump(&self.network));
        }
    }

    /// Lets time pass in steps that no timer misses.
    pub(crate) fn pass(&mut self, time: Duration, clients: &mut [&mut Client]) {
        let step = Duration::from_millis(100);
        let end = self.network.now() + time;
        while self.network.now() < end {
            self.network.advance(step - STEP);
            self.turn();
            clients.iter_mut().for_each(|client| client.pump(&self.network));
        }
        self.settle(clients);
    }

    /// What logic gets, without confirming it.
    pub(crate) fn take(&mut self) -> Vec<Received> {
        let mut received = Vec::new();
        while let Some(turn) = self.source.pop() {
            for record in turn.records() {
                let mut batch = InboundBatchBuilder::new("gw");
                batch.push_record(record.bytes);
                let batch = InboundBatch::parse(batch.take()).unwrap();
                received.extend(batch.iter().map(|record| {
                    let (inbound, payload) = record.unwrap();
                    Received {
                        kind: inbound.kind,
                        frame_kind: inbound.frame_kind,
                        correlation: inbound.correlation,
                        key: ConnectionKey {
                            index: inbound.connection.index,
                            generation: inbound.connection.generation,
                        },
                        epoch: inbound.session_epoch,
                        inbox_seq: inbound.inbox_seq,
                        user: inbound.user.to_owned(),
                        payload,
                    }
                }));
            }
            self.unconfirmed.push_back(turn);
        }
        received
    }

    /// The bus confirms everything logic took.
    pub(crate) fn confirm(&mut self) {
        while let Some(turn) = self.unconfirmed.pop_front() {
            let (bytes, messages) = turn
                .records()
                .fold((0, 0), |(b, m), record| (b + record.bytes.len() as u64, m + 1));
            self.gate.release(bytes, messages);
            self.source.recycle(turn);
            self.source.offer_room();
        }
    }

    pub(crate) fn take_and_confirm(&mut self) -> Vec<Received> {
        let received = self.take();
        self.confirm();
        received
    }

    /// Logic sends frames, all in one batch.
    pub(crate) fn push(&self, frames: impl IntoIterator<Item = (ConnectionKey, Header, Bytes)>) {
        let items = frames
            .into_iter()
            .map(|(key, header, payload)| ShardItem {
                key,
                action: ShardAction::Frame { header, payload },
            })
            .collect();
        self.to_shard.send(ShardMessage::Batch(items)).expect("room in the mailbox");
    }

    /// Logic has a connection closed.
    pub(crate) fn push_close(&self, key: ConnectionKey, reason: CloseReason) {
        let items = vec![ShardItem { key, action: ShardAction::Close(reason) }];
        self.to_shard.send(ShardMessage::Batch(items)).expect("room in the mailbox");
    }

    /// A socket, without a word said.
    pub(crate) fn connect(&mut self) -> Client {
        self.clients += 1;
        Client::new(self.network.connect(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    /// The bytes of a CONNECT.
    pub(crate) fn connect_frame(&self, user: &str, device: &str, valid_s: u32) -> Vec<u8> {
        self.connect_frame_at(user, device, valid_s, 5)
    }

    /// The same with an inbox cursor, which comes back in the report of the session.
    pub(crate) fn connect_frame_at(
        &self,
        user: &str,
        device: &str,
        valid_s: u32,
        inbox_seq: u64,
    ) -> Vec<u8> {
        let mut token = String::new();
        let now_s = START_US / 1_000_000;
        let resume = Resume {
            app: "demo",
            user,
            device,
            epoch: 1,
            session_expires_s: u32::try_from(now_s).unwrap() + valid_s,
        };
        self.resume.issue(&resume, now_s, &mut token);
        let mut bytes = Vec::new();
        let connect = Connect {
            protocol_version: PROTOCOL_VERSION,
            credential: Credential::Resume(&token),
            device_id: DeviceId::new(device).unwrap(),
            device_class: DeviceClass::Phone,
            client_name: "simulation",
            last_session_epoch: 1,
            inbox_seq,
        };
        connect.encode(&mut Encoder::new(), &mut bytes);
        bytes
    }

    /// A logged-in client, without faults on the way.
    pub(crate) fn log_in(&mut self, user: &str) -> Client {
        let mut client = self.connect();
        client.write(&self.connect_frame(user, "d1", 7000));
        client.pump(&self.network);
        self.settle(&mut [&mut client]);
        let frames = client.take();
        assert_eq!(kinds(&frames), [FrameKind::Connected], "{user}");
        let opened = self.take_and_confirm();
        assert_eq!(opened.len(), 1);
        assert_eq!((opened[0].kind, opened[0].inbox_seq), (InboundKind::SessionOpened, 5));
        client.key = Some(opened[0].key);
        client
    }
}

/// A frame a client got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

impl Got {
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame::decode(self.header.kind, &self.payload).expect("the gateway sends valid frames")
    }
}

pub(crate) fn kinds(frames: &[Got]) -> Vec<FrameKind> {
    frames.iter().map(|frame| frame.header.kind).collect()
}

/// One client's socket.
pub(crate) struct Client {
    pub(crate) peer: PeerId,
    pub(crate) key: Option<ConnectionKey>,
    /// Whether it reads what it gets.
    pub(crate) reads: bool,
    /// The gateway finished sending.
    pub(crate) ended: bool,
    to_send: VecDeque<u8>,
    decoder: Decoder,
    scratch: Vec<u8>,
    got: Vec<Got>,
}

impl Client {
    fn new(peer: PeerId) -> Self {
        let mut decoder = Decoder::new();
        decoder.set_connected();
        Self {
            peer,
            key: None,
            reads: true,
            ended: false,
            to_send: VecDeque::new(),
            decoder,
            scratch: Vec::new(),
            got: Vec::new(),
        }
    }

    pub(crate) fn key(&self) -> ConnectionKey {
        self.key.expect("logged in")
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
    }

    pub(crate) fn write_frame(&mut self, frame: &Frame<'_>, correlation: u16) {
        let mut bytes = Vec::new();
        frame.encode(&mut Encoder::new(), correlation, 0, &mut bytes);
        self.write(&bytes);
    }

    /// Bytes that did not fit yet.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.to_send.len()
    }

    pub(crate) fn pump(&mut self, network: &SimulatedNetwork) {
        let sent = network.send(self.peer, self.to_send.make_contiguous());
        self.to_send.drain(..sent);
        if !self.reads {
            return;
        }
        match network.receive(self.peer) {
            PeerRead::Bytes(bytes) => self.decode(&bytes),
            PeerRead::WouldBlock => {}
            PeerRead::EndOfStream => self.ended = true,
        }
    }

    fn decode(&mut self, mut bytes: &[u8]) {
        while let Some(raw) =
            self.decoder.next(&mut bytes, &mut self.scratch).expect("valid frames")
        {
            self.got.push(Got { header: raw.header, payload: raw.payload.to_vec() });
        }
    }

    /// The frames since the last call.
    pub(crate) fn take(&mut self) -> Vec<Got> {
        std::mem::take(&mut self.got)
    }

    /// The reason of a CLOSE that is the last frame.
    #[track_caller]
    pub(crate) fn close_reason(&mut self) -> CloseReason {
        let frames = self.take();
        let last = frames.last().expect("a CLOSE");
        match last.frame() {
            Frame::Close(Close { reason, .. }) => reason,
            other => panic!("expected CLOSE, got {other:?}"),
        }
    }
}

pub(crate) fn user(name: &str) -> UserId<'_> {
    UserId::new(name).unwrap()
}
