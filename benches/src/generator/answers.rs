//! Counts complete answers in received bytes, however they are split.

use anyhow::{Result, bail};
use roost_protocol::{Decoder, Frame, FrameKind};

/// What was received of the next answer.
#[derive(Debug)]
pub(super) enum Answers {
    /// All of one size.
    Sized { answer_bytes: usize, partial_bytes: usize },
    /// Lines that begin with `m`, as the payload of a NATS message does, among others: the server
    /// sends a PING of its own some seconds after a login.
    PayloadLines { begins_with: Option<u8> },
    /// PONG frames among others.
    Pongs(Decoder),
}

impl Answers {
    pub(super) fn of_size(answer_bytes: usize) -> Self {
        Self::Sized { answer_bytes, partial_bytes: 0 }
    }

    pub(super) fn payload_lines() -> Self {
        Self::PayloadLines { begins_with: None }
    }

    pub(super) fn pongs() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_connected();
        Self::Pongs(decoder)
    }

    /// Answers completed by these bytes. A CLOSE of the gateway's is an error that names its reason.
    pub(super) fn handle_received(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Sized { answer_bytes, partial_bytes } => {
                let received = *partial_bytes + bytes.len();
                *partial_bytes = received % *answer_bytes;
                Ok(received / *answer_bytes)
            }
            Self::PayloadLines { begins_with } => Ok(count_payload_lines(begins_with, bytes)),
            Self::Pongs(decoder) => count_pongs(decoder, bytes),
        }
    }
}

fn count_payload_lines(begins_with: &mut Option<u8>, bytes: &[u8]) -> usize {
    let mut count = 0;
    for &byte in bytes {
        let first = *begins_with.get_or_insert(byte);
        if byte == b'\n' {
            count += usize::from(first == b'm');
            *begins_with = None;
        }
    }
    count
}

fn count_pongs(decoder: &mut Decoder, mut bytes: &[u8]) -> Result<usize> {
    let mut scratch = Vec::new();
    let mut count = 0;
    loop {
        let raw = match decoder.next(&mut bytes, &mut scratch) {
            Ok(Some(raw)) => raw,
            Ok(None) => return Ok(count),
            Err(reason) => bail!("the gateway sent what is not a frame: {reason:?}"),
        };
        if raw.header.kind == FrameKind::Pong {
            count += 1;
        } else if let Frame::Close(close) = Frame::decode(raw.header.kind, raw.payload)? {
            bail!("the gateway closed the connection: {:?} {}", close.reason, close.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::Encoder;
    use roost_protocol::frame::ping::Pong;

    use super::*;

    /// Passes `bytes` on in pieces of each size from one to all, and expects as many answers.
    fn check(new: fn() -> Answers, bytes: &[u8], expected: usize) {
        for size in 1..=bytes.len() {
            let mut answers = new();
            let pieces = bytes.chunks(size);
            let counts: Result<Vec<usize>> =
                pieces.map(|piece| answers.handle_received(piece)).collect();
            assert_eq!(counts.unwrap().iter().sum::<usize>(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn answers_are_counted_at_any_split() {
        check(|| Answers::of_size(64), &[0; 200], 3);
        let lines = b"MSG m 1 2\r\nmm\r\nPING\r\nMSG m 1 2\r\nmm\r\n";
        check(Answers::payload_lines, lines, 2);
        let mut pongs = Vec::new();
        for time in 0..3 {
            let pong = Pong { client_time_us: time, server_time_ms: 1 };
            pong.encode(&mut Encoder::new(), 0, &mut pongs);
        }
        check(Answers::pongs, &pongs, 3);
    }
}
