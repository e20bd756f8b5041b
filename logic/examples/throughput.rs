//! How many messages a second does one worker place, and how long does a commit take?
//!
//! Feeds a worker over the in-process bus as gateways would, open loop, and prints messages/s and the latency from intended send to
//! acknowledgement on the bus. No network, no gateway: what is measured is logic and its store.
//!
//! Beside it the latency until a worker has taken the message: sooner than any mode that acknowledges before the commit could answer. By
//! more than the two p99 differ, the guarantees cannot cost. Expected at half load: at most 3 ms, better 1.
//!
//! `cargo run --release -p roost-logic --example throughput -- [rate/s, 0: as many as it takes] [seconds] [users] [acks: 0|1] [operations/batch]
//! [workers on the same databases, as processes would be] [store URL: an empty database in a server; several: divided among them]`

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use roost_bus::in_process::InProcessBus;
use roost_bus::{Bus, InboundConsumer, InboundDelivery, OutboundConsumer, PublishError, SharedBus};
use roost_logic::auth::Keys;
use roost_logic::clock::Clock;
use roost_logic::store::databases::Databases;
use roost_logic::store::server::StoreConfig;
use roost_logic::store::sqlite::SqliteStore;
use roost_logic::store::{Name, Store};
use roost_logic::{Logic, LogicConfig, LogicHandle, Neighbours};
use roost_membership::ring::Ring;
use roost_membership::{BoxFuture, Routes, RoutesUnavailable};
use roost_protocol::envelope::{
    ConnectionAddress, Forwarded, Inbound, InboundBatch, InboundBatchBuilder, InboundKind,
};
use roost_protocol::envelope::{Outbound, OutboundBatch};
use roost_protocol::frame::ack::SendAck;
use roost_protocol::frame::deliver::{DeliverAck, Message};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::id::UserId;
use roost_protocol::limits::HEADER_BYTES;
use roost_protocol::topology::Partition;
use roost_protocol::{ClientMsgId, Encoder, FrameKind};

const GATEWAY: &str = "gw-1";
const TICK: Duration = Duration::from_millis(1);

struct Everybody(Arc<str>);

impl Routes for Everybody {
    fn gateways_of<'a>(
        &'a self,
        _app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<Arc<str>>>, RoutesUnavailable>> {
        let found = users.iter().map(|_| vec![Arc::clone(&self.0)]).collect();
        Box::pin(async move { Ok(found) })
    }
}

struct Feeder {
    bus: SharedBus,
    users: u64,
    start: Instant,
    sent: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    is_acknowledging: bool,
}

impl Feeder {
    /// One message from a random user to its partner; the id carries the intended time.
    fn message(&self, encoder: &mut Encoder, seqs: &mut HashMap<u64, u32>) -> (Partition, Vec<u8>) {
        let from = fastrand::u64(..self.users);
        let (from_name, to_name) = (format!("u{from}"), format!("u{}", from ^ 1));
        let (from_id, to_id) = (UserId::new(&from_name).unwrap(), UserId::new(&to_name).unwrap());
        let client_seq = seqs.entry(from).or_default();
        *client_seq += 1;
        let mut id = fastrand::u128(..).to_be_bytes();
        let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
        id[..8].copy_from_slice(&at.to_be_bytes());
        let send = Send {
            target: Target::User(to_id),
            client_msg_id: ClientMsgId(id),
            client_seq: *client_seq,
            kind: MessageKind::TEXT,
            body: &[b'x'; 64],
        };
        let mut frame = Vec::new();
        send.encode(encoder, 1, &mut frame);
        let inbound = inbound(&from_name, FrameKind::Send);
        let mut record = Vec::new();
        roost_protocol::envelope::record(&mut record, &inbound, &frame[HEADER_BYTES..]);
        let conversation = send.target.conversation(from_id);
        (Partition::of_conversation("demo", &conversation, self.bus.partitions()), record)
    }

    async fn feed(self, rate: u64, until: Instant) {
        let (mut encoder, mut seqs) = (Encoder::new(), HashMap::new());
        let partitions = usize::from(self.bus.partitions());
        let mut due = Instant::now();
        let mut open: Vec<_> = (0..partitions).map(|_| InboundBatchBuilder::new(GATEWAY)).collect();
        let mut owed = 0.0;
        while Instant::now() < until {
            due += TICK;
            owed += rate as f64 * TICK.as_secs_f64();
            let mut count = owed as u64;
            owed -= count as f64;
            if rate == 0 {
                let waiting =
                    self.sent.load(Ordering::Relaxed) - self.acked.load(Ordering::Relaxed);
                count = 16_000_u64.saturating_sub(waiting);
            }
            for _ in 0..count {
                let (partition, record) = self.message(&mut encoder, &mut seqs);
                open[usize::from(partition.0)].push_record(&record);
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            for (index, builder) in open.iter_mut().enumerate() {
                if !builder.is_empty() {
                    let partition = Partition(u16::try_from(index).unwrap());
                    self.bus.publish_inbound(partition, builder.take()).await.unwrap();
                }
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// Hears acknowledgements and deliveries; acknowledges deliveries, batched per body.
    async fn hear(self, mut consumer: Box<dyn roost_bus::OutboundConsumer>, latencies: Latencies) {
        let mut encoder = Encoder::new();
        while let Some(body) = consumer.next().await {
            let mut acks: HashMap<u16, InboundBatchBuilder> = HashMap::new();
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
            for outbound in OutboundBatch::parse(body).unwrap().iter() {
                match outbound.unwrap() {
                    Outbound::ToConnection { kind: FrameKind::SendAck, payload, .. } => {
                        let ack = SendAck::decode(&payload).unwrap();
                        let waited = now - intended(ack.client_msg_id);
                        latencies.lock().unwrap().push(waited / 1_000);
                        self.acked.fetch_add(1, Ordering::Relaxed);
                    }
                    Outbound::ToUsers { kind: FrameKind::Deliver, payload, targets, .. }
                        if self.is_acknowledging =>
                    {
                        let message = Message::decode(&payload).unwrap();
                        let user = targets[0].user;
                        let ack = DeliverAck {
                            inbox_seq: targets[0].inbox_seq,
                            watermarks: vec![(message.conversation, message.seq)],
                        };
                        let mut frame = Vec::new();
                        ack.encode(&mut encoder, &mut frame);
                        let partition = Partition::of_user("demo", user, self.bus.partitions());
                        let builder = acks
                            .entry(partition.0)
                            .or_insert_with(|| InboundBatchBuilder::new(GATEWAY));
                        builder.push(&inbound(user, FrameKind::DeliverAck), &frame[HEADER_BYTES..]);
                    }
                    Outbound::ToConnection { .. }
                    | Outbound::ToUsers { .. }
                    | Outbound::Close { .. } => {}
                }
            }
            for (partition, mut builder) in acks {
                // Without waiting for the confirm: the hearing must go on.
                drop(self.bus.publish_inbound(Partition(partition), builder.take()));
            }
        }
    }
}

/// A bus that notes when messages are taken.
struct Watched {
    bus: SharedBus,
    start: Instant,
    taken: Latencies,
}

struct Taker {
    consumer: Box<dyn InboundConsumer>,
    start: Instant,
    taken: Latencies,
}

impl Taker {
    fn note(&self, delivery: &InboundDelivery) {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
        let batch = InboundBatch::parse(delivery.body.clone()).unwrap();
        let mut taken = self.taken.lock().unwrap();
        for (envelope, payload) in batch.iter().map(Result::unwrap) {
            if let Some(Forwarded::Send(send)) = Forwarded::decode(envelope.frame_kind, &payload) {
                taken.push((now - intended(send.client_msg_id)) / 1_000);
            }
        }
    }
}

impl InboundConsumer for Taker {
    fn next(&mut self) -> BoxFuture<'_, Option<InboundDelivery>> {
        Box::pin(async {
            let delivery = self.consumer.next().await;
            delivery.iter().for_each(|delivery| self.note(delivery));
            delivery
        })
    }

    fn try_next(&mut self) -> Option<InboundDelivery> {
        let delivery = self.consumer.try_next();
        delivery.iter().for_each(|delivery| self.note(delivery));
        delivery
    }
}

impl Bus for Watched {
    fn partitions(&self) -> u16 {
        self.bus.partitions()
    }

    fn publish_inbound(
        &self,
        partition: Partition,
        body: bytes::Bytes,
    ) -> BoxFuture<'_, Result<(), PublishError>> {
        self.bus.publish_inbound(partition, body)
    }

    fn consume_inbound(&self) -> BoxFuture<'_, Result<Box<dyn InboundConsumer>, PublishError>> {
        Box::pin(async {
            let consumer = self.bus.consume_inbound().await?;
            let taker = Taker { consumer, start: self.start, taken: Arc::clone(&self.taken) };
            Ok(Box::new(taker) as Box<dyn InboundConsumer>)
        })
    }

    fn publish_outbound<'a>(
        &'a self,
        gateway: &'a str,
        body: bytes::Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        self.bus.publish_outbound(gateway, body)
    }

    fn consume_outbound<'a>(
        &'a self,
        gateway: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn OutboundConsumer>, PublishError>> {
        self.bus.consume_outbound(gateway)
    }

    fn inbound_depth(&self) -> usize {
        self.bus.inbound_depth()
    }
}

/// When a message was due, in nanoseconds after the start.
fn intended(id: ClientMsgId) -> u64 {
    let mut at = [0; 8];
    at.copy_from_slice(&id.0[..8]);
    u64::from_be_bytes(at)
}

type Latencies = Arc<std::sync::Mutex<Vec<u64>>>;

fn inbound(user: &str, frame_kind: FrameKind) -> Inbound<'_> {
    Inbound {
        kind: InboundKind::Frame,
        frame_kind,
        correlation: 1,
        connection: ConnectionAddress { shard: 0, index: 1, generation: 1 },
        session_epoch: 1,
        received_us: 0,
        inbox_seq: 0,
        app: "demo",
        user,
        device: "d1",
    }
}

/// In milliseconds; returns the p99.
fn print_latency(what: &str, micros: &mut [u64]) -> f64 {
    micros.sort_unstable();
    let at = |q: f64| micros[((micros.len() - 1) as f64 * q) as usize] as f64 / 1e3;
    println!(
        "{what:<12} ms p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.2}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    at(0.99)
}

fn main() {
    roost_memory::in_small_pages();
    let (urls, numbers): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.contains("://"));
    let numbers: Vec<u64> = numbers.iter().map(|a| a.parse().expect("a number")).collect();
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    let (rate, seconds, users) = (number(0, 0), number(1, 10), number(2, 2_000));
    let dir = std::env::temp_dir().join(format!("roost-throughput-{}", std::process::id()));
    let config = LogicConfig {
        data_dir: dir.clone(),
        http_listen: ([127, 0, 0, 1], 0).into(),
        batch_operations_max: usize::try_from(number(4, 1024)).unwrap(),
        store: StoreConfig { urls, ..StoreConfig::default() },
        ..LogicConfig::default()
    };
    std::fs::create_dir_all(&dir).expect("a scratch folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let names: Vec<Name> = (0..users).map(|user| format!("u{user}").into()).collect();
        if config.store.urls.is_empty() {
            let store = SqliteStore::open(&config.database_file()).await.expect("store");
            store.add_users("demo", &names, 1).await.expect("users");
            store.close().await;
        } else {
            let store = Databases::open(&config.store, "logic-1", 0).await.expect("store");
            store.add_users("demo", &names, 1).await.expect("users");
            store.close().await;
        }
    });
    let bus = InProcessBus::with_capacity(32, 100_000, 100_000);
    let consumer = runtime.block_on(bus.consume_outbound(GATEWAY)).unwrap();
    let (start, taken) = (Instant::now(), Latencies::default());
    let watched = Watched { bus: bus.shared(), start, taken: Arc::clone(&taken) };
    let neighbours = Neighbours {
        bus: Arc::new(watched),
        routes: Arc::new(Everybody(GATEWAY.into())),
        ring: Arc::new(ArcSwap::from_pointee(Ring::default())),
        clock: Clock::System,
        redis: None,
    };
    let workers = number(5, 1).max(1);
    let logics = (1..=workers).map(|worker| {
        let name = format!("logic-{worker}");
        let config = LogicConfig { name, ..config.clone() };
        let keys = Keys::open(&config, true).expect("keys");
        Logic::start(config, keys, neighbours.clone(), true).expect("logic")
    });
    let logics: Vec<_> = logics.collect();
    let begin = Instant::now();
    let latencies = Latencies::default();
    let (sent, acked) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let feeder = || Feeder {
        bus: bus.shared(),
        users,
        start,
        sent: Arc::clone(&sent),
        acked: Arc::clone(&acked),
        is_acknowledging: number(3, 1) != 0,
    };
    runtime.block_on(async {
        let until = begin + Duration::from_secs(seconds);
        tokio::spawn(feeder().hear(consumer, Arc::clone(&latencies)));
        feeder().feed(rate, until).await;
    });
    let mut heard = latencies.lock().unwrap().clone();
    println!(
        "{} messages acknowledged, {:.0}/s",
        heard.len(),
        heard.len() as f64 / begin.elapsed().as_secs_f64(),
    );
    let acknowledged = print_latency("acknowledged", &mut heard);
    let taken = print_latency("taken", &mut taken.lock().unwrap().clone());
    println!("commit before acknowledge costs {:.2} ms at p99", acknowledged - taken);
    let mut metrics = String::new();
    logics.iter().for_each(|logic| logic.metrics.encode(&mut metrics));
    for line in
        metrics.lines().filter(|l| ["_sum", "_count", "batches"].iter().any(|p| l.contains(p)))
    {
        println!("{line}");
    }
    println!(
        "database {} MiB",
        std::fs::metadata(dir.join("roost.db")).map_or(0, |m| m.len() >> 20)
    );
    logics.into_iter().for_each(LogicHandle::join);
    let _ = std::fs::remove_dir_all(dir);
}
