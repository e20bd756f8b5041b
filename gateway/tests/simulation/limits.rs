//! Every limit and every fault of a peer ends that connection with its named reason, and no other.

use std::time::Duration;

use bytes::Bytes;
use roost_gateway::io::simulated::Faults;
use roost_protocol::envelope::InboundKind;
use roost_protocol::frame::event::Event;
use roost_protocol::frame::ping::{Ping, Pong};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{ClientMsgId, CloseReason, Frame, FrameKind, Header, RefusalCode};

use crate::harness::{Client, World, kinds, user};

fn send_frame(n: u8) -> Frame<'static> {
    Frame::Send(Send {
        target: Target::User(user("bob")),
        client_msg_id: ClientMsgId([n; 16]),
        client_seq: 1,
        kind: MessageKind::TEXT,
        body: b"hello",
    })
}

/// `bytes` end a connection with `expected`, before or after login, while a neighbour goes on.
#[track_caller]
fn check_fault(after_login: bool, bytes: &[u8], expected: CloseReason) {
    let mut world = World::new(7, Faults::NONE);
    let mut neighbour = world.log_in("neighbour");
    let mut client = if after_login { world.log_in("alice") } else { world.connect() };
    client.write(bytes);
    client.pump(&world.network);
    world.settle(&mut [&mut client]);
    assert_eq!(client.close_reason(), expected);
    assert!(client.ended, "the gateway ends its side");
    world.network.half_close(client.peer);
    world.settle(&mut [&mut client]);
    assert!(world.network.is_released(client.peer));
    assert_eq!(world.counters.closes().find(|(r, _)| *r == expected), Some((expected, 1)));
    check_alive(&mut world, &mut neighbour);
    assert_eq!(world.shard.connections(), 1);
}

#[track_caller]
fn check_alive(world: &mut World, client: &mut Client) {
    client.write_frame(&Frame::Ping(Ping { client_time_us: 77, inbox_seq: 0 }), 3);
    client.pump(&world.network);
    world.settle(&mut [client]);
    let frames = client.take();
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].header.correlation, 3);
    let Frame::Pong(Pong { client_time_us, .. }) = frames[0].frame() else { panic!("{frames:?}") };
    assert_eq!(client_time_us, 77);
}

#[test]
fn garbage_ends_that_connection_with_a_named_reason() {
    let header = |kind, payload_bytes| Header::new(kind, 0, 0, payload_bytes).encode();
    check_fault(false, &header(FrameKind::Ping, 0), CloseReason::ConnectExpected);
    check_fault(false, &[0xff; 64], CloseReason::UnknownKind);
    check_fault(false, &header(FrameKind::Connect, 5000), CloseReason::FrameTooLarge);
    check_fault(false, &header(FrameKind::Connect, 0), CloseReason::BadPayload);
    check_fault(true, &[0xff; 64], CloseReason::UnknownKind);
    check_fault(true, &header(FrameKind::Send, 70_000), CloseReason::FrameTooLarge);
    check_fault(true, &header(FrameKind::Send, 0), CloseReason::BadPayload);
    check_fault(true, &header(FrameKind::Pong, 0), CloseReason::UnexpectedFrame);
    let mut flagged = header(FrameKind::Ping, 0);
    flagged[5] = 1;
    check_fault(true, &flagged, CloseReason::BadHeader);
    let mut garbage = header(FrameKind::Send, 40).to_vec();
    garbage.extend_from_slice(&[0xa5; 40]);
    check_fault(true, &garbage, CloseReason::BadPayload);
    check_fault(true, &header(FrameKind::Close, 0), CloseReason::BadPayload);
}

#[test]
fn close_follows_a_send_that_is_in_flight() {
    let mut world = World::new(7, Faults::NONE);
    let mut client = world.log_in("alice");
    client.write_frame(&Frame::Ping(Ping::default()), 0);
    client.pump(&world.network);
    world.turn();
    // The PONG is the kernel's; the next turn learns of the garbage first, then that the PONG is sent.
    client.write(&[0xff; 16]);
    client.pump(&world.network);
    world.settle(&mut [&mut client]);
    assert_eq!(kinds(&client.take()), [FrameKind::Pong, FrameKind::Close]);
    assert!(client.ended);
}

#[test]
fn a_second_connect_and_a_forged_token_are_refused() {
    let world = World::new(1, Faults::NONE);
    let connect = world.connect_frame("alice", "d1", 7000);
    check_fault(true, &connect, CloseReason::UnexpectedFrame);
    let mut forged = connect;
    let byte = forged.iter().rposition(|b| b.is_ascii_alphanumeric()).unwrap() - 40;
    forged[byte] ^= 1;
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.connect();
    client.write(&forged);
    client.pump(&world.network);
    world.settle(&mut [&mut client]);
    assert!(matches!(client.close_reason(), CloseReason::BadToken | CloseReason::BadPayload));
    assert_eq!(world.gateway.directory.count(), 0);
}

#[test]
fn connect_must_come_in_time_also_byte_by_byte() {
    let mut world = World::new(1, Faults::NONE);
    let connect = world.connect_frame("alice", "d1", 7000);
    let (mut silent, mut slow) = (world.connect(), world.connect());
    for second in 0..6 {
        slow.write(&connect[second..=second]);
        world.pass(Duration::from_secs(1), &mut [&mut silent, &mut slow]);
    }
    assert_eq!(silent.close_reason(), CloseReason::ConnectTimeout);
    assert_eq!(slow.close_reason(), CloseReason::ConnectTimeout);
    // Neither reads on: the linger ends them.
    world.pass(Duration::from_secs(3), &mut []);
    assert_eq!(world.shard.connections(), 0);
    assert!(world.network.is_released(silent.peer) && world.network.is_released(slow.peer));
}

#[test]
fn silence_and_expiry_end_a_session() {
    let mut world = World::new(1, Faults::NONE);
    let mut silent = world.log_in("silent");
    let mut pinging = world.log_in("pinging");
    let mut expiring = world.connect();
    expiring.write(&world.connect_frame("expiring", "d1", 400));
    for _ in 0..5 {
        pinging.write_frame(&Frame::Ping(Ping::default()), 0);
        world.pass(Duration::from_secs(100), &mut [&mut silent, &mut pinging, &mut expiring]);
        expiring.write_frame(&Frame::Ping(Ping::default()), 0);
    }
    assert_eq!(silent.close_reason(), CloseReason::IdleTimeout);
    assert_eq!(expiring.close_reason(), CloseReason::TokenExpired);
    pinging.take();
    check_alive(&mut world, &mut pinging);
    let ends = world.take().iter().filter(|r| r.kind == InboundKind::SessionClosed).count();
    assert_eq!((ends, world.gateway.directory.count()), (2, 1));
}

#[test]
fn a_flood_is_refused_then_closed() {
    let mut world = World::with_config(1, Faults::NONE, |config| {
        config.limits.frames_per_second = 10;
        config.limits.frames_burst = 20;
    });
    let mut client = world.log_in("alice");
    for n in 0..30 {
        client.write_frame(&send_frame(n), u16::from(n));
    }
    client.pump(&world.network);
    world.settle(&mut [&mut client]);
    let refused = client.take();
    assert_eq!(refused.len(), 10);
    for got in &refused {
        let Frame::SendRefused(refused) = got.frame() else { panic!("{got:?}") };
        assert_eq!(refused.code, RefusalCode::RateLimited);
        assert!((100..=1000).contains(&refused.retry_after_ms), "{refused:?}");
    }
    // Having waited as told, it is served again.
    world.pass(Duration::from_secs(1), &mut [&mut client]);
    check_alive(&mut world, &mut client);
    for _ in 0..60 {
        client.write_frame(&Frame::Ping(Ping::default()), 0);
    }
    client.pump(&world.network);
    world.settle(&mut [&mut client]);
    assert_eq!(client.close_reason(), CloseReason::RateLimited);
}

#[test]
fn a_newer_session_of_a_device_supersedes_the_older() {
    let mut world = World::new(1, Faults::NONE);
    let mut older = world.log_in("alice");
    let mut newer = world.connect();
    newer.write(&world.connect_frame("alice", "d1", 7000));
    newer.pump(&world.network);
    world.settle(&mut [&mut older, &mut newer]);
    assert_eq!(older.close_reason(), CloseReason::Superseded);
    assert_eq!(kinds(&newer.take()), [FrameKind::Connected]);
    let events = world.take_and_confirm();
    let reported: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(reported, [InboundKind::SessionOpened, InboundKind::SessionClosed]);
    assert!(events[0].epoch > events[1].epoch);
    assert_eq!(world.gateway.directory.count(), 1);
    check_alive(&mut world, &mut newer);
}

#[test]
fn an_unacknowledged_delivery_is_followed_by_digests() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    let payload = Bytes::from_static(b"not looked into");
    let header = Header::new(FrameKind::Deliver, 0, 42, payload.len());
    world.push([(client.key(), header, payload)]);
    world.settle(&mut [&mut client]);
    assert_eq!(kinds(&client.take()), [FrameKind::Deliver]);
    world.pass(Duration::from_secs(60), &mut [&mut client]);
    let hints = client.take();
    assert_eq!(hints.len(), 3);
    for hint in &hints {
        assert_eq!(hint.frame(), Frame::Event(Event::Digest { inbox_seq: 42 }));
    }
}

#[test]
fn a_cursor_goes_to_logic_at_most_every_interval() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    world.pass(Duration::from_secs(30), &mut [&mut client]);
    for second in 0..60u64 {
        client.write_frame(&Frame::Ping(Ping { client_time_us: 0, inbox_seq: 9 + second }), 0);
        world.pass(Duration::from_secs(1), &mut [&mut client]);
    }
    let checks = world.take_and_confirm();
    assert!(checks.iter().all(|check| check.kind == InboundKind::DigestCheck));
    assert_eq!(checks.iter().map(|check| check.inbox_seq).collect::<Vec<_>>(), [9, 39]);
    assert_eq!(client.take().len(), 60, "each PING has its PONG");
}

#[test]
fn logic_can_close_a_connection_and_former_keys_are_dropped() {
    let mut world = World::new(1, Faults::NONE);
    let mut client = world.log_in("alice");
    let key = client.key();
    world.push_close(key, CloseReason::KickedByOtherDevice);
    world.settle(&mut [&mut client]);
    assert_eq!(client.close_reason(), CloseReason::KickedByOtherDevice);
    world.network.close(client.peer);
    world.settle(&mut []);
    assert_eq!(world.take_and_confirm()[0].kind, InboundKind::SessionClosed);
    let mut next = world.log_in("bob");
    assert_eq!(next.key().index, key.index, "the slot is used again");
    world.push_close(key, CloseReason::KickedByOtherDevice);
    let payload = Bytes::from_static(b"for alice");
    let header = Header::new(FrameKind::Deliver, 0, 42, payload.len());
    world.push([(key, header, payload)]);
    world.settle(&mut [&mut next]);
    assert_eq!(world.counters.items_missed.get(), 2);
    check_alive(&mut world, &mut next);
}
