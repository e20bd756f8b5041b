//! Which messages are traced: a pure function of the message's id, so that all processes agree without a word.

use roost_protocol::ClientMsgId;

/// Bits of an id that decide.
const RANDOM_BITS: u32 = 56;
const RANDOM_MASK: u64 = (1 << RANDOM_BITS) - 1;

/// Consistent probability sampling as OpenTelemetry does it: the last 56 bits of the id against a threshold. So whoever samples further
/// down, by the same rule and a smaller share, keeps whole traces. An id that is not random, against the protocol, is not sampled fairly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Ids below it are not traced.
    threshold: u64,
}

impl Sampling {
    /// Nothing.
    pub const NOTHING: Self = Self { threshold: 1 << RANDOM_BITS };

    /// This share of all messages, 0 to 1.
    pub fn of_share(share: f64) -> Self {
        let all = (1u64 << RANDOM_BITS) as f64;
        // At most 2^56, which a float has exactly.
        Self { threshold: ((1.0 - share.clamp(0.0, 1.0)) * all).round() as u64 }
    }

    /// Whether no message is traced.
    pub fn is_nothing(self) -> bool {
        self == Self::NOTHING
    }

    /// Whether this message is traced.
    pub fn takes(self, id: ClientMsgId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = id.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) & RANDOM_MASK >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_are_exact() {
        for id in [ClientMsgId([0; 16]), ClientMsgId([255; 16])] {
            assert!(Sampling::of_share(1.0).takes(id));
            assert!(!Sampling::of_share(0.0).takes(id));
        }
        assert!(Sampling::of_share(0.0).is_nothing());
        assert!(!Sampling::of_share(1e-9).is_nothing());
    }

    proptest! {
        #[test]
        fn a_smaller_share_is_part_of_a_larger_one(id: [u8; 16], a in 0.0..=1.0, b in 0.0..=1.0) {
            let (small, large) = (f64::min(a, b), f64::max(a, b));
            let id = ClientMsgId(id);
            prop_assert!(!Sampling::of_share(small).takes(id) || Sampling::of_share(large).takes(id));
        }
    }

    #[test]
    fn a_share_is_about_that_share() {
        let tenth = Sampling::of_share(0.1);
        let mut taken = 0;
        for number in 0..10_000u64 {
            let mut id = [0; 16];
            // Weyl's sequence: evenly spread over all 64 bits.
            id[8..].copy_from_slice(
                &number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(8).to_be_bytes(),
            );
            taken += u32::from(tenth.takes(ClientMsgId(id)));
        }
        assert!((950..1050).contains(&taken), "{taken}");
    }
}
