//! NATS: each client publishes to the subject it is subscribed to.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};

use super::{MESSAGE_BYTES, topic};

/// What is left of 64 bytes after the head of a PUB and the line ends.
const PAYLOAD_BYTES: usize = 42;

/// CONNECT and SUB; a PING of ours tells when the server has done both.
pub(super) fn login(stream: &mut TcpStream, index: usize) -> Result<()> {
    let hello = format!("CONNECT {{\"verbose\":false}}\r\nSUB {} 1\r\nPING\r\n", topic(index));
    stream.write_all(hello.as_bytes())?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .with_context(|| String::from_utf8_lossy(&seen).into_owned())?;
        seen.push(byte[0]);
    }
    Ok(())
}

/// PUB.
pub(super) fn message(index: usize) -> Vec<u8> {
    let mut message = format!("PUB {} {PAYLOAD_BYTES}\r\n", topic(index)).into_bytes();
    message.resize(MESSAGE_BYTES - 2, b'm');
    message.extend_from_slice(b"\r\n");
    message
}
