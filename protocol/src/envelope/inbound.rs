//! Towards logic: what happened at a gateway, one record each.

use bytes::Bytes;

use super::{
    ConnectionAddress, ENVELOPE_VERSION, EnvelopeError, Reader, begin_record, end_record,
    next_record, put_address, put_text,
};
use crate::frame::deliver::DeliverAck;
use crate::frame::receipt::Receipt;
use crate::frame::request::Request;
use crate::frame::send::Send;
use crate::frame::{Frame, FrameKind};

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

/// What clients ask of logic: the frames that a gateway forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded<'a> {
    /// A message.
    Send(Send<'a>),
    /// What a device stored.
    DeliverAck(DeliverAck<'a>),
    /// A watermark.
    Receipt(Receipt<'a>),
    /// A question.
    Request(Request<'a>),
}

impl<'a> Forwarded<'a> {
    /// Reads the payload of an [`InboundKind::Frame`]; `None` when it is unreadable or of a kind that no gateway forwards.
    pub fn decode(kind: FrameKind, payload: &'a [u8]) -> Option<Self> {
        match Frame::decode(kind, payload).ok()? {
            Frame::Send(send) => Some(Self::Send(send)),
            Frame::DeliverAck(ack) => Some(Self::DeliverAck(ack)),
            Frame::Receipt(receipt) => Some(Self::Receipt(receipt)),
            Frame::Request(request) => Some(Self::Request(request)),
            Frame::Connect(_)
            | Frame::Connected(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::SendAck(_)
            | Frame::SendRefused(_)
            | Frame::Deliver(_)
            | Frame::Event(_)
            | Frame::Response(_)
            | Frame::Redirect(_)
            | Frame::GoAway(_)
            | Frame::Close(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::address;
    use super::*;
    use crate::Encoder;

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
    fn only_what_clients_ask_is_forwarded() {
        let mut encoder = Encoder::new();
        let ack = DeliverAck { inbox_seq: 5, watermarks: Vec::new() };
        let mut frame = Vec::new();
        ack.encode(&mut encoder, &mut frame);
        let payload = &frame[crate::limits::HEADER_BYTES..];
        let read = Forwarded::decode(FrameKind::DeliverAck, payload);
        assert_eq!(read, Some(Forwarded::DeliverAck(ack)));
        assert_eq!(Forwarded::decode(FrameKind::Ping, &[]), None);
        assert_eq!(Forwarded::decode(FrameKind::Send, b"nonsense"), None);
    }

    #[test]
    fn damaged_lengths_end_with_an_error() {
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
    }
}
