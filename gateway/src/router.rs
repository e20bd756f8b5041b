//! Outbound: from envelopes of logic to the shards that own the connections.
//!
//! The router only looks up and groups: frames were encoded by logic and permission was settled there. A batch becomes at most one
//! mailbox item per shard, and payloads stay reference-counted slices of the batch's body. Nothing is dropped for lack of room: a
//! full mailbox makes the consumer wait, and with it the bus. What has no receiver here is counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use roost_protocol::envelope::{ConnectionAddress, EnvelopeError, Outbound, OutboundBatch};
use roost_protocol::{CloseReason, FrameKind, Header, message_of};
use roost_trace::{Hop, Passage, Text, TraceWriter};

use crate::gateway::GatewayContext;
use crate::io::ConnectionKey;
use crate::metrics::ControlCounters;
use crate::session::directory::Directory;
use crate::shard::mailbox::MailboxSender;
use crate::shard::message::{ShardAction, ShardItem, ShardMessage};

/// The mailboxes of all shards, by index.
pub type ShardMailboxes = Vec<MailboxSender<ShardMessage>>;

/// Distributes batches of logic.
#[derive(Debug)]
pub struct Router {
    directory: Arc<Directory>,
    mailboxes: ShardMailboxes,
    counters: Arc<ControlCounters>,
    /// What the current batch holds for each shard; memory is moved away with each batch.
    groups: Vec<Vec<ShardItem>>,
    trace: Option<RouterTrace>,
}

/// What the router records of traced messages.
#[derive(Debug)]
struct RouterTrace {
    writer: TraceWriter,
    gateway: Text,
    context: Arc<GatewayContext>,
}

impl Router {
    /// A router to these shards.
    pub fn new(
        directory: Arc<Directory>,
        mailboxes: ShardMailboxes,
        counters: Arc<ControlCounters>,
    ) -> Self {
        let groups = mailboxes.iter().map(|_| Vec::new()).collect();
        Self { directory, mailboxes, counters, groups, trace: None }
    }

    /// The same, recording what it sees of traced messages.
    pub(crate) fn tracing(mut self, writer: TraceWriter, context: Arc<GatewayContext>) -> Self {
        let gateway = Text::new(&context.config.name);
        self.trace = (!writer.is_off()).then_some(RouterTrace { writer, gateway, context });
        self
    }

    /// Resolves a batch into one group per shard. What stands before an error is kept.
    ///
    /// # Errors
    /// When an envelope is damaged; the rest of the batch is lost then, and clients find the gap by their digest.
    pub fn resolve(&mut self, batch: &OutboundBatch) -> Result<(), EnvelopeError> {
        for envelope in batch.iter() {
            self.resolve_envelope(envelope?);
        }
        Ok(())
    }

    /// Puts the groups into the mailboxes, in shard order, waiting where one is full.
    pub async fn flush(&mut self) {
        for (group, mailbox) in self.groups.iter_mut().zip(&self.mailboxes) {
            if group.is_empty() {
                continue;
            }
            let message = ShardMessage::Batch(std::mem::take(group));
            if let Err(message) = mailbox.send(message) {
                self.counters.mailbox_waits.increment();
                mailbox.send_when_room(message).await;
            }
        }
    }

    fn resolve_envelope(&mut self, envelope: Outbound<'_>) {
        self.counters.envelopes_received.increment();
        match envelope {
            Outbound::ToConnection { connection, kind, correlation, inbox_seq, payload } => {
                let header = Header::new(kind, correlation, inbox_seq, payload.len());
                self.put(connection, ShardAction::Frame { header, payload });
            }
            Outbound::Close { connection, reason } => {
                self.put(connection, ShardAction::Close(reason));
            }
            Outbound::ToUsers { app, kind, except, targets, payload } => {
                let Self { directory, groups, counters, trace, .. } = self;
                let mut sessions = 0;
                let Some(app) = directory.known_app(app) else {
                    counters.users_missed.add(targets.len() as u64);
                    return;
                };
                for target in targets {
                    let header = Header::new(kind, 0, target.inbox_seq, payload.len());
                    let found = directory.visit_user(app, target.user, |session| {
                        let address = session.address();
                        if except != Some(address) {
                            sessions += 1;
                            let action = ShardAction::Frame { header, payload: payload.clone() };
                            put(groups, counters, address, action);
                        }
                    });
                    if found == 0 {
                        counters.users_missed.increment();
                    }
                }
                if let (Some(trace), FrameKind::Deliver) = (trace, kind) {
                    trace.push_taken(&payload, sessions);
                }
            }
        }
    }

    fn put(&mut self, address: ConnectionAddress, action: ShardAction) {
        put(&mut self.groups, &self.counters, address, action);
    }
}

impl RouterTrace {
    fn push_taken(&mut self, payload: &[u8], sessions: usize) {
        let id = message_of(FrameKind::Deliver, payload).filter(|id| self.writer.wants(*id));
        let Some(id) = id else { return };
        let at_ns = self.context.clock.wall_us(Instant::now()).saturating_mul(1_000);
        self.writer.record(&Passage {
            count: u32::try_from(sessions).unwrap_or(u32::MAX),
            text: self.gateway,
            ..Passage::new(id, Hop::PushTaken, at_ns)
        });
    }
}

fn put(
    groups: &mut [Vec<ShardItem>],
    counters: &ControlCounters,
    address: ConnectionAddress,
    action: ShardAction,
) {
    let ConnectionAddress { shard, index, generation } = address;
    match groups.get_mut(usize::from(shard)) {
        Some(group) => {
            group.push(ShardItem { key: ConnectionKey { index, generation }, action });
        }
        // An answer to a connection of an earlier process of this name, which had more shards.
        None => counters.connections_missed.increment(),
    }
}

/// Closes connections of any shard without waiting: what finds a full mailbox is kept, in order, and tried again. Holds at most
/// one entry per login that superseded another.
#[derive(Debug)]
pub struct Closer {
    mailboxes: ShardMailboxes,
    waiting: VecDeque<(u16, ShardItem)>,
}

impl Closer {
    /// A closer for these shards.
    pub fn new(mailboxes: ShardMailboxes) -> Self {
        Self { mailboxes, waiting: VecDeque::new() }
    }

    /// Has a connection closed with the next [`flush`](Self::flush).
    pub fn close(&mut self, connection: ConnectionAddress, reason: CloseReason) {
        let ConnectionAddress { shard, index, generation } = connection;
        let key = ConnectionKey { index, generation };
        self.waiting.push_back((shard, ShardItem { key, action: ShardAction::Close(reason) }));
    }

    /// Puts everything that waits into the mailboxes that have room.
    pub fn flush(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some((shard, item)) = self.waiting.pop_front() else { return };
            let Some(mailbox) = self.mailboxes.get(usize::from(shard)) else { continue };
            if let Err(ShardMessage::Batch(items)) = mailbox.send(ShardMessage::Batch(vec![item])) {
                self.waiting.extend(items.into_iter().map(|item| (shard, item)));
            }
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use roost_protocol::FrameKind;
    use roost_protocol::envelope::{FanOutTarget, OutboundBatchBuilder};
    use roost_protocol::frame::connect::DeviceClass;

    use super::*;
    use crate::io::Waker;
    use crate::session::directory::Authenticated;
    use crate::shard::mailbox::{Mailbox, mailbox};

    struct Fixture {
        directory: Arc<Directory>,
        counters: Arc<ControlCounters>,
        router: Router,
        shards: Vec<Mailbox<ShardMessage>>,
    }

    fn fixture(capacity: usize) -> Fixture {
        let directory = Arc::new(Directory::new("gw", 0));
        let counters = Arc::new(ControlCounters::default());
        let waker = Arc::new(Waker::new().unwrap());
        let (senders, shards) = (0..2).map(|_| mailbox(capacity, Arc::clone(&waker))).unzip();
        let router = Router::new(Arc::clone(&directory), senders, Arc::clone(&counters));
        Fixture { directory, counters, router, shards }
    }

    fn at(shard: u16, index: u32) -> ConnectionAddress {
        ConnectionAddress { shard, index, generation: 5 }
    }

    fn connect(directory: &Directory, user: &str, device: &str, address: ConnectionAddress) {
        let login = Authenticated {
            app: directory.app_index("demo").unwrap(),
            user: user.to_owned(),
            device: device.to_owned(),
            device_class: DeviceClass::Other,
            last_epoch: 0,
            expires_s: u32::MAX,
        };
        directory.register(&login, address, 1).unwrap();
    }

    /// Index of the connection, and inbox_seq of the frame or the reason of the close.
    fn taken(mailbox: &mut Mailbox<ShardMessage>) -> Vec<(u32, Result<u64, CloseReason>)> {
        let Some(ShardMessage::Batch(items)) = mailbox.pop() else { return Vec::new() };
        let mut taken: Vec<_> = items
            .into_iter()
            .map(|item| match item.action {
                ShardAction::Frame { header, payload } => {
                    assert_eq!(header.payload_bytes as usize, payload.len());
                    (item.key.index, Ok(header.inbox_seq))
                }
                ShardAction::Close(reason) => (item.key.index, Err(reason)),
            })
            .collect();
        taken.sort_unstable();
        taken
    }

    fn route(fixture: &mut Fixture, batch: &mut OutboundBatchBuilder) {
        fixture.router.resolve(&OutboundBatch::parse(batch.take()).unwrap()).unwrap();
        fixture.router.flush().now_or_never().expect("room");
    }

    #[test]
    fn one_item_per_shard_reaches_every_session_but_the_excepted() {
        let mut f = fixture(4);
        connect(&f.directory, "alice", "d1", at(0, 1));
        connect(&f.directory, "alice", "d2", at(1, 2));
        connect(&f.directory, "bob", "d1", at(1, 3));
        let mut batch = OutboundBatchBuilder::new();
        batch.to_connection(at(0, 9), FrameKind::SendAck, 3, 40, b"ack");
        let targets = [("alice", 10), ("bob", 11), ("carol", 12)]
            .map(|(user, inbox_seq)| FanOutTarget { user, inbox_seq });
        batch.to_users("demo", FrameKind::Deliver, Some(at(0, 1)), &targets, b"message");
        batch.to_users("unknown-app", FrameKind::Deliver, None, &targets, b"message");
        batch.close(at(1, 3), CloseReason::KickedByOtherDevice);
        batch.close(at(7, 3), CloseReason::KickedByOtherDevice);
        route(&mut f, &mut batch);
        assert_eq!(taken(&mut f.shards[0]), [(9, Ok(40))]);
        let kicked = (3, Err(CloseReason::KickedByOtherDevice));
        assert_eq!(taken(&mut f.shards[1]), [(2, Ok(10)), (3, Ok(11)), kicked]);
        assert!(f.shards.iter().all(Mailbox::is_empty));
        assert_eq!(f.counters.users_missed.get(), 4);
        assert_eq!(f.counters.connections_missed.get(), 1);
    }

    #[test]
    fn a_full_mailbox_makes_the_router_wait() {
        let mut f = fixture(1);
        let mut batch = OutboundBatchBuilder::new();
        batch.close(at(0, 1), CloseReason::Superseded);
        route(&mut f, &mut batch);
        batch.close(at(0, 2), CloseReason::Superseded);
        f.router.resolve(&OutboundBatch::parse(batch.take()).unwrap()).unwrap();
        let mut flush = Box::pin(f.router.flush());
        assert!((&mut flush).now_or_never().is_none(), "no room");
        assert_eq!(taken(&mut f.shards[0]).len(), 1);
        assert!((&mut flush).now_or_never().is_some());
        drop(flush);
        assert_eq!(taken(&mut f.shards[0]), [(2, Err(CloseReason::Superseded))]);
        assert_eq!(f.counters.mailbox_waits.get(), 1);
    }

    #[test]
    fn the_closer_keeps_what_found_no_room() {
        let mut f = fixture(1);
        let mut closer = Closer::new(f.router.mailboxes.clone());
        for index in 0..3 {
            closer.close(at(0, index), CloseReason::Superseded);
        }
        closer.close(at(1, 7), CloseReason::Superseded);
        for index in 0..3 {
            closer.flush();
            assert_eq!(taken(&mut f.shards[0]), [(index, Err(CloseReason::Superseded))]);
        }
        assert!(closer.is_empty());
        assert_eq!(taken(&mut f.shards[1]).len(), 1);
    }
}
