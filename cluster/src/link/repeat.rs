//! Repeats frames of docs/protocol.md on their way: at once, or after a few later ones. What is first sent keeps its order.

use roost_protocol::FrameKind;
use roost_protocol::limits::HEADER_BYTES;

/// A copy follows at most so many frames later.
const LATER_MAX: usize = 8;

/// Which frames may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToGateway,
    ToClient,
}

impl Direction {
    /// CONNECT and CLOSE come once in a connection. A client that knows the protocol takes any frame of a server's twice only if that says so.
    fn may_repeat(self, kind: u8) -> bool {
        let is = |kinds: &[FrameKind]| kinds.iter().any(|k| *k as u8 == kind);
        match self {
            Self::ToGateway => !is(&[FrameKind::Connect, FrameKind::Close]),
            Self::ToClient => is(&[FrameKind::Deliver, FrameKind::SendAck]),
        }
    }
}

/// Divides a stream into frames, and puts copies in between.
#[derive(Debug)]
pub(super) struct Repeater {
    direction: Direction,
    /// The begin of a frame.
    partial: Vec<u8>,
    /// Copies, and how many frames come before each.
    later: Vec<(usize, Vec<u8>)>,
    random: fastrand::Rng,
}

impl Repeater {
    pub(super) fn new(direction: Direction) -> Self {
        let (partial, later, random) = (Vec::new(), Vec::new(), fastrand::Rng::new());
        Self { direction, partial, later, random }
    }

    /// Appends to `out` what leaves now; how many frames of it are copies.
    pub(super) fn pass(&mut self, bytes: &[u8], repeats: bool, out: &mut Vec<u8>) -> u64 {
        self.partial.extend_from_slice(bytes);
        let (mut taken, mut copies) = (0, 0);
        while let Some(size) = frame_bytes(&self.partial[taken..]) {
            let frame = &self.partial[taken..taken + size];
            out.extend_from_slice(frame);
            for (before, copy) in &mut self.later {
                *before -= 1;
                if *before == 0 {
                    out.extend_from_slice(copy);
                    copies += 1;
                }
            }
            self.later.retain(|(before, _)| *before > 0);
            if repeats && self.direction.may_repeat(frame[KIND_AT]) {
                match self.random.usize(0..=LATER_MAX) {
                    0 => {
                        out.extend_from_slice(frame);
                        copies += 1;
                    }
                    before => self.later.push((before, frame.to_vec())),
                }
            }
            taken += size;
        }
        self.partial.drain(..taken);
        copies
    }
}

/// Of the header: `payload_bytes` u32, `kind` u8.
const KIND_AT: usize = 4;

/// The size of the frame at the begin, when all of it is there.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let size = HEADER_BYTES + u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() >= size).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use roost_protocol::Header;

    fn frame(kind: FrameKind, number: u16) -> Vec<u8> {
        let payload = number.to_le_bytes();
        let mut frame = Header::new(kind, number, 0, payload.len()).encode().to_vec();
        frame.extend_from_slice(&payload);
        frame
    }

    /// Numbers of frames, in the order in which they leave a repeater that gets them in pieces.
    fn passed(kind: FrameKind, direction: Direction, repeats: bool) -> (Vec<u16>, u64) {
        let sent: Vec<u8> = (0..100).flat_map(|number| frame(kind, number)).collect();
        let mut repeater = Repeater::new(direction);
        let (mut out, mut copies) = (Vec::new(), 0);
        for piece in sent.chunks(7) {
            copies += repeater.pass(piece, repeats, &mut out);
        }
        let frames = out.chunks(HEADER_BYTES + 2);
        (
            frames.map(|f| u16::from_le_bytes([f[HEADER_BYTES], f[HEADER_BYTES + 1]])).collect(),
            copies,
        )
    }

    #[track_caller]
    fn check(kind: FrameKind, direction: Direction, repeats: bool, is_repeated: bool) {
        let (numbers, copies) = passed(kind, direction, repeats);
        let mut first = Vec::new();
        numbers.iter().for_each(|n| {
            if !first.contains(n) {
                first.push(*n)
            }
        });
        assert_eq!(first, (0..100).collect::<Vec<_>>(), "in order when first sent");
        assert_eq!(numbers.len() as u64, 100 + copies);
        // The last copies wait for frames to follow.
        assert_eq!(copies > 80, is_repeated, "{copies} copies");
    }

    #[test]
    fn frames_are_repeated_and_keep_their_order() {
        check(FrameKind::Send, Direction::ToGateway, true, true);
        check(FrameKind::Deliver, Direction::ToClient, true, true);
        check(FrameKind::Send, Direction::ToGateway, false, false);
        check(FrameKind::Connect, Direction::ToGateway, true, false);
        check(FrameKind::Response, Direction::ToClient, true, false);
    }
}
