//! Full queues in both directions: what does not fit is answered, held or hinted, never silent, and bounded.

use std::time::Duration;

use bytes::Bytes;
use roost_gateway::io::ConnectionKey;
use roost_gateway::io::simulated::Faults;
use roost_protocol::frame::ack::SendAck;
use roost_protocol::frame::deliver::{DeliverAck, Message};
use roost_protocol::frame::event::Event;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Encoder, Frame, FrameKind, Header, RefusalCode,
};

use crate::harness::{World, kinds, user};

fn deliver(
    key: ConnectionKey,
    inbox_seq: u64,
    body_bytes: usize,
) -> (ConnectionKey, Header, Bytes) {
    let message = Message {
        conversation: ConversationId::parse("s:alice:bob").unwrap(),
        seq: 1000 + inbox_seq,
        message_id: 1,
        sender: user("bob"),
        client_msg_id: ClientMsgId::default(),
        kind: MessageKind::TEXT,
        body: &vec![b'x'; body_bytes],
        server_time_ms: 1,
    };
    let payload = Bytes::copy_from_slice(message.payload(&mut Encoder::new()));
    (key, Header::new(FrameKind::Deliver, 0, inbox_seq, payload.len()), payload)
}

fn send_frame(n: u16) -> Frame<'static> {
    Frame::Send(Send {
        target: Target::User(user("bob")),
        client_msg_id: ClientMsgId([u8::try_from(n).unwrap(); 16]),
        client_seq: 1,
        kind: MessageKind::TEXT,
        body: b"hello",
    })
}

#[test]
fn a_reader_that_stalls_gets_hints_for_what_was_dropped() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    client.reads = false;
    for inbox_seq in 1..=400 {
        world.push([deliver(client.key(), inbox_seq, 1000)]);
        world.turn();
    }
    let dropped = world.counters.deliveries_dropped_to_hint.get();
    // 64 KiB in the socket and 64 KiB in the outbox: about 115 of 400 were taken.
    assert!((250..=320).contains(&dropped), "{dropped}");
    client.reads = true;
    world.settle(&mut [&mut client]);
    let frames = client.take();
    let delivered: Vec<_> = frames
        .iter()
        .filter(|got| got.header.kind == FrameKind::Deliver)
        .map(|got| got.header.inbox_seq)
        .collect();
    assert_eq!(delivered, (1..=400 - dropped).collect::<Vec<_>>());
    let hint = frames.last().unwrap().frame();
    let conversation = ConversationId::parse("s:alice:bob").unwrap();
    assert_eq!(hint, Frame::Event(Event::Hint { conversation, seq: 1400, inbox_seq: 400 }));
    assert_eq!(frames.len(), delivered.len() + 1);
    world.push([deliver(client.key(), 401, 1000)]);
    world.settle(&mut [&mut client]);
    assert_eq!(kinds(&client.take()), [FrameKind::Deliver]);
}

#[test]
fn no_progress_ends_a_slow_consumer() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    client.reads = false;
    for inbox_seq in 1..=100 {
        world.push([deliver(client.key(), inbox_seq, 1000)]);
        world.turn();
    }
    world.pass(Duration::from_secs(29), &mut [&mut client]);
    assert_eq!(world.counters.sessions.get(), 1);
    world.pass(Duration::from_secs(4), &mut [&mut client]);
    let slow = world.counters.closes().find(|(r, _)| *r == CloseReason::SlowConsumer);
    assert_eq!(slow, Some((CloseReason::SlowConsumer, 1)));
    assert_eq!((world.shard.connections(), world.counters.sessions.get()), (0, 0));
}

#[test]
fn what_must_not_be_dropped_is_bounded_too() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    client.reads = false;
    let payload = Bytes::from(vec![0; 60_000]);
    for _ in 0..14 {
        let header = Header::new(FrameKind::Receipt, 0, 0, payload.len());
        world.push([(client.key(), header, payload.clone())]);
        world.turn();
    }
    let slow = world.counters.closes().find(|(r, _)| *r == CloseReason::SlowConsumer);
    assert_eq!(slow, Some((CloseReason::SlowConsumer, 1)));
}

#[test]
fn a_full_way_to_logic_refuses_questions_and_holds_the_rest() {
    let mut world = World::with_config(1, Faults::NONE, |config| config.inbound.messages_max = 8);
    let mut client = world.log_in("alice");
    for n in 0..10 {
        client.write_frame(&send_frame(n), n);
    }
    let conversation = ConversationId::parse("s:alice:bob").unwrap();
    for seq in 1..=20 {
        let receipt = Receipt {
            conversation,
            user: None,
            kind: ReceiptKind::Read,
            seq,
            by_server: false,
            server_time_ms: 0,
        };
        client.write_frame(&Frame::Receipt(receipt), 0);
        let ack = DeliverAck { inbox_seq: seq, watermarks: vec![(conversation, seq)] };
        client.write_frame(&Frame::DeliverAck(ack), 0);
    }
    client.write_frame(&send_frame(10), 10);
    world.settle(&mut [&mut client]);
    let refused: Vec<_> = client
        .take()
        .iter()
        .map(|got| match got.frame() {
            Frame::SendRefused(refused) => (got.header.correlation, refused.code),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(refused, [(8, RefusalCode::Busy), (9, RefusalCode::Busy)]);
    let mut received = Vec::new();
    for _ in 0..20 {
        received.extend(world.take_and_confirm());
        world.settle(&mut [&mut client]);
    }
    let sends: Vec<_> = received
        .iter()
        .filter(|r| r.frame_kind == FrameKind::Send)
        .map(|r| r.correlation)
        .collect();
    let late_refusals = client.take().len();
    assert!(sends.starts_with(&[0, 1, 2, 3, 4, 5, 6, 7]), "{sends:?}");
    assert_eq!(sends.len() + late_refusals, 9, "the last SEND came through or was refused");
    let seqs: Vec<_> = received
        .iter()
        .filter_map(|r| match Frame::decode(r.frame_kind, &r.payload).unwrap() {
            Frame::Receipt(receipt) => Some(receipt.seq),
            Frame::DeliverAck(ack) => Some(ack.inbox_seq),
            _ => None,
        })
        .collect();
    assert_eq!(seqs, (1..=20).flat_map(|seq| [seq, seq]).collect::<Vec<_>>());
    assert_eq!(world.counters.paused_receives.get(), 0);
}

#[test]
fn an_answer_reaches_the_client_once() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    client.write_frame(&send_frame(1), 9);
    world.settle(&mut [&mut client]);
    let send = &world.take_and_confirm()[0];
    let ack = SendAck {
        client_msg_id: ClientMsgId([1; 16]),
        conversation: ConversationId::parse("s:alice:bob").unwrap(),
        seq: 1,
        message_id: 2,
        server_time_ms: 3,
    };
    let payload = Bytes::copy_from_slice(ack.payload(&mut Encoder::new()));
    let header = Header::new(FrameKind::SendAck, send.correlation, 77, payload.len());
    world.push([(send.key, header, payload.clone()), (send.key, header, payload)]);
    world.settle(&mut [&mut client]);
    let frames = client.take();
    assert_eq!(kinds(&frames), [FrameKind::SendAck]);
    assert_eq!((frames[0].header.correlation, frames[0].header.inbox_seq), (9, 77));
    assert_eq!(frames[0].frame(), Frame::SendAck(ack));
}
