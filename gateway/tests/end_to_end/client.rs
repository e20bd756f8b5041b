//! A blocking client that speaks frames, and nothing by itself: a test says each word.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header as JwtHeader};
use roost_protocol::frame::close::Close;
use roost_protocol::frame::connect::{Connect, Connected, Credential, DeviceClass};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::PROTOCOL_VERSION;
use roost_protocol::{
    ClientMsgId, CloseReason, Decoder, DeviceId, Encoder, FrameKind, Header, UserId,
};

/// The HS256 key of these tests.
pub(crate) const KEY_ID: &str = "test";
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Longer than anything a passing test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now_s() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// A token for `user`, valid for `ttl_s` from now.
pub(crate) fn token(user: &str, ttl_s: i64) -> String {
    let mut header = JwtHeader::new(Algorithm::HS256);
    header.kid = Some(KEY_ID.to_owned());
    let claims = serde_json::json!({
        "app": "demo", "sub": user, "iat": now_s() - 60, "exp": now_s() + ttl_s
    });
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

/// What CONNECTED said.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) epoch: u64,
    pub(crate) user: String,
    pub(crate) resume_token: String,
}

#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
    unread: Vec<u8>,
    frames: std::collections::VecDeque<(Header, Vec<u8>)>,
}

impl Client {
    /// A connection that has said nothing.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut decoder = Decoder::new();
        decoder.set_connected();
        Self {
            stream,
            decoder,
            encoder: Encoder::new(),
            unread: Vec::new(),
            frames: std::collections::VecDeque::new(),
        }
    }

    /// A connection that said CONNECT.
    pub(crate) fn connect(address: SocketAddr, credential: Credential<'_>, device: &str) -> Self {
        let mut client = Self::open(address);
        let connect = Connect {
            protocol_version: PROTOCOL_VERSION,
            credential,
            device_id: DeviceId::new(device).unwrap(),
            device_class: DeviceClass::Phone,
            client_name: "end-to-end",
            last_session_epoch: 0,
            inbox_seq: 0,
        };
        let mut bytes = Vec::new();
        connect.encode(&mut client.encoder, &mut bytes);
        client.write(&bytes);
        client
    }

    /// A logged-in connection.
    pub(crate) fn log_in(address: SocketAddr, user: &str, device: &str) -> (Self, Session) {
        let mut client = Self::connect(address, Credential::Token(&token(user, 900)), device);
        let session = client.expect_connected();
        assert_eq!(session.user, user);
        (client, session)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn ping(&mut self) {
        self.write(&Header::new(FrameKind::Ping, 0, 0, 0).encode());
    }

    /// SEND number `number` of this session to `to`, with correlation and client_msg_id made of the number.
    pub(crate) fn send(&mut self, to: &str, number: u16) {
        let body = number.to_le_bytes();
        let send = Send {
            target: Target::User(UserId::new(to).unwrap()),
            client_msg_id: msg_id(number),
            client_seq: u32::from(number),
            kind: MessageKind::TEXT,
            body: &body,
        };
        let mut bytes = Vec::new();
        send.encode(&mut self.encoder, number, &mut bytes);
        self.write(&bytes);
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            let mut buffer = [0; 16 * 1024];
            let bytes = match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            };
            self.unread.extend_from_slice(&buffer[..bytes]);
            let mut scratch = Vec::new();
            let unread = std::mem::take(&mut self.unread);
            let mut input = unread.as_slice();
            while let Some(frame) = self.decoder.next(&mut input, &mut scratch).unwrap() {
                self.frames.push_back((frame.header, frame.payload.to_vec()));
            }
        }
    }

    /// The next frame, which has to be of `kind`.
    pub(crate) fn expect(&mut self, kind: FrameKind) -> (Header, Vec<u8>) {
        let (header, payload) = self.next().unwrap_or_else(|| panic!("{kind:?}, not the end"));
        if header.kind != kind && header.kind == FrameKind::Close {
            panic!("expected {kind:?}, got {:?}", Close::decode(&payload));
        }
        assert_eq!(header.kind, kind);
        (header, payload)
    }

    pub(crate) fn expect_connected(&mut self) -> Session {
        let (_, payload) = self.expect(FrameKind::Connected);
        let connected = Connected::decode(&payload).unwrap();
        Session {
            epoch: connected.session_epoch,
            user: connected.user_id.to_string(),
            resume_token: connected.resume_token.to_owned(),
        }
    }

    /// CLOSE for this reason, and then the end of the stream.
    pub(crate) fn expect_close(&mut self, reason: CloseReason) {
        let (_, payload) = self.expect(FrameKind::Close);
        assert_eq!(Close::decode(&payload).unwrap().reason, reason);
        assert!(self.next().is_none(), "nothing after CLOSE");
    }
}

pub(crate) fn msg_id(number: u16) -> ClientMsgId {
    ClientMsgId(u128::from(number).to_be_bytes())
}
