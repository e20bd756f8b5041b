//! Why one operation was refused, while the connection lives on. Numbers and names are stable; HTTP uses the names.

/// Codes below may be accepted when tried again, now and in every later version; from here on a refusal is definite.
pub const DEFINITE_CODES_FROM: u16 = 20;

macro_rules! refusal_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $retry:expr;)*) => {
        /// Why an operation was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum RefusalCode { $($(#[$doc])* $name = $code,)* }

        impl RefusalCode {
            /// Every code, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The refusal of a wire code; `None` for a code this version does not know.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// The refusal of a code on the wire. One that this version does not know keeps its meaning for a client: below
            /// [`DEFINITE_CODES_FROM`] it is read as [`Self::Busy`], else as [`Self::Invalid`].
            pub fn from_wire(code: u16) -> Self {
                let unknown = if code < DEFINITE_CODES_FROM { Self::Busy } else { Self::Invalid };
                Self::from_code(code).unwrap_or(unknown)
            }
            /// The stable name used in logs, metrics, HTTP and documentation.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// Whether the same operation may be accepted later. If not, the refusal is definite.
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }
        }
    };
}

refusal_codes! {
    /// A queue is full: try again after `retry_after_ms`.
    Busy = 1, "busy", true;
    /// `client_seq` is not the next: go back to `expected_client_seq`.
    OutOfOrder = 2, "out_of_order", true;
    /// A newer session of this device exists: this one is about to be closed.
    StaleSession = 3, "stale_session", true;
    /// The durable store is away: try again after `retry_after_ms`.
    Unavailable = 4, "unavailable", true;
    /// Too many operations in a time: try again after `retry_after_ms`.
    RateLimited = 5, "rate_limited", true;
    /// The receiver does not exist.
    UnknownUser = 20, "unknown_user", false;
    /// The conversation does not exist, or is not the user's: the two look the same.
    UnknownConversation = 21, "unknown_conversation", false;
    /// The client_msg_id was used before with another payload.
    IdReuse = 22, "id_reuse", false;
    /// The body is longer than allowed.
    BodyTooLarge = 23, "body_too_large", false;
    /// A field is missing or invalid.
    Invalid = 24, "invalid", false;
    /// This message made a handler fail; it is quarantined for the operator.
    Quarantined = 25, "quarantined", false;
    /// No or no valid credential.
    Unauthorized = 30, "unauthorized", false;
    /// Exists already, with other content.
    Conflict = 31, "conflict", false;
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in RefusalCode::ALL {
            assert_eq!(RefusalCode::from_code(*code as u16), Some(*code));
        }
        assert_eq!(RefusalCode::from_code(0), None);
    }

    #[test]
    fn unknown_codes_keep_whether_to_retry() {
        for code in RefusalCode::ALL {
            assert_eq!(code.is_retryable(), (*code as u16) < DEFINITE_CODES_FROM, "{code}");
            assert_eq!(RefusalCode::from_wire(*code as u16), *code);
        }
        assert_eq!(RefusalCode::from_wire(DEFINITE_CODES_FROM - 1), RefusalCode::Busy);
        assert_eq!(RefusalCode::from_wire(u16::MAX), RefusalCode::Invalid);
    }
}
