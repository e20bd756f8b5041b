//! An arbitrary list of operations on a shard: what clients, the network, logic, other threads and time can do.
//!
//! Promises: no panic; every client reads whole frames with good headers and nothing after CLOSE; after the end no connection,
//! session or envelope is left.

mod frames;
mod operation;

use std::time::Duration;

use arbitrary::Unstructured;
use bytes::Bytes;
use roost_gateway::io::ConnectionKey;
use roost_gateway::io::simulated::Faults;
use roost_gateway::shard::message::{DrainPlan, ShardAction, ShardItem, ShardMessage};
use roost_protocol::frame::SentBy;
use roost_protocol::frame::close::Close;
use roost_protocol::frame::deliver::DeliverAck;
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::request::Request;
use roost_protocol::{CloseReason, ConversationId, Encoder, Frame, FrameKind, Header};

use crate::peer::Peer;
use crate::world::{Gates, World};
use frames::{SENDS, deliver, login_frame};
use operation::{Action, Body, ClientFrame, Item, Kernel, Login, Operation};

/// Clients of one run; more connect than the shard has room for.
const PEERS_MAX: usize = 10;
const OPERATIONS_MAX: usize = 60;

/// A seed, then operations.
pub fn connection_operations(input: &[u8]) {
    let mut from = Unstructured::new(input);
    let Ok(seed) = from.arbitrary::<u8>() else { return };
    let mut run = Run::new(seed.into());
    for _ in 0..OPERATIONS_MAX {
        if from.is_empty() {
            break;
        }
        let Ok(operation) = from.arbitrary::<Operation>() else { break };
        run.apply(operation);
        run.turn(Duration::from_millis(1));
    }
    run.end_reading();
    run.world.finish();
}

struct Client {
    peer: Peer,
    is_reading: bool,
}

struct Run {
    world: World,
    peers: Vec<Client>,
    encoder: Encoder,
}

impl Run {
    fn new(seed: u64) -> Self {
        let world = World::new(seed, Faults::NONE, Gates::Narrow);
        Self { world, peers: Vec::new(), encoder: Encoder::new() }
    }

    /// Everybody reads what is there.
    fn end_reading(&mut self) {
        for peer in &mut self.peers {
            peer.is_reading = true;
        }
        for _ in 0..5 {
            self.turn(Duration::from_millis(10));
        }
    }

    fn turn(&mut self, step: Duration) {
        self.world.turn(step);
        for client in &mut self.peers {
            client.peer.send(&self.world.network, &[]);
            if client.is_reading {
                client.peer.read(&self.world.network);
            }
        }
    }

    fn client(&mut self, index: u8) -> Option<&mut Client> {
        let count = self.peers.len().max(1);
        self.peers.get_mut(usize::from(index) % count)
    }

    fn send(&mut self, peer: u8, bytes: &[u8]) {
        let network = self.world.network.clone();
        if let Some(client) = self.client(peer) {
            client.peer.send(&network, bytes);
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Connect { login } => self.connect(login),
            Operation::Send { peer, frame } => {
                let bytes = self.encode(&frame);
                self.send(peer, &bytes);
            }
            Operation::SendInPieces { peer, at, frame } => {
                let bytes = self.encode(&frame);
                let (head, tail) = bytes.split_at(usize::from(at) % bytes.len());
                self.send(peer, head);
                self.turn(Duration::from_millis(1));
                self.send(peer, tail);
            }
            Operation::SendBytes { peer, bytes } => self.send(peer, &bytes),
            Operation::StopReading { peer } => self.set_reading(peer, false),
            Operation::Read { peer } => self.set_reading(peer, true),
            Operation::HalfClose { peer } => self.end(peer, |client, world| {
                world.network.half_close(client.peer.id);
            }),
            Operation::Close { peer } => self.end(peer, |client, world| {
                world.network.close(client.peer.id);
            }),
            Operation::Reset { peer } => self.end(peer, |client, world| {
                world.network.reset(client.peer.id);
            }),
            Operation::Push { items } => {
                let items = items.iter().map(item).collect();
                let _ = self.world.to_shard.send(ShardMessage::Batch(items));
            }
            Operation::Flood { index, generation, frames } => {
                self.flood(index, generation, frames);
            }
            Operation::Stall => self.world.is_stalled = true,
            Operation::Resume => self.world.is_stalled = false,
            Operation::Kernel { faults } => self.world.network.set_faults(match faults {
                Kernel::Good => Faults::NONE,
                Kernel::Harsh => Faults::HARSH,
                Kernel::Slow => Faults { delay_max: Duration::from_secs(1), ..Faults::NONE },
            }),
            Operation::Pass { ms } => self.turn(Duration::from_millis(ms.into())),
            Operation::PassLong { s } => {
                // A step of the clock, and some turns to notice it.
                self.world.network.advance(Duration::from_secs(s.into()));
                self.turn(Duration::from_millis(100));
                self.turn(Duration::from_millis(100));
            }
            Operation::Drain { seconds } => {
                let seconds = Duration::from_secs(u64::from(seconds % 8));
                let plan = DrainPlan {
                    go_away_window: seconds,
                    reconnect_after_max: seconds,
                    close_after: seconds,
                };
                let _ = self.world.to_shard.send(ShardMessage::Drain(plan));
            }
            Operation::Shutdown => {
                let _ = self.world.to_shard.send(ShardMessage::Shutdown);
            }
        }
    }

    fn connect(&mut self, login: Login) {
        if self.peers.len() < PEERS_MAX {
            let mut peer = Peer::connect(&self.world.network);
            peer.checks_payloads = false;
            peer.send(&self.world.network, &login_frame(login));
            self.peers.push(Client { peer, is_reading: true });
        }
    }

    fn set_reading(&mut self, peer: u8, is_reading: bool) {
        if let Some(client) = self.client(peer) {
            client.is_reading = is_reading;
        }
    }

    fn end(&mut self, peer: u8, how: impl FnOnce(&Client, &World)) {
        let count = self.peers.len().max(1);
        if let Some(client) = self.peers.get(usize::from(peer) % count) {
            how(client, &self.world);
        }
    }

    fn encode(&mut self, frame: &ClientFrame) -> Vec<u8> {
        let mut bytes = Vec::new();
        let conversation = ConversationId::parse("s:alice:bob").expect("a conversation");
        let frame = match frame {
            ClientFrame::EmptyPing => Frame::Ping(Ping::default()),
            ClientFrame::Ping { inbox_seq } => {
                Frame::Ping(Ping { client_time_us: 1, inbox_seq: u64::from(*inbox_seq) })
            }
            ClientFrame::Send { body, refused } => {
                let index = *body as usize + if *refused { Body::ALL.len() } else { 0 };
                return SENDS.with(|sends| sends[index].clone());
            }
            ClientFrame::Sync { after } => {
                Frame::Request(Request::Sync { after_inbox_seq: u64::from(*after), limit: 0 })
            }
            ClientFrame::DeliverAck { inbox_seq } => Frame::DeliverAck(DeliverAck {
                inbox_seq: u64::from(*inbox_seq),
                watermarks: vec![(conversation, u64::from(*inbox_seq))],
            }),
            ClientFrame::Read { seq } => Frame::Receipt(Receipt {
                conversation,
                user: None,
                kind: ReceiptKind::Read,
                seq: u64::from(*seq),
                by_server: false,
                server_time_ms: 0,
            }),
            ClientFrame::Delivered => Frame::Receipt(Receipt {
                conversation,
                user: None,
                kind: ReceiptKind::Delivered,
                seq: 1,
                by_server: false,
                server_time_ms: 0,
            }),
            ClientFrame::Close => {
                Frame::Close(Close { reason: CloseReason::Normal, detail: "", retry_after_ms: 0 })
            }
            ClientFrame::Connect { login } => {
                let login = login_frame(*login);
                if !login.is_empty() {
                    return login;
                }
                Frame::Ping(Ping::default())
            }
        };
        frame.encode(&mut self.encoder, 1, 0, &mut bytes);
        bytes
    }

    fn flood(&mut self, index: u8, generation: u8, frames: u8) {
        let ShardAction::Frame { header, payload } = deliver(1, Body::Large) else { return };
        let key = key(index, generation);
        let item =
            |_| ShardItem { key, action: ShardAction::Frame { header, payload: payload.clone() } };
        let items = (0..frames % 40).map(item).collect();
        let _ = self.world.to_shard.send(ShardMessage::Batch(items));
    }
}

fn item(item: &Item) -> ShardItem {
    let key = key(item.index, item.generation);
    let action = match &item.action {
        Action::Close { reason } => {
            let reasons = CloseReason::ALL;
            ShardAction::Close(reasons[usize::from(*reason) % reasons.len()])
        }
        Action::Deliver { inbox_seq, body } => deliver(u64::from(*inbox_seq) + 1, *body),
        Action::Frame { kind, correlation, payload } => {
            // CLOSE goes by its own action.
            let is_sent =
                |kind: &&FrameKind| kind.sent_by() != SentBy::Client && **kind != FrameKind::Close;
            let kinds: Vec<_> = FrameKind::ALL.iter().filter(is_sent).collect();
            let kind = *kinds[usize::from(*kind) % kinds.len()];
            let payload = Bytes::copy_from_slice(payload);
            let header = Header::new(kind, u16::from(*correlation), 0, payload.len());
            ShardAction::Frame { header, payload }
        }
    };
    ShardItem { key, action }
}

/// Keys that are often those of connections.
fn key(index: u8, generation: u8) -> ConnectionKey {
    ConnectionKey { index: u32::from(index % 8), generation: u32::from(generation % 4) }
}

/// Inputs that were found, as the operations they stood for.
#[cfg(test)]
mod tests {
    use super::*;

    fn run(operations: impl IntoIterator<Item = Operation>) -> Run {
        let mut run = Run::new(1);
        for operation in operations {
            run.apply(operation);
            run.turn(Duration::from_millis(1));
        }
        run
    }

    #[test]
    fn hints_owed_do_not_follow_close() {
        let floods = (0..4).map(|generation| Operation::Flood { index: 0, generation, frames: 39 });
        let before = [
            Operation::Connect { login: Login::Brief },
            Operation::Pass { ms: 1 },
            Operation::StopReading { peer: 0 },
        ];
        // The token ends after 20 s.
        let after = [Operation::PassLong { s: 25 }, Operation::Read { peer: 0 }];
        let mut run = run(before.into_iter().chain(floods).chain(after));
        run.end_reading();
        let kinds: Vec<_> = run.peers[0].peer.received.iter().map(|header| header.kind).collect();
        assert!(kinds.contains(&FrameKind::Deliver), "{kinds:?}");
        assert_eq!(kinds.last(), Some(&FrameKind::Close), "{kinds:?}");
        run.world.finish();
    }

    #[test]
    fn close_follows_a_send_in_flight() {
        let mut run = run([
            Operation::Kernel { faults: Kernel::Slow },
            Operation::Connect { login: Login::Alice },
            Operation::SendBytes { peer: 0, bytes: [0xFF; 12] },
            Operation::SendBytes { peer: 0, bytes: [0xFF; 12] },
        ]);
        for _ in 0..30 {
            run.turn(Duration::from_millis(100));
        }
        assert_eq!(run.peers[0].peer.closed, Some(CloseReason::UnknownKind));
        run.world.finish();
    }
}
