//! A scripted server: frames in and out of one core as lines of text, on a virtual clock.

use std::time::{Duration, Instant};

use roost_client::{Action, Config, Event, NextStep, SendTo, core::Core};
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::connect::{Connected, Credential};
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{
    ClientMsgId, ConversationId, Decoder, Encoder, Frame, FrameKind, Header, RefusalCode, UserId,
};

pub(crate) const CHAT: &str = "s:alice:bob";

/// What the client sent, in order: enough to answer it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) correlation: u16,
    pub(crate) client_msg_id: ClientMsgId,
}

pub(crate) struct Script {
    pub(crate) core: Core,
    pub(crate) begin: Instant,
    pub(crate) now: Instant,
    decoder: Decoder,
    /// SENDs and REQUESTs seen, oldest first.
    pub(crate) sends: Vec<Asked>,
    pub(crate) requests: Vec<Asked>,
}

pub(crate) fn config() -> Config {
    let mut config = Config::new("alice", "phone", "server:7401", 11);
    config.token = Some("token".into());
    config
}

pub(crate) fn chat(text: &str) -> ConversationId<'_> {
    ConversationId::parse(text).unwrap()
}

impl Script {
    /// A client that was started and got a socket.
    pub(crate) fn begin(config: Config) -> Self {
        let begin = Instant::now();
        let core = Core::new(config, begin).unwrap();
        let mut script = Self {
            core,
            begin,
            now: begin,
            decoder: Decoder::new(),
            sends: Vec::new(),
            requests: Vec::new(),
        };
        script.core.start(begin);
        script.socket_opens("server:7401");
        script
    }

    /// A client in a session whose first Sync was answered with an empty inbox.
    pub(crate) fn online(config: Config) -> Self {
        let mut script = Self::begin(config);
        script.client_says(&["CONNECT token=token epoch=0 inbox=0"]);
        script.connected(1);
        script.client_says(&["REQUEST sync after=0"]);
        script.answer_sync(0, &[], false);
        script.app_sees(&["connected epoch=1", "synced 0"]);
        script
    }

    pub(crate) fn socket_opens(&mut self, address: &str) {
        let action = self.core.poll_action();
        assert_eq!(action, Some(Action::Connect { address: address.into() }));
        assert_eq!(self.core.poll_action(), None);
        self.decoder = Decoder::new();
        self.core.handle_connected(self.now);
    }

    pub(crate) fn socket_closes(&mut self) {
        self.core.handle_disconnected(self.now);
    }

    pub(crate) fn send(&mut self, text: &'static str) -> ClientMsgId {
        self.core.send_message(SendTo::User("bob"), MessageKind::TEXT, text).unwrap()
    }

    /// Time passes; every deadline on the way is kept. Frames that become due are lost unless asked for right after.
    pub(crate) fn after(&mut self, duration: Duration) {
        self.now += duration;
        self.core.handle_timeout(self.now);
    }

    /// To the next deadline; how long that was.
    pub(crate) fn wait_for_deadline(&mut self) -> Duration {
        let at = self.core.poll_timeout().expect("something is due");
        let passed = at.saturating_duration_since(self.now);
        self.after(passed);
        passed
    }

    /// Waits for the reconnect and opens the socket.
    pub(crate) fn reconnects(&mut self, address: &str) -> Duration {
        assert_eq!(self.core.poll_action(), None, "not before its time");
        let passed = self.wait_for_deadline();
        self.socket_opens(address);
        passed
    }

    #[track_caller]
    pub(crate) fn client_says(&mut self, expected: &[&str]) {
        let mut bytes = Vec::new();
        while self.core.poll_transmit(self.now, &mut bytes) {}
        let mut input = &bytes[..];
        let mut scratch = Vec::new();
        let mut lines = Vec::new();
        while let Some(frame) = self.decoder.next(&mut input, &mut scratch).unwrap() {
            self.decoder.set_connected();
            let correlation = frame.header.correlation;
            let frame = Frame::decode(frame.header.kind, frame.payload).unwrap();
            if let Frame::Send(send) = &frame {
                self.sends.push(Asked { correlation, client_msg_id: send.client_msg_id });
            }
            if let Frame::Request(_) = &frame {
                self.requests.push(Asked { correlation, client_msg_id: ClientMsgId::default() });
            }
            lines.push(frame_line(&frame));
        }
        assert_eq!(lines, expected);
    }

    #[track_caller]
    pub(crate) fn app_sees(&mut self, expected: &[&str]) {
        let lines: Vec<_> = std::iter::from_fn(|| self.core.poll_event()).map(event_line).collect();
        assert_eq!(lines, expected);
    }

    pub(crate) fn server_says(&mut self, frames: &[u8]) {
        self.core.handle_bytes(self.now, frames);
    }

    pub(crate) fn payload(
        &mut self,
        kind: FrameKind,
        correlation: u16,
        inbox_seq: u64,
        payload: &[u8],
    ) {
        let mut bytes = Header::new(kind, correlation, inbox_seq, payload.len()).encode().to_vec();
        bytes.extend_from_slice(payload);
        self.server_says(&bytes);
    }

    pub(crate) fn connected(&mut self, session_epoch: u64) {
        let connected = Connected {
            session_epoch,
            user_id: UserId::new("alice").unwrap(),
            gateway: "g1",
            resume_token: "resume",
            server_time_ms: 1,
            heartbeat_interval_ms: 240_000,
            idle_timeout_ms: 300_000,
            inflight_sends_max: 4,
            frame_bytes_max: 65_536,
            body_bytes_max: 16_384,
        };
        let mut bytes = Vec::new();
        connected.encode(&mut Encoder::new(), &mut bytes);
        self.server_says(&bytes);
    }

    pub(crate) fn ack(&mut self, asked: Asked, seq: u64, inbox_seq: u64) {
        let ack = SendAck {
            client_msg_id: asked.client_msg_id,
            conversation: chat(CHAT),
            seq,
            message_id: seq,
            server_time_ms: 1,
        };
        let payload = ack.payload(&mut Encoder::new()).to_vec();
        self.payload(FrameKind::SendAck, asked.correlation, inbox_seq, &payload);
    }

    pub(crate) fn refuse(&mut self, asked: Asked, code: RefusalCode, wait_ms: u32, expected: u32) {
        let refused = SendRefused {
            client_msg_id: asked.client_msg_id,
            code,
            retry_after_ms: wait_ms,
            expected_client_seq: expected,
            detail: "why",
        };
        let payload = refused.payload(&mut Encoder::new()).to_vec();
        self.payload(FrameKind::SendRefused, asked.correlation, 0, &payload);
    }

    pub(crate) fn deliver(&mut self, conversation: &str, seq: u64, inbox_seq: u64, sender: &str) {
        let payload = message(conversation, seq, sender).payload(&mut Encoder::new()).to_vec();
        self.payload(FrameKind::Deliver, 0, inbox_seq, &payload);
    }

    /// Answers the last request with `(inbox_seq, conversation, seq, sender)`.
    pub(crate) fn answer_sync(
        &mut self,
        latest_inbox_seq: u64,
        entries: &[(u64, &str, u64, &str)],
        more: bool,
    ) {
        let entries =
            entries.iter().map(|&(inbox_seq, c, seq, sender)| (inbox_seq, message(c, seq, sender)));
        let page = Response::SyncPage { entries: entries.collect(), latest_inbox_seq, more };
        self.answer(&page);
    }

    pub(crate) fn answer(&mut self, response: &Response<'_>) {
        let correlation = self.requests.last().expect("something was asked").correlation;
        let payload = response.payload(&mut Encoder::new()).to_vec();
        self.payload(FrameKind::Response, correlation, 0, &payload);
    }
}

pub(crate) fn message<'a>(conversation: &'a str, seq: u64, sender: &'a str) -> Message<'a> {
    let mut id = [0; 16];
    id[0] = seq as u8;
    id[1] = sender.as_bytes()[0];
    Message {
        conversation: chat(conversation),
        seq,
        message_id: seq,
        sender: UserId::new(sender).unwrap(),
        client_msg_id: ClientMsgId(id),
        kind: MessageKind::TEXT,
        body: b"hi",
        server_time_ms: 1,
    }
}

fn frame_line(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Connect(c) => {
            let credential = match c.credential {
                Credential::Token(token) => format!("token={token}"),
                Credential::Resume(token) => format!("resume={token}"),
            };
            format!("CONNECT {credential} epoch={} inbox={}", c.last_session_epoch, c.inbox_seq)
        }
        Frame::Send(s) => {
            let conversation = s.target.conversation(UserId::new("alice").unwrap());
            let body = String::from_utf8_lossy(s.body);
            format!("SEND {conversation} {} {body}", s.client_seq)
        }
        Frame::DeliverAck(a) => {
            let mut line = format!("DELIVER_ACK {}", a.inbox_seq);
            for (conversation, seq) in &a.watermarks {
                line += &format!(" {conversation}={seq}");
            }
            line
        }
        Frame::Request(Request::Sync { after_inbox_seq, .. }) => {
            format!("REQUEST sync after={after_inbox_seq}")
        }
        Frame::Request(Request::History { conversation, after_seq, before_seq, .. }) => {
            format!("REQUEST history {conversation} {after_seq}..{before_seq}")
        }
        Frame::Request(Request::Watermarks { conversation }) => {
            format!("REQUEST watermarks {conversation}")
        }
        Frame::Ping(p) => format!("PING inbox={}", p.inbox_seq),
        Frame::Receipt(r) => format!("RECEIPT {} read={}", r.conversation, r.seq),
        Frame::Close(c) => format!("CLOSE {}", c.reason),
        Frame::Connected(_)
        | Frame::Pong(_)
        | Frame::SendAck(_)
        | Frame::SendRefused(_)
        | Frame::Deliver(_)
        | Frame::Event(_)
        | Frame::Response(_)
        | Frame::Redirect(_)
        | Frame::GoAway(_) => panic!("a client never sends {frame:?}"),
    }
}

fn event_line(event: Event) -> String {
    match event {
        Event::Connected { session_epoch, .. } => format!("connected epoch={session_epoch}"),
        Event::Disconnected { reason, next } => {
            let next = match next {
                NextStep::Reconnect(_) => "reconnect",
                NextStep::NeedToken => "need token",
                NextStep::Stopped => "stopped",
            };
            format!("{reason}: {next}")
        }
        Event::Acked(a) if a.repeated => format!("acked again {} {}", a.conversation, a.seq),
        Event::Acked(a) => format!("acked {} {}", a.conversation, a.seq),
        Event::Refused { conversation, code, detail, .. } => {
            format!("refused {conversation} {code} {detail}")
        }
        Event::Message(m) => {
            let body = String::from_utf8_lossy(&m.body);
            format!("message {} {} {} {body}", m.conversation, m.seq, m.sender)
        }
        Event::Receipt(r) => {
            format!("receipt {} {} {:?} {}", r.conversation, r.user, r.kind, r.seq)
        }
        Event::Synced { inbox_seq } => format!("synced {inbox_seq}"),
        Event::History { messages, latest_seq, more, .. } => {
            let seqs: Vec<_> = messages.iter().map(|m| m.seq).collect();
            format!("history {seqs:?} of {latest_seq}, more: {more}")
        }
        Event::RequestRefused { code, .. } => format!("request refused {code}"),
    }
}
