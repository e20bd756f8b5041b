//! Proves: whatever bytes a server sends, cut anywhere, before or within a session, the client neither panics nor stalls; what is
//! no valid frame ends the connection with a named reason, and the client goes on to reconnect.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use roost_client::{Action, Config, Disconnect, Event, NextStep, SendTo, core::Core};
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::connect::Connected;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::event::Event as Notice;
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::request::Response;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{
    ClientMsgId, ConversationId, Encoder, FrameKind, Header, RefusalCode, UserId,
};

fn connected() -> Vec<u8> {
    let mut bytes = Vec::new();
    let connected = Connected {
        session_epoch: 5,
        user_id: UserId::new("alice").unwrap(),
        gateway: "g1",
        resume_token: "",
        server_time_ms: 0,
        heartbeat_interval_ms: 0,
        idle_timeout_ms: 0,
        inflight_sends_max: 0,
        frame_bytes_max: 0,
        body_bytes_max: 0,
    };
    connected.encode(&mut Encoder::new(), &mut bytes);
    bytes
}

/// A client that waits for CONNECTED, with a message to send.
fn client(now: Instant) -> Core {
    let mut config = Config::new("alice", "phone", "server:7401", 1);
    config.token = Some("token".into());
    let mut core = Core::new(config, now).unwrap();
    core.start(now);
    core.send_message(SendTo::User("bob"), MessageKind::TEXT, "hello").unwrap();
    assert!(matches!(core.poll_action(), Some(Action::Connect { .. })));
    core.handle_connected(now);
    core
}

/// Everything a driver does; the disconnect, if there was one.
fn drive(core: &mut Core, now: Instant) -> Option<(Disconnect, NextStep)> {
    let mut ended = None;
    while let Some(event) = core.poll_event() {
        if let Event::Disconnected { reason, next } = event {
            ended = Some((reason, next));
        }
    }
    let mut out = Vec::new();
    while core.poll_transmit(now, &mut out) {
        assert!(out.len() < 1 << 20, "it never stops sending");
    }
    while core.poll_action().is_some() {}
    ended
}

fn frame(kind: u8, correlation: u16, inbox_seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes =
        Header::new(FrameKind::Ping, correlation, inbox_seq, payload.len()).encode().to_vec();
    bytes[4] = kind;
    bytes.extend_from_slice(payload);
    bytes
}

fn feed(within_session: bool, bytes: &[u8], cut: usize) {
    let begin = Instant::now();
    let mut core = client(begin);
    drive(&mut core, begin);
    if within_session {
        core.handle_bytes(begin, &connected());
        assert!(core.is_online());
        drive(&mut core, begin);
    }
    let (head, tail) = bytes.split_at(cut.min(bytes.len()));
    core.handle_bytes(begin, head);
    let first = drive(&mut core, begin);
    core.handle_bytes(begin, tail);
    let second = drive(&mut core, begin);
    if let Some((reason, next)) = first.or(second) {
        assert!(!reason.to_string().is_empty());
        assert!(!core.is_online());
        assert_ne!(next, NextStep::Reconnect(begin - Duration::from_secs(1)));
    }
    // Time passes: deadlines move on, and the message is still there.
    let mut now = begin;
    for _ in 0..50 {
        let Some(at) = core.poll_timeout() else { break };
        now = now.max(at);
        core.handle_timeout(now);
        drive(&mut core, now);
    }
    assert!(core.poll_timeout().is_none_or(|at| at > begin), "it spins");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(within in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
        feed(within, &bytes, cut);
    }

    #[test]
    fn any_payload_of_any_kind(
        within in any::<bool>(),
        frames in prop::collection::vec(
            (1u8..17, any::<u16>(), prop::collection::vec(any::<u8>(), 0..100)), 1..5),
        cut in 0usize..400,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(k, c, p)| frame(*k, *c, 0, p)).collect();
        feed(within, &bytes, cut);
    }
}

/// Numbers a server may write, mostly small and extreme ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..6, (i64::MAX as u64 - 3)..=i64::MAX as u64, any::<u64>()]
}

/// What the frames of a server are made of.
struct Parts {
    conversation: ConversationId<'static>,
    code: RefusalCode,
    a: u64,
    b: u64,
}

impl Parts {
    fn client_msg_id(&self) -> ClientMsgId {
        ClientMsgId([self.a as u8 % 3; 16])
    }

    fn message(&self) -> Message<'static> {
        Message {
            conversation: self.conversation,
            seq: self.a,
            message_id: self.b,
            sender: UserId::new("bob").unwrap(),
            client_msg_id: self.client_msg_id(),
            kind: MessageKind::TEXT,
            body: b"x",
            server_time_ms: self.b,
        }
    }

    fn ack(&self) -> SendAck<'static> {
        SendAck {
            client_msg_id: self.client_msg_id(),
            conversation: self.conversation,
            seq: self.a,
            message_id: 1,
            server_time_ms: self.b,
        }
    }

    fn refused(&self) -> SendRefused<'static> {
        SendRefused {
            client_msg_id: self.client_msg_id(),
            code: self.code,
            retry_after_ms: self.a as u32,
            expected_client_seq: self.b as u32,
            detail: "",
        }
    }

    fn notice(&self, is_hint: bool) -> Notice<'static> {
        match is_hint {
            true => {
                Notice::Hint { conversation: self.conversation, seq: self.a, inbox_seq: self.b }
            }
            false => Notice::Digest { inbox_seq: self.a },
        }
    }

    fn sync_page(&self) -> Response<'static> {
        let message = self.message();
        let entries = vec![(self.b.saturating_sub(1), message), (self.b, message)];
        Response::SyncPage { entries, latest_inbox_seq: self.a, more: self.a.is_multiple_of(2) }
    }

    fn history_page(&self) -> Response<'static> {
        Response::HistoryPage {
            conversation: self.conversation,
            messages: vec![self.message(); self.b as usize % 3],
            latest_seq: self.b,
            more: self.a.is_multiple_of(2),
        }
    }

    fn refused_response(&self) -> Response<'static> {
        Response::Refused { code: self.code, retry_after_ms: self.a as u32, detail: "" }
    }

    fn receipt(&self) -> Receipt<'static> {
        Receipt {
            conversation: self.conversation,
            user: Some(UserId::new("bob").unwrap()),
            kind: ReceiptKind::Read,
            seq: self.a,
            by_server: false,
            server_time_ms: self.b,
        }
    }

    fn payload(&self, which: u8) -> (FrameKind, Vec<u8>) {
        let mut e = Encoder::new();
        match which {
            0 => (FrameKind::SendAck, self.ack().payload(&mut e).to_vec()),
            1 => (FrameKind::SendRefused, self.refused().payload(&mut e).to_vec()),
            2 | 3 => (FrameKind::Event, self.notice(which == 3).payload(&mut e).to_vec()),
            4 => (FrameKind::Response, self.sync_page().payload(&mut e).to_vec()),
            5 => (FrameKind::Response, self.history_page().payload(&mut e).to_vec()),
            6 => (FrameKind::Response, self.refused_response().payload(&mut e).to_vec()),
            7 => (FrameKind::Receipt, self.receipt().payload(&mut e).to_vec()),
            _ => (FrameKind::Deliver, self.message().payload(&mut e).to_vec()),
        }
    }
}

fn valid_frame() -> impl Strategy<Value = Vec<u8>> {
    let conversation = prop::sample::select(vec!["s:alice:bob", "s:alice:carol", "g:team"]);
    let code = prop::sample::select(RefusalCode::ALL);
    (0u8..12, conversation, code, number(), number(), number(), 0u16..5).prop_map(
        |(which, conversation, code, a, b, inbox_seq, correlation)| {
            let conversation = ConversationId::parse(conversation).unwrap();
            let (kind, payload) = Parts { conversation, code, a, b }.payload(which);
            let has_position = matches!(kind, FrameKind::Deliver | FrameKind::SendAck);
            let inbox_seq = if has_position { inbox_seq } else { 0 };
            frame(kind as u8, correlation, inbox_seq, &payload)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn any_valid_frames(frames in prop::collection::vec(valid_frame(), 1..30), cut in 0usize..4000) {
        feed(true, &frames.concat(), cut);
    }
}

#[test]
fn frames_of_clients_and_of_the_wrong_time_have_a_name() {
    let begin = Instant::now();
    let mut pong = Vec::new();
    roost_protocol::frame::ping::Pong::default().encode(&mut Encoder::new(), 0, &mut pong);
    let ping = Header::new(FrameKind::Ping, 0, 0, 0).encode().to_vec();
    for (within_session, bytes) in [(true, connected()), (false, pong), (true, ping)] {
        let mut core = client(begin);
        drive(&mut core, begin);
        if within_session {
            core.handle_bytes(begin, &connected());
        }
        drive(&mut core, begin);
        core.handle_bytes(begin, &bytes);
        let (reason, next) = drive(&mut core, begin).expect("the connection ends");
        assert_eq!(reason, Disconnect::Protocol(roost_protocol::CloseReason::UnexpectedFrame));
        assert!(matches!(next, NextStep::Reconnect(_)));
    }
}
