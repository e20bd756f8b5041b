//! Under overload a user who logged in sees TCP back-pressure and `busy`, and is never closed for it; a repeat is not more load; a
//! CONNECT waits for room.

use std::time::Duration;

use bytes::Bytes;
use roost_gateway::io::ConnectionKey;
use roost_gateway::io::simulated::Faults;
use roost_protocol::envelope::InboundKind;
use roost_protocol::frame::ack::SendAck;
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::INFLIGHT_SENDS_MAX;
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Encoder, Frame, FrameKind, Header, RefusalCode,
};

use crate::harness::{Client, Received, World, kinds, user};

const WINDOW: u16 = INFLIGHT_SENDS_MAX;

fn send_frame(n: u16) -> Frame<'static> {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_le_bytes());
    Frame::Send(Send {
        target: Target::User(user("bob")),
        client_msg_id: ClientMsgId(id),
        client_seq: u32::from(n),
        kind: MessageKind::TEXT,
        body: b"hello",
    })
}

fn send_all(client: &mut Client, numbers: impl IntoIterator<Item = u16>) {
    for n in numbers {
        client.write_frame(&send_frame(n), n);
    }
}

fn ack(send: &Received) -> (ConnectionKey, Header, Bytes) {
    let Frame::Send(sent) = Frame::decode(send.frame_kind, &send.payload).unwrap() else {
        panic!("{send:?}")
    };
    let ack = SendAck {
        client_msg_id: sent.client_msg_id,
        conversation: ConversationId::parse("s:alice:bob").unwrap(),
        seq: u64::from(sent.client_seq),
        message_id: 2,
        server_time_ms: 3,
    };
    let payload = Bytes::copy_from_slice(ack.payload(&mut Encoder::new()));
    (send.key, Header::new(FrameKind::SendAck, send.correlation, 0, payload.len()), payload)
}

/// Logic answers everything it took; what the client got for it, by correlation.
fn acked(world: &mut World, client: &mut Client, taken: &[Received]) -> Vec<u16> {
    world.push(taken.iter().map(ack));
    world.settle(&mut [client]);
    let got = client.take();
    assert!(got.iter().all(|got| got.header.kind == FrameKind::SendAck), "{:?}", kinds(&got));
    got.iter().map(|got| got.header.correlation).collect()
}

/// Correlations that were refused busy; nothing else may have come.
#[track_caller]
fn busy(client: &mut Client) -> Vec<u16> {
    let got = client.take();
    let refused = got.iter().map(|got| match got.frame() {
        Frame::SendRefused(refused) => {
            assert_eq!(refused.code, RefusalCode::Busy);
            assert!(refused.retry_after_ms > 0);
            got.header.correlation
        }
        other => panic!("{other:?}"),
    });
    refused.collect()
}

fn no_closes(world: &World) {
    assert_eq!(world.counters.closes().map(|(_, n)| n).sum::<u64>(), 0);
}

/// A user whose answers take four seconds.
fn log_in_to_slow_logic(world: &mut World) -> Client {
    let mut client = world.log_in("alice");
    for n in 1000..1020 {
        send_all(&mut client, [n]);
        world.pass(Duration::from_secs(4), &mut [&mut client]);
        let taken = world.take_and_confirm();
        assert_eq!(acked(world, &mut client, &taken), [n]);
    }
    client
}

#[test]
fn a_send_beyond_the_window_is_refused_busy() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    send_all(&mut client, 1..=WINDOW + 2);
    world.settle(&mut [&mut client]);
    assert_eq!(busy(&mut client), [WINDOW + 1, WINDOW + 2]);
    let taken = world.take_and_confirm();
    assert_eq!(taken.len(), usize::from(WINDOW));
    assert_eq!(acked(&mut world, &mut client, &taken), (1..=WINDOW).collect::<Vec<_>>());
    send_all(&mut client, [WINDOW + 1]);
    world.settle(&mut [&mut client]);
    assert_eq!(world.take_and_confirm().len(), 1, "there is room again");
    no_closes(&world);
}

#[test]
fn a_repeat_joins_what_is_on_its_way_until_that_is_overdue() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = log_in_to_slow_logic(&mut world);
    send_all(&mut client, 1..=WINDOW);
    world.settle(&mut [&mut client]);
    let first = world.take_and_confirm();
    assert_eq!(first.len(), usize::from(WINDOW));
    for _ in 0..2 {
        world.pass(Duration::from_secs(3), &mut [&mut client]);
        send_all(&mut client, 1..=WINDOW);
        world.settle(&mut [&mut client]);
    }
    assert_eq!(world.take_and_confirm(), [], "not passed on while the first copy is on its way");
    assert_eq!(world.counters.repeats_joined.get(), 2 * u64::from(WINDOW));
    world.pass(Duration::from_secs(4), &mut [&mut client]);
    send_all(&mut client, [1, 2]);
    world.settle(&mut [&mut client]);
    assert_eq!(world.take_and_confirm().len(), 2, "overdue: an answer may be lost");
    assert!(client.take().is_empty(), "a repeat takes no place of the window");
    assert_eq!(acked(&mut world, &mut client, &first), (1..=WINDOW).collect::<Vec<_>>());
    no_closes(&world);
}

#[test]
fn a_repeat_that_finds_the_way_full_leaves_its_first_copy_a_place() {
    let mut world = World::with_config(1, Faults::NONE, |config| config.inbound.messages_max = 8);
    let mut client = world.log_in("alice");
    send_all(&mut client, 1..=9);
    world.settle(&mut [&mut client]);
    assert_eq!(busy(&mut client), [9]);
    world.pass(Duration::from_secs(3), &mut [&mut client]);
    send_all(&mut client, 1..=8);
    world.settle(&mut [&mut client]);
    let first = world.take();
    assert_eq!(first.len(), 8);
    assert_eq!(acked(&mut world, &mut client, &first), (1..=8).collect::<Vec<_>>());
    world.confirm();
    world.settle(&mut [&mut client]);
    no_closes(&world);
}

/// A client that repeats by its own clock and sends on, to a logic that answers nothing for a minute and then everything.
#[test]
fn a_minute_without_answers_closes_nobody() {
    let mut world = World::with_config(1, Faults::NONE, |config| config.inbound.messages_max = 200);
    let mut clients: Vec<_> = ["alice", "carol", "dave"].map(|name| world.log_in(name)).into();
    for second in 0..60 {
        for client in &mut clients {
            let first = if second % 3 == 0 { 1 } else { WINDOW };
            send_all(client, first..=WINDOW + 6);
            let ping = Frame::Ping(Ping { client_time_us: 1, inbox_seq: 0 });
            client.write_frame(&ping, 0);
        }
        world.pass(Duration::from_secs(1), &mut clients.iter_mut().collect::<Vec<_>>());
    }
    no_closes(&world);
    for _ in 0..100 {
        let taken = world.take_and_confirm();
        world.push(taken.iter().filter(|r| r.frame_kind == FrameKind::Send).map(ack));
        world.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    }
    no_closes(&world);
    for client in &mut clients {
        let got = client.take();
        for n in 1..=8 {
            let is_ack = |frame: &&crate::harness::Got| {
                frame.header.kind == FrameKind::SendAck && frame.header.correlation == n
            };
            assert!(got.iter().any(|frame| is_ack(&frame)), "{n} is not answered");
        }
        assert_eq!(client.unsent_bytes(), 0, "everything was read in the end");
    }
}

/// Somebody fills the way to logic, and a second client connects.
fn connect_to_full(behind_connect: &[u8]) -> (World, Client, Client) {
    let mut world = World::with_config(1, Faults::NONE, |config| config.inbound.messages_max = 8);
    let mut first = world.log_in("alice");
    send_all(&mut first, 1..=8);
    world.settle(&mut [&mut first]);
    let mut second = world.connect();
    second.write(&world.connect_frame("bob", "d1", 7000));
    second.write(behind_connect);
    world.settle(&mut [&mut first, &mut second]);
    (world, first, second)
}

#[test]
fn a_connect_waits_for_room() {
    let mut ping = Vec::new();
    Frame::Ping(Ping { client_time_us: 5, inbox_seq: 0 }).encode(
        &mut Encoder::new(),
        3,
        0,
        &mut ping,
    );
    let (mut world, mut first, mut second) = connect_to_full(&ping);
    world.pass(Duration::from_secs(4), &mut [&mut first, &mut second]);
    assert!(second.take().is_empty());
    assert_eq!(world.counters.paused_receives.get(), 1);
    world.take_and_confirm();
    world.settle(&mut [&mut first, &mut second]);
    assert_eq!(kinds(&second.take()), [FrameKind::Connected, FrameKind::Pong]);
    let opened = world.take_and_confirm();
    assert_eq!(opened.iter().map(|r| r.kind).collect::<Vec<_>>(), [InboundKind::SessionOpened]);
    // The time of CONNECT no longer counts.
    world.pass(Duration::from_secs(10), &mut [&mut first, &mut second]);
    assert_eq!(world.counters.sessions.get(), 2);
    no_closes(&world);
}

#[test]
fn a_connect_without_room_ends_with_its_timeout() {
    let (mut world, mut first, mut second) = connect_to_full(&[]);
    world.pass(Duration::from_secs(6), &mut [&mut first, &mut second]);
    assert_eq!(second.close_reason(), CloseReason::GatewayFull);
    assert_eq!(world.counters.sessions.get(), 1);
}

#[test]
fn nobody_unknown_makes_the_gateway_keep_more_than_a_connect() {
    let behind = vec![0; 50_000];
    let (world, _first, second) = connect_to_full(&behind);
    let in_kernel = second.unsent_bytes() + world.network.unread_bytes(second.peer);
    // One receive buffer with CONNECT, and one that was full before the pause.
    assert!(in_kernel >= behind.len() - 2 * 4096, "{in_kernel}");
    assert_eq!(world.counters.sessions.get(), 1);
}

/// A client that asks eight pages at a time, and a logic with pages of 60 KB for all.
struct Reader {
    world: World,
    client: Client,
    correlation: u16,
}

impl Reader {
    fn new() -> Self {
        let mut world = World::new(1, Faults::NONE);
        let client = world.log_in("alice");
        Self { world, client, correlation: 0 }
    }
    fn ask(&mut self, pages: u16) {
        for _ in 0..pages {
            self.correlation += 1;
            let sync = Request::Sync { after_inbox_seq: 0, limit: 0 };
            self.client.write_frame(&Frame::Request(sync), self.correlation);
        }
        self.world.settle(&mut [&mut self.client]);
        let page = Bytes::from(vec![0; 60_000]);
        for request in self.world.take_and_confirm() {
            let header = Header::new(FrameKind::Response, request.correlation, 0, page.len());
            self.world.push([(request.key, header, page.clone())]);
        }
        self.world.settle(&mut [&mut self.client]);
    }
    fn pages_sent(&self) -> u64 {
        let mut sent = self.world.counters.frames_sent();
        sent.find(|(kind, _)| *kind == FrameKind::Response).map_or(0, |(_, n)| n)
    }
    /// Pages and refusals `busy` that the client got.
    fn take(&mut self) -> (usize, usize) {
        let got = self.client.take();
        let (pages, refusals): (Vec<_>, Vec<_>) =
            got.iter().partition(|got| got.header.payload_bytes == 60_000);
        for refused in &refusals {
            let Frame::Response(Response::Refused { code, .. }) = refused.frame() else {
                panic!("{refused:?}")
            };
            assert_eq!(code, RefusalCode::Busy);
        }
        (pages.len(), refusals.len())
    }
}

#[test]
fn pages_wait_for_what_is_unread() {
    let mut reader = Reader::new();
    reader.client.reads = false;
    (0..20).for_each(|_| reader.ask(8));
    // One in the socket, one in the outbox, where 16 KiB may wait before it.
    assert_eq!(reader.pages_sent(), 2);
    reader.client.reads = true;
    reader.world.settle(&mut [&mut reader.client]);
    let (pages, refusals) = reader.take();
    assert_eq!(pages, 2);
    assert!(refusals > 0);
    // Who reads gets its pages.
    (0..10).for_each(|_| reader.ask(1));
    assert_eq!(reader.take(), (10, 0));
    no_closes(&reader.world);
}

#[test]
fn who_asks_and_reads_nothing_is_a_slow_consumer() {
    let mut reader = Reader::new();
    reader.client.reads = false;
    (0..20).for_each(|_| reader.ask(8));
    reader.world.pass(Duration::from_secs(29), &mut [&mut reader.client]);
    assert_eq!(reader.world.counters.sessions.get(), 1);
    reader.world.pass(Duration::from_secs(2), &mut [&mut reader.client]);
    let slow = reader.world.counters.closes().find(|(r, _)| *r == CloseReason::SlowConsumer);
    assert_eq!(slow, Some((CloseReason::SlowConsumer, 1)));
}
