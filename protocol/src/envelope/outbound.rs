//! Towards a gateway: frames for one connection or for all sessions of some users, and orders to close.

use bytes::Bytes;

use super::{
    ConnectionAddress, ENVELOPE_VERSION, EnvelopeError, Reader, begin_record, end_record,
    next_record, put_address, put_text,
};
use crate::close_reason::CloseReason;
use crate::frame::FrameKind;

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

#[cfg(test)]
mod tests {
    use super::super::tests::address;
    use super::*;

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
}
