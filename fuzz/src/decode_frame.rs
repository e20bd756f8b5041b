//! Bytes of a peer, and bodies of the other tier, through every decoder of the protocol crate.
//!
//! Promises: no panic; any split of the bytes gives the same frames and the same error; what decodes encodes to something that
//! decodes to the same.

use bytes::Bytes;
use roost_protocol::envelope::{InboundBatch, OutboundBatch};
use roost_protocol::limits::FRAME_BYTES_MAX;
use roost_protocol::{CloseReason, Decoder, Encoder, Frame, FrameKind, Header};

/// The first byte says what the others are, the second is a parameter of it.
pub fn decode_frame(input: &[u8]) {
    let [mode, parameter, bytes @ ..] = input else { return };
    match mode % 4 {
        0 => stream(bytes, false, usize::from(*parameter)),
        1 => stream(bytes, true, usize::from(*parameter)),
        2 => {
            let kinds = FrameKind::ALL;
            payload(kinds[usize::from(*parameter) % kinds.len()], bytes);
        }
        _ => envelopes(bytes),
    }
}

/// As a connection receives it: at once, and in pieces of `piece` bytes.
fn stream(bytes: &[u8], connected: bool, piece: usize) {
    let whole = frames([bytes].into_iter(), connected);
    let pieces = frames(bytes.chunks(piece.max(1)), connected);
    assert_eq!(whole, pieces, "the split matters");
    for (header, bytes) in whole.0 {
        payload(header.kind, &bytes);
    }
}

type Frames = (Vec<(Header, Vec<u8>)>, Option<CloseReason>);

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>, connected: bool) -> Frames {
    let mut decoder = Decoder::new();
    if connected {
        decoder.set_connected();
    }
    let (mut frames, mut scratch) = (Vec::new(), Vec::new());
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece, &mut scratch) {
                Ok(Some(frame)) => frames.push((frame.header, frame.payload.to_vec())),
                Ok(None) => break,
                Err(reason) => return (frames, Some(reason)),
            }
        }
        assert!(piece.is_empty(), "bytes are left over");
        assert!(decoder.buffered_bytes() < FRAME_BYTES_MAX);
    }
    (frames, None)
}

fn payload(kind: FrameKind, bytes: &[u8]) {
    let Ok(frame) = Frame::decode(kind, bytes) else { return };
    assert_eq!(frame.kind(), kind);
    let mut encoded = Vec::new();
    frame.encode(&mut Encoder::new(), 7, 0, &mut encoded);
    let (head, payload) = encoded.split_first_chunk().expect("a header");
    let header = Header::decode(head).expect("our own header");
    assert_eq!((header.kind, header.correlation), (kind, 7));
    assert_eq!(header.payload_bytes as usize, payload.len());
    let again = Frame::decode(kind, payload).expect("our own payload");
    assert_eq!(again, frame);
}

fn envelopes(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Ok(batch) = InboundBatch::parse(body.clone()) {
        assert!(batch.origin().len() < 256);
        assert!(batch.iter().count() <= bytes.len(), "each record takes its length");
    }
    if let Ok(batch) = OutboundBatch::parse(body) {
        assert!(batch.iter().count() <= bytes.len(), "each record takes its length");
    }
}
