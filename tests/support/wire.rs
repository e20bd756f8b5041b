//! A blocking connection that says exactly what a test wants, over the real socket.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own share")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use roost_protocol::frame::connect::{Connect, Credential, DeviceClass};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::{HEADER_BYTES, PROTOCOL_VERSION};
use roost_protocol::{ClientMsgId, DeviceId, Encoder, Frame, FrameKind, Header, UserId};

use super::{DEADLINE, roost, run_ok};

pub struct Wire {
    pub socket: TcpStream,
    encoder: Encoder,
}

/// A development token.
pub fn token(user: &str) -> String {
    let mut command = roost();
    command.args(["token", "--as", user]);
    run_ok(command).trim().to_owned()
}

/// The same without a process, for many users.
pub fn mint(user: &str) -> String {
    mint_at(user, std::time::UNIX_EPOCH.elapsed().unwrap().as_secs())
}

/// A token issued at `now_s`, for an hour.
pub fn mint_at(user: &str, now_s: u64) -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use roost_logic::auth::dev;
    let claims =
        serde_json::json!({ "app": dev::APP, "sub": user, "iat": now_s, "exp": now_s + 3600 });
    let header = Header { kid: Some(dev::KEY_ID.to_owned()), ..Header::new(Algorithm::HS256) };
    encode(&header, &claims, &EncodingKey::from_secret(dev::SECRET.as_bytes())).unwrap()
}

/// CONNECT of `user` on a device.
pub fn connect_frame(token: &str, device: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let connect = Connect {
        protocol_version: PROTOCOL_VERSION,
        credential: Credential::Token(token),
        device_id: DeviceId::new(device).unwrap(),
        device_class: DeviceClass::Other,
        client_name: "test",
        last_session_epoch: 0,
        inbox_seq: 0,
    };
    connect.encode(&mut Encoder::new(), &mut bytes);
    bytes
}

impl Wire {
    pub fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, encoder: Encoder::new() }
    }

    /// Opens, and returns after CONNECTED.
    pub fn login(address: SocketAddr, token: &str, device: &str) -> Self {
        let mut wire = Self::open(address);
        wire.write(&connect_frame(token, device));
        let (header, _) = wire.read().unwrap();
        assert_eq!(header.kind, FrameKind::Connected);
        wire
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, to: &str, id: ClientMsgId, client_seq: u32, body: &[u8]) {
        let mut bytes = Vec::new();
        let target = Target::User(UserId::new(to).unwrap());
        let send = Send { target, client_msg_id: id, client_seq, kind: MessageKind::TEXT, body };
        send.encode(&mut self.encoder, 7, &mut bytes);
        self.write(&bytes);
    }

    /// The next frame: header and payload; an error at the end of the stream or the deadline.
    pub fn read(&mut self) -> io::Result<(Header, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        self.socket.read_exact(&mut head)?;
        let header = Header::decode(&head).expect("a header of the server");
        let mut payload = vec![0; header.payload_bytes as usize];
        self.socket.read_exact(&mut payload)?;
        Frame::decode(header.kind, &payload).expect("a payload of the server");
        Ok((header, payload))
    }

    /// Reads until a frame of this kind.
    pub fn read_kind(&mut self, kind: FrameKind) -> (Header, Vec<u8>) {
        loop {
            let (header, payload) = self.read().unwrap_or_else(|e| panic!("no {kind:?}: {e}"));
            if header.kind == kind {
                return (header, payload);
            }
        }
    }
}
