//! Envelopes: frames between the tiers, in batches. One batch is one body on the bus.
//!
//! Batches are read in place: every payload is a reference-counted slice of the body. All numbers are little-endian; text is a
//! `u8` length and bytes. Both tiers are of one version; the first byte of a body refuses another.
//!
//! ```text
//! inbound body  (gateway -> logic, one partition):  version u8 | origin text | record*
//! outbound body (logic -> one gateway):             version u8 | record*
//! record: record_bytes u32 (of what follows) | fields | payload (to the end of the record)
//! ```

mod inbound;
mod outbound;

use crate::frame::FrameKind;

pub use inbound::{Forwarded, Inbound, InboundBatch, InboundBatchBuilder, InboundKind, record};
pub use outbound::{FanOutTarget, Outbound, OutboundBatch, OutboundBatchBuilder};

/// First byte of every body.
pub const ENVELOPE_VERSION: u8 = 1;

/// Where a connection lives within its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ConnectionAddress {
    /// Index of the shard.
    pub shard: u16,
    /// Slot in the shard's table.
    pub index: u32,
    /// Generation of the slot: an answer to a connection that is gone is dropped.
    pub generation: u32,
}

/// A body that does not parse: from another version, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Another version wrote it.
    #[error("envelope version {0}, expected {ENVELOPE_VERSION}: upgrade the other tier")]
    Version(u8),
    /// Shorter than it says, or an unknown code.
    #[error("damaged envelope")]
    Damaged,
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).expect("ids are at most 64 bytes");
    body.push(length);
    body.extend_from_slice(text.as_bytes());
}

fn put_address(body: &mut Vec<u8>, address: ConnectionAddress) {
    body.extend_from_slice(&address.shard.to_le_bytes());
    body.extend_from_slice(&address.index.to_le_bytes());
    body.extend_from_slice(&address.generation.to_le_bytes());
}

fn begin_record(body: &mut Vec<u8>) -> usize {
    body.extend_from_slice(&[0; 4]);
    body.len()
}

fn end_record(body: &mut [u8], start: usize) {
    let bytes = u32::try_from(body.len() - start).expect("a record is one frame");
    body[start - 4..start].copy_from_slice(&bytes.to_le_bytes());
}

/// The record at `at` and the position after it; `None` at the end. After an error the position is the end.
fn next_record(body: &[u8], at: usize) -> Option<(Result<&[u8], EnvelopeError>, usize)> {
    let rest = body.get(at..).filter(|rest| !rest.is_empty())?;
    let mut reader = Reader(rest);
    let record = reader.u32().and_then(|bytes| reader.bytes(bytes as usize));
    let next = record.map_or(body.len(), |r| at + 4 + r.len());
    Some((record, next))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn begin(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut reader = Self(body);
        match reader.u8()? {
            ENVELOPE_VERSION => Ok(reader),
            other => Err(EnvelopeError::Version(other)),
        }
    }
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], EnvelopeError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(EnvelopeError::Damaged)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(EnvelopeError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, EnvelopeError> {
        self.array::<1>().map(|[b]| b)
    }
    fn u16(&mut self) -> Result<u16, EnvelopeError> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, EnvelopeError> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, EnvelopeError> {
        self.array().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Result<&'a str, EnvelopeError> {
        let length = self.u8()?;
        let bytes = self.bytes(usize::from(length))?;
        std::str::from_utf8(bytes).map_err(|_| EnvelopeError::Damaged)
    }
    fn frame_kind(&mut self) -> Result<FrameKind, EnvelopeError> {
        FrameKind::from_code(self.u8()?).ok_or(EnvelopeError::Damaged)
    }
    fn address(&mut self) -> Result<ConnectionAddress, EnvelopeError> {
        Ok(ConnectionAddress { shard: self.u16()?, index: self.u32()?, generation: self.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// An address for the tests of both directions.
    pub(super) fn address() -> ConnectionAddress {
        ConnectionAddress { shard: 3, index: 70_000, generation: 9 }
    }

    #[test]
    fn another_version_and_nothing_at_all_are_refused() {
        let body = Bytes::from_static(&[9]);
        assert_eq!(InboundBatch::parse(body).map(|_| ()), Err(EnvelopeError::Version(9)));
        assert_eq!(OutboundBatch::parse(Bytes::new()).map(|_| ()), Err(EnvelopeError::Damaged));
    }
}
