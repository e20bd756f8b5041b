//! Bytes that must end a connection, and why. Payloads are built field by field, as an encoder with a fault would.

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, VOffsetT, WIPOffset};
use roost_protocol::frame::ack::SendRefused;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::request::Response;
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::{
    FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_CONNECT, HEADER_BYTES, NUMBER_MAX, TOKEN_BYTES_MAX,
    WATERMARKS_MAX,
};
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Encoder, Frame, FrameKind, Header, RefusalCode,
    UserId,
};

pub(crate) struct Malformed {
    pub(crate) name: &'static str,
    /// The text of the payload's error; for headers a remark.
    pub(crate) why: &'static str,
    pub(crate) is_connected: bool,
    pub(crate) expected: CloseReason,
    pub(crate) bytes: Vec<u8>,
}

type Builder = FlatBufferBuilder<'static>;

/// A field to put into a table.
enum Field {
    Byte(u8),
    Short(u16),
    Long(u64),
    Reference(WIPOffset<flatbuffers::UnionWIPOffset>),
}
/// What the verifier says.
const MALFORMED: &str = "the payload is not a valid FlatBuffer of this kind";

use Field::{Byte, Long, Short};

fn text(b: &mut Builder, text: &str) -> Field {
    Field::Reference(b.create_string(text).as_union_value())
}

/// A table with these fields, by their index in the schema.
fn table(b: &mut Builder, fields: Vec<(u16, Field)>) -> WIPOffset<TableFinishedWIPOffset> {
    let start = b.start_table();
    for (index, field) in fields {
        let slot: VOffsetT = 4 + 2 * index;
        match field {
            Byte(value) => b.push_slot_always(slot, value),
            Short(value) => b.push_slot_always(slot, value),
            Long(value) => b.push_slot_always(slot, value),
            Field::Reference(to) => b.push_slot_always(slot, to),
        }
    }
    b.end_table(start)
}

fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header::new(kind, 0, 0, payload.len()).encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame whose payload has these fields.
fn built(kind: FrameKind, fields: impl FnOnce(&mut Builder) -> Vec<(u16, Field)>) -> Vec<u8> {
    let mut b = Builder::new();
    let fields = fields(&mut b);
    let root = table(&mut b, fields);
    b.finish_minimal(root);
    frame(kind, b.finished_data())
}

/// The bytes of a good frame with one byte changed.
fn changed(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

fn good_ping() -> Vec<u8> {
    let mut bytes = Vec::new();
    Ping { client_time_us: 1, inbox_seq: 2 }.encode(&mut Encoder::new(), &mut bytes);
    bytes
}

fn case(
    name: &'static str,
    why: &'static str,
    is_connected: bool,
    expected: CloseReason,
    bytes: Vec<u8>,
) -> Malformed {
    Malformed { name, why, is_connected, expected, bytes }
}

pub(crate) fn all() -> Vec<Malformed> {
    let mut cases = headers();
    cases.extend(buffers());
    cases.extend(connects());
    cases.extend(sends());
    cases.extend(others());
    cases
}

fn headers() -> Vec<Malformed> {
    use CloseReason::{BadHeader, FrameTooLarge, UnknownKind};
    let ping = || Header::new(FrameKind::Ping, 0, 0, 0).encode().to_vec();
    let sized =
        |kind, bytes: usize| Header::new(kind, 0, 0, bytes - HEADER_BYTES).encode().to_vec();
    let small = FRAME_BYTES_MAX_BEFORE_CONNECT + 1;
    let far = changed(Header::new(FrameKind::Deliver, 0, 0, 0).encode().to_vec(), 15, 0x80);
    vec![
        case("kind 0", "no frame has it", true, UnknownKind, changed(ping(), 4, 0)),
        case("kind 17", "no frame has it in version 1", true, UnknownKind, changed(ping(), 4, 17)),
        case(
            "an HTTP request",
            "read as a header",
            false,
            UnknownKind,
            b"GET / HTTP/1.1\r\n".to_vec(),
        ),
        case("flags", "they are reserved", true, BadHeader, changed(ping(), 5, 1)),
        case(
            "inbox_seq in PING",
            "only DELIVER and SEND_ACK have it",
            true,
            BadHeader,
            changed(ping(), 8, 1),
        ),
        case("inbox_seq of 2^63", "it is above the largest number", true, BadHeader, far),
        case(
            "4 KiB and a byte before CONNECT",
            "refused by the header alone, nothing is buffered",
            false,
            FrameTooLarge,
            sized(FrameKind::Connect, small),
        ),
        case(
            "64 KiB and a byte",
            "refused by the header alone",
            true,
            FrameTooLarge,
            sized(FrameKind::Send, FRAME_BYTES_MAX + 1),
        ),
        case(
            "the largest declared length",
            "no allocation follows from it",
            true,
            FrameTooLarge,
            changed(changed(changed(changed(ping(), 0, 255), 1, 255), 2, 255), 3, 255),
        ),
    ]
}

fn buffers() -> Vec<Malformed> {
    use CloseReason::BadPayload;
    let cut = |bytes: usize| {
        let mut frame = good_ping();
        frame.truncate(HEADER_BYTES + bytes);
        changed(frame, 0, bytes as u8)
    };
    let is_bad = |name, why, bytes| case(name, why, true, BadPayload, bytes);
    let root = HEADER_BYTES;
    let table_at = {
        let ping = good_ping();
        root + usize::from(ping[root])
    };
    vec![
        is_bad("three bytes", MALFORMED, cut(3)),
        is_bad("cut in its table", MALFORMED, cut(20)),
        is_bad("root offset beyond the end", MALFORMED, changed(good_ping(), root, 200)),
        is_bad(
            "table's vtable beyond the end",
            MALFORMED,
            changed(good_ping(), table_at + 1, 0x7F),
        ),
        is_bad("odd root offset", MALFORMED, changed(good_ping(), root, 13)),
        is_bad("empty SEND", MALFORMED, frame(FrameKind::Send, &[])),
        is_bad("empty CLOSE", MALFORMED, frame(FrameKind::Close, &[])),
        is_bad("text that is not UTF-8", MALFORMED, {
            let bytes = built(FrameKind::Redirect, |b| vec![(0, text(b, "host:1"))]);
            let at = bytes.len() - 8;
            changed(bytes, at, 0xFF)
        }),
        is_bad("text without its closing zero", MALFORMED, {
            let bytes = built(FrameKind::Redirect, |b| vec![(0, text(b, "host:1"))]);
            let at = bytes.len() - 2;
            changed(bytes, at, b'x')
        }),
    ]
}

fn connects() -> Vec<Malformed> {
    let is_bad = |name, why, fields: fn(&mut Builder) -> Vec<(u16, Field)>| {
        case(name, why, false, CloseReason::BadPayload, built(FrameKind::Connect, fields))
    };
    vec![
        is_bad("CONNECT without a token", "field token is missing", |b| {
            vec![(0, Short(1)), (3, text(b, "phone-1"))]
        }),
        is_bad("CONNECT with both tokens", "field resume_token is invalid", |b| {
            vec![(0, Short(1)), (1, text(b, "t")), (2, text(b, "r")), (3, text(b, "phone-1"))]
        }),
        is_bad("CONNECT with a token of 2049 bytes", "field token is invalid", |b| {
            let token = "t".repeat(TOKEN_BYTES_MAX + 1);
            vec![(0, Short(1)), (1, text(b, &token)), (3, text(b, "phone-1"))]
        }),
        is_bad("CONNECT without a device", "field device_id is missing", |b| {
            vec![(0, Short(1)), (1, text(b, "t"))]
        }),
        is_bad(
            "CONNECT with a wrong device",
            "field device_id: an id consists of A-Z a-z 0-9 . _ @ -",
            |b| vec![(0, Short(1)), (1, text(b, "t")), (3, text(b, "my phone"))],
        ),
        is_bad(
            "CONNECT with a device of 65 bytes",
            "field device_id: an id has 1 to 64 bytes",
            |b| vec![(0, Short(1)), (1, text(b, "t")), (3, text(b, &"d".repeat(65)))],
        ),
        is_bad("CONNECT with a name of 65 bytes", "field client_name is invalid", |b| {
            let name = text(b, &"n".repeat(65));
            vec![(0, Short(1)), (1, text(b, "t")), (3, text(b, "phone-1")), (5, name)]
        }),
        is_bad("CONNECT with a cursor of 2^63", "field inbox_seq is invalid", |b| {
            let cursor = (7, Long(NUMBER_MAX + 1));
            vec![(0, Short(1)), (1, text(b, "t")), (3, text(b, "phone-1")), cursor]
        }),
    ]
}

/// A good SEND, to be damaged.
fn good_send(target: Target<'_>) -> Vec<u8> {
    let send = Send {
        target,
        client_msg_id: ClientMsgId([7; 16]),
        client_seq: 1,
        kind: MessageKind::TEXT,
        body: b"hello",
    };
    let mut bytes = Vec::new();
    send.encode(&mut Encoder::new(), 0, &mut bytes);
    bytes
}

/// Where the entry of a field stands in the vtable of the root, and where the field itself.
fn places(bytes: &[u8], index: usize) -> (usize, usize) {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
    let table = HEADER_BYTES + u32_at(HEADER_BYTES) as usize;
    // The offset to the vtable is signed and points backwards.
    let vtable = table.wrapping_add_signed(-(u32_at(table).cast_signed() as isize));
    let entry = vtable + 4 + 2 * index;
    (entry, table + usize::from(u16::from_le_bytes([bytes[entry], bytes[entry + 1]])))
}

/// The frame without a field of its root table.
fn without(mut bytes: Vec<u8>, index: usize) -> Vec<u8> {
    let (entry, _) = places(&bytes, index);
    bytes[entry..entry + 2].fill(0);
    bytes
}

/// The frame with another text of the same length.
fn replaced(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let found = bytes.windows(from.len()).position(|window| window == from.as_bytes());
    let at = found.expect("the text is there");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

fn sends() -> Vec<Malformed> {
    let is_bad = |name, why, bytes| case(name, why, true, CloseReason::BadPayload, bytes);
    let to_bob = || good_send(Target::User(UserId::new("bob").expect("an id")));
    let conversation = ConversationId::parse("s:alice:bob").expect("a conversation");
    let to_conversation = || good_send(Target::Conversation(conversation));
    vec![
        is_bad("SEND to nobody", "field to_user is missing", without(to_bob(), 1)),
        is_bad("SEND to both", "field to_user is invalid", {
            let bytes = to_bob();
            let ((conversation, _), (user, _)) = (places(&bytes, 0), places(&bytes, 1));
            let offset = bytes[user];
            changed(bytes, conversation, offset)
        }),
        is_bad(
            "SEND without client_msg_id",
            "field client_msg_id is missing",
            without(to_bob(), 2),
        ),
        is_bad("SEND with client_seq 0", "field client_seq is invalid", without(to_bob(), 3)),
        is_bad("SEND of kind 0", "field kind is invalid", without(to_bob(), 4)),
        is_bad("SEND of kind 128: the server's", "field kind is invalid", {
            let bytes = to_bob();
            let (_, kind) = places(&bytes, 4);
            changed(bytes, kind, 128)
        }),
        is_bad(
            "SEND to users out of order",
            "field conversation: a conversation id is s:<user>:<user> with the users in byte order, g:<id> or r:<id>",
            replaced(to_conversation(), "s:alice:bob", "s:bob:alice"),
        ),
        is_bad(
            "SEND to an unknown kind of conversation",
            "field conversation: a conversation id is s:<user>:<user> with the users in byte order, g:<id> or r:<id>",
            replaced(to_conversation(), "s:alice:bob", "x:alice:bob"),
        ),
    ]
}

fn others() -> Vec<Malformed> {
    let is_bad = |name, why, kind, fields: fn(&mut Builder) -> Vec<(u16, Field)>| {
        case(name, why, true, CloseReason::BadPayload, built(kind, fields))
    };
    vec![
        is_bad("101 watermarks", "field watermarks is invalid", FrameKind::DeliverAck, |b| {
            let conversation = b.create_string("s:a:b").as_union_value();
            let fields = || vec![(0, Field::Reference(conversation)), (1, Long(1))];
            let marks: Vec<_> = (0..=WATERMARKS_MAX).map(|_| table(b, fields())).collect();
            let marks = b.create_vector(&marks).as_union_value();
            vec![(0, Long(1)), (1, Field::Reference(marks))]
        }),
        is_bad("DELIVER_ACK of 2^63", "field inbox_seq is invalid", FrameKind::DeliverAck, |_| {
            vec![(0, Long(NUMBER_MAX + 1))]
        }),
        is_bad("RECEIPT of an unknown kind", "field kind is invalid", FrameKind::Receipt, |b| {
            vec![(0, text(b, "s:alice:bob")), (2, Byte(3)), (3, Long(1))]
        }),
        is_bad(
            "RECEIPT without a conversation",
            "field conversation is missing",
            FrameKind::Receipt,
            |_| vec![(2, Byte(2)), (3, Long(1))],
        ),
        is_bad("REQUEST without a body", "field body is invalid", FrameKind::Request, |_| vec![]),
        is_bad(
            "REQUEST of an unknown body type",
            "field body is invalid",
            FrameKind::Request,
            |b| {
                let body = table(b, vec![]).as_union_value();
                vec![(0, Byte(9)), (1, Field::Reference(body))]
            },
        ),
        is_bad("PING with a cursor of 2^63", "field inbox_seq is invalid", FrameKind::Ping, |_| {
            vec![(1, Long(NUMBER_MAX + 1))]
        }),
        case(
            "SEND_REFUSED without a code",
            "field code is missing",
            true,
            CloseReason::BadPayload,
            without(refused(), 1),
        ),
        case(
            "page with positions out of order",
            "field inbox_seqs is invalid",
            true,
            CloseReason::BadPayload,
            page([8, 7]),
        ),
    ]
}

fn refused() -> Vec<u8> {
    let frame = Frame::SendRefused(SendRefused {
        client_msg_id: ClientMsgId([7; 16]),
        code: RefusalCode::Busy,
        retry_after_ms: 1,
        expected_client_seq: 1,
        detail: "",
    });
    let mut bytes = Vec::new();
    frame.encode(&mut Encoder::new(), 0, 0, &mut bytes);
    bytes
}

fn page(positions: [u64; 2]) -> Vec<u8> {
    let message = Message {
        conversation: ConversationId::parse("s:alice:bob").expect("a conversation"),
        seq: 1,
        message_id: 1,
        sender: UserId::new("alice").expect("an id"),
        client_msg_id: ClientMsgId([7; 16]),
        kind: MessageKind::TEXT,
        body: b"",
        server_time_ms: 1,
    };
    let entries = positions.map(|position| (position, message)).to_vec();
    let page = Response::SyncPage { entries, latest_inbox_seq: 8, more: false };
    let mut bytes = Vec::new();
    Frame::Response(page).encode(&mut Encoder::new(), 0, 0, &mut bytes);
    bytes
}
