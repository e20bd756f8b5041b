//! Where a message is: each process remembers what it saw of a message at which moment, and tells it to `roost trace` and to an
//! OpenTelemetry collector.
//!
//! Invariants:
//! * The trace id of a message is its `client_msg_id`: random, 128 bits, in every frame and body already and the same in every
//!   resend. So nothing is added to the wire. Span ids are derived from it ([`otlp`]).
//! * Whether a message is traced is a pure function of that id ([`Sampling`]): every process decides the same.
//! * Who records never waits: each thread has a ring of its own, of fixed size, and overwrites the oldest. Readers take what they
//!   find; an exporter that is too slow loses passages, and counts them.
//! * No body and no token is recorded: ids, names, numbers and reasons only.
//!
//! Deliberately absent: spans that are open while something happens. A passage is written when it is over, with the moment it began.

pub mod config;
pub mod http;
#[cfg(feature = "otlp")]
pub mod otlp;
mod passage;
mod ring;
mod sampling;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use roost_protocol::envelope::InboundBatch;
use roost_protocol::topology::Partition;
use roost_protocol::{ClientMsgId, message_of};

pub use config::TraceConfig;
pub use passage::{Hop, Passage, Text};
pub use ring::TraceWriter;
pub use sampling::Sampling;

use ring::Ring;

/// What is known of traced messages in one process: the rings of its threads.
#[derive(Debug)]
pub struct Traces {
    process: String,
    sampling: Sampling,
    passages_per_thread: usize,
    since_ns: u64,
    rings: Mutex<Vec<Arc<Ring>>>,
    counters: ExportCounters,
}

/// What became of passages on their way to a collector.
#[derive(Debug, Default)]
struct ExportCounters {
    exported: AtomicU64,
    overwritten: AtomicU64,
    failed: AtomicU64,
}

/// How a message is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// By its identity at the sender.
    Client(ClientMsgId),
    /// By its `message_id`, which only logic knows.
    Message(u64),
}

impl Wanted {
    /// 32 hexadecimal digits, or a decimal number.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(id) = ClientMsgId::parse_hex(text) {
            return Some(Self::Client(id));
        }
        let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|id| is_decimal && *id > 0).map(Self::Message)
    }
}

impl Traces {
    /// Of the process that calls itself `process`, such as "gateway gw-1".
    pub fn new(process: impl Into<String>, config: &TraceConfig) -> Arc<Self> {
        Arc::new(Self {
            process: process.into(),
            sampling: Sampling::of_share(config.sample),
            passages_per_thread: usize::try_from(config.passages_per_thread).unwrap_or(1),
            since_ns: now_ns(),
            rings: Mutex::default(),
            counters: ExportCounters::default(),
        })
    }

    /// Traces nothing.
    pub fn off() -> Arc<Self> {
        Self::new("", &TraceConfig { sample: 0.0, ..TraceConfig::default() })
    }

    /// A ring for the thread, or task, that calls this.
    pub fn writer(&self) -> TraceWriter {
        if self.sampling.is_nothing() {
            return TraceWriter::off();
        }
        let ring = Arc::new(Ring::new(self.passages_per_thread));
        self.rings.lock().push(Arc::clone(&ring));
        TraceWriter::new(self.sampling, ring)
    }

    fn rings(&self) -> Vec<Arc<Ring>> {
        self.rings.lock().clone()
    }

    /// Everything that is still known of a message, oldest first. With many rings this reads tens of megabytes: it makes way
    /// for others between two of them.
    pub async fn find(&self, wanted: Wanted) -> Vec<Passage> {
        let id = match wanted {
            Wanted::Client(id) => id,
            Wanted::Message(message_id) => {
                let known = self.all(|passage| passage.message_id == message_id).await;
                let Some(passage) = known.first() else { return Vec::new() };
                passage.id
            }
        };
        let mut found = self.all(|passage| passage.id == id).await;
        found.sort_by_key(|passage| (passage.at_ns, passage.hop));
        found
    }

    async fn all(&self, matches: impl Fn(&Passage) -> bool) -> Vec<Passage> {
        let mut found = Vec::new();
        for ring in self.rings() {
            ring.visit(|passage| {
                if matches(&passage) {
                    found.push(passage);
                }
            });
            tokio::task::yield_now().await;
        }
        found
    }

    /// Nothing of what happened since then was overwritten in any ring.
    fn remembers_since_ns(&self) -> u64 {
        self.rings()
            .iter()
            .filter_map(|ring| ring.overwritten_until_ns())
            .max()
            .unwrap_or(self.since_ns)
    }

    /// Appends counters in the OpenMetrics text format, without the closing EOF line.
    pub fn encode(&self, out: &mut String) {
        let recorded: u64 = self.rings().iter().map(|ring| ring.written()).sum();
        let ExportCounters { exported, overwritten, failed } = &self.counters;
        for (name, help, value) in [
            ("recorded", "Passages of traced messages recorded", recorded),
            ("spans_exported", "Spans the collector took", exported.load(Ordering::Relaxed)),
            (
                "overwritten",
                "Passages overwritten before they were exported",
                overwritten.load(Ordering::Relaxed),
            ),
            (
                "spans_failed",
                "Spans dropped because the collector did not take them",
                failed.load(Ordering::Relaxed),
            ),
        ] {
            // A String takes everything.
            _ = write!(
                out,
                "# HELP roost_trace_{name} {help}.\n# TYPE roost_trace_{name} counter\nroost_trace_{name}_total {value}\n"
            );
        }
    }
}

/// An inbound body was put aside: records its traced messages.
pub fn record_dead_letter(writer: &mut TraceWriter, partition: Partition, body: &[u8]) {
    let Ok(batch) = InboundBatch::parse(Bytes::copy_from_slice(body)) else { return };
    let at_ns = now_ns();
    for (envelope, payload) in batch.iter().map_while(Result::ok) {
        let id = message_of(envelope.frame_kind, &payload).filter(|id| writer.wants(*id));
        let Some(id) = id else { continue };
        let (number, received_us) = (partition.0.into(), envelope.received_us);
        let passage = Passage::new(id, Hop::DeadLettered, at_ns);
        writer.record(&Passage { number, received_us, ..passage });
    }
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(last: u8) -> ClientMsgId {
        let mut id = [7; 16];
        id[15] = last;
        ClientMsgId(id)
    }

    fn traces(passages_per_thread: u32) -> Arc<Traces> {
        Traces::new("gateway gw-1", &TraceConfig { passages_per_thread, ..TraceConfig::default() })
    }

    #[test]
    fn a_message_is_asked_for_by_either_id() {
        let hex = "000102030405060708090a0b0c0d0e0f";
        let id = ClientMsgId::parse_hex(hex).unwrap();
        assert_eq!(Wanted::parse(hex), Some(Wanted::Client(id)));
        assert_eq!(Wanted::parse("7412"), Some(Wanted::Message(7412)));
        for wrong in ["", "0", "-1", "+5", "7412x", "18446744073709551616", "s:alice:bob"] {
            assert_eq!(Wanted::parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_several_threads_saw_comes_in_the_order_of_time() {
        let traces = traces(16);
        let (mut one, mut two) = (traces.writer(), traces.writer());
        one.record(&Passage::new(id(1), Hop::Published, 20));
        two.record(&Passage::new(id(1), Hop::Received, 10));
        two.record(&Passage::new(id(2), Hop::Received, 11));
        let committed = Passage { message_id: 99, ..Passage::new(id(1), Hop::Committed, 30) };
        two.record(&committed);
        for wanted in [Wanted::Client(id(1)), Wanted::Message(99)] {
            let hops: Vec<Hop> = traces.find(wanted).await.iter().map(|p| p.hop).collect();
            assert_eq!(hops, [Hop::Received, Hop::Published, Hop::Committed]);
        }
        assert_eq!(traces.find(Wanted::Message(98)).await, []);
        let mut metrics = String::new();
        traces.encode(&mut metrics);
        assert!(metrics.contains("roost_trace_recorded_total 4\n"), "{metrics}");
    }

    #[tokio::test]
    async fn the_oldest_is_overwritten_and_that_is_known() {
        let traces = traces(16);
        let mut writer = traces.writer();
        assert!(traces.remembers_since_ns() > 1_000_000);
        for at_ns in 1..=20 {
            writer.record(&Passage::new(id(at_ns as u8), Hop::Received, at_ns));
        }
        assert_eq!(traces.find(Wanted::Client(id(4))).await, []);
        assert_eq!(traces.find(Wanted::Client(id(5))).await.len(), 1);
        assert_eq!(traces.remembers_since_ns(), 5);
    }

    #[tokio::test]
    async fn a_body_that_is_put_aside_names_its_messages() {
        use roost_protocol::envelope::{
            ConnectionAddress, Inbound, InboundBatchBuilder, InboundKind,
        };
        use roost_protocol::frame::send::{MessageKind, Send, Target};
        use roost_protocol::{Encoder, FrameKind, UserId, limits};
        let inbound = Inbound {
            kind: InboundKind::Frame,
            frame_kind: FrameKind::Send,
            correlation: 1,
            connection: ConnectionAddress::default(),
            session_epoch: 1,
            received_us: 5,
            inbox_seq: 0,
            app: "demo",
            user: "alice",
            device: "d1",
        };
        let mut batch = InboundBatchBuilder::new("gw-1");
        for number in [1, 2] {
            let (target, kind) = (Target::User(UserId::new("bob").unwrap()), MessageKind::TEXT);
            let send = Send { target, client_msg_id: id(number), client_seq: 1, kind, body: b"x" };
            let mut frame = Vec::new();
            send.encode(&mut Encoder::new(), 0, &mut frame);
            batch.push(&inbound, &frame[limits::HEADER_BYTES..]);
        }
        let traces = traces(16);
        record_dead_letter(&mut traces.writer(), Partition(3), &batch.take());
        let found = traces.find(Wanted::Client(id(2))).await;
        assert_eq!(found.len(), 1);
        let Passage { hop, number, received_us, .. } = found[0];
        assert_eq!((hop, number, received_us), (Hop::DeadLettered, 3, 5));
    }

    #[test]
    fn what_is_off_owns_no_ring() {
        let traces = Traces::off();
        let mut writer = traces.writer();
        assert!(!writer.wants(id(1)));
        writer.record(&Passage::new(id(1), Hop::Received, 1));
        assert!(traces.rings().is_empty());
    }
}
