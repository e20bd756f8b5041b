//! One shard on simulated sockets and a virtual clock, and something in the place of logic that answers at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roost_gateway::clock::WallClock;
use roost_gateway::config::GatewayConfig;
use roost_gateway::gateway::GatewayContext;
use roost_gateway::io::simulated::{Faults, SimulatedIo, SimulatedNetwork};
use roost_gateway::io::{ConnectionKey, IoConfig, Waker};
use roost_gateway::metrics::ShardCounters;
use roost_gateway::session::directory::Directory;
use roost_gateway::session::handshake::Handshake;
use roost_gateway::session::keys::VerificationKeys;
use roost_gateway::session::resume_token::{Resume, ResumeKey};
use roost_gateway::shard::event_loop::Turn;
use roost_gateway::shard::inbound::{Gate, InboundSource, inbound};
use roost_gateway::shard::mailbox::{MailboxSender, mailbox};
use roost_gateway::shard::message::{ShardAction, ShardItem, ShardMessage};
use roost_gateway::shard::{Shard, ShardParts};
use roost_protocol::envelope::{
    Forwarded, Inbound, InboundBatch, InboundBatchBuilder, InboundKind,
};
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::event::Event;
use roost_protocol::frame::request::Response;
use roost_protocol::{Encoder, FrameKind, Header, RefusalCode, UserId};

/// Wall clock at the start of each run.
pub(crate) const START_US: u64 = 1_800_000_000_000_000;
/// Sockets the shard has room for.
pub(crate) const CONNECTIONS_MAX: u32 = 6;
const SECRET: &[u8] = b"the secret of fuzzed gateways: 32";
/// Few, so that full is reached.
const MAILBOX_ITEMS: usize = 8;

/// How much may be on its way to logic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gates {
    /// More than one input says.
    Wide,
    /// So little that full is reached.
    Narrow,
}

/// What is the same in every run and too big to be made each time. It must be as good as new after a run.
struct Shared {
    gateway: Arc<GatewayContext>,
    waker: Arc<Waker>,
}

thread_local! {
    static SHARED: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

fn shared(network: &SimulatedNetwork) -> (Arc<GatewayContext>, Arc<Waker>) {
    SHARED.with_borrow_mut(|shared| {
        let shared = shared.get_or_insert_with(|| {
            let config = GatewayConfig { name: "gw".to_owned(), ..GatewayConfig::default() };
            let gateway = Arc::new(GatewayContext {
                handshake: Handshake::new(VerificationKeys::new(), ResumeKey::new(SECRET)),
                directory: Arc::new(Directory::new("gw", 3)),
                placement: None,
                clock: WallClock::new(network.now(), START_US),
                config,
            });
            gateway.directory.app_index("demo").expect("the first");
            Shared { gateway, waker: Arc::new(Waker::new().expect("a descriptor")) }
        });
        shared.gateway.clock.correct(network.now(), START_US);
        (Arc::clone(&shared.gateway), Arc::clone(&shared.waker))
    })
}

/// A resume token of `user` on `device`, valid for `seconds` from the start.
pub(crate) fn token(user: &str, device: &str, seconds: u32) -> String {
    let start_s = START_US / 1_000_000;
    let session_expires_s = u32::try_from(start_s).expect("before 2106") + seconds;
    let resume = Resume { app: "demo", user, device, epoch: 1, session_expires_s };
    let mut token = String::new();
    ResumeKey::new(SECRET).issue(&resume, start_s, &mut token);
    token
}

/// One shard and everything around it.
pub(crate) struct World {
    pub(crate) network: SimulatedNetwork,
    pub(crate) shard: Shard<SimulatedIo>,
    pub(crate) to_shard: MailboxSender<ShardMessage>,
    pub(crate) gateway: Arc<GatewayContext>,
    pub(crate) is_finished: bool,
    /// Logic takes nothing: the way to it fills.
    pub(crate) is_stalled: bool,
    counters: Arc<ShardCounters>,
    gate: Arc<Gate>,
    source: InboundSource,
    answers: VecDeque<ShardMessage>,
    encoder: Encoder,
    seq: u64,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, gates: Gates) -> Self {
        let network = SimulatedNetwork::new(seed, faults);
        network.hold_clock();
        let io_config = IoConfig {
            connections_max: CONNECTIONS_MAX,
            buffer_count: 2,
            buffer_bytes: 512,
            ..IoConfig::default()
        };
        let io = SimulatedIo::new(&network, &io_config);
        let (gateway, waker) = shared(&network);
        let gate = match gates {
            Gates::Wide => Gate::new(1 << 20, 10_000),
            Gates::Narrow => Gate::new(8 * 1024, 24),
        };
        let (to_shard, mailbox) = mailbox(MAILBOX_ITEMS, Arc::clone(&waker));
        let (queue, source) = inbound(&gate, 4, waker);
        let counters = Arc::new(ShardCounters::default());
        let shard = Shard::new(ShardParts {
            index: 0,
            io,
            connections_max: CONNECTIONS_MAX,
            gateway: Arc::clone(&gateway),
            mailbox,
            inbound: queue,
            counters: Arc::clone(&counters),
        });
        Self {
            network,
            shard,
            to_shard,
            gateway,
            is_finished: false,
            is_stalled: false,
            counters,
            gate,
            source,
            answers: VecDeque::new(),
            encoder: Encoder::new(),
            seq: 0,
        }
    }

    /// One turn of the shard and of logic, then a step of the clock.
    pub(crate) fn turn(&mut self, step: Duration) {
        if !self.is_finished {
            self.is_finished = self.shard.turn() == Turn::Finished;
        }
        if !self.is_stalled {
            self.answer();
        }
        self.network.advance(step);
    }

    /// As publisher, bus and logic in one: confirms all, answers what asks.
    fn answer(&mut self) {
        while let Some(turn) = self.source.pop() {
            let (mut bytes, mut messages) = (0, 0);
            let mut batch = InboundBatchBuilder::new("gw");
            for record in turn.records() {
                batch.push_record(record.bytes);
                bytes += record.bytes.len() as u64;
                messages += 1;
            }
            self.source.recycle(turn);
            self.gate.release(bytes, messages);
            self.source.offer_room();
            let batch = InboundBatch::parse(batch.take()).expect("our own envelope");
            let mut items = Vec::new();
            for record in batch.iter() {
                let (inbound, payload) = record.expect("our own record");
                items.extend(self.answer_to(&inbound, &payload));
            }
            if !items.is_empty() {
                self.answers.push_back(ShardMessage::Batch(items));
            }
        }
        while let Some(answer) = self.answers.pop_front() {
            if let Err(answer) = self.to_shard.send(answer) {
                self.answers.push_front(answer);
                break;
            }
        }
    }

    fn answer_to(&mut self, inbound: &Inbound<'_>, payload: &Bytes) -> Option<ShardItem> {
        let (kind, payload) = match inbound.kind {
            InboundKind::SessionOpened | InboundKind::SessionClosed => return None,
            InboundKind::DigestCheck => {
                let digest = Event::Digest { inbox_seq: inbound.inbox_seq.saturating_add(1) };
                (FrameKind::Event, Bytes::copy_from_slice(digest.payload(&mut self.encoder)))
            }
            InboundKind::Frame => {
                // Logic trusts what the gateway forwards.
                let frame = Forwarded::decode(inbound.frame_kind, payload);
                self.answer_to_frame(inbound, &frame.expect("the gateway verified it"))?
            }
        };
        let header = Header::new(kind, inbound.correlation, 0, payload.len());
        let address = inbound.connection;
        let key = ConnectionKey { index: address.index, generation: address.generation };
        Some(ShardItem { key, action: ShardAction::Frame { header, payload } })
    }

    fn answer_to_frame(
        &mut self,
        inbound: &Inbound<'_>,
        frame: &Forwarded<'_>,
    ) -> Option<(FrameKind, Bytes)> {
        let encoder = &mut self.encoder;
        match frame {
            Forwarded::Send(send) => {
                self.seq += 1;
                let sender = UserId::new(inbound.user).expect("a session's user");
                if send.client_seq == u32::MAX {
                    let refused = SendRefused {
                        client_msg_id: send.client_msg_id,
                        code: RefusalCode::OutOfOrder,
                        retry_after_ms: 0,
                        expected_client_seq: 1,
                        detail: "send again",
                    };
                    let payload = Bytes::copy_from_slice(refused.payload(encoder));
                    return Some((FrameKind::SendRefused, payload));
                }
                let ack = SendAck {
                    client_msg_id: send.client_msg_id,
                    conversation: send.target.conversation(sender),
                    seq: self.seq,
                    message_id: self.seq,
                    server_time_ms: 1,
                };
                Some((FrameKind::SendAck, Bytes::copy_from_slice(ack.payload(encoder))))
            }
            Forwarded::Request(_) => {
                let page =
                    Response::SyncPage { entries: vec![], latest_inbox_seq: self.seq, more: false };
                Some((FrameKind::Response, Bytes::copy_from_slice(page.payload(encoder))))
            }
            Forwarded::DeliverAck(_) | Forwarded::Receipt(_) => None,
        }
    }

    /// Ends the shard, and checks that nothing is left of it.
    pub(crate) fn finish(mut self) {
        self.is_stalled = false;
        self.network.set_faults(Faults::NONE);
        let mut told = false;
        // The linger of a connection is two seconds, and it may have to be told first.
        for _ in 0..20 {
            told = told || self.to_shard.send(ShardMessage::Shutdown).is_ok();
            self.turn(Duration::from_millis(400));
            if self.is_finished {
                break;
            }
        }
        assert!(self.is_finished, "{} connections are left", self.shard.connections());
        assert_eq!(self.shard.connections(), 0);
        assert_eq!(self.counters.sessions.get(), 0, "a session is left");
        for user in ["alice", "bob", "brief", "neighbour", "fuzzer"] {
            let app = self.gateway.directory.known_app("demo").expect("made at the start");
            self.gateway.directory.visit_user(app, user, |session| {
                panic!("{} {} is in the directory", session.user(), session.device());
            });
        }
        self.answer();
        assert_eq!((self.gate.bytes(), self.gate.messages()), (0, 0), "on no way to logic");
    }
}
