//! Incremental decoder: received bytes in, frames out, sliced in place.
//!
//! A frame that lies within one receive buffer is returned as a slice of that buffer. Only the piece of a frame that was cut
//! at the end of a buffer is copied, and that memory is given back as soon as the frame is complete: a decoder at rest
//! between frames owns no heap memory.
//!
//! Memory grows with bytes received, never with a declared length.

use crate::close_reason::CloseReason;
use crate::frame::Header;
use crate::limits::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_CONNECT, HEADER_BYTES};

/// A frame whose header is checked and whose payload is complete but not yet verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// The header.
    pub header: Header,
    /// `header.payload_bytes` bytes.
    pub payload: &'a [u8],
}

/// The incomplete frame at the end of what was received so far.
#[derive(Debug, Default)]
pub struct Decoder {
    #[expect(clippy::box_collection, reason = "8 bytes in each idle connection instead of 24")]
    partial: Option<Box<Vec<u8>>>,
    connected: bool,
}

impl Decoder {
    /// A decoder with the limit that holds before CONNECT.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on frames up to [`FRAME_BYTES_MAX`] are accepted.
    pub fn set_connected(&mut self) {
        self.connected = true;
    }

    /// Bytes held of an incomplete frame.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |p| p.len())
    }

    fn frame_bytes_max(&self) -> usize {
        if self.connected { FRAME_BYTES_MAX } else { FRAME_BYTES_MAX_BEFORE_CONNECT }
    }

    /// Takes the next frame off `input`, which is advanced past what was consumed.
    ///
    /// Call until it returns `Ok(None)`: then `input` is empty and the rest is kept. `scratch` receives the bytes of a frame
    /// that spans several inputs; reuse it. After an error the connection has to be closed: the decoder must not be used again.
    ///
    /// The limit is looked at for each frame, so a CONNECT handled between two calls counts for the next frame.
    pub fn next<'a, 'i: 'a>(
        &mut self,
        input: &mut &'i [u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<Option<RawFrame<'a>>, CloseReason> {
        if self.partial.is_some() {
            return self.next_from_partial(input, scratch);
        }
        let whole: &'i [u8] = input;
        let Some((head, rest)) = whole.split_first_chunk::<HEADER_BYTES>() else {
            self.keep(input);
            return Ok(None);
        };
        let header = self.check_header(head)?;
        let payload_bytes = header.payload_bytes as usize;
        if rest.len() < payload_bytes {
            self.keep(input);
            return Ok(None);
        }
        let (payload, rest) = rest.split_at(payload_bytes);
        *input = rest;
        Ok(Some(RawFrame { header, payload }))
    }

    fn next_from_partial<'a>(
        &mut self,
        input: &mut &[u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<Option<RawFrame<'a>>, CloseReason> {
        let frame_bytes_max = self.frame_bytes_max();
        let Some(partial) = self.partial.as_mut() else { return Ok(None) };
        if !take_until(partial, HEADER_BYTES, input) {
            return Ok(None);
        }
        let header = header_of(partial, frame_bytes_max)?;
        if !take_until(partial, HEADER_BYTES + header.payload_bytes as usize, input) {
            return Ok(None);
        }
        if let Some(partial) = self.partial.take() {
            *scratch = *partial;
        }
        Ok(Some(RawFrame { header, payload: &scratch[HEADER_BYTES..] }))
    }

    fn check_header(&self, head: &[u8; HEADER_BYTES]) -> Result<Header, CloseReason> {
        limited(Header::decode(head)?, self.frame_bytes_max())
    }

    fn keep(&mut self, input: &mut &[u8]) {
        if !input.is_empty() {
            self.partial = Some(Box::new(input.to_vec()));
            *input = &[];
        }
    }
}

fn header_of(partial: &[u8], frame_bytes_max: usize) -> Result<Header, CloseReason> {
    let head = partial.first_chunk::<HEADER_BYTES>().ok_or(CloseReason::BadHeader)?;
    limited(Header::decode(head)?, frame_bytes_max)
}

fn limited(header: Header, frame_bytes_max: usize) -> Result<Header, CloseReason> {
    if header.payload_bytes as usize > frame_bytes_max - HEADER_BYTES {
        return Err(CloseReason::FrameTooLarge);
    }
    Ok(header)
}

/// Moves bytes from `input` until `partial` has `bytes`; whether it has.
fn take_until(partial: &mut Vec<u8>, bytes: usize, input: &mut &[u8]) -> bool {
    let missing = bytes.saturating_sub(partial.len()).min(input.len());
    let (head, rest) = input.split_at(missing);
    partial.extend_from_slice(head);
    *input = rest;
    partial.len() >= bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameKind;
    use proptest::prelude::*;

    type Owned = (Header, Vec<u8>);

    fn decode_all(decoder: &mut Decoder, mut input: &[u8]) -> Result<Vec<Owned>, CloseReason> {
        let mut frames = Vec::new();
        loop {
            let mut scratch = Vec::new();
            match decoder.next(&mut input, &mut scratch)? {
                Some(frame) => frames.push((frame.header, frame.payload.to_vec())),
                None => {
                    assert!(input.is_empty());
                    return Ok(frames);
                }
            }
        }
    }

    fn stream(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<Owned>) {
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for (i, payload) in payloads.iter().enumerate() {
            let header = Header::new(FrameKind::Ping, i as u16, 0, payload.len());
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(payload);
            frames.push((header, payload.clone()));
        }
        (bytes, frames)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let (bytes, expected) = stream(&payloads);
            let mut cuts: Vec<_> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut decoder = Decoder::new();
            let mut frames = Vec::new();
            for pair in cuts.windows(2) {
                frames.extend(decode_all(&mut decoder, &bytes[pair[0]..pair[1]]).unwrap());
                prop_assert!(decoder.buffered_bytes() <= FRAME_BYTES_MAX_BEFORE_CONNECT);
            }
            prop_assert_eq!(frames, expected);
            prop_assert_eq!(decoder.buffered_bytes(), 0);
        }
    }

    #[track_caller]
    fn check_limit(connected: bool, payload_bytes: usize, expected: Result<(), CloseReason>) {
        let header = Header::new(FrameKind::Ping, 0, 0, payload_bytes).encode();
        for split in [0, 1, HEADER_BYTES - 1] {
            let mut decoder = Decoder::new();
            if connected {
                decoder.set_connected();
            }
            decode_all(&mut decoder, &header[..split]).unwrap();
            assert_eq!(decode_all(&mut decoder, &header[split..]).map(|_| ()), expected);
        }
    }

    #[test]
    fn limits_hold_before_anything_is_buffered() {
        check_limit(false, FRAME_BYTES_MAX_BEFORE_CONNECT - HEADER_BYTES, Ok(()));
        check_limit(
            false,
            FRAME_BYTES_MAX_BEFORE_CONNECT - HEADER_BYTES + 1,
            Err(CloseReason::FrameTooLarge),
        );
        check_limit(true, FRAME_BYTES_MAX - HEADER_BYTES, Ok(()));
        check_limit(true, FRAME_BYTES_MAX - HEADER_BYTES + 1, Err(CloseReason::FrameTooLarge));
        check_limit(true, u32::MAX as usize, Err(CloseReason::FrameTooLarge));
    }

    #[test]
    fn at_rest_it_owns_nothing() {
        assert_eq!(size_of::<Decoder>(), 16);
        let mut decoder = Decoder::new();
        let bytes = Header::new(FrameKind::Ping, 0, 0, 0).encode();
        decode_all(&mut decoder, &bytes[..3]).unwrap();
        assert_eq!(decoder.buffered_bytes(), 3);
        decode_all(&mut decoder, &bytes[3..]).unwrap();
        assert!(decoder.partial.is_none());
    }
}
