//! Why a connection ended. The number is on the wire in CLOSE, the name in logs and metrics; both are stable.

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $reconnect:expr;)*) => {
        /// Why the server (or client) closes a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum CloseReason { $($(#[$doc])* $name = $code,)* }

        impl CloseReason {
            /// Every reason, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason of a wire code; `None` for a code this version does not know.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// The stable name used in logs, metrics and documentation.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// What the client does next.
            pub fn reconnect(self) -> Reconnect {
                match self { $(Self::$name => $reconnect,)* }
            }
        }
    };
}

/// What a client does after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// Reconnect with backoff and jitter.
    Backoff,
    /// Get a new access token first.
    NewToken,
    /// Do not reconnect by itself: something must be changed by a person or a program.
    Never,
}
use Reconnect::{Backoff, Never, NewToken};

close_reasons! {
    /// The peer asked for it, or the program ended.
    Normal = 1, "normal", Never;
    /// The server is draining; sent after GO_AWAY.
    Draining = 2, "draining", Backoff;
    /// No complete CONNECT within the connect timeout.
    ConnectTimeout = 3, "connect_timeout", Backoff;
    /// Nothing received for the idle timeout.
    IdleTimeout = 4, "idle_timeout", Backoff;
    /// The outbox moved no byte for the slow consumer timeout.
    SlowConsumer = 5, "slow_consumer", Backoff;
    /// The first frame was not CONNECT.
    ConnectExpected = 10, "connect_expected", Never;
    /// A second CONNECT, or a frame that only servers send.
    UnexpectedFrame = 11, "unexpected_frame", Never;
    /// The header's kind is unknown.
    UnknownKind = 12, "unknown_kind", Never;
    /// Flags or reserved header fields are not zero.
    BadHeader = 13, "bad_header", Never;
    /// The header declares more than the limit of this state.
    FrameTooLarge = 14, "frame_too_large", Never;
    /// The payload fails verification, or a field is missing or invalid.
    BadPayload = 15, "bad_payload", Never;
    /// CONNECT names another protocol version.
    UnsupportedVersion = 16, "unsupported_version", Never;
    /// The token is malformed, of an unknown key, of another algorithm, or its signature is wrong.
    BadToken = 20, "bad_token", NewToken;
    /// The token has expired: at CONNECT, or while connected.
    TokenExpired = 21, "token_expired", NewToken;
    /// Another device of the same class logged in.
    KickedByOtherDevice = 22, "kicked_by_other_device", Never;
    /// A newer connection of the same device took over.
    Superseded = 23, "superseded", Never;
    /// The key of the token is not known here, and logic, which would know, has not answered yet.
    KeysUnavailable = 24, "keys_unavailable", Backoff;
    /// Too many connections from this address.
    TooManyConnectionsPerIp = 30, "too_many_connections_per_ip", Backoff;
    /// Too many sessions of this user.
    TooManySessionsPerUser = 31, "too_many_sessions_per_user", Backoff;
    /// Too many frames or bytes in a time, after warnings by `busy`.
    RateLimited = 32, "rate_limited", Backoff;
    /// More sends in flight than CONNECTED allowed.
    TooManyInflight = 33, "too_many_inflight", Backoff;
    /// The gateway has no room for another connection.
    GatewayFull = 34, "gateway_full", Backoff;
    /// The peer closed or reset the socket; never on the wire.
    PeerClosed = 40, "peer_closed", Backoff;
    /// The kernel reported an error on the socket; never on the wire.
    SocketError = 41, "socket_error", Backoff;
    /// Another gateway owns this user; sent after REDIRECT.
    Redirected = 42, "redirected", Backoff;
    /// An internal error; the log has the details.
    Internal = 50, "internal", Backoff;
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_round_trip() {
        let mut names: Vec<_> = CloseReason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(*reason as u16), Some(*reason));
        }
        assert_eq!(CloseReason::from_code(0), None);
    }
}
