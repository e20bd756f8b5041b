//! The frames of the operations, encoded once: under a fuzzer's instrumentation that takes longer than all the rest.

use bytes::Bytes;
use roost_gateway::shard::message::ShardAction;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{ClientMsgId, ConversationId, Encoder, FrameKind, Header, UserId};

use super::operation::{Body, Login};
use crate::peer::connect_frame;
use crate::world::token;

thread_local! {
    static LOGINS: [Vec<u8>; 5] = [
        connect_frame(&token("alice", "d1", 7000), "d1", 3),
        connect_frame(&token("alice", "d2", 7000), "d2", 0),
        connect_frame(&token("bob", "d1", 7000), "d1", 9),
        connect_frame(&token("brief", "d1", 20), "d1", 0),
        connect_frame("wrong", "d1", 0),
    ];
}

thread_local! {
    pub(super) static SENDS: Vec<Vec<u8>> = [1, u32::MAX]
        .into_iter()
        .flat_map(|client_seq| Body::ALL.map(|body| send_frame(client_seq, body)))
        .collect();
    static DELIVERIES: [Bytes; 4] = Body::ALL.map(delivery);
}

/// The number `u32::MAX` is refused in the place of logic.
fn send_frame(client_seq: u32, body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    let send = Send {
        target: Target::User(UserId::new("bob").expect("an id")),
        client_msg_id: ClientMsgId([1; 16]),
        client_seq,
        kind: MessageKind::TEXT,
        body: &body.bytes(),
    };
    send.encode(&mut Encoder::new(), 1, &mut bytes);
    bytes
}

fn delivery(body: Body) -> Bytes {
    let message = Message {
        conversation: ConversationId::parse("s:alice:bob").expect("a conversation"),
        seq: 1,
        message_id: 1,
        sender: UserId::new("bob").expect("an id"),
        client_msg_id: ClientMsgId([2; 16]),
        kind: MessageKind::TEXT,
        body: &body.bytes(),
        server_time_ms: 1,
    };
    Bytes::copy_from_slice(message.payload(&mut Encoder::new()))
}

pub(super) fn deliver(inbox_seq: u64, body: Body) -> ShardAction {
    let payload = DELIVERIES.with(|deliveries| deliveries[body as usize].clone());
    let header = Header::new(FrameKind::Deliver, 0, inbox_seq, payload.len());
    ShardAction::Frame { header, payload }
}

pub(super) fn login_frame(login: Login) -> Vec<u8> {
    let index = match login {
        Login::Silent => return Vec::new(),
        Login::Alice | Login::AliceAgain => 0,
        Login::AliceTablet => 1,
        Login::Bob => 2,
        Login::Brief => 3,
        Login::Wrong => 4,
    };
    LOGINS.with(|logins| logins[index].clone())
}
