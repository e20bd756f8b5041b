//! What the kernel echoes with every completion: which operation of which connection it was.
//!
//! Eight bits of kind, 24 bits of connection index and 32 bits of generation. A completion whose generation
//! is not the slot's belongs to a former connection; slots are only freed when the kernel holds nothing of
//! them, so meeting one means a bug, and it is counted instead of being mistaken for the new connection.

use crate::io::{CONNECTION_INDEX_LIMIT, ConnectionKey};

/// Operations of one connection, as the kernel holds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum ConnectionOperation {
    Poll = 1,
    Receive = 2,
    ReceiveMultishot = 3,
    Cancel = 4,
    ShutdownWrite = 5,
    ShutdownBoth = 6,
    Close = 7,
}

/// The decoded `user_data` of a completion in a shard's ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UserData {
    /// An operation of a connection.
    Connection(ConnectionOperation, ConnectionKey),
    /// A send; the entry in the table of sends in flight names the connection.
    Send { send: u32 },
    /// A socket the acceptor put into this ring's descriptor table; the result is its slot.
    Accepted { listener: u8, address: u32 },
    /// The close of a socket that was never attached.
    Reject,
    /// The waker's eventfd.
    Wake,
    /// Not one of ours.
    Unknown,
}

const SEND: u8 = 16;
const ACCEPTED: u8 = 17;
const REJECT: u8 = 18;
const WAKE: u8 = 19;

const fn pack(kind: u8, middle: u32, low: u32) -> u64 {
    (kind as u64) << 56 | (middle as u64) << 32 | low as u64
}

impl UserData {
    pub(crate) fn encode(self) -> u64 {
        match self {
            UserData::Connection(operation, key) => {
                debug_assert!(key.index < CONNECTION_INDEX_LIMIT);
                pack(operation as u8, key.index, key.generation)
            }
            UserData::Send { send } => pack(SEND, 0, send),
            UserData::Accepted { listener, address } => {
                pack(ACCEPTED, u32::from(listener), address)
            }
            UserData::Reject => pack(REJECT, 0, 0),
            UserData::Wake => pack(WAKE, 0, 0),
            UserData::Unknown => pack(0, 0, 0),
        }
    }

    pub(crate) fn decode(user_data: u64) -> Self {
        let middle = (user_data >> 32) as u32 & (CONNECTION_INDEX_LIMIT - 1);
        let low = user_data as u32;
        let key = ConnectionKey { index: middle, generation: low };
        match (user_data >> 56) as u8 {
            1 => Self::Connection(ConnectionOperation::Poll, key),
            2 => Self::Connection(ConnectionOperation::Receive, key),
            3 => Self::Connection(ConnectionOperation::ReceiveMultishot, key),
            4 => Self::Connection(ConnectionOperation::Cancel, key),
            5 => Self::Connection(ConnectionOperation::ShutdownWrite, key),
            6 => Self::Connection(ConnectionOperation::ShutdownBoth, key),
            7 => Self::Connection(ConnectionOperation::Close, key),
            SEND => Self::Send { send: low },
            ACCEPTED => Self::Accepted { listener: middle as u8, address: low },
            REJECT => Self::Reject,
            WAKE => Self::Wake,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user_data: UserData) {
        assert_eq!(UserData::decode(user_data.encode()), user_data);
    }

    #[test]
    fn every_kind_survives() {
        let operations = [
            ConnectionOperation::Poll,
            ConnectionOperation::Receive,
            ConnectionOperation::ReceiveMultishot,
            ConnectionOperation::Cancel,
            ConnectionOperation::ShutdownWrite,
            ConnectionOperation::ShutdownBoth,
            ConnectionOperation::Close,
        ];
        for operation in operations {
            for index in [0, 1, CONNECTION_INDEX_LIMIT - 1] {
                for generation in [0, 1, u32::MAX] {
                    check(UserData::Connection(operation, ConnectionKey { index, generation }));
                }
            }
        }
        check(UserData::Send { send: u32::MAX });
        check(UserData::Accepted { listener: 255, address: u32::MAX });
        check(UserData::Reject);
        check(UserData::Wake);
    }
}
