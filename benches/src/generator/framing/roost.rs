//! Roost's own frames: CONNECT with a token of the development key, then PING answered by PONG.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use roost_protocol::frame::connect::{Connect, Credential, DeviceClass};
use roost_protocol::frame::ping::Ping;
use roost_protocol::{Decoder, DeviceId, Encoder, Frame, dev, limits};
use serde::Serialize;

use super::MESSAGE_BYTES;

/// Longer than any measurement.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

#[derive(Serialize)]
struct Claims<'a> {
    app: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
}

/// A token of user `user` of the development app, signed with its HS256 key.
fn mint(user: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let claims = Claims {
        app: dev::APP,
        sub: user,
        iat: now.as_secs(),
        exp: (now + TOKEN_LIFETIME).as_secs(),
    };
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some(dev::KEY_ID.to_owned());
    let key = jsonwebtoken::EncodingKey::from_secret(dev::SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}

/// CONNECT, and CONNECTED.
pub(super) fn login(stream: &mut TcpStream, index: usize) -> Result<()> {
    let user = format!("bench{index}");
    let token = mint(&user)?;
    let connect = Connect {
        protocol_version: limits::PROTOCOL_VERSION,
        credential: Credential::Token(&token),
        device_id: DeviceId::new("bench")?,
        device_class: DeviceClass::Other,
        client_name: "roost-bench",
        last_session_epoch: 0,
        inbox_seq: 0,
    };
    let mut bytes = Vec::new();
    connect.encode(&mut Encoder::new(), &mut bytes);
    stream.write_all(&bytes)?;

    let mut decoder = Decoder::new();
    decoder.set_connected();
    let (mut buffer, mut scratch) = ([0; 1024], Vec::new());
    loop {
        let length = stream.read(&mut buffer).context("waiting for CONNECTED")?;
        if length == 0 {
            bail!("the gateway closed the connection without an answer to CONNECT");
        }
        let mut input = &buffer[..length];
        let next = decoder.next(&mut input, &mut scratch);
        if let Some(raw) = next.map_err(|reason| anyhow!("not a frame: {reason:?}"))? {
            let frame = Frame::decode(raw.header.kind, raw.payload)?;
            ensure!(matches!(frame, Frame::Connected(_)), "CONNECT was answered by {frame:?}");
            return Ok(());
        }
    }
}

/// PING, padded.
pub(super) fn message() -> Vec<u8> {
    let ping = Ping { client_time_us: 1, inbox_seq: 0 };
    let padded = |padding_bytes| {
        let mut message = Vec::new();
        ping.encode_padded(&mut Encoder::new(), padding_bytes, &mut message);
        message
    };
    (0..MESSAGE_BYTES)
        .map(padded)
        .find(|message| message.len() == MESSAGE_BYTES)
        .unwrap_or_default()
}
