//! A worker on a bus, a gateway that writes down what it hears, and users that are online or not.
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else is shown as it is")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use roost_bus::in_process::InProcessBus;
use roost_bus::{Bus, OutboundConsumer, SharedBus};
use roost_membership::{BoxFuture, Routes, RoutesUnavailable};
use roost_protocol::envelope::{
    ConnectionAddress, Inbound, InboundBatchBuilder, InboundKind, Outbound, OutboundBatch,
};
use roost_protocol::frame::Frame;
use roost_protocol::frame::deliver::DeliverAck;
use roost_protocol::frame::event::Event;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::id::{ConversationId, UserId};
use roost_protocol::limits::HEADER_BYTES;
use roost_protocol::topology::Partition;
use roost_protocol::{ClientMsgId, Encoder, FrameKind};
use roost_trace::{TraceConfig, Traces};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::ids::MessageIds;
use crate::metrics::Metrics;
use crate::store::sqlite::SqliteStore;
use crate::store::{Name, SharedStore};
use crate::worker::{Parts, Worker};

pub(super) const GATEWAY: &str = "gw-1";
pub(super) const EPOCH: u64 = 7;
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Online(Mutex<HashSet<String>>);

impl Routes for Online {
    fn gateways_of<'a>(
        &'a self,
        _app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<Arc<str>>>, RoutesUnavailable>> {
        let online = self.0.lock();
        let gateways = |user: &&str| match online.contains(*user) {
            true => vec![Arc::from(GATEWAY)],
            false => Vec::new(),
        };
        let found = users.iter().map(gateways).collect();
        Box::pin(async move { Ok(found) })
    }
}

pub(super) struct Harness {
    pub(super) bus: InProcessBus,
    pub(super) store: SharedStore,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Arc<Traces>,
    routes: Arc<Online>,
    answers: Box<dyn OutboundConsumer>,
    heard: Vec<(FrameKind, Bytes, String)>,
    worker: Option<(watch::Sender<bool>, JoinHandle<()>)>,
    before_handle: Option<fn(&[u8])>,
    pub(super) epoch: u64,
    _dir: Option<tempfile::TempDir>,
}

impl Harness {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = sqlite(dir.path()).await;
        let mut harness = Self::over(store).await;
        harness._dir = Some(dir);
        harness.start_worker().await;
        harness
    }

    /// Without a worker yet.
    pub(super) async fn over(store: SharedStore) -> Self {
        let users: Vec<Name> = ["alice", "bob", "carol"].map(Name::from).into();
        store.add_users("demo", &users, 1).await.unwrap();
        let bus = InProcessBus::new(4);
        let answers = bus.consume_outbound(GATEWAY).await.unwrap();
        Self {
            bus,
            store,
            metrics: Arc::default(),
            traces: Traces::new("logic logic-1", &TraceConfig::default()),
            routes: Arc::default(),
            answers,
            heard: Vec::new(),
            worker: None,
            before_handle: None,
            epoch: EPOCH,
            _dir: None,
        }
    }

    pub(super) fn panic_on(mut self, before_handle: fn(&[u8])) -> Self {
        self.before_handle = Some(before_handle);
        self
    }

    pub(super) async fn start_worker(&mut self) {
        let mark = self.store.worker_mark(1).await.unwrap();
        let parts = Parts {
            bus: self.bus.shared(),
            routes: Arc::<Online>::clone(&self.routes),
            store: Arc::clone(&self.store),
            metrics: Arc::clone(&self.metrics),
            clock: Clock::System,
            ids: MessageIds::new(1, mark),
            batch_operations_max: 256,
            traces: Arc::clone(&self.traces),
            before_handle: self.before_handle,
        };
        let consumer = self.bus.consume_inbound().await.unwrap();
        let (stop, stopped) = watch::channel(false);
        self.worker = Some((stop, tokio::spawn(Worker::run(parts, consumer, stopped))));
    }

    /// As `kill -9`: whatever step it was at, nothing more happens.
    pub(super) async fn kill_worker(&mut self) {
        if let Some((_, worker)) = self.worker.take() {
            worker.abort();
            let _ = worker.await;
        }
    }

    pub(super) async fn stop_worker(&mut self) {
        if let Some((stop, worker)) = self.worker.take() {
            stop.send(true).unwrap();
            worker.await.unwrap();
        }
    }

    pub(super) fn online(&self, user: &str) {
        self.routes.0.lock().insert(user.to_owned());
    }

    pub(super) async fn publish(&self, partition: Partition, body: Bytes) {
        let bus: SharedBus = self.bus.shared();
        let published =
            async { while bus.publish_inbound(partition, body.clone()).await.is_err() {} };
        tokio::time::timeout(DEADLINE, published).await.expect("the bus takes a body");
    }

    pub(super) fn envelope<'a>(&self, user: &'a str, frame_kind: FrameKind) -> Inbound<'a> {
        Inbound {
            kind: InboundKind::Frame,
            frame_kind,
            correlation: 3,
            connection: ConnectionAddress { shard: 1, index: 2, generation: 3 },
            session_epoch: self.epoch,
            received_us: 0,
            inbox_seq: 0,
            app: "demo",
            user,
            device: "d1",
        }
    }

    async fn publish_one(&self, inbound: &Inbound<'_>, payload: &[u8], partition: Partition) {
        let mut builder = InboundBatchBuilder::new(GATEWAY);
        builder.push(inbound, payload);
        self.publish(partition, builder.take()).await;
    }

    fn of_user(&self, user: &str) -> Partition {
        Partition::of_user("demo", user, self.bus.partitions())
    }

    fn of_conversation(&self, conversation: &ConversationId<'_>) -> Partition {
        Partition::of_conversation("demo", conversation, self.bus.partitions())
    }

    pub(super) async fn send(&self, from: &str, to: &str, client_seq: u32, id: u8, text: &str) {
        self.send_many(from, to, &[(client_seq, id, text.as_bytes())]).await;
    }

    /// Several sends in one body.
    pub(super) async fn send_many(&self, from: &str, to: &str, sends: &[(u32, u8, &[u8])]) {
        let mut builder = InboundBatchBuilder::new(GATEWAY);
        let target = Target::User(UserId::new(to).unwrap());
        for (client_seq, id, body) in sends {
            let payload = send_payload(target, *client_seq, *id, body);
            builder.push(&self.envelope(from, FrameKind::Send), &payload);
        }
        let conversation = target.conversation(UserId::new(from).unwrap());
        self.publish(self.of_conversation(&conversation), builder.take()).await;
    }

    pub(super) async fn deliver_ack(
        &self,
        user: &str,
        inbox_seq: u64,
        conversation: &str,
        seq: u64,
    ) {
        let conversation = ConversationId::parse(conversation).unwrap();
        let ack = DeliverAck { inbox_seq, watermarks: vec![(conversation, seq)] };
        let mut frame = Vec::new();
        ack.encode(&mut Encoder::new(), &mut frame);
        let inbound = self.envelope(user, FrameKind::DeliverAck);
        self.publish_one(&inbound, &frame[HEADER_BYTES..], self.of_user(user)).await;
    }

    pub(super) async fn read_receipt(
        &self,
        user: &str,
        conversation: &str,
        seq: u64,
        kind: ReceiptKind,
    ) {
        let conversation = ConversationId::parse(conversation).unwrap();
        let receipt =
            Receipt { conversation, user: None, kind, seq, by_server: false, server_time_ms: 0 };
        let mut encoder = Encoder::new();
        let payload = receipt.payload(&mut encoder).to_vec();
        let inbound = self.envelope(user, FrameKind::Receipt);
        self.publish_one(&inbound, &payload, self.of_conversation(&conversation)).await;
    }

    async fn request(&self, user: &str, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode(&mut Encoder::new(), 3, &mut frame);
        let inbound = self.envelope(user, FrameKind::Request);
        self.publish_one(&inbound, &frame[HEADER_BYTES..], self.of_user(user)).await;
    }

    pub(super) async fn sync(&self, user: &str, after_inbox_seq: u64) {
        self.request(user, &Request::Sync { after_inbox_seq, limit: 0 }).await;
    }

    pub(super) async fn history(&self, user: &str, conversation: &str) {
        let request = Request::History {
            conversation: ConversationId::parse(conversation).unwrap(),
            after_seq: 0,
            before_seq: 0,
            limit: 0,
            newest_first: true,
        };
        self.request(user, &request).await;
    }

    pub(super) async fn digest(&self, user: &str, inbox_seq: u64) {
        let inbound = Inbound {
            kind: InboundKind::DigestCheck,
            inbox_seq,
            ..self.envelope(user, FrameKind::Ping)
        };
        self.publish_one(&inbound, b"", self.of_user(user)).await;
    }

    async fn hear(&mut self, count: usize) {
        while self.heard.len() < count {
            let body = tokio::time::timeout(DEADLINE, self.answers.next())
                .await
                .unwrap_or_else(|_| panic!("heard only {:?}", self.heard))
                .expect("the bus is open");
            let batch = OutboundBatch::parse(body).unwrap();
            for outbound in batch.iter() {
                self.heard.push(written(outbound.unwrap()));
            }
        }
    }

    /// The next things said, as text.
    pub(super) async fn said(&mut self, count: usize) -> Vec<String> {
        self.hear(count).await;
        self.heard.drain(..count).map(|(_, _, text)| text).collect()
    }

    /// The next things said, as payloads.
    pub(super) async fn frames(&mut self, count: usize) -> Vec<(FrameKind, Bytes)> {
        self.hear(count).await;
        self.heard.drain(..count).map(|(kind, payload, _)| (kind, payload)).collect()
    }

    /// What is said before a client's patience ends: at least one thing, or nothing at all.
    pub(super) async fn said_within(&mut self, patience: Duration) -> Vec<String> {
        let _ = tokio::time::timeout(patience, self.hear(self.heard.len() + 1)).await;
        self.heard.drain(..).map(|(_, _, text)| text).collect()
    }
}

pub(super) async fn sqlite(dir: &Path) -> SharedStore {
    Arc::new(SqliteStore::open(&dir.join("roost.db")).await.unwrap())
}

pub(super) fn send_payload(target: Target<'_>, client_seq: u32, id: u8, body: &[u8]) -> Vec<u8> {
    let client_msg_id = ClientMsgId([id; 16]);
    let send = Send { target, client_msg_id, client_seq, kind: MessageKind::TEXT, body };
    let mut frame = Vec::new();
    send.encode(&mut Encoder::new(), 3, &mut frame);
    frame.split_off(HEADER_BYTES)
}

fn written(outbound: Outbound<'_>) -> (FrameKind, Bytes, String) {
    match outbound {
        Outbound::ToConnection { kind, payload, inbox_seq, correlation, connection } => {
            assert!(correlation == 3 || kind == FrameKind::Event, "the correlation is echoed");
            assert_eq!(connection.generation, 3);
            let text = frame_text(kind, &payload, inbox_seq);
            (kind, payload, text)
        }
        Outbound::ToUsers { kind, payload, targets, except, .. } => {
            let targets: Vec<_> = targets
                .iter()
                .map(|t| match t.inbox_seq {
                    0 => t.user.to_owned(),
                    seq => format!("{}@{seq}", t.user),
                })
                .collect();
            let except = if except.is_some() { " except origin" } else { "" };
            let text =
                format!("{} to {}{except}", frame_text(kind, &payload, 0), targets.join(","));
            (kind, payload, text)
        }
        Outbound::Close { reason, .. } => {
            (FrameKind::Close, Bytes::new(), format!("close {reason}"))
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else is shown as it is")]
fn frame_text(kind: FrameKind, payload: &[u8], inbox_seq: u64) -> String {
    match Frame::decode(kind, payload).unwrap() {
        Frame::SendAck(ack) => format!("ack {} {} inbox {inbox_seq}", ack.conversation, ack.seq),
        Frame::SendRefused(refused) if refused.expected_client_seq > 0 => {
            format!("refused {} {}", refused.code, refused.expected_client_seq)
        }
        Frame::SendRefused(refused) => format!("refused {}", refused.code),
        Frame::Deliver(message) => {
            let body = String::from_utf8_lossy(message.body);
            format!("deliver {} {} {body}", message.conversation, message.seq)
        }
        Frame::Receipt(receipt) => {
            let by_server = if receipt.by_server { " by server" } else { "" };
            let user = receipt.user.map_or("", UserId::as_str);
            format!(
                "receipt {} {user} {:?} {}{by_server}",
                receipt.conversation, receipt.kind, receipt.seq
            )
        }
        Frame::Event(Event::Digest { inbox_seq }) => format!("digest {inbox_seq}"),
        Frame::Response(Response::SyncPage { entries, latest_inbox_seq, more }) => {
            let entries: String = entries
                .iter()
                .map(|(at, m)| format!(" {at}:{}/{}", m.conversation, m.seq))
                .collect();
            format!("sync{entries} latest {latest_inbox_seq} more {more}")
        }
        Frame::Response(Response::HistoryPage { messages, latest_seq, more, .. }) => {
            let seqs: String = messages.iter().map(|m| format!(" {}", m.seq)).collect();
            format!("history{seqs} latest {latest_seq} more {more}")
        }
        Frame::Response(Response::Refused { code, .. }) => format!("response refused {code}"),
        other => format!("{other:?}"),
    }
}
