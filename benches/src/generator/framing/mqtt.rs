//! MQTT 3.1.1: each client publishes to the topic it is subscribed to, quality of service 0.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Result, ensure};

use super::{MESSAGE_BYTES, topic};

/// CONNECT and SUBSCRIBE.
pub(super) fn login(stream: &mut TcpStream, index: usize) -> Result<()> {
    let topic = topic(index);
    let length = topic.len() as u8;
    // CONNECT: protocol MQTT 4, clean session, no keep-alive, the topic as client id.
    let mut bytes = vec![0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, length];
    bytes.extend_from_slice(topic.as_bytes());
    // SUBSCRIBE, packet 1, quality of service 0.
    bytes.extend_from_slice(&[0x82, 5 + length, 0, 1, 0, length]);
    bytes.extend_from_slice(topic.as_bytes());
    bytes.push(0);
    stream.write_all(&bytes)?;
    let mut answer = [0; 9];
    stream.read_exact(&mut answer)?;
    let expected = [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0];
    ensure!(answer == expected, "MQTT login: got {answer:x?}, expected CONNACK and SUBACK");
    Ok(())
}

/// PUBLISH; the server's to the subscriber is the same bytes.
pub(super) fn message(index: usize) -> Vec<u8> {
    let topic = topic(index);
    let mut message = vec![0x30, (MESSAGE_BYTES - 2) as u8, 0, topic.len() as u8];
    message.extend_from_slice(topic.as_bytes());
    message.resize(MESSAGE_BYTES, b'm');
    message
}
