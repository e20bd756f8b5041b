//! What the core tells: events for the application, actions for whoever owns the socket.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use roost_protocol::frame::receipt::ReceiptKind;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::{ClientMsgId, CloseReason, RefusalCode};

/// For the application, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session began.
    Connected {
        /// Its epoch.
        session_epoch: u64,
        /// Name of the gateway.
        gateway: Arc<str>,
    },
    /// A connection, or an attempt at one, ended.
    Disconnected {
        /// Why.
        reason: Disconnect,
        /// What the core does about it.
        next: NextStep,
    },
    /// A message of ours is committed.
    Acked(Acked),
    /// A message of ours was definitely refused and left the send queue.
    Refused {
        /// Which.
        client_msg_id: ClientMsgId,
        /// Where it was to go.
        conversation: Arc<str>,
        /// Why.
        code: RefusalCode,
        /// For people.
        detail: Box<str>,
    },
    /// A message to show: each once, each conversation strictly in order. Own messages are among them, from this device too.
    Message(Message),
    /// A watermark of another member rose.
    Receipt(Receipt),
    /// The inbox is complete up to here: after each connect, and after a pull.
    Synced {
        /// Everything up to here was received.
        inbox_seq: u64,
    },
    /// Answer to [`super::Core::request_history`].
    History {
        /// What `request_history` returned.
        request: u16,
        /// In the order asked for. Not shown as [`Event::Message`].
        messages: Vec<Message>,
        /// Newest seq of the conversation.
        latest_seq: u64,
        /// More beyond this page.
        more: bool,
    },
    /// A request was definitely refused.
    RequestRefused {
        /// What the request call returned.
        request: u16,
        /// Why.
        code: RefusalCode,
        /// For people.
        detail: Box<str>,
    },
}

/// The acknowledgement of a message: the same for every resend, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// Which.
    pub client_msg_id: ClientMsgId,
    /// Where it stands.
    pub conversation: Arc<str>,
    /// Its place there.
    pub seq: u64,
    /// Snowflake.
    pub message_id: u64,
    /// When it was accepted, ms since 1970.
    pub server_time_ms: u64,
    /// An answer to a resend, after the first acknowledgement.
    pub repeated: bool,
}

/// A committed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it stands.
    pub conversation: Arc<str>,
    /// Its place there: 1, 2, 3 ...
    pub seq: u64,
    /// Its place in the user's inbox; 0 when not known.
    pub inbox_seq: u64,
    /// Snowflake.
    pub message_id: u64,
    /// Who sent it.
    pub sender: Arc<str>,
    /// Its identity at the sender.
    pub client_msg_id: ClientMsgId,
    /// What the body is.
    pub kind: MessageKind,
    /// The body.
    pub body: Bytes,
    /// When it was accepted, ms since 1970.
    pub server_time_ms: u64,
    /// Sent by this device and learned from its acknowledgement.
    pub from_this_device: bool,
}

/// A watermark of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where.
    pub conversation: Arc<str>,
    /// Whose.
    pub user: Arc<str>,
    /// Which watermark.
    pub kind: ReceiptKind,
    /// Everything up to here.
    pub seq: u64,
    /// Delivered to the inbox while no device was online.
    pub by_server: bool,
    /// When, ms since 1970; 0 when not known.
    pub server_time_ms: u64,
}

/// Why a connection ended, seen from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnect {
    /// The server sent CLOSE.
    ByServer {
        /// Its reason.
        reason: CloseReason,
        /// For people.
        detail: Box<str>,
    },
    /// The socket ended without CLOSE.
    Lost,
    /// No socket could be opened.
    ConnectFailed,
    /// The socket was not open, or CONNECTED not received, in time.
    ConnectTimeout,
    /// No byte arrived although answers were due.
    Silent,
    /// The server sent something that is no valid frame here.
    Protocol(CloseReason),
    /// The server asked to continue at another gateway.
    Redirected(Arc<str>),
    /// The server asked to go away, or said that this session is stale.
    SessionOver,
    /// The token names another user than [`super::config::Config::user_id`].
    OtherUser(Box<str>),
    /// The application closed.
    Closed,
}

impl std::fmt::Display for Disconnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByServer { reason, detail } if detail.is_empty() => {
                write!(f, "the server closed the connection: {reason}")
            }
            Self::ByServer { reason, detail } => {
                write!(f, "the server closed the connection: {reason} ({detail})")
            }
            Self::Lost => f.write_str("the connection was lost"),
            Self::ConnectFailed => f.write_str("the server could not be reached"),
            Self::ConnectTimeout => f.write_str("the server did not answer in time"),
            Self::Silent => f.write_str("the server has fallen silent"),
            Self::Protocol(reason) => write!(f, "the server sent an invalid frame: {reason}"),
            Self::Redirected(address) => write!(f, "redirected to {address}"),
            Self::SessionOver => f.write_str("the server ended this session"),
            Self::OtherUser(user) => write!(f, "the token names another user: {user}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// What follows a disconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The core connects again at this time.
    Reconnect(Instant),
    /// The core waits for [`super::Core::provide_token`].
    NeedToken,
    /// The core does nothing more by itself; [`super::Core::start`] begins anew.
    Stopped,
}

/// For whoever owns the socket, to be done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a socket to this `host:port`; then call `handle_connected` or `handle_disconnected`.
    Connect {
        /// Where.
        address: Arc<str>,
    },
    /// Write what `poll_transmit` still gives, then close the socket. Nothing has to be reported.
    Disconnect,
    /// Get an access token and call `provide_token`.
    NeedToken,
}
