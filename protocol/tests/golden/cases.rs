//! The frames whose bytes are frozen.

use std::sync::LazyLock;

use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connect, Connected, Credential, DeviceClass};
use roost_protocol::frame::deliver::{DeliverAck, Message};
use roost_protocol::frame::event::Event;
use roost_protocol::frame::ping::{Ping, Pong};
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::redirect::{GoAway, Redirect};
use roost_protocol::frame::request::{MemberWatermarks, Request, Response};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::{
    BODY_BYTES_MAX, FRAME_BYTES_MAX, ID_BYTES_MAX, INFLIGHT_SENDS_MAX, NUMBER_MAX, PROTOCOL_VERSION,
};
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, DeviceId, Frame, RefusalCode, UserId,
};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) frame: Frame<'static>,
    pub(crate) correlation: u16,
    pub(crate) inbox_seq: u64,
}

const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImRldiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";
const TIME_MS: u64 = 1_767_225_600_123;
const MESSAGE_ID: u64 = 7_412_345_678_901_234_567;

static LONGEST: LazyLock<String> = LazyLock::new(|| "z".repeat(ID_BYTES_MAX));

fn case(name: &'static str, frame: Frame<'static>) -> Case {
    Case { name, frame, correlation: 0, inbox_seq: 0 }
}

fn user(text: &'static str) -> UserId<'static> {
    UserId::new(text).expect("an id")
}

fn conversation(text: &'static str) -> ConversationId<'static> {
    ConversationId::parse(text).expect("a conversation")
}

fn msg_id(first: u8) -> ClientMsgId {
    ClientMsgId(std::array::from_fn(|i| first.wrapping_add(i as u8)))
}

fn message(seq: u64, sender: &'static str, body: &'static [u8]) -> Message<'static> {
    Message {
        conversation: conversation("s:alice:bob"),
        seq,
        message_id: MESSAGE_ID + seq,
        sender: user(sender),
        client_msg_id: msg_id(seq as u8),
        kind: MessageKind::TEXT,
        body,
        server_time_ms: TIME_MS + seq,
    }
}

fn longest_message() -> Message<'static> {
    let longest = user(&LONGEST);
    Message {
        conversation: ConversationId::single(longest, longest),
        seq: NUMBER_MAX,
        message_id: u64::MAX,
        sender: longest,
        client_msg_id: ClientMsgId([0xFF; 16]),
        kind: MessageKind(255),
        body: b"",
        server_time_ms: u64::MAX,
    }
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = session();
    cases.extend(sends());
    cases.extend(deliveries());
    cases.extend(questions());
    cases.extend(ends());
    cases
}

fn session() -> Vec<Case> {
    let connect = Connect {
        protocol_version: PROTOCOL_VERSION,
        credential: Credential::Token(TOKEN),
        device_id: DeviceId::new("phone-1").expect("an id"),
        device_class: DeviceClass::Phone,
        client_name: "golden/1.0",
        last_session_epoch: 0,
        inbox_seq: 0,
    };
    let resumed = Connect {
        credential: Credential::Resume("resume.token"),
        device_class: DeviceClass::Other,
        client_name: "",
        last_session_epoch: 1_767_225_600_000_000,
        inbox_seq: 42,
        ..connect
    };
    let connected = Connected {
        session_epoch: 1_767_225_600_000_001,
        user_id: user("alice"),
        gateway: "gw-1",
        resume_token: "resume.token",
        server_time_ms: TIME_MS,
        heartbeat_interval_ms: 240_000,
        idle_timeout_ms: 300_000,
        inflight_sends_max: INFLIGHT_SENDS_MAX,
        frame_bytes_max: FRAME_BYTES_MAX as u32,
        body_bytes_max: BODY_BYTES_MAX as u32,
    };
    let no_resume = Connected { resume_token: "", ..connected };
    let ping = Ping { client_time_us: 123_456_789, inbox_seq: 42 };
    let pong = Pong { client_time_us: 123_456_789, server_time_ms: TIME_MS };
    vec![
        case("with an access token", Frame::Connect(connect)),
        case("with a resume token and a cursor", Frame::Connect(resumed)),
        case("with a resume token", Frame::Connected(connected)),
        case("without a resume token", Frame::Connected(no_resume)),
        case("all default: an empty payload", Frame::Ping(Ping::default())),
        Case { correlation: 9, ..case("with time and cursor", Frame::Ping(ping)) },
        case("to a ping without payload", Frame::Pong(Pong { client_time_us: 0, ..pong })),
        Case { correlation: 9, ..case("with time, correlated", Frame::Pong(pong)) },
    ]
}

fn sends() -> Vec<Case> {
    let send = Send {
        target: Target::User(user("bob")),
        client_msg_id: msg_id(0),
        client_seq: 1,
        kind: MessageKind::TEXT,
        body: "Hello, Wörld".as_bytes(),
    };
    let to_conversation = Send {
        target: Target::Conversation(conversation("g:team-1")),
        client_seq: u32::MAX,
        kind: MessageKind::CUSTOM,
        body: &[0, 1, 2, 255],
        ..send
    };
    let empty = Send { client_msg_id: msg_id(0xF0), client_seq: 2, body: b"", ..send };
    let ack = SendAck {
        client_msg_id: msg_id(0),
        conversation: conversation("s:alice:bob"),
        seq: 17,
        message_id: MESSAGE_ID,
        server_time_ms: TIME_MS,
    };
    let largest = SendAck { seq: NUMBER_MAX, message_id: u64::MAX, ..ack };
    let refused = SendRefused {
        client_msg_id: msg_id(0),
        code: RefusalCode::Busy,
        retry_after_ms: 250,
        expected_client_seq: 0,
        detail: "",
    };
    let out_of_order = SendRefused {
        code: RefusalCode::OutOfOrder,
        retry_after_ms: 0,
        expected_client_seq: 5,
        ..refused
    };
    let definite = SendRefused {
        code: RefusalCode::UnknownUser,
        retry_after_ms: 0,
        detail: "there is no user bobb",
        ..refused
    };
    let answer = |name, frame| Case { correlation: 7, ..case(name, frame) };
    vec![
        answer("to a user", Frame::Send(send)),
        answer("to a conversation, custom kind", Frame::Send(to_conversation)),
        answer("empty body", Frame::Send(empty)),
        Case { inbox_seq: 43, ..answer("committed", Frame::SendAck(ack)) },
        Case { inbox_seq: NUMBER_MAX, ..answer("largest numbers", Frame::SendAck(largest)) },
        answer("busy", Frame::SendRefused(refused)),
        answer("out of order", Frame::SendRefused(out_of_order)),
        answer("definite, with a detail", Frame::SendRefused(definite)),
    ]
}

fn deliveries() -> Vec<Case> {
    let acknowledged = DeliverAck {
        inbox_seq: 44,
        watermarks: vec![(conversation("s:alice:bob"), 17), (conversation("g:team-1"), 3)],
    };
    let receipt = Receipt {
        conversation: conversation("s:alice:bob"),
        user: Some(user("bob")),
        kind: ReceiptKind::Delivered,
        seq: 17,
        by_server: false,
        server_time_ms: TIME_MS,
    };
    let by_server = Receipt { by_server: true, ..receipt };
    let read = Receipt { user: None, kind: ReceiptKind::Read, server_time_ms: 0, ..receipt };
    let hint = Event::Hint { conversation: conversation("s:alice:bob"), seq: 17, inbox_seq: 43 };
    let deliver = Frame::Deliver(message(17, "alice", b"hello"));
    let longest = Frame::Deliver(longest_message());
    vec![
        Case { inbox_seq: 43, ..case("text", deliver) },
        Case { inbox_seq: NUMBER_MAX, ..case("longest ids, largest numbers, empty", longest) },
        case("cursor alone", Frame::DeliverAck(DeliverAck { inbox_seq: 44, watermarks: vec![] })),
        case("cursor and watermarks", Frame::DeliverAck(acknowledged)),
        case("delivered to a device", Frame::Receipt(receipt)),
        case("delivered to the inbox, nobody online", Frame::Receipt(by_server)),
        case("read, from a client", Frame::Receipt(read)),
        case("digest", Frame::Event(Event::Digest { inbox_seq: 43 })),
        case("hint", Frame::Event(hint)),
        case("of a newer server: to be ignored", Frame::Event(Event::Unknown(200))),
    ]
}

fn questions() -> Vec<Case> {
    let asked = |correlation, name, frame| Case { correlation, ..case(name, frame) };
    let of = conversation("s:alice:bob");
    let history = Request::History {
        conversation: of,
        after_seq: 4,
        before_seq: 9,
        limit: 20,
        newest_first: false,
    };
    let newest = Request::History {
        conversation: of,
        after_seq: 0,
        before_seq: 0,
        limit: 0,
        newest_first: true,
    };
    let messages = vec![message(1, "alice", b"hello"), message(2, "bob", b"hi")];
    let entries = [42, 43].into_iter().zip(messages.clone()).collect();
    let sync_page = Response::SyncPage { entries, latest_inbox_seq: 50, more: true };
    let empty_page = Response::SyncPage { entries: vec![], latest_inbox_seq: 43, more: false };
    let history_page =
        Response::HistoryPage { conversation: of, messages, latest_seq: 2, more: false };
    let members = vec![
        MemberWatermarks { user: user("alice"), delivered_seq: 17, read_seq: 17 },
        MemberWatermarks { user: user("bob"), delivered_seq: 17, read_seq: 12 },
    ];
    let watermarks = Response::WatermarksPage { conversation: of, members };
    let refused = Response::Refused {
        code: RefusalCode::UnknownConversation,
        retry_after_ms: 0,
        detail: "there is no such conversation",
    };
    let busy = Response::Refused { code: RefusalCode::Busy, retry_after_ms: 100, detail: "" };
    let sync = Request::Sync { after_inbox_seq: 41, limit: 200 };
    vec![
        asked(1, "sync", Frame::Request(sync)),
        asked(2, "history between two messages", Frame::Request(history)),
        asked(3, "history, newest page", Frame::Request(newest)),
        asked(4, "watermarks", Frame::Request(Request::Watermarks { conversation: of })),
        asked(1, "sync page", Frame::Response(sync_page)),
        asked(1, "sync page, nothing new", Frame::Response(empty_page)),
        asked(2, "history page", Frame::Response(history_page)),
        asked(4, "watermarks page", Frame::Response(watermarks)),
        asked(u16::MAX, "refused, definite", Frame::Response(refused)),
        asked(5, "refused, to be tried again", Frame::Response(busy)),
    ]
}

fn ends() -> Vec<Case> {
    let close = Close { reason: CloseReason::Normal, detail: "", retry_after_ms: 0 };
    let full = Close {
        reason: CloseReason::GatewayFull,
        detail: "this gateway has no room",
        retry_after_ms: 5000,
    };
    let redirect = Redirect { address: "gw-2.example.org:7401" };
    vec![
        case("to another gateway", Frame::Redirect(redirect)),
        case("in half a minute", Frame::GoAway(GoAway { reconnect_after_ms: 30_000 })),
        case("at once", Frame::GoAway(GoAway { reconnect_after_ms: 0 })),
        case("normal", Frame::Close(close)),
        case("with a detail and a delay", Frame::Close(full)),
    ]
}
