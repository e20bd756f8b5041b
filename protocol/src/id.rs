//! Identifiers as they stand on the wire. A value of one of these types has been checked.
//!
//! Ids are case-sensitive bytes chosen by the integrator; nothing is normalised.

use std::fmt;

use crate::limits::{CONVERSATION_ID_BYTES_MAX, ID_BYTES_MAX};

/// Why a string is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, or longer than [`ID_BYTES_MAX`].
    #[error("an id has 1 to 64 bytes")]
    Length,
    /// A byte outside the alphabet.
    #[error("an id consists of A-Z a-z 0-9 . _ @ -")]
    Alphabet,
    /// Not of the form of a conversation id.
    #[error("a conversation id is s:<user>:<user> with the users in byte order, g:<id> or r:<id>")]
    Conversation,
}

/// Checks the alphabet and length that user, device, app, group and gateway ids share.
pub fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > ID_BYTES_MAX {
        return Err(IdError::Length);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
    if text.bytes().all(allowed) { Ok(()) } else { Err(IdError::Alphabet) }
}

macro_rules! borrowed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name<'a>(&'a str);

        impl<'a> $name<'a> {
            /// The id, if `text` is one.
            pub fn new(text: &'a str) -> Result<Self, IdError> {
                check_id(text).map(|()| Self(text))
            }
            /// The id's text.
            pub fn as_str(self) -> &'a str {
                self.0
            }
        }
        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
    };
}
borrowed_id!(
    /// A user of an app: 1-64 bytes of `[A-Za-z0-9._@-]`.
    UserId
);
borrowed_id!(
    /// One installation of a client, in the same alphabet.
    DeviceId
);

/// A conversation, named by its kind and what identifies it. Its text form is what stands on the wire and in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConversationId<'a> {
    /// `s:<smaller>:<larger>`: the two users of a single chat, in byte order. Equal users: notes to oneself.
    Single(UserId<'a>, UserId<'a>),
    /// `g:<id>`: a group.
    Group(&'a str),
    /// `r:<id>`: a chat room.
    Room(&'a str),
}

impl<'a> ConversationId<'a> {
    /// The single chat of two users, in either order.
    pub fn single(a: UserId<'a>, b: UserId<'a>) -> Self {
        if a <= b { Self::Single(a, b) } else { Self::Single(b, a) }
    }

    /// Parses the text form; users out of order are an error, so that one conversation has one name.
    pub fn parse(text: &'a str) -> Result<Self, IdError> {
        if text.len() > CONVERSATION_ID_BYTES_MAX {
            return Err(IdError::Length);
        }
        let (kind, rest) = text.split_once(':').ok_or(IdError::Conversation)?;
        match kind {
            "s" => {
                let (a, b) = rest.split_once(':').ok_or(IdError::Conversation)?;
                let (a, b) = (UserId::new(a)?, UserId::new(b)?);
                if a <= b { Ok(Self::Single(a, b)) } else { Err(IdError::Conversation) }
            }
            "g" => check_id(rest).map(|()| Self::Group(rest)),
            "r" => check_id(rest).map(|()| Self::Room(rest)),
            _ => Err(IdError::Conversation),
        }
    }

    /// The other user of a single chat of `user`; `None` when `user` is not one of the two or this is no single chat.
    pub fn peer_of(&self, user: UserId<'_>) -> Option<UserId<'a>> {
        match *self {
            Self::Single(a, b) if a == user => Some(b),
            Self::Single(a, b) if b == user => Some(a),
            Self::Single(..) | Self::Group(_) | Self::Room(_) => None,
        }
    }
}

impl fmt::Display for ConversationId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(a, b) => write!(f, "s:{a}:{b}"),
            Self::Group(id) => write!(f, "g:{id}"),
            Self::Room(id) => write!(f, "r:{id}"),
        }
    }
}

/// Identity of one message at its sender: random, made once, the same in every resend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientMsgId(pub [u8; 16]);

impl ClientMsgId {
    /// Parses 32 hexadecimal digits.
    pub fn parse_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|v| Self(v.to_be_bytes()))
    }
}
impl fmt::Display for ClientMsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
impl fmt::Debug for ClientMsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, IdError>) {
        let parsed = ConversationId::parse(text).map(|c| c.to_string());
        assert_eq!(parsed.as_deref().map_err(|e| *e), expected, "{text}");
    }

    #[test]
    fn conversation_ids() {
        check("s:alice:bob", Ok("s:alice:bob"));
        check("s:alice:alice", Ok("s:alice:alice"));
        check("g:team-1", Ok("g:team-1"));
        check("r:lobby", Ok("r:lobby"));
        check("s:bob:alice", Err(IdError::Conversation));
        check("s:bob", Err(IdError::Conversation));
        check("s:a:b:c", Err(IdError::Alphabet));
        check("s::b", Err(IdError::Length));
        check("x:a", Err(IdError::Conversation));
        check("", Err(IdError::Conversation));
        check(&format!("g:{}", "a".repeat(65)), Err(IdError::Length));
    }

    #[test]
    fn single_orders_its_users() {
        let (a, b) = (UserId::new("bob").unwrap(), UserId::new("alice").unwrap());
        assert_eq!(ConversationId::single(a, b).to_string(), "s:alice:bob");
        assert_eq!(ConversationId::single(a, b).peer_of(a), Some(b));
        assert_eq!(ConversationId::single(a, b).peer_of(UserId::new("eve").unwrap()), None);
    }

    #[test]
    fn client_msg_id_hex() {
        let id = ClientMsgId::parse_hex("000102030405060708090a0b0c0d0e0f").unwrap();
        assert_eq!(id.0[15], 15);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        assert_eq!(ClientMsgId::parse_hex("xyz"), None);
        assert_eq!(ClientMsgId::parse_hex("+00102030405060708090a0b0c0d0e0f"), None);
    }
}
