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

use bytes::Bytes;

use crate::close_reason::CloseReason;
use crate::frame::FrameKind;

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

/// What happened at a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum InboundKind {
    /// A frame of a client, of the kind given beside; the payload was verified by the gateway.
    Frame = 1,
    /// A session began. The payload is empty.
    SessionOpened = 2,
    /// A session ended. The payload is empty.
    SessionClosed = 3,
    /// The client's cursor is `inbox_seq`: answer with a digest if the inbox is further.
    DigestCheck = 4,
}

/// One envelope towards logic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// What happened.
    pub kind: InboundKind,
    /// Kind of the frame, for [`InboundKind::Frame`]; `Ping` otherwise.
    pub frame_kind: FrameKind,
    /// Of the frame; the answer carries it back.
    pub correlation: u16,
    /// Where the answer goes.
    pub connection: ConnectionAddress,
    /// Epoch of the session.
    pub session_epoch: u64,
    /// Microseconds since 1970 at which the gateway read the frame.
    pub received_us: u64,
    /// The client's inbox cursor, for [`InboundKind::DigestCheck`] and [`InboundKind::SessionOpened`].
    pub inbox_seq: u64,
    /// Tenant.
    pub app: &'a str,
    /// The session's user: authenticated.
    pub user: &'a str,
    /// The session's device.
    pub device: &'a str,
}

/// Appends one envelope to `out`, as [`InboundBatchBuilder::push_record`] takes it.
pub fn record(out: &mut Vec<u8>, inbound: &Inbound<'_>, payload: &[u8]) {
    let start = begin_record(out);
    out.extend_from_slice(&[inbound.kind as u8, inbound.frame_kind as u8]);
    out.extend_from_slice(&inbound.correlation.to_le_bytes());
    put_address(out, inbound.connection);
    for number in [inbound.session_epoch, inbound.received_us, inbound.inbox_seq] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for text in [inbound.app, inbound.user, inbound.device] {
        put_text(out, text);
    }
    out.extend_from_slice(payload);
    end_record(out, start);
}

/// Builds an inbound body.
#[derive(Debug)]
pub struct InboundBatchBuilder {
    body: Vec<u8>,
    head_bytes: usize,
    count: usize,
}

impl InboundBatchBuilder {
    /// An empty batch from the gateway (or API node) `origin`.
    pub fn new(origin: &str) -> Self {
        let mut body = vec![ENVELOPE_VERSION];
        put_text(&mut body, origin);
        let head_bytes = body.len();
        Self { body, head_bytes, count: 0 }
    }

    /// Adds an envelope.
    pub fn push(&mut self, inbound: &Inbound<'_>, payload: &[u8]) {
        record(&mut self.body, inbound, payload);
        self.count += 1;
    }

    /// Adds an envelope that [`record`] made, so that it is encoded where it arises and batched elsewhere.
    pub fn push_record(&mut self, record: &[u8]) {
        self.body.extend_from_slice(record);
        self.count += 1;
    }

    /// Envelopes so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The body; the builder is empty again, for the same origin.
    pub fn take(&mut self) -> Bytes {
        let next = Vec::from(&self.body[..self.head_bytes]);
        self.count = 0;
        Bytes::from(std::mem::replace(&mut self.body, next))
    }
}

/// A received inbound body.
#[derive(Debug, Clone)]
pub struct InboundBatch {
    body: Bytes,
    origin_bytes: usize,
}

impl InboundBatch {
    /// Checks version and head. Records are checked while iterating.
    pub fn parse(body: Bytes) -> Result<Self, EnvelopeError> {
        let mut reader = Reader::begin(&body)?;
        let origin_bytes = reader.text()?.len();
        Ok(Self { body, origin_bytes })
    }

    /// The gateway (or API node) that answers go to.
    pub fn origin(&self) -> &str {
        std::str::from_utf8(&self.body[2..2 + self.origin_bytes]).unwrap_or("")
    }

    /// Envelopes and their payloads, in order. One that does not parse is an error of its own; damaged lengths end it.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Inbound<'_>, Bytes), EnvelopeError>> {
        let mut at = 2 + self.origin_bytes;
        std::iter::from_fn(move || {
            let (record, next) = next_record(&self.body, at)?;
            at = next;
            Some(record.and_then(|record| self.read(record)))
        })
    }

    fn read<'a>(&'a self, record: &'a [u8]) -> Result<(Inbound<'a>, Bytes), EnvelopeError> {
        let mut r = Reader(record);
        let kind = match r.u8()? {
            1 => InboundKind::Frame,
            2 => InboundKind::SessionOpened,
            3 => InboundKind::SessionClosed,
            4 => InboundKind::DigestCheck,
            _ => return Err(EnvelopeError::Damaged),
        };
        let inbound = Inbound {
            kind,
            frame_kind: r.frame_kind()?,
            correlation: r.u16()?,
            connection: r.address()?,
            session_epoch: r.u64()?,
            received_us: r.u64()?,
            inbox_seq: r.u64()?,
            app: r.text()?,
            user: r.text()?,
            device: r.text()?,
        };
        Ok((inbound, self.body.slice_ref(r.0)))
    }
}

/// One user that a fan-out goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FanOutTarget<'a> {
    /// The user; all its sessions on this gateway get the frame.
    pub user: &'a str,
    /// Place in this user's inbox, for the header; 0 for frames other than DELIVER.
    pub inbox_seq: u64,
}

/// One envelope towards a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound<'a> {
    /// A frame for one connection: an acknowledgement, a refusal, a response.
    ToConnection {
        /// Which.
        connection: ConnectionAddress,
        /// For the header.
        kind: FrameKind,
        /// For the header.
        correlation: u16,
        /// For the header.
        inbox_seq: u64,
        /// The frame's payload.
        payload: Bytes,
    },
    /// A frame for every session of the targets.
    ToUsers {
        /// Tenant of all targets.
        app: &'a str,
        /// For the header.
        kind: FrameKind,
        /// A connection that already knows: the sender's own.
        except: Option<ConnectionAddress>,
        /// The users.
        targets: Vec<FanOutTarget<'a>>,
        /// The frame's payload, the same for all.
        payload: Bytes,
    },
    /// Close a connection.
    Close {
        /// Which.
        connection: ConnectionAddress,
        /// Why.
        reason: CloseReason,
    },
}

const TO_CONNECTION: u8 = 1;
const TO_USERS: u8 = 2;
const CLOSE: u8 = 3;

/// Builds an outbound body.
#[derive(Debug)]
pub struct OutboundBatchBuilder {
    body: Vec<u8>,
    count: usize,
}

impl Default for OutboundBatchBuilder {
    fn default() -> Self {
        Self { body: vec![ENVELOPE_VERSION], count: 0 }
    }
}

impl OutboundBatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// A frame for one connection.
    pub fn to_connection(
        &mut self,
        connection: ConnectionAddress,
        kind: FrameKind,
        correlation: u16,
        inbox_seq: u64,
        payload: &[u8],
    ) {
        let start = begin_record(&mut self.body);
        self.body.extend_from_slice(&[TO_CONNECTION, kind as u8]);
        put_address(&mut self.body, connection);
        self.body.extend_from_slice(&correlation.to_le_bytes());
        self.body.extend_from_slice(&inbox_seq.to_le_bytes());
        self.body.extend_from_slice(payload);
        self.finish(start);
    }

    /// A frame for all sessions of `targets`, except one connection.
    pub fn to_users(
        &mut self,
        app: &str,
        kind: FrameKind,
        except: Option<ConnectionAddress>,
        targets: &[FanOutTarget<'_>],
        payload: &[u8],
    ) {
        let start = begin_record(&mut self.body);
        self.body.extend_from_slice(&[TO_USERS, kind as u8, u8::from(except.is_some())]);
        put_address(&mut self.body, except.unwrap_or_default());
        put_text(&mut self.body, app);
        let count = u32::try_from(targets.len()).expect("fewer targets than users");
        self.body.extend_from_slice(&count.to_le_bytes());
        for target in targets {
            self.body.extend_from_slice(&target.inbox_seq.to_le_bytes());
            put_text(&mut self.body, target.user);
        }
        self.body.extend_from_slice(payload);
        self.finish(start);
    }

    /// Close a connection.
    pub fn close(&mut self, connection: ConnectionAddress, reason: CloseReason) {
        let start = begin_record(&mut self.body);
        self.body.push(CLOSE);
        put_address(&mut self.body, connection);
        self.body.extend_from_slice(&(reason as u16).to_le_bytes());
        self.finish(start);
    }

    fn finish(&mut self, start: usize) {
        end_record(&mut self.body, start);
        self.count += 1;
    }

    /// Envelopes so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The body; the builder is empty again.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(self).body.into()
    }
}

/// A received outbound body.
#[derive(Debug, Clone)]
pub struct OutboundBatch {
    body: Bytes,
}

impl OutboundBatch {
    /// Checks the version. Records are checked while iterating.
    pub fn parse(body: Bytes) -> Result<Self, EnvelopeError> {
        Reader::begin(&body)?;
        Ok(Self { body })
    }

    /// Envelopes, in order. One that does not parse is an error of its own; damaged lengths end it.
    pub fn iter(&self) -> impl Iterator<Item = Result<Outbound<'_>, EnvelopeError>> {
        let mut at = 1;
        std::iter::from_fn(move || {
            let (record, next) = next_record(&self.body, at)?;
            at = next;
            Some(record.and_then(|record| self.read(record)))
        })
    }

    fn read<'a>(&'a self, record: &'a [u8]) -> Result<Outbound<'a>, EnvelopeError> {
        let mut r = Reader(record);
        match r.u8()? {
            TO_CONNECTION => Ok(Outbound::ToConnection {
                kind: r.frame_kind()?,
                connection: r.address()?,
                correlation: r.u16()?,
                inbox_seq: r.u64()?,
                payload: self.body.slice_ref(r.0),
            }),
            TO_USERS => {
                let kind = r.frame_kind()?;
                let has_except = r.u8()? != 0;
                let address = r.address()?;
                let app = r.text()?;
                let count = r.u32()?;
                // Each target takes at least nine bytes of the record: the count cannot make us allocate more.
                let mut targets = Vec::with_capacity((count as usize).min(r.0.len() / 9 + 1));
                for _ in 0..count {
                    let inbox_seq = r.u64()?;
                    targets.push(FanOutTarget { user: r.text()?, inbox_seq });
                }
                let except = has_except.then_some(address);
                let payload = self.body.slice_ref(r.0);
                Ok(Outbound::ToUsers { app, kind, except, targets, payload })
            }
            CLOSE => {
                let connection = r.address()?;
                let reason = CloseReason::from_code(r.u16()?).ok_or(EnvelopeError::Damaged)?;
                Ok(Outbound::Close { connection, reason })
            }
            _ => Err(EnvelopeError::Damaged),
        }
    }
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
    use super::*;

    fn address() -> ConnectionAddress {
        ConnectionAddress { shard: 3, index: 70_000, generation: 9 }
    }

    fn inbound() -> Inbound<'static> {
        Inbound {
            kind: InboundKind::Frame,
            frame_kind: FrameKind::Send,
            correlation: 4,
            connection: address(),
            session_epoch: 5,
            received_us: 6,
            inbox_seq: 7,
            app: "demo",
            user: "alice",
            device: "d1",
        }
    }

    #[test]
    fn inbound_round_trip_in_place() {
        let mut builder = InboundBatchBuilder::new("gw-1");
        builder.push(&inbound(), b"payload");
        builder.push(&Inbound { kind: InboundKind::SessionClosed, ..inbound() }, b"");
        assert_eq!(builder.count(), 2);
        let body = builder.take();
        assert!(builder.is_empty());
        let batch = InboundBatch::parse(body.clone()).unwrap();
        assert_eq!(batch.origin(), "gw-1");
        let records: Vec<_> = batch.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(records[0], (inbound(), Bytes::from_static(b"payload")));
        assert_eq!(records[1].0.kind, InboundKind::SessionClosed);
        assert!(body.as_ptr_range().contains(&records[0].1.as_ptr()), "the payload is not copied");
        builder.push(&inbound(), b"x");
        assert_eq!(InboundBatch::parse(builder.take()).unwrap().iter().count(), 1);
    }

    #[test]
    fn outbound_round_trip() {
        let mut builder = OutboundBatchBuilder::new();
        builder.to_connection(address(), FrameKind::SendAck, 1, 2, b"ack");
        let targets = [
            FanOutTarget { user: "bob", inbox_seq: 10 },
            FanOutTarget { user: "carol", inbox_seq: 11 },
        ];
        builder.to_users("demo", FrameKind::Deliver, Some(address()), &targets, b"message");
        builder.close(address(), CloseReason::KickedByOtherDevice);
        let batch = OutboundBatch::parse(builder.take()).unwrap();
        let records: Vec<_> = batch.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(
            records[1],
            Outbound::ToUsers {
                app: "demo",
                kind: FrameKind::Deliver,
                except: Some(address()),
                targets: targets.to_vec(),
                payload: Bytes::from_static(b"message"),
            }
        );
        assert_eq!(
            records[2],
            Outbound::Close { connection: address(), reason: CloseReason::KickedByOtherDevice }
        );
    }

    #[test]
    fn damaged_bodies_end_with_an_error() {
        let mut builder = InboundBatchBuilder::new("gw-1");
        builder.push(&inbound(), b"payload");
        let body = builder.take();
        for cut in 7..body.len() {
            let batch = InboundBatch::parse(body.slice(..cut)).unwrap();
            let records: Vec<_> = batch.iter().take(10).collect();
            assert!(
                records.len() <= 1 && records.iter().all(|r| r.is_err() || cut >= body.len() - 7)
            );
        }
        assert_eq!(
            InboundBatch::parse(Bytes::from_static(&[9])).map(|_| ()),
            Err(EnvelopeError::Version(9))
        );
        assert_eq!(OutboundBatch::parse(Bytes::new()).map(|_| ()), Err(EnvelopeError::Damaged));
    }
}
