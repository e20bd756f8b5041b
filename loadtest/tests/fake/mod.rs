//! A server in one process that speaks the protocol and the HTTP API, keeps messages in memory,
//! and can be told to misbehave. It is for the load test's own tests: slow, simple, obvious.

mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roost_protocol::frame::ack::SendAck;
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connected, Credential};
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::ping::Pong;
use roost_protocol::frame::redirect::Redirect;
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::frame::send::{MessageKind, Send};
use roost_protocol::{
    ClientMsgId, CloseReason, ConversationId, Decoder, Encoder, Frame, FrameKind, Header, UserId,
    limits,
};

/// Of [`Fault::Cuts`].
const CUTS: u32 = 10;

/// How the server misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every hundredth message is acknowledged and delivered, but not kept.
    LosesAcked,
    /// Every hundredth message is kept and acknowledged, but the receiver never sees it.
    NeverDelivers,
    /// Nobody is let in.
    RefusesTokens,
    /// Everybody belongs to the gateway at this address.
    Redirects(SocketAddr),
    /// The first ten sessions are cut at their first heartbeat.
    Cuts,
}

#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) conversation: String,
    pub(crate) seq: u64,
    pub(crate) sender: String,
    pub(crate) client_msg_id: ClientMsgId,
    pub(crate) body: Vec<u8>,
    is_hidden: bool,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) conversations: BTreeMap<String, Vec<Stored>>,
    lost: BTreeSet<(String, u64)>,
    inboxes: BTreeMap<String, Vec<(String, u64)>>,
    online: BTreeMap<String, TcpStream>,
    epoch: u64,
    sends: u64,
    cuts: u32,
    last_send: Option<Instant>,
}

pub(crate) struct Fake {
    pub(crate) frames: SocketAddr,
    pub(crate) http: SocketAddr,
    store: Arc<Mutex<Store>>,
}

impl Fake {
    pub(crate) fn start(fault: Fault) -> Self {
        let store = Arc::new(Mutex::new(Store::default()));
        let frames = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            frames: frames.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            store: Arc::clone(&store),
        };
        let for_http = Arc::clone(&store);
        std::thread::spawn(move || http::serve(&http, &for_http));
        std::thread::spawn(move || {
            for stream in frames.incoming().map_while(Result::ok) {
                let store = Arc::clone(&store);
                std::thread::spawn(move || Session::new(stream, store, fault).run());
            }
        });
        fake
    }

    /// Since the last SEND arrived; nothing before the first.
    pub(crate) fn quiet_for(&self) -> Option<Duration> {
        self.store.lock().unwrap().last_send.map(|at| at.elapsed())
    }
}

struct Session {
    stream: TcpStream,
    store: Arc<Mutex<Store>>,
    fault: Fault,
    user: Option<String>,
    encoder: Encoder,
}

impl Session {
    fn new(stream: TcpStream, store: Arc<Mutex<Store>>, fault: Fault) -> Self {
        Self { stream, store, fault, user: None, encoder: Encoder::default() }
    }

    fn run(mut self) {
        let mut decoder = Decoder::new();
        decoder.set_connected();
        let (mut buffer, mut scratch) = (vec![0; 64 * 1024], Vec::new());
        while let Ok(size @ 1..) = self.stream.read(&mut buffer) {
            let mut rest = &buffer[..size];
            while let Ok(Some(raw)) = decoder.next(&mut rest, &mut scratch) {
                let frame = Frame::decode(raw.header.kind, raw.payload).unwrap();
                if !self.on_frame(raw.header, frame) {
                    return;
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // A client that went away reads nothing.
        let _ = self.stream.write_all(bytes);
    }

    fn on_frame(&mut self, header: Header, frame: Frame<'_>) -> bool {
        let mut out = Vec::new();
        match frame {
            Frame::Connect(connect) => {
                let Credential::Token(token) = connect.credential else { return false };
                if self.fault == Fault::RefusesTokens {
                    let reason = CloseReason::BadToken;
                    let close = Close { reason, detail: "no such key", retry_after_ms: 0 };
                    close.encode(&mut self.encoder, &mut out);
                    self.write(&out);
                    return false;
                }
                if let Fault::Redirects(to) = self.fault {
                    let (redirect, reason) = (to.to_string(), CloseReason::Redirected);
                    Redirect { address: &redirect }.encode(&mut self.encoder, &mut out);
                    Close { reason, detail: "", retry_after_ms: 0 }
                        .encode(&mut self.encoder, &mut out);
                    self.write(&out);
                    return false;
                }
                self.log_in(&subject(token), &mut out);
            }
            Frame::Ping(_) if self.is_cut() => {
                // The store holds the socket as well.
                let _ = self.stream.shutdown(Shutdown::Both);
                return false;
            }
            Frame::Ping(ping) => {
                Pong { client_time_us: ping.client_time_us, server_time_ms: 1 }.encode(
                    &mut self.encoder,
                    header.correlation,
                    &mut out,
                );
            }
            Frame::Send(send) => self.on_send(header, &send, &mut out),
            Frame::Request(request) => self.on_request(header, &request, &mut out),
            Frame::DeliverAck(_) | Frame::Receipt(_) => {}
            Frame::Close(_) => return false,
            Frame::Connected(_)
            | Frame::Pong(_)
            | Frame::SendAck(_)
            | Frame::SendRefused(_)
            | Frame::Deliver(_)
            | Frame::Event(_)
            | Frame::Response(_)
            | Frame::Redirect(_)
            | Frame::GoAway(_) => panic!("only servers send {frame:?}"),
        }
        self.write(&out);
        true
    }

    fn is_cut(&self) -> bool {
        let mut store = self.store.lock().unwrap();
        let is_one = self.fault == Fault::Cuts && store.cuts < CUTS;
        store.cuts += u32::from(is_one);
        is_one
    }

    fn log_in(&mut self, user: &str, out: &mut Vec<u8>) {
        let mut store = self.store.lock().unwrap();
        store.epoch += 1;
        store.online.insert(user.to_owned(), self.stream.try_clone().unwrap());
        self.user = Some(user.to_owned());
        let connected = Connected {
            session_epoch: store.epoch,
            user_id: UserId::new(user).unwrap(),
            gateway: "fake",
            resume_token: "",
            server_time_ms: 1,
            heartbeat_interval_ms: 1_000,
            idle_timeout_ms: 60_000,
            inflight_sends_max: 64,
            frame_bytes_max: limits::FRAME_BYTES_MAX as u32,
            body_bytes_max: limits::BODY_BYTES_MAX as u32,
        };
        connected.encode(&mut self.encoder, out);
    }

    fn on_send(&mut self, header: Header, send: &Send<'_>, out: &mut Vec<u8>) {
        let user = self.user.clone().unwrap();
        let conversation = send.target.conversation(UserId::new(&user).unwrap());
        let peer = conversation.peer_of(UserId::new(&user).unwrap()).unwrap().to_string();
        let conversation = conversation.to_string();
        let store = Arc::clone(&self.store);
        let mut store = store.lock().unwrap();
        store.sends += 1;
        store.last_send = Some(Instant::now());
        let is_hundredth = store.sends.is_multiple_of(100);
        let log = store.conversations.entry(conversation.clone()).or_default();
        // A slow machine makes clients repeat what was not answered in time.
        let known = log.iter().find(|m| m.client_msg_id == send.client_msg_id);
        if let Some(stored) = known {
            let ack = ack_of(stored);
            framed(FrameKind::SendAck, header.correlation, 0, ack.payload(&mut self.encoder), out);
            return;
        }
        let seq = log.len() as u64 + 1;
        log.push(Stored {
            conversation: conversation.clone(),
            seq,
            sender: user.clone(),
            client_msg_id: send.client_msg_id,
            body: send.body.to_vec(),
            is_hidden: is_hundredth && self.fault == Fault::NeverDelivers,
        });
        if is_hundredth && self.fault == Fault::LosesAcked {
            store.lost.insert((conversation.clone(), seq));
        }
        let mut places = Vec::new();
        for owner in [&user, &peer] {
            let inbox = store.inboxes.entry(owner.clone()).or_default();
            inbox.push((conversation.clone(), seq));
            places.push(inbox.len() as u64);
        }
        let stored = store.conversations[&conversation].last().cloned().unwrap();
        let ack = ack_of(&stored);
        let kind = FrameKind::SendAck;
        framed(kind, header.correlation, places[0], ack.payload(&mut self.encoder), out);
        if stored.is_hidden {
            return;
        }
        let mut bytes = Vec::new();
        let payload = message_of(&stored).payload(&mut self.encoder).to_vec();
        framed(FrameKind::Deliver, 0, places[1], &payload, &mut bytes);
        if let Some(receiver) = store.online.get_mut(&peer) {
            let _ = receiver.write_all(&bytes);
        }
    }

    fn on_request(&mut self, header: Header, request: &Request<'_>, out: &mut Vec<u8>) {
        let Request::Sync { after_inbox_seq, .. } = request else { return };
        let store = self.store.lock().unwrap();
        let empty = Vec::new();
        let inbox = store.inboxes.get(self.user.as_ref().unwrap()).unwrap_or(&empty);
        let entries: Vec<(u64, Message<'_>)> = (1_u64..)
            .zip(inbox)
            .filter(|(at, _)| at > after_inbox_seq)
            .map(|(at, (name, seq))| (at, &store.conversations[name][*seq as usize - 1]))
            .filter(|(_, stored)| !stored.is_hidden)
            .map(|(at, stored)| (at, message_of(stored)))
            .take(100)
            .collect();
        let last = entries.last().map_or(*after_inbox_seq, |(at, _)| *at);
        let latest_inbox_seq = inbox.len() as u64;
        let more = entries.len() == 100 && last < latest_inbox_seq;
        let response = Response::SyncPage { entries, latest_inbox_seq, more };
        let payload = response.payload(&mut self.encoder).to_vec();
        framed(FrameKind::Response, header.correlation, 0, &payload, out);
    }
}

fn ack_of(stored: &Stored) -> SendAck<'_> {
    SendAck {
        client_msg_id: stored.client_msg_id,
        conversation: ConversationId::parse(&stored.conversation).unwrap(),
        seq: stored.seq,
        message_id: stored.seq,
        server_time_ms: 1,
    }
}

fn message_of(stored: &Stored) -> Message<'_> {
    Message {
        conversation: ConversationId::parse(&stored.conversation).unwrap(),
        seq: stored.seq,
        message_id: stored.seq,
        sender: UserId::new(&stored.sender).unwrap(),
        client_msg_id: stored.client_msg_id,
        kind: MessageKind::TEXT,
        body: &stored.body,
        server_time_ms: 1,
    }
}

fn framed(kind: FrameKind, correlation: u16, inbox_seq: u64, payload: &[u8], out: &mut Vec<u8>) {
    out.extend(Header::new(kind, correlation, inbox_seq, payload.len()).encode());
    out.extend(payload);
}

/// The user a token names; its signature is somebody else's test.
fn subject(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}
