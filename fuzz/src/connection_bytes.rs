//! Arbitrary bytes, split anywhere, to a shard that also has a well-behaved client.
//!
//! Promises: no panic; the connection ends exactly when the bytes are wrong, with the reason that names what is wrong; the
//! neighbour is answered before, between and after; nothing is left behind.

use std::time::Duration;

use roost_gateway::io::simulated::Faults;
use roost_protocol::frame::SentBy;
use roost_protocol::frame::connect::Connect;
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{
    ClientMsgId, CloseReason, Decoder, Encoder, Frame, FrameKind, RawFrame, UserId,
};

use crate::peer::{Peer, connect_frame};
use crate::world::{Gates, START_US, World, token};

/// Bytes of one input that are used: below every rate limit and the window of sends.
const BYTES_MAX: usize = 2000;
const STEP: Duration = Duration::from_millis(3);

thread_local! {
    static NEIGHBOUR: Vec<u8> = connect_frame(&token("neighbour", "d1", 3600), "d1", 0);
    static SENDER: Vec<u8> = connect_frame(&token("fuzzer", "d1", 3600), "d1", 7);
}

/// Flags, seed, largest receive, size of the pieces sent; then the bytes.
pub fn connection_bytes(input: &[u8]) {
    let [flags, seed, receive_bytes_max, piece, bytes @ ..] = input else { return };
    let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
    let is_connected = flags & 1 != 0;
    let faults = if flags & 2 == 0 {
        Faults::NONE
    } else {
        Faults {
            receive_bytes_max: usize::from(*receive_bytes_max) + 16,
            delay_max: STEP,
            ..Faults::HARSH
        }
    };
    let mut world = World::new(u64::from(*seed), faults, Gates::Wide);
    let mut neighbour = Peer::connect(&world.network);
    NEIGHBOUR.with(|frame| neighbour.send(&world.network, frame));
    let mut sender = Peer::connect(&world.network);
    if is_connected {
        SENDER.with(|frame| sender.send(&world.network, frame));
    }
    let mut asked = 0;
    ask(&mut world, &mut neighbour, &mut asked);
    assert_eq!(neighbour.received[0].kind, FrameKind::Connected);

    let piece_bytes = usize::from(*piece).max(bytes.len() / 16) + 1;
    for (i, piece) in bytes.chunks(piece_bytes).enumerate() {
        sender.send(&world.network, piece);
        world.turn(STEP);
        if i % 16 == 3 {
            ask(&mut world, &mut neighbour, &mut asked);
        }
    }
    // Everything has been received when a turn gives the sender nothing new for long enough.
    let (mut quiet, quiet_max) = (0, if flags & 2 == 0 { 4 } else { 40 });
    while quiet < quiet_max {
        let before = (sender.received.len(), sender.is_ended);
        world.turn(STEP);
        sender.send(&world.network, &[]);
        sender.read(&world.network);
        let is_new = before != (sender.received.len(), sender.is_ended);
        let unread = world.network.unread_bytes(sender.id);
        quiet = if is_new || (unread > 0 && sender.closed.is_none()) { 0 } else { quiet + 1 };
    }
    let expected = expected_end(&world, bytes, is_connected);
    // Tiny messages can fill the window of sends before anything is wrong.
    if sender.closed != Some(CloseReason::TooManyInflight) {
        assert_eq!(sender.closed, expected, "the end of the connection");
    }
    assert_eq!(sender.is_ended, sender.closed.is_some());
    match flags >> 2 & 3 {
        0 => {}
        1 => world.network.half_close(sender.id),
        2 => world.network.close(sender.id),
        _ => world.network.reset(sender.id),
    }
    ask(&mut world, &mut neighbour, &mut asked);
    assert_eq!(neighbour.closed, None);
    if flags & 16 == 0 {
        world.network.close(neighbour.id);
        world.network.close(sender.id);
    }
    world.finish();
}

/// The neighbour pings and sends a message, and gets both answers.
fn ask(world: &mut World, neighbour: &mut Peer, asked: &mut u16) {
    *asked += 1;
    let (mut encoder, mut bytes) = (Encoder::new(), Vec::new());
    let ping = Frame::Ping(Ping { client_time_us: 1, inbox_seq: 0 });
    ping.encode(&mut encoder, *asked, 0, &mut bytes);
    let send = Send {
        target: Target::User(UserId::new("bob").expect("an id")),
        client_msg_id: ClientMsgId([1; 16]),
        client_seq: u32::from(*asked),
        kind: MessageKind::TEXT,
        body: b"hello",
    };
    send.encode(&mut encoder, *asked, &mut bytes);
    neighbour.send(&world.network, &bytes);
    for _ in 0..1000 {
        world.turn(STEP);
        neighbour.read(&world.network);
        if neighbour.has(FrameKind::Pong, *asked) && neighbour.has(FrameKind::SendAck, *asked) {
            return;
        }
    }
    panic!("the neighbour got no answer to its question {asked}");
}

/// Why a connection that sends these bytes is closed, by the rules of the protocol alone.
fn expected_end(world: &World, mut bytes: &[u8], is_connected: bool) -> Option<CloseReason> {
    let (mut decoder, mut scratch) = (Decoder::new(), Vec::new());
    if is_connected {
        decoder.set_connected();
    }
    let mut is_connected = is_connected;
    loop {
        let raw = match decoder.next(&mut bytes, &mut scratch) {
            Ok(Some(raw)) => raw,
            Ok(None) => return None,
            Err(reason) => return Some(reason),
        };
        let result = if is_connected { later_frame(raw) } else { first_frame(world, raw) };
        if let Err(reason) = result {
            return Some(reason);
        }
        is_connected = true;
        decoder.set_connected();
    }
}

fn first_frame(world: &World, raw: RawFrame<'_>) -> Result<(), CloseReason> {
    if raw.header.kind != FrameKind::Connect {
        return Err(CloseReason::ConnectExpected);
    }
    let connect = Connect::decode(raw.payload)?;
    let gateway = &world.gateway;
    gateway.handshake.authenticate(&connect, &gateway.directory, START_US).map(|_| ())
}

fn later_frame(raw: RawFrame<'_>) -> Result<(), CloseReason> {
    if raw.header.kind.sent_by() == SentBy::Server {
        return Err(CloseReason::UnexpectedFrame);
    }
    let frame = Frame::decode(raw.header.kind, raw.payload)?;
    if let Frame::Receipt(receipt) = &frame
        && receipt.kind == ReceiptKind::Delivered
    {
        return Err(CloseReason::BadPayload);
    }
    if frame.kind() == FrameKind::Connect {
        return Err(CloseReason::UnexpectedFrame);
    }
    if frame.kind() == FrameKind::Close {
        return Err(CloseReason::Normal);
    }
    Ok(())
}
