//! PONG without building a FlatBuffer each time: the frame is encoded once and its three varying fields are written over.
//!
//! The heartbeat is the most frequent frame of a gateway full of idle clients, and has a fixed layout.

use roost_protocol::Encoder;
use roost_protocol::frame::ping::Pong;

/// Where the correlation lies in a frame header.
const CORRELATION_AT: usize = 6;

/// An encoded PONG.
#[derive(Debug)]
pub(crate) struct PongTemplate {
    frame: Vec<u8>,
    client_time_at: usize,
    server_time_at: usize,
}

impl PongTemplate {
    pub(crate) fn new(encoder: &mut Encoder) -> Self {
        // Any two values whose bytes occur once; zero would be left out of the buffer.
        let marks =
            Pong { client_time_us: 0x1122_3344_5566_7788, server_time_ms: 0x99aa_bbcc_ddee_ff01 };
        let mut frame = Vec::new();
        marks.encode(encoder, 0, &mut frame);
        let position = |mark: u64| {
            let bytes = mark.to_le_bytes();
            frame.windows(8).position(|window| window == bytes).expect("a PONG carries both times")
        };
        let client_time_at = position(marks.client_time_us);
        let server_time_at = position(marks.server_time_ms);
        Self { frame, client_time_at, server_time_at }
    }

    /// Appends the frame to `out`.
    pub(crate) fn write(&self, pong: &Pong, correlation: u16, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        put(frame, CORRELATION_AT, correlation.to_le_bytes());
        put(frame, self.client_time_at, pong.client_time_us.to_le_bytes());
        put(frame, self.server_time_at, pong.server_time_ms.to_le_bytes());
    }
}

fn put<const N: usize>(frame: &mut [u8], at: usize, bytes: [u8; N]) {
    frame[at..at + N].copy_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use roost_protocol::{Decoder, Frame};

    use super::*;

    #[test]
    fn says_what_the_encoder_says() {
        let template = PongTemplate::new(&mut Encoder::new());
        for (client_time_us, server_time_ms, correlation) in
            [(0, 0, 0), (1, u64::MAX, 7), (u64::MAX, 1_700_000_000_000, u16::MAX)]
        {
            let pong = Pong { client_time_us, server_time_ms };
            let mut out = vec![0xff; 3];
            template.write(&pong, correlation, &mut out);
            let (mut scratch, mut input) = (Vec::new(), &out[3..]);
            let raw = Decoder::new().next(&mut input, &mut scratch).unwrap().unwrap();
            assert_eq!(raw.header.correlation, correlation);
            assert_eq!(Frame::decode(raw.header.kind, raw.payload), Ok(Frame::Pong(pong)));
            assert!(input.is_empty());
        }
    }
}
