//! Proves, over real sockets: a message survives connections that break before its acknowledgement, what the application
//! dealt with is acknowledged before goodbye, and the server's reason to close reaches the application.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use roost_client::{Client, Config, Disconnect, Event, NextStep, SendTo, Tuning};
use roost_protocol::frame::ack::SendAck;
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::Connected;
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::request::Response;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Decoder, Encoder, Frame, FrameKind, Header, UserId,
};

const CHAT: &str = "s:alice:bob";

/// One accepted connection of a server that is written out in each test.
struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    frames: std::collections::VecDeque<(Header, Vec<u8>)>,
}

impl Peer {
    fn accept(listener: &TcpListener, epoch: u64) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut peer = Self { stream, decoder: Decoder::new(), frames: Default::default() };
        peer.expect(FrameKind::Connect);
        peer.decoder.set_connected();
        let connected = Connected {
            session_epoch: epoch,
            user_id: UserId::new("alice").unwrap(),
            gateway: "g1",
            resume_token: "",
            server_time_ms: 1,
            heartbeat_interval_ms: 240_000,
            idle_timeout_ms: 300_000,
            inflight_sends_max: 64,
            frame_bytes_max: 65_536,
            body_bytes_max: 16_384,
        };
        let mut bytes = Vec::new();
        connected.encode(&mut Encoder::new(), &mut bytes);
        peer.stream.write_all(&bytes).unwrap();
        peer
    }

    /// The next frame of this kind; others before it are passed over.
    fn expect(&mut self, kind: FrameKind) -> (Header, Vec<u8>) {
        loop {
            while let Some((header, payload)) = self.frames.pop_front() {
                if header.kind == kind {
                    return (header, payload);
                }
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the client closed before {kind:?}");
            let mut input = &buffer[..count];
            let mut scratch = Vec::new();
            while let Some(frame) = self.decoder.next(&mut input, &mut scratch).unwrap() {
                self.frames.push_back((frame.header, frame.payload.to_vec()));
            }
        }
    }

    fn send(&mut self, kind: FrameKind, correlation: u16, inbox_seq: u64, payload: &[u8]) {
        let mut bytes = Header::new(kind, correlation, inbox_seq, payload.len()).encode().to_vec();
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).unwrap();
    }

    fn answer_sync(&mut self) {
        let (header, _) = self.expect(FrameKind::Request);
        let page = Response::SyncPage { entries: Vec::new(), latest_inbox_seq: 0, more: false };
        let payload = page.payload(&mut Encoder::new()).to_vec();
        self.send(FrameKind::Response, header.correlation, 0, &payload);
    }
}

fn config(listener: &TcpListener) -> Config {
    let address = listener.local_addr().unwrap().to_string();
    let mut config = Config::new("alice", "phone", &address, 7);
    config.token = Some("token".into());
    let quick = Duration::from_millis(10);
    config.tuning = Arc::new(Tuning { reconnect_delay: quick, ..Tuning::default() });
    config
}

fn run<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(20);
    runtime.block_on(async { tokio::time::timeout(limit, body).await.expect("in time") })
}

#[test]
fn a_message_survives_broken_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(&listener);
    let server = std::thread::spawn(move || {
        let mut ids = Vec::new();
        for epoch in 1..=3 {
            let mut peer = Peer::accept(&listener, epoch);
            let (header, payload) = peer.expect(FrameKind::Send);
            let Ok(Frame::Send(send)) = Frame::decode(FrameKind::Send, &payload) else { panic!() };
            assert_eq!((send.client_seq, send.body), (1, &b"hello"[..]));
            ids.push(send.client_msg_id);
            if epoch == 3 {
                let ack = SendAck {
                    client_msg_id: send.client_msg_id,
                    conversation: ConversationId::parse(CHAT).unwrap(),
                    seq: 1,
                    message_id: 99,
                    server_time_ms: 5,
                };
                let payload = ack.payload(&mut Encoder::new()).to_vec();
                peer.send(FrameKind::SendAck, header.correlation, 1, &payload);
                peer.expect(FrameKind::Close);
            }
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "one identity over all connections");
    });
    run(async {
        let client = Client::connect(config).unwrap();
        let id = client.send(SendTo::User("bob"), MessageKind::TEXT, "hello").unwrap();
        let mut disconnects = 0;
        loop {
            let event = client.next_event().await;
            if matches!(event, Event::Disconnected { reason: Disconnect::Lost, .. }) {
                disconnects += 1;
            }
            if let Event::Acked(acked) = event {
                assert_eq!((acked.client_msg_id, acked.seq, acked.message_id), (id, 1, 99));
                break;
            }
        }
        assert_eq!(disconnects, 2);
        assert_eq!(client.close().await.unsent, []);
    });
    server.join().unwrap();
}

#[test]
fn what_was_dealt_with_is_acknowledged_before_goodbye() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(&listener);
    let server = std::thread::spawn(move || {
        let mut peer = Peer::accept(&listener, 1);
        peer.answer_sync();
        for seq in 1..=3 {
            let message = Message {
                conversation: ConversationId::parse(CHAT).unwrap(),
                seq,
                message_id: seq,
                sender: UserId::new("bob").unwrap(),
                client_msg_id: ClientMsgId([seq as u8; 16]),
                kind: MessageKind::TEXT,
                body: b"hi",
                server_time_ms: 1,
            };
            let payload = message.payload(&mut Encoder::new()).to_vec();
            peer.send(FrameKind::Deliver, 0, seq, &payload);
        }
        let mut stored = 0;
        while stored < 2 {
            let (_, payload) = peer.expect(FrameKind::DeliverAck);
            let Ok(Frame::DeliverAck(ack)) = Frame::decode(FrameKind::DeliverAck, &payload) else {
                panic!()
            };
            assert!(ack.inbox_seq > stored && ack.inbox_seq <= 2, "the third was never asked for");
            assert_eq!(ack.watermarks, [(ConversationId::parse(CHAT).unwrap(), ack.inbox_seq)]);
            stored = ack.inbox_seq;
        }
        peer.expect(FrameKind::Close);
    });
    run(async {
        let client = Client::connect(config).unwrap();
        let mut shown = 0;
        while shown < 2 {
            if let Event::Message(message) = client.next_event().await {
                shown += 1;
                assert_eq!(message.seq, shown);
            }
        }
        let saved = client.close().await;
        assert_eq!(saved.inbox_seq, 2);
        assert_eq!(saved.shown, [(CHAT.to_owned(), 2)]);
    });
    server.join().unwrap();
}

#[test]
fn the_reason_to_close_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(&listener);
    let server = std::thread::spawn(move || {
        let mut peer = Peer::accept(&listener, 1);
        let mut bytes = Vec::new();
        let reason = CloseReason::Superseded;
        Close { reason, detail: "", retry_after_ms: 0 }.encode(&mut Encoder::new(), &mut bytes);
        peer.stream.write_all(&bytes).unwrap();
    });
    run(async {
        let client = Client::connect(config).unwrap();
        loop {
            if let Event::Disconnected { reason, next } = client.next_event().await {
                assert!(matches!(
                    reason,
                    Disconnect::ByServer { reason: CloseReason::Superseded, .. }
                ));
                assert_eq!(next, NextStep::Stopped);
                break;
            }
        }
    });
    server.join().unwrap();
}
