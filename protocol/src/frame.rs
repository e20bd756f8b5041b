//! The wire unit: a fixed header of 16 bytes and a payload. One file per family of frames, all in the same shape:
//! a struct of checked, borrowed fields with `encode` and `decode`.
//!
//! ```text
//!  0               4      5       6             8                               16
//! +---------------+------+-------+-------------+-------------------------------+----------
//! | payload_bytes | kind | flags | correlation | inbox_seq                     | payload
//! | u32 LE        | u8   | u8 =0 | u16 LE      | u64 LE                        | FlatBuffer
//! +---------------+------+-------+-------------+-------------------------------+----------
//! ```
//! `inbox_seq` is the place in the *receiver's* inbox, in DELIVER and SEND_ACK, and zero elsewhere. It stands in the header so
//! that the payload of one message is the same bytes for every receiver.

pub mod ack;
pub mod close;
pub mod connect;
pub mod deliver;
pub mod event;
pub mod ping;
pub mod receipt;
pub mod redirect;
pub mod request;
pub mod send;

use crate::close_reason::CloseReason;
use crate::generated::roost::wire;
use crate::id::ClientMsgId;
use crate::limits::{HEADER_BYTES, NUMBER_MAX};
use crate::payload::{Encoder, Numbers, PayloadError};

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum FrameKind { $($(#[$doc])* $name = $code,)* }

        impl FrameKind {
            /// Every kind, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind of a wire code.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// The name used in logs, metrics and documentation.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}
frame_kinds! {
    /// Client: who I am. First frame of a connection.
    Connect = 1, "CONNECT";
    /// Server: accepted, with the limits of this session.
    Connected = 2, "CONNECTED";
    /// Client: heartbeat, may carry the inbox cursor.
    Ping = 3, "PING";
    /// Server: answer to a PING.
    Pong = 4, "PONG";
    /// Client: a message.
    Send = 5, "SEND";
    /// Server: the message is committed.
    SendAck = 6, "SEND_ACK";
    /// Server: the message was not accepted.
    SendRefused = 7, "SEND_REFUSED";
    /// Server: a message for this user.
    Deliver = 8, "DELIVER";
    /// Client: watermarks of what this device stored.
    DeliverAck = 9, "DELIVER_ACK";
    /// Both: delivered and read watermarks.
    Receipt = 10, "RECEIPT";
    /// Server: digest or hint; never needs an answer.
    Event = 11, "EVENT";
    /// Client: a question.
    Request = 12, "REQUEST";
    /// Server: its answer, with the same correlation.
    Response = 13, "RESPONSE";
    /// Server: another gateway owns this user.
    Redirect = 14, "REDIRECT";
    /// Server: about to drain, reconnect after a delay.
    GoAway = 15, "GO_AWAY";
    /// Both: the connection ends now, and why.
    Close = 16, "CLOSE";
}

/// Who may send a kind of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentBy {
    /// Clients only.
    Client,
    /// Servers only.
    Server,
    /// Both.
    Both,
}

impl FrameKind {
    /// Who may send it.
    pub fn sent_by(self) -> SentBy {
        match self {
            Self::Connect | Self::Ping | Self::Send | Self::DeliverAck | Self::Request => {
                SentBy::Client
            }
            Self::Connected
            | Self::Pong
            | Self::SendAck
            | Self::SendRefused
            | Self::Deliver
            | Self::Event
            | Self::Response
            | Self::Redirect
            | Self::GoAway => SentBy::Server,
            Self::Receipt | Self::Close => SentBy::Both,
        }
    }

    /// Whether the header may carry a place in the receiver's inbox.
    pub fn carries_inbox_seq(self) -> bool {
        matches!(self, Self::Deliver | Self::SendAck)
    }
}

/// The fixed header of a frame. See the [module](self) for its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload, without the header.
    pub payload_bytes: u32,
    /// What the frame is.
    pub kind: FrameKind,
    /// Chosen by the asker, echoed by the answer; 0 when nothing is asked.
    pub correlation: u16,
    /// Place in the receiver's inbox; see the module.
    pub inbox_seq: u64,
}

impl Header {
    /// A header for `payload_bytes` bytes of payload.
    ///
    /// # Panics
    /// When the payload has 4 GiB or more; frames are limited to far less before this.
    pub fn new(kind: FrameKind, correlation: u16, inbox_seq: u64, payload_bytes: usize) -> Self {
        let payload_bytes = u32::try_from(payload_bytes).expect("payloads are limited to a frame");
        Self { payload_bytes, kind, correlation, inbox_seq }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.correlation.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.inbox_seq.to_le_bytes());
        bytes
    }

    /// Reads a header; refuses unknown kinds and flags, and an `inbox_seq` where none belongs.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, CloseReason> {
        let payload_bytes = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let kind = FrameKind::from_code(bytes[4]).ok_or(CloseReason::UnknownKind)?;
        let correlation = u16::from_le_bytes([bytes[6], bytes[7]]);
        let mut seq = [0; 8];
        seq.copy_from_slice(&bytes[8..16]);
        let inbox_seq = u64::from_le_bytes(seq);
        let is_misplaced = inbox_seq != 0 && !kind.carries_inbox_seq();
        if bytes[5] != 0 || is_misplaced || inbox_seq > NUMBER_MAX {
            return Err(CloseReason::BadHeader);
        }
        Ok(Self { payload_bytes, kind, correlation, inbox_seq })
    }
}

/// A verified frame, borrowing its bytes.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the frame of its name")]
pub enum Frame<'a> {
    Connect(connect::Connect<'a>),
    Connected(connect::Connected<'a>),
    Ping(ping::Ping),
    Pong(ping::Pong),
    Send(send::Send<'a>),
    SendAck(ack::SendAck<'a>),
    SendRefused(ack::SendRefused<'a>),
    Deliver(deliver::Message<'a>),
    DeliverAck(deliver::DeliverAck<'a>),
    Receipt(receipt::Receipt<'a>),
    Event(event::Event<'a>),
    Request(request::Request<'a>),
    Response(request::Response<'a>),
    Redirect(redirect::Redirect<'a>),
    GoAway(redirect::GoAway),
    Close(close::Close<'a>),
}

impl<'a> Frame<'a> {
    /// Its kind.
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Connect(_) => FrameKind::Connect,
            Self::Connected(_) => FrameKind::Connected,
            Self::Ping(_) => FrameKind::Ping,
            Self::Pong(_) => FrameKind::Pong,
            Self::Send(_) => FrameKind::Send,
            Self::SendAck(_) => FrameKind::SendAck,
            Self::SendRefused(_) => FrameKind::SendRefused,
            Self::Deliver(_) => FrameKind::Deliver,
            Self::DeliverAck(_) => FrameKind::DeliverAck,
            Self::Receipt(_) => FrameKind::Receipt,
            Self::Event(_) => FrameKind::Event,
            Self::Request(_) => FrameKind::Request,
            Self::Response(_) => FrameKind::Response,
            Self::Redirect(_) => FrameKind::Redirect,
            Self::GoAway(_) => FrameKind::GoAway,
            Self::Close(_) => FrameKind::Close,
        }
    }

    /// Appends the frame with this header to `out`. For tools and tests: each tier encodes the frames it knows by their own types.
    pub fn encode(
        &self,
        encoder: &mut Encoder,
        correlation: u16,
        inbox_seq: u64,
        out: &mut Vec<u8>,
    ) {
        let payload = match self {
            Self::SendAck(frame) => frame.payload(encoder),
            Self::SendRefused(frame) => frame.payload(encoder),
            Self::Deliver(frame) => frame.payload(encoder),
            Self::Receipt(frame) => frame.payload(encoder),
            Self::Event(frame) => frame.payload(encoder),
            Self::Response(frame) => frame.payload(encoder),
            Self::Connect(frame) => return whole(out, correlation, |o| frame.encode(encoder, o)),
            Self::Connected(frame) => return whole(out, correlation, |o| frame.encode(encoder, o)),
            Self::Ping(frame) => return whole(out, correlation, |o| frame.encode(encoder, o)),
            Self::Pong(frame) => return frame.encode(encoder, correlation, out),
            Self::Send(frame) => return frame.encode(encoder, correlation, out),
            Self::DeliverAck(frame) => {
                return whole(out, correlation, |o| frame.encode(encoder, o));
            }
            Self::Request(frame) => return frame.encode(encoder, correlation, out),
            Self::Redirect(frame) => return whole(out, correlation, |o| frame.encode(encoder, o)),
            Self::GoAway(frame) => return whole(out, correlation, |o| frame.encode(encoder, o)),
            Self::Close(frame) => return whole(out, correlation, |o| frame.encode(encoder, o)),
        };
        let header = Header::new(self.kind(), correlation, inbox_seq, payload.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
    }

    /// Verifies and reads the payload of a frame of `kind`.
    pub fn decode(kind: FrameKind, payload: &'a [u8]) -> Result<Self, PayloadError> {
        Ok(match kind {
            FrameKind::Connect => Self::Connect(connect::Connect::decode(payload)?),
            FrameKind::Connected => Self::Connected(connect::Connected::decode(payload)?),
            FrameKind::Ping => Self::Ping(ping::Ping::decode(payload)?),
            FrameKind::Pong => Self::Pong(ping::Pong::decode(payload)?),
            FrameKind::Send => Self::Send(send::Send::decode(payload)?),
            FrameKind::SendAck => Self::SendAck(ack::SendAck::decode(payload)?),
            FrameKind::SendRefused => Self::SendRefused(ack::SendRefused::decode(payload)?),
            FrameKind::Deliver => Self::Deliver(deliver::Message::decode(payload)?),
            FrameKind::DeliverAck => Self::DeliverAck(deliver::DeliverAck::decode(payload)?),
            FrameKind::Receipt => Self::Receipt(receipt::Receipt::decode(payload)?),
            FrameKind::Event => Self::Event(event::Event::decode(payload)?),
            FrameKind::Request => Self::Request(request::Request::decode(payload)?),
            FrameKind::Response => Self::Response(request::Response::decode(payload)?),
            FrameKind::Redirect => Self::Redirect(redirect::Redirect::decode(payload)?),
            FrameKind::GoAway => Self::GoAway(redirect::GoAway::decode(payload)?),
            FrameKind::Close => Self::Close(close::Close::decode(payload)?),
        })
    }
}

/// The message that a SEND, its answer or a delivery is about, without verifying the rest: for who passes such frames on and wants to know
/// whether this one is to be looked at. `None` for other kinds, and for a payload without one.
pub fn message_of(kind: FrameKind, payload: &[u8]) -> Option<ClientMsgId> {
    let field = match kind {
        FrameKind::Send => wire::Send::VT_CLIENT_MSG_ID,
        FrameKind::SendAck => wire::SendAck::VT_CLIENT_MSG_ID,
        FrameKind::SendRefused => wire::SendRefused::VT_CLIENT_MSG_ID,
        FrameKind::Deliver => wire::Message::VT_CLIENT_MSG_ID,
        FrameKind::Connect
        | FrameKind::Connected
        | FrameKind::Ping
        | FrameKind::Pong
        | FrameKind::DeliverAck
        | FrameKind::Receipt
        | FrameKind::Event
        | FrameKind::Request
        | FrameKind::Response
        | FrameKind::Redirect
        | FrameKind::GoAway
        | FrameKind::Close => return None,
    };
    Numbers::root(payload)?.bytes(field).map(ClientMsgId)
}

/// Encodes a frame whose own encoder knows no correlation, and writes that into its header.
fn whole(out: &mut Vec<u8>, correlation: u16, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    encode(out);
    out[start + 6..start + 8].copy_from_slice(&correlation.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: (usize, u8), expected: Result<(), CloseReason>) {
        let mut bytes = Header::new(FrameKind::Ping, 7, 0, 48).encode();
        bytes[change.0] = change.1;
        assert_eq!(Header::decode(&bytes).map(|_| ()), expected);
    }

    #[test]
    fn header_refuses_what_it_does_not_know() {
        check((4, FrameKind::Ping as u8), Ok(()));
        check((4, 0), Err(CloseReason::UnknownKind));
        check((4, 200), Err(CloseReason::UnknownKind));
        check((5, 1), Err(CloseReason::BadHeader));
        check((15, 1), Err(CloseReason::BadHeader));
    }

    #[test]
    fn header_round_trip() {
        let header = Header::new(FrameKind::Deliver, 0xABCD, NUMBER_MAX, 70_000);
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn the_message_of_a_frame_is_read_without_the_rest() {
        use crate::id::{ConversationId, UserId};
        use crate::refusal::RefusalCode;
        let client_msg_id = ClientMsgId([0xab; 16]);
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let conversation = ConversationId::single(alice, bob);
        let ack =
            ack::SendAck { client_msg_id, conversation, seq: 1, message_id: 2, server_time_ms: 3 };
        let refused = ack::SendRefused {
            client_msg_id,
            code: RefusalCode::Busy,
            retry_after_ms: 0,
            expected_client_seq: 0,
            detail: "",
        };
        let kind = send::MessageKind::TEXT;
        let send = send::Send {
            target: send::Target::User(bob),
            client_msg_id,
            client_seq: 1,
            kind,
            body: b"x",
        };
        let message = deliver::Message {
            conversation,
            seq: 1,
            message_id: 2,
            sender: alice,
            client_msg_id,
            kind,
            body: b"x",
            server_time_ms: 3,
        };
        let mut encoder = Encoder::new();
        let mut frame = Vec::new();
        send.encode(&mut encoder, 0, &mut frame);
        let frames = [
            (FrameKind::Send, frame[HEADER_BYTES..].to_vec()),
            (FrameKind::SendAck, ack.payload(&mut encoder).to_vec()),
            (FrameKind::SendRefused, refused.payload(&mut encoder).to_vec()),
            (FrameKind::Deliver, message.payload(&mut encoder).to_vec()),
        ];
        for (kind, payload) in &frames {
            assert_eq!(message_of(*kind, payload), Some(client_msg_id), "{kind:?}");
            // Wherever it is cut: an id or none, never a panic.
            for end in 0..payload.len() {
                let found = message_of(*kind, &payload[..end]);
                assert!(found.is_none_or(|id| id == client_msg_id), "{kind:?} cut at {end}");
            }
        }
        assert_eq!(message_of(FrameKind::Ping, &frames[0].1), None);
        assert_eq!(message_of(FrameKind::SendAck, &[0xff; 64]), None);
    }

    #[test]
    fn kinds_round_trip() {
        for kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_code(*kind as u8), Some(*kind));
        }
    }
}
