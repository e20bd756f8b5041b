//! Names that both tiers must agree on: partitions and queues of the bus. One place declares them.

use crate::id::ConversationId;

/// Partitions of the bus unless configured otherwise; fixed for a cluster's life.
pub const PARTITIONS_DEFAULT: u16 = 32;
/// Most partitions that can be configured.
pub const PARTITIONS_MAX: u16 = 1024;

/// One ordered share of the conversations: `0..partitions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u16);

impl Partition {
    /// The partition of a conversation.
    pub fn of_conversation(app: &str, conversation: &ConversationId<'_>, partitions: u16) -> Self {
        let mut hash = StableHash::new();
        hash.write(app.as_bytes());
        hash.write(b"/");
        match conversation {
            ConversationId::Single(a, b) => {
                hash.write(b"s:");
                hash.write(a.as_str().as_bytes());
                hash.write(b":");
                hash.write(b.as_str().as_bytes());
            }
            ConversationId::Group(id) => {
                hash.write(b"g:");
                hash.write(id.as_bytes());
            }
            ConversationId::Room(id) => {
                hash.write(b"r:");
                hash.write(id.as_bytes());
            }
        }
        Self::of_hash(hash.finish(), partitions)
    }

    /// The partition of what belongs to a user: requests, device acknowledgements, session events.
    pub fn of_user(app: &str, user: &str, partitions: u16) -> Self {
        let mut hash = StableHash::new();
        hash.write(app.as_bytes());
        hash.write(b"/u:");
        hash.write(user.as_bytes());
        Self::of_hash(hash.finish(), partitions)
    }

    fn of_hash(hash: u64, partitions: u16) -> Self {
        // Multiply-shift instead of modulo: uses the high bits, no division.
        let index = (u128::from(hash) * u128::from(partitions)) >> 64;
        Self(u16::try_from(index).unwrap_or(0))
    }

    /// The queue gateways publish this partition to.
    pub fn queue(self) -> String {
        format!("roost.in.{}", self.0)
    }
}

/// The queue of deliveries to one gateway (or API node).
pub fn delivery_queue(gateway: &str) -> String {
    format!("roost.out.{gateway}")
}

/// FNV-1a with 64 bits and a final mix (the finaliser of MurmurHash3), so that all bits depend on all bytes. Stable for ever:
/// partitions and placement depend on it.
#[derive(Debug, Clone, Copy)]
pub struct StableHash(u64);

impl StableHash {
    /// The FNV offset basis.
    #[expect(clippy::new_without_default, reason = "a hash starts explicitly")]
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    /// The hash of everything added.
    pub fn finish(self) -> u64 {
        let mut h = self.0;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_for_ever() {
        let conversation = ConversationId::parse("s:alice:bob").unwrap();
        let mut hash = StableHash::new();
        hash.write(b"roost");
        // Frozen: a change would move every conversation of every cluster.
        assert_eq!(hash.finish(), 0x0d39_37f2_4ca1_8291);
        assert_eq!(Partition::of_conversation("demo", &conversation, 32).0, 18);
    }

    #[test]
    fn partitions_are_even() {
        let mut counts = [0u32; 32];
        for i in 0..32_000 {
            counts[usize::from(Partition::of_user("demo", &format!("u{i}"), 32).0)] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }
}
