//! The promises, by the numbers of the documentation.

/// A promise of the system, as numbered in its documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Check {
    /// No acknowledged message is lost.
    C1,
    /// Nothing is seen that was not sent, and with the same content.
    C2,
    /// Once per `client_msg_id` and per device.
    C3,
    /// All agree what stands at (conversation, seq).
    C4,
    /// The database's sequence is dense.
    C5,
    /// Displayed strictly one after the other.
    C6,
    /// Messages of one device keep their order.
    C7,
    /// What was acknowledged before another was sent stands before it.
    C8,
    /// Watermarks never go back and never pass the maximum.
    C9,
    /// Recalled content is gone everywhere.
    C10,
    /// Repeated acknowledgements are identical.
    C11,
    /// Nobody sees outside the membership interval.
    C12,
    /// After healing everything resolves, converges and drains.
    C13,
}

impl Check {
    /// All checks, in order.
    pub const ALL: [Self; 13] = [
        Self::C1,
        Self::C2,
        Self::C3,
        Self::C4,
        Self::C5,
        Self::C6,
        Self::C7,
        Self::C8,
        Self::C9,
        Self::C10,
        Self::C11,
        Self::C12,
        Self::C13,
    ];

    /// The promise in a few words.
    #[must_use]
    pub const fn promise(self) -> &'static str {
        match self {
            Self::C1 => "no acknowledged message lost",
            Self::C2 => "nothing seen that was not sent",
            Self::C3 => "each message once",
            Self::C4 => "all agree on (conversation, seq)",
            Self::C5 => "dense in the database",
            Self::C6 => "displayed strictly +1",
            Self::C7 => "sender order kept",
            Self::C8 => "real-time order kept",
            Self::C9 => "watermarks never go back",
            Self::C10 => "recalled content gone",
            Self::C11 => "repeated acknowledgements identical",
            Self::C12 => "nothing outside membership",
            Self::C13 => "everything resolves and converges",
        }
    }
}
