//! `decode(encode(x)) == x` for every frame, and a page that the budget admits fits one frame and verifies.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connect, Connected, Credential, DeviceClass};
use roost_protocol::frame::deliver::{DeliverAck, Message};
use roost_protocol::frame::event::Event;
use roost_protocol::frame::ping::{Ping, Pong};
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::redirect::{GoAway, Redirect};
use roost_protocol::frame::request::{MemberWatermarks, PageBudget, Request, Response};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::{
    BODY_BYTES_MAX, CLIENT_NAME_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_CONNECT,
    HEADER_BYTES, ID_BYTES_MAX, NUMBER_MAX, PAGE_MESSAGES_MAX, TOKEN_BYTES_MAX,
    WATERMARK_MEMBERS_MAX, WATERMARKS_MAX,
};
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Decoder, DeviceId, Encoder, Frame, FrameKind,
    RefusalCode, UserId,
};

/// Frames borrow their text; a test may leak a little.
fn leaked(text: impl Into<String>) -> &'static str {
    text.into().leak()
}

fn id() -> impl Strategy<Value = &'static str> {
    const ALPHABET: &[u8] = b"abcXYZ019._@-";
    let byte = prop::sample::select(ALPHABET).prop_map(char::from);
    vec(byte, 1..=ID_BYTES_MAX).prop_map(|chars| leaked(chars.into_iter().collect::<String>()))
}

fn user() -> impl Strategy<Value = UserId<'static>> {
    id().prop_map(|text| UserId::new(text).expect("an id"))
}

fn conversation() -> impl Strategy<Value = ConversationId<'static>> {
    prop_oneof![
        (user(), user()).prop_map(|(a, b)| ConversationId::single(a, b)),
        id().prop_map(ConversationId::Group),
        id().prop_map(ConversationId::Room),
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..10, 0..=NUMBER_MAX, Just(NUMBER_MAX)]
}

fn text(bytes_max: usize) -> impl Strategy<Value = &'static str> {
    vec(any::<char>(), 0..=bytes_max / 4).prop_map(|c| leaked(c.into_iter().collect::<String>()))
}

fn client_msg_id() -> impl Strategy<Value = ClientMsgId> {
    any::<[u8; 16]>().prop_map(ClientMsgId)
}

fn body() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), BODY_BYTES_MAX)]
        .prop_map(|bytes| &*bytes.leak())
}

fn refusal() -> impl Strategy<Value = RefusalCode> {
    prop::sample::select(RefusalCode::ALL)
}

fn message() -> impl Strategy<Value = Message<'static>> {
    let place = (conversation(), number(), any::<u64>());
    (place, user(), client_msg_id(), any::<u8>(), body(), any::<u64>()).prop_map(
        |((conversation, seq, message_id), sender, client_msg_id, kind, body, server_time_ms)| {
            let kind = MessageKind(kind);
            Message {
                conversation,
                seq,
                message_id,
                sender,
                client_msg_id,
                kind,
                body,
                server_time_ms,
            }
        },
    )
}

fn connect() -> impl Strategy<Value = Connect<'static>> {
    let token = "[A-Za-z0-9_.-]{1,2048}".prop_map(leaked);
    let credential = (token, any::<bool>()).prop_map(|(text, is_resume)| {
        assert!(text.len() <= TOKEN_BYTES_MAX);
        if is_resume { Credential::Resume(text) } else { Credential::Token(text) }
    });
    let class = (0u8..5).prop_map(DeviceClass::from_code);
    let name = text(CLIENT_NAME_BYTES_MAX);
    (any::<u16>(), credential, id(), class, name, number(), number()).prop_map(
        |(protocol_version, credential, device, device_class, client_name, epoch, inbox_seq)| {
            Connect {
                protocol_version,
                credential,
                device_id: DeviceId::new(device).expect("an id"),
                device_class,
                client_name,
                last_session_epoch: epoch,
                inbox_seq,
            }
        },
    )
}

fn connected() -> impl Strategy<Value = Connected<'static>> {
    let limits = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u32>(), any::<u32>());
    (any::<u64>(), user(), id(), text(200), any::<u64>(), limits).prop_map(
        |(session_epoch, user_id, gateway, resume_token, server_time_ms, limits)| Connected {
            session_epoch,
            user_id,
            gateway,
            resume_token,
            server_time_ms,
            heartbeat_interval_ms: limits.0,
            idle_timeout_ms: limits.1,
            inflight_sends_max: limits.2,
            frame_bytes_max: limits.3,
            body_bytes_max: limits.4,
        },
    )
}

fn send() -> impl Strategy<Value = Send<'static>> {
    let target =
        prop_oneof![user().prop_map(Target::User), conversation().prop_map(Target::Conversation)];
    let kind = 1..=MessageKind::CLIENT_MAX;
    (target, client_msg_id(), 1..=u32::MAX, kind, body()).prop_map(
        |(target, client_msg_id, client_seq, kind, body)| {
            let kind = MessageKind(kind);
            Send { target, client_msg_id, client_seq, kind, body }
        },
    )
}

fn answers() -> impl Strategy<Value = Frame<'static>> {
    let ack = (client_msg_id(), conversation(), number(), any::<u64>(), any::<u64>()).prop_map(
        |(client_msg_id, conversation, seq, message_id, server_time_ms)| {
            Frame::SendAck(SendAck { client_msg_id, conversation, seq, message_id, server_time_ms })
        },
    );
    let refused = (client_msg_id(), refusal(), any::<u32>(), any::<u32>(), text(256)).prop_map(
        |(client_msg_id, code, retry_after_ms, expected_client_seq, detail)| {
            Frame::SendRefused(SendRefused {
                client_msg_id,
                code,
                retry_after_ms,
                expected_client_seq,
                detail,
            })
        },
    );
    prop_oneof![ack, refused]
}

fn deliver_ack() -> impl Strategy<Value = DeliverAck<'static>> {
    (number(), vec((conversation(), number()), 0..=WATERMARKS_MAX))
        .prop_map(|(inbox_seq, watermarks)| DeliverAck { inbox_seq, watermarks })
}

fn receipt() -> impl Strategy<Value = Receipt<'static>> {
    let kind = prop::sample::select(&[ReceiptKind::Delivered, ReceiptKind::Read][..]);
    (conversation(), prop::option::of(user()), kind, number(), any::<bool>(), any::<u64>())
        .prop_map(|(conversation, user, kind, seq, by_server, server_time_ms)| Receipt {
            conversation,
            user,
            kind,
            seq,
            by_server,
            server_time_ms,
        })
}

fn event() -> impl Strategy<Value = Event<'static>> {
    prop_oneof![
        number().prop_map(|inbox_seq| Event::Digest { inbox_seq }),
        (conversation(), number(), number()).prop_map(|(conversation, seq, inbox_seq)| {
            Event::Hint { conversation, seq, inbox_seq }
        }),
        (3u8..).prop_map(Event::Unknown),
    ]
}

fn request() -> impl Strategy<Value = Request<'static>> {
    prop_oneof![
        (number(), any::<u16>())
            .prop_map(|(after_inbox_seq, limit)| Request::Sync { after_inbox_seq, limit }),
        (conversation(), number(), number(), any::<u16>(), any::<bool>()).prop_map(
            |(conversation, after_seq, before_seq, limit, newest_first)| Request::History {
                conversation,
                after_seq,
                before_seq,
                limit,
                newest_first
            }
        ),
        conversation().prop_map(|conversation| Request::Watermarks { conversation }),
    ]
}

fn response() -> impl Strategy<Value = Response<'static>> {
    // Three of the largest messages fit a frame.
    let messages = || vec(message(), 0..=3);
    let member = (user(), number(), number()).prop_map(|(user, delivered_seq, read_seq)| {
        MemberWatermarks { user, delivered_seq, read_seq }
    });
    prop_oneof![
        (messages(), number(), any::<bool>()).prop_map(|(messages, latest_inbox_seq, more)| {
            let entries = (1u64..).step_by(3).zip(messages).collect();
            Response::SyncPage { entries, latest_inbox_seq, more }
        }),
        (conversation(), messages(), number(), any::<bool>()).prop_map(
            |(conversation, messages, latest_seq, more)| Response::HistoryPage {
                conversation,
                messages,
                latest_seq,
                more
            }
        ),
        (conversation(), vec(member, 0..=WATERMARK_MEMBERS_MAX))
            .prop_map(|(conversation, members)| Response::WatermarksPage { conversation, members }),
        (refusal(), any::<u32>(), text(256)).prop_map(|(code, retry_after_ms, detail)| {
            Response::Refused { code, retry_after_ms, detail }
        }),
    ]
}

fn ends() -> impl Strategy<Value = Frame<'static>> {
    let reason = prop::sample::select(CloseReason::ALL);
    prop_oneof![
        (reason, text(256), any::<u32>()).prop_map(|(reason, detail, retry_after_ms)| {
            Frame::Close(Close { reason, detail, retry_after_ms })
        }),
        any::<u32>().prop_map(|ms| Frame::GoAway(GoAway { reconnect_after_ms: ms })),
        "[a-z0-9.:-]{1,200}"
            .prop_map(|address| Frame::Redirect(Redirect { address: leaked(address) })),
    ]
}

fn frame() -> impl Strategy<Value = Frame<'static>> {
    prop_oneof![
        connect().prop_map(Frame::Connect),
        connected().prop_map(Frame::Connected),
        (any::<u64>(), number()).prop_map(|(client_time_us, inbox_seq)| {
            Frame::Ping(Ping { client_time_us, inbox_seq })
        }),
        (any::<u64>(), any::<u64>()).prop_map(|(client_time_us, server_time_ms)| {
            Frame::Pong(Pong { client_time_us, server_time_ms })
        }),
        send().prop_map(Frame::Send),
        answers(),
        message().prop_map(Frame::Deliver),
        deliver_ack().prop_map(Frame::DeliverAck),
        receipt().prop_map(Frame::Receipt),
        event().prop_map(Frame::Event),
        request().prop_map(Frame::Request),
        response().prop_map(Frame::Response),
        ends(),
    ]
}

/// Decodes the only frame of `bytes`.
fn decode<T>(
    bytes: &[u8],
    connected: bool,
    then: impl FnOnce(roost_protocol::Header, Frame<'_>) -> T,
) -> T {
    let mut decoder = Decoder::new();
    if connected {
        decoder.set_connected();
    }
    let (mut input, mut scratch) = (bytes, Vec::new());
    let raw =
        decoder.next(&mut input, &mut scratch).expect("a good header").expect("a whole frame");
    assert!(input.is_empty());
    let frame = Frame::decode(raw.header.kind, raw.payload).expect("a good payload");
    then(raw.header, frame)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn decoding_gives_back_what_was_encoded(
        frame in frame(),
        correlation in any::<u16>(),
        inbox_seq in number(),
    ) {
        let inbox_seq = if frame.kind().carries_inbox_seq() { inbox_seq } else { 0 };
        let mut bytes = b"earlier frame".to_vec();
        let start = bytes.len();
        frame.encode(&mut Encoder::new(), correlation, inbox_seq, &mut bytes);
        let bytes = &bytes[start..];
        prop_assert!(bytes.len() <= FRAME_BYTES_MAX);
        decode(bytes, true, |header, decoded| {
            prop_assert_eq!(&decoded, &frame);
            prop_assert_eq!(header.kind, frame.kind());
            prop_assert_eq!((header.correlation, header.inbox_seq), (correlation, inbox_seq));
            Ok(())
        })?;
    }

    #[test]
    fn every_connect_fits_the_first_frame(frame in connect()) {
        let mut bytes = Vec::new();
        frame.encode(&mut Encoder::new(), &mut bytes);
        prop_assert!(bytes.len() <= FRAME_BYTES_MAX_BEFORE_CONNECT);
        decode(&bytes, false, |_, decoded| {
            prop_assert_eq!(decoded, Frame::Connect(frame));
            Ok(())
        })?;
    }
}

static LONGEST: LazyLock<&'static str> = LazyLock::new(|| leaked("m".repeat(ID_BYTES_MAX)));

/// A message with ids and a body of these lengths.
fn sized(id_bytes: usize, body_bytes: usize) -> Message<'static> {
    static BODY: [u8; BODY_BYTES_MAX] = [0xA5; BODY_BYTES_MAX];
    let user = UserId::new(&LONGEST[..id_bytes]).expect("an id");
    Message {
        conversation: ConversationId::single(user, user),
        seq: NUMBER_MAX,
        message_id: u64::MAX,
        sender: user,
        client_msg_id: ClientMsgId([0xFF; 16]),
        kind: MessageKind(255),
        body: &BODY[..body_bytes],
        server_time_ms: u64::MAX,
    }
}

/// Fills a page as logic does, and checks it in both kinds of pages. Returns how many messages it took.
fn check_page(limit: u16, messages: impl IntoIterator<Item = Message<'static>>) -> usize {
    let mut budget = PageBudget::new(limit);
    let fits = |message: &Message<'_>| {
        let conversation = message.conversation.to_string();
        budget.take(conversation.len(), message.sender.as_str().len(), message.body.len())
    };
    let messages: Vec<_> = messages.into_iter().take_while(fits).collect();
    let count = messages.len();
    let entries = (NUMBER_MAX - count as u64..).zip(messages.iter().copied()).collect();
    let conversation = sized(ID_BYTES_MAX, 0).conversation;
    let pages = [
        Response::SyncPage { entries, latest_inbox_seq: NUMBER_MAX, more: true },
        Response::HistoryPage { conversation, messages, latest_seq: NUMBER_MAX, more: true },
    ];
    for page in pages {
        let frame = Frame::Response(page);
        let mut bytes = Vec::new();
        frame.encode(&mut Encoder::new(), 1, 0, &mut bytes);
        assert!(bytes.len() <= FRAME_BYTES_MAX, "{} bytes, {count} messages", bytes.len());
        decode(&bytes, true, |_, decoded| assert_eq!(decoded, frame));
    }
    count
}

#[test]
fn full_pages_fit_and_verify() {
    let endless =
        |id_bytes, body_bytes| std::iter::repeat_with(move || sized(id_bytes, body_bytes));
    assert_eq!(check_page(u16::MAX, endless(1, 0)), PAGE_MESSAGES_MAX);
    assert_eq!(check_page(0, endless(1, 0)), 20);
    assert_eq!(check_page(1, endless(64, BODY_BYTES_MAX)), 1);
    assert_eq!(check_page(u16::MAX, endless(64, BODY_BYTES_MAX)), 3);
    for id_bytes in [1, 2, 3, 4, 5, 63, 64] {
        for body_bytes in (0..400).chain([1000, 1001, 4095, 5000]) {
            let count = check_page(u16::MAX, endless(id_bytes, body_bytes));
            assert!(count >= 3);
        }
    }
}

#[test]
fn even_the_largest_message_fits_a_page_and_a_frame() {
    assert_eq!(check_page(5, [sized(ID_BYTES_MAX, BODY_BYTES_MAX)]), 1);
    let largest = sized(ID_BYTES_MAX, BODY_BYTES_MAX);
    let payload_bytes = largest.payload(&mut Encoder::new()).len();
    assert!(payload_bytes + HEADER_BYTES <= FRAME_BYTES_MAX);
}

#[test]
fn the_largest_acknowledgement_and_watermarks_verify() {
    let conversation = sized(ID_BYTES_MAX, 0).conversation;
    let member = MemberWatermarks {
        user: sized(ID_BYTES_MAX, 0).sender,
        delivered_seq: NUMBER_MAX,
        read_seq: NUMBER_MAX,
    };
    let frames = [
        Frame::DeliverAck(DeliverAck {
            inbox_seq: NUMBER_MAX,
            watermarks: vec![(conversation, NUMBER_MAX); WATERMARKS_MAX],
        }),
        Frame::Response(Response::WatermarksPage {
            conversation,
            members: vec![member; WATERMARK_MEMBERS_MAX],
        }),
    ];
    for frame in frames {
        let mut bytes = Vec::new();
        frame.encode(&mut Encoder::new(), 0, 0, &mut bytes);
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        decode(&bytes, true, |_, decoded| assert_eq!(decoded, frame));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_page_the_budget_admits_fits_and_verifies(
        limit in any::<u16>(),
        sizes in vec((1..=ID_BYTES_MAX, prop_oneof![0usize..200, 0..=BODY_BYTES_MAX]), 0..260),
    ) {
        let count = sizes.len();
        let took = check_page(limit, sizes.into_iter().map(|(id, body)| sized(id, body)));
        prop_assert!(took <= PAGE_MESSAGES_MAX.min(count));
    }

    #[test]
    fn arbitrary_payloads_never_panic(
        kind in prop::sample::select(FrameKind::ALL),
        bytes in vec(any::<u8>(), 0..300),
    ) {
        let _ = Frame::decode(kind, &bytes);
    }

    #[test]
    fn damaged_payloads_never_panic(
        frame in frame(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = Vec::new();
        frame.encode(&mut Encoder::new(), 0, 0, &mut bytes);
        let payload = &mut bytes[HEADER_BYTES..];
        prop_assume!(!payload.is_empty());
        for (at, byte) in damage {
            payload[at.index(payload.len())] = byte;
        }
        let _ = Frame::decode(frame.kind(), payload);
    }
}
