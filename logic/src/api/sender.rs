//! Operations that servers and users bring over HTTP, on their way through the bus: this node is a gateway without
//! connections. An answer finds its request by the connection address, which is made up here, one per request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use roost_bus::{OutboundConsumer, PublishError, SharedBus};
use roost_health::Breaker;
use roost_protocol::envelope::{
    ConnectionAddress, Inbound, InboundBatchBuilder, InboundKind, Outbound, OutboundBatch,
};
use roost_protocol::frame::ack::SendRefused;
use roost_protocol::id::{ConversationId, UserId};
use roost_protocol::topology::Partition;
use roost_protocol::{ClientMsgId, FrameKind, message_of};
use roost_trace::{Hop, Passage, Text, TraceWriter, now_ns};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// So many requests in a row without an answer, and others are told at once that it takes longer; asked again after the pause.
const UNANSWERED_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Requests that may wait for their answer.
const WAITING_MAX: usize = 4_096;

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Too many wait, or the bus is full: nothing was sent.
    Busy,
    /// Those before had no answer: nothing was sent.
    Interrupted,
    /// Perhaps done, perhaps not.
    Unknown,
}

/// An operation of a user.
pub(crate) struct Operation<'a> {
    pub(crate) app: &'a str,
    pub(crate) user: UserId<'a>,
    pub(crate) conversation: ConversationId<'a>,
    pub(crate) kind: FrameKind,
    pub(crate) payload: &'a [u8],
}

/// Sends operations through the bus and waits for their answers.
#[derive(Clone)]
pub(crate) struct BusSender {
    bus: SharedBus,
    origin: Arc<str>,
    timeout: Duration,
    waiting: Arc<Mutex<Waiting>>,
    breaker: Arc<Breaker>,
    trace: Arc<Mutex<TraceWriter>>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    answers: HashMap<ConnectionAddress, oneshot::Sender<(FrameKind, Bytes)>>,
}

/// Forgets the request when nobody waits any more.
struct Place<'a> {
    waiting: &'a Mutex<Waiting>,
    address: ConnectionAddress,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.lock().answers.remove(&self.address);
    }
}

impl BusSender {
    /// A sender with the delivery queue `origin`, and the consumer that brings it answers.
    pub(crate) fn new(bus: SharedBus, origin: &str, timeout: Duration) -> Self {
        let breaker = Arc::new(Breaker::new("http_to_bus", UNANSWERED_MAX, PAUSE));
        let trace = Arc::new(Mutex::new(TraceWriter::off()));
        Self { bus, origin: origin.into(), timeout, waiting: Arc::default(), breaker, trace }
    }

    /// The same, recording what it sees of traced messages.
    pub(crate) fn tracing(self, writer: TraceWriter) -> Self {
        Self { trace: Arc::new(Mutex::new(writer)), ..self }
    }

    /// The message of an operation, when it is traced.
    fn traced(&self, operation: &Operation<'_>) -> Option<ClientMsgId> {
        let id = message_of(operation.kind, operation.payload)?;
        self.trace.lock().wants(id).then_some(id)
    }

    /// What stands before the bus.
    pub(crate) fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    fn pass(&self) -> Result<(), Unanswered> {
        match self.breaker.try_pass(std::time::Instant::now()) {
            true => Ok(()),
            false => Err(Unanswered::Interrupted),
        }
    }

    /// A full bus answers; one that does not answer is away.
    fn note<T>(&self, result: Result<T, Unanswered>) -> Result<T, Unanswered> {
        let is_well = !matches!(result, Err(Unanswered::Unknown));
        self.breaker.note(std::time::Instant::now(), is_well);
        result
    }

    /// Hands answers to who waits for them, until the bus is closed.
    pub(crate) async fn receive(self, mut consumer: Box<dyn OutboundConsumer>) {
        while let Some(body) = consumer.next().await {
            let Ok(batch) = OutboundBatch::parse(body) else { continue };
            for outbound in batch.iter().map_while(Result::ok) {
                match outbound {
                    Outbound::ToConnection { connection, kind, payload, .. } => {
                        let waiting = self.waiting.lock().answers.remove(&connection);
                        if let Some(answer) = waiting {
                            // Nobody waits any more: the request timed out a moment ago.
                            let _ = answer.send((kind, payload));
                        }
                    }
                    // No user has a session here.
                    Outbound::ToUsers { .. } | Outbound::Close { .. } => {}
                }
            }
        }
    }

    fn place(&self) -> Option<(Place<'_>, oneshot::Receiver<(FrameKind, Bytes)>)> {
        let mut waiting = self.waiting.lock();
        if waiting.answers.len() >= WAITING_MAX {
            return None;
        }
        waiting.last += 1;
        let [b0, b1, b2, b3, b4, b5, b6, b7] = waiting.last.to_le_bytes();
        let address = ConnectionAddress {
            shard: 0,
            index: u32::from_le_bytes([b0, b1, b2, b3]),
            generation: u32::from_le_bytes([b4, b5, b6, b7]),
        };
        let (answer, receiver) = oneshot::channel();
        waiting.answers.insert(address, answer);
        Some((Place { waiting: &self.waiting, address }, receiver))
    }

    fn body(
        &self,
        operation: &Operation<'_>,
        connection: ConnectionAddress,
        received_us: u64,
    ) -> Bytes {
        let mut builder = InboundBatchBuilder::new(&self.origin);
        let inbound = Inbound {
            kind: InboundKind::Frame,
            frame_kind: operation.kind,
            correlation: 0,
            connection,
            // No session: no client_seq to keep, identity alone counts.
            session_epoch: 0,
            received_us,
            inbox_seq: 0,
            app: operation.app,
            user: operation.user.as_str(),
            device: "http",
        };
        builder.push(&inbound, operation.payload);
        builder.take()
    }

    fn partition(&self, operation: &Operation<'_>) -> Partition {
        let partitions = self.bus.partitions();
        Partition::of_conversation(operation.app, &operation.conversation, partitions)
    }

    /// Sends an operation that is answered, and waits for the answer.
    pub(crate) async fn ask(
        &self,
        operation: &Operation<'_>,
    ) -> Result<(FrameKind, Bytes), Unanswered> {
        let (place, answer) = self.place().ok_or(Unanswered::Busy)?;
        self.pass()?;
        let since_ns = now_ns();
        let traced = self.traced(operation).map(|id| Request::new(self, operation, id, since_ns));
        if let Some(request) = &traced {
            request.record(Hop::RequestReceived, since_ns, 0);
        }
        let asked = async {
            let deadline = Instant::now() + self.timeout;
            let body = self.body(operation, place.address, since_ns / 1_000);
            self.publish(operation, body, deadline).await?;
            if let Some(request) = &traced {
                request.record(Hop::PublishConfirmed, since_ns, 0);
            }
            match timeout_at(deadline, answer).await {
                Ok(Ok((kind, payload))) => {
                    if let Some(request) = &traced {
                        request.record(Hop::RequestAnswered, since_ns, refusal(kind, &payload));
                    }
                    Ok((kind, payload))
                }
                Ok(Err(_)) | Err(_) => Err(Unanswered::Unknown),
            }
        };
        self.note(asked.await)
    }

    /// Sends an operation that is not answered; returns when the bus has taken it.
    pub(crate) async fn tell(&self, operation: &Operation<'_>) -> Result<(), Unanswered> {
        self.pass()?;
        let body = self.body(operation, ConnectionAddress::default(), now_ns() / 1_000);
        self.note(self.publish(operation, body, Instant::now() + self.timeout).await)
    }

    async fn publish(
        &self,
        operation: &Operation<'_>,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(), Unanswered> {
        let published = self.bus.publish_inbound(self.partition(operation), body);
        match timeout_at(deadline, published).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(
                PublishError::Full(_) | PublishError::Returned(_) | PublishError::Refused(_),
            )) => Err(Unanswered::Busy),
            // The body may be there all the same.
            Ok(Err(PublishError::Unavailable(_))) | Err(_) => Err(Unanswered::Unknown),
        }
    }
}

/// A traced message that waits for its answer.
struct Request<'a> {
    sender: &'a BusSender,
    received: Passage,
    partition: Partition,
}

impl<'a> Request<'a> {
    fn new(
        sender: &'a BusSender,
        operation: &Operation<'_>,
        id: ClientMsgId,
        since_ns: u64,
    ) -> Self {
        let partition = sender.partition(operation);
        let received = Passage {
            received_us: since_ns / 1_000,
            text: Text::new(operation.user.as_str()),
            ..Passage::new(id, Hop::RequestReceived, since_ns)
        };
        Self { sender, received, partition }
    }

    fn record(&self, hop: Hop, since_ns: u64, code: u16) {
        let passage = Passage { hop, at_ns: now_ns(), since_ns, code, ..self.received };
        let passage = if hop == Hop::PublishConfirmed {
            Passage { number: self.partition.0.into(), count: 1, text: Text::default(), ..passage }
        } else {
            passage
        };
        self.sender.trace.lock().record(&passage);
    }
}

/// Why it was refused; 0: it was not.
fn refusal(kind: FrameKind, payload: &[u8]) -> u16 {
    if kind != FrameKind::SendRefused {
        return 0;
    }
    SendRefused::decode(payload).map_or(0, |refused| refused.code as u16)
}
