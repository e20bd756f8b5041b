//! What a shard gives to a send: bytes that stay where they are until the kernel took them.
//!
//! A gather list is how fan-out stays zero-copy: each delivery is 16 bytes of its receiver's own header and
//! a reference-counted slice that all receivers share. The driver points the kernel at both; it never
//! copies a shared slice.

use bytes::Bytes;

/// Size of the inline header of a [`GatherEntry`]: the frame header of the wire format.
pub const HEADER_BYTES: usize = 16;

/// One frame of a gather list.
#[derive(Clone, Debug)]
pub struct GatherEntry {
    /// Bytes of this receiver alone.
    pub header: [u8; HEADER_BYTES],
    /// Bytes shared with other receivers; may be empty.
    pub payload: Bytes,
}

/// The bytes of one send.
#[derive(Debug)]
pub enum SendBuffer {
    /// One buffer of this connection, e.g. a few small answers in a row; sent with SEND.
    Owned(Vec<u8>),
    /// One slice shared with others, e.g. a constant refusal; sent with SEND.
    Shared(Bytes),
    /// Headers and slices, sent with SENDMSG in this order.
    Gather(Vec<GatherEntry>),
}

impl SendBuffer {
    /// Number of bytes on the wire.
    pub fn size_bytes(&self) -> usize {
        match self {
            SendBuffer::Owned(bytes) => bytes.len(),
            SendBuffer::Shared(bytes) => bytes.len(),
            SendBuffer::Gather(entries) => {
                entries.iter().map(|entry| HEADER_BYTES + entry.payload.len()).sum()
            }
        }
    }

    /// Calls `piece` with each contiguous run of bytes after the first `skip`, in order, until it returns
    /// false. Empty runs are left out.
    pub(crate) fn for_each_piece(&self, skip: usize, mut piece: impl FnMut(&[u8]) -> bool) {
        let mut skip = skip;
        let mut visit = |bytes: &[u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            skipped == bytes.len() || piece(&bytes[skipped..])
        };
        match self {
            SendBuffer::Owned(bytes) => _ = visit(bytes),
            SendBuffer::Shared(bytes) => _ = visit(bytes),
            SendBuffer::Gather(entries) => {
                for entry in entries {
                    if !visit(&entry.header) || !visit(&entry.payload) {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SendBuffer {
        SendBuffer::Gather(vec![
            GatherEntry { header: [1; 16], payload: Bytes::from_static(b"hello") },
            GatherEntry { header: [2; 16], payload: Bytes::new() },
            GatherEntry { header: [3; 16], payload: Bytes::from_static(b"x") },
        ])
    }

    fn flat(buffer: &SendBuffer, skip: usize) -> Vec<u8> {
        let mut all = Vec::new();
        buffer.for_each_piece(skip, |piece| {
            assert!(!piece.is_empty());
            all.extend_from_slice(piece);
            true
        });
        all
    }

    #[test]
    fn any_skip_gives_the_rest() {
        let whole = flat(&sample(), 0);
        assert_eq!(whole.len(), sample().size_bytes());
        for skip in 0..=whole.len() {
            assert_eq!(flat(&sample(), skip), whole[skip..], "skip {skip}");
        }
    }

    #[test]
    fn a_visitor_can_stop() {
        let mut pieces = 0;
        sample().for_each_piece(0, |_| {
            pieces += 1;
            pieces < 2
        });
        assert_eq!(pieces, 2);
    }
}
