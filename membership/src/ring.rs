//! Placement: which gateway a user belongs to, by weighted rendezvous hashing.
//!
//! Every member has a score for every user; the best score owns the user. So:
//! * **Minimal movement, exactly**: a member that joins (or gains weight) only wins users, one that leaves (or loses weight) only
//!   loses its own; between two others nothing moves.
//! * **Balance**: shares are proportional to weights up to the chance of the users themselves; there are no virtual nodes whose
//!   number would have to be chosen.
//! * **Agreement**: all arithmetic is on integers and [`StableHash`], so every process of every platform places alike. The order in which
//!   members are listed does not matter.
//!
//! Chosen over a ring of virtual nodes by measurement (`examples/placement.rs`; 2 cores, shared). A batch of 1,000 users on 3, 30 and 300
//! equal members took 28, 81 and 381 us (weights 1 to 4: 39, 168 and 1,077 us); with 160 virtual nodes per member it took 18, 26 and 42 us,
//! but the fullest gateway had 9, 18 and 22 % above its share, room that every gateway would have to keep free.

use std::sync::Arc;

use roost_protocol::id::{IdError, check_id};
use roost_protocol::topology::StableHash;

/// Largest weight.
pub const WEIGHT_MAX: u16 = 1000;

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name: unique, and what its score depends on.
    pub name: Arc<str>,
    /// `host:port` that clients connect to.
    pub address: Arc<str>,
    /// Its share of the users relative to the others', up to [`WEIGHT_MAX`]; 0: none, it is being drained.
    pub weight: u16,
}

/// Why a list of members is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A malformed name.
    #[error("member {0:?}: {1}")]
    Name(String, IdError),
    /// Two members of one name.
    #[error("member {0:?} is listed twice: give each gateway its own name")]
    Duplicate(String),
    /// A weight above the limit.
    #[error("member {0:?} has weight {1}; the largest is {WEIGHT_MAX}")]
    Weight(String, u16),
    /// An address that is none.
    #[error("member {0:?} has address {1:?}, expected host:port")]
    Address(String, String),
}

/// The members at one time. Immutable: a change of membership makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ring {
    /// By name.
    members: Vec<Member>,
    /// Of the members with weight: hash of the name, weight, index in `members`.
    scored: Vec<Scored>,
    /// All weights are the same: the hash alone decides.
    is_uniform: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scored {
    hash: u64,
    weight: u16,
    index: u16,
}

impl Ring {
    /// A ring of these members, in any order.
    pub fn new(mut members: Vec<Member>) -> Result<Self, RingError> {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        for pair in members.windows(2) {
            if pair[0].name == pair[1].name {
                return Err(RingError::Duplicate(pair[0].name.to_string()));
            }
        }
        let mut scored = Vec::with_capacity(members.len());
        for (index, member) in (0u16..).zip(&members) {
            member.check()?;
            if member.weight > 0 {
                let hash = hash_of(&[b"m:", member.name.as_bytes()]);
                scored.push(Scored { hash, weight: member.weight, index });
            }
        }
        let is_uniform = scored.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Ok(Self { members, scored, is_uniform })
    }

    /// All members, by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        self.members.get(at)
    }

    /// The gateway `user` belongs to; `None` when no member has weight.
    pub fn owner(&self, app: &str, user: &str) -> Option<&Member> {
        let user = hash_of(&[app.as_bytes(), b"/u:", user.as_bytes()]);
        let index = if self.is_uniform { self.best_hash(user) } else { self.best_score(user) };
        index.and_then(|index| self.members.get(usize::from(index)))
    }

    /// The gateways of many users, in the order asked.
    pub fn owners<'a, 'u>(
        &'a self,
        app: &str,
        users: impl IntoIterator<Item = &'u str>,
    ) -> Vec<Option<&'a Member>> {
        users.into_iter().map(|user| self.owner(app, user)).collect()
    }

    fn best_hash(&self, user: u64) -> Option<u16> {
        let mut best: Option<(u64, u16)> = None;
        for member in &self.scored {
            let hash = mix(user ^ member.hash);
            // Equal hashes: the first by name, for all alike.
            if best.is_none_or(|(best, _)| hash > best) {
                best = Some((hash, member.index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// With `u = hash / 2^64` uniform, `-log2(u) / weight` is exponential with a rate proportional to the weight: the smallest
    /// is each member's with the probability of its share.
    fn best_score(&self, user: u64) -> Option<u16> {
        let mut best: Option<(u64, u64, &Scored)> = None;
        for member in &self.scored {
            let hash = mix(user ^ member.hash);
            let distance = minus_log2(hash);
            let is_better = best.is_none_or(|(best_distance, best_hash, holder)| {
                let (mine, its) =
                    (distance * u64::from(holder.weight), best_distance * u64::from(member.weight));
                mine < its || (mine == its && hash > best_hash)
            });
            if is_better {
                best = Some((distance, hash, member));
            }
        }
        best.map(|(_, _, member)| member.index)
    }
}

impl Member {
    fn check(&self) -> Result<(), RingError> {
        check_id(&self.name).map_err(|e| RingError::Name(self.name.to_string(), e))?;
        if self.weight > WEIGHT_MAX {
            return Err(RingError::Weight(self.name.to_string(), self.weight));
        }
        let is_address = self.address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !is_address {
            return Err(RingError::Address(self.name.to_string(), self.address.to_string()));
        }
        Ok(())
    }
}

fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hash = StableHash::new();
    parts.iter().for_each(|part| hash.write(part));
    hash.finish()
}

/// The finaliser of SplitMix64: all bits of the result depend on all bits of the two hashes.
fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// Bits after the point of [`minus_log2`].
const FRACTION_BITS: u32 = 40;
const STEP_BITS: u32 = 8;
const STEPS: usize = 1 << STEP_BITS;

/// `1 - log2(1 + i/STEPS)`, with [`FRACTION_BITS`].
static REST: [u64; STEPS + 1] = rest_table();

/// `-log2(hash / 2^64)` with [`FRACTION_BITS`], falling with the hash; within 0.2 % of the exact value.
fn minus_log2(hash: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    let mantissa = (hash << zeros) << 1;
    let step = (mantissa >> (64 - STEP_BITS)) as usize;
    // 24 bits of the way to the next step.
    let part = (mantissa << STEP_BITS) >> 40;
    let (from, to) = (REST[step], REST[step + 1]);
    (u64::from(zeros) << FRACTION_BITS) + from - (((from - to) * part) >> 24)
}

const fn rest_table() -> [u64; STEPS + 1] {
    let mut table = [0; STEPS + 1];
    let mut i = 0;
    while i < STEPS {
        table[i] = (1 << FRACTION_BITS) - log2_of_one_plus(i as u128);
        i += 1;
    }
    table
}

/// `log2(1 + i/STEPS)` with [`FRACTION_BITS`], bit by bit: squaring doubles the logarithm.
const fn log2_of_one_plus(i: u128) -> u64 {
    const ONE: u128 = 1 << 62;
    let mut x = ONE + (i << (62 - STEP_BITS));
    let mut result = 0;
    let mut bit = 0;
    while bit < FRACTION_BITS {
        x = (x * x) >> 62;
        result <<= 1;
        if x >= 2 * ONE {
            x >>= 1;
            result |= 1;
        }
        bit += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, weight: u16) -> Member {
        Member { name: name.into(), address: "10.0.0.1:7401".into(), weight }
    }

    #[test]
    fn logarithm_is_close_and_falls() {
        let mut last = u64::MAX;
        for i in 1..10_000u64 {
            let hash = i.wrapping_mul(u64::MAX / 10_000);
            let value = minus_log2(hash);
            assert!(value <= last);
            last = value;
            let exact = -(hash as f64 / 2f64.powi(64)).log2();
            let error = value as f64 / 2f64.powi(FRACTION_BITS as i32) / exact - 1.0;
            assert!(error.abs() < 0.002, "{hash}: {error}");
        }
        assert_eq!(minus_log2(0), minus_log2(1));
        assert!(minus_log2(u64::MAX) < 1 << 16);
    }

    #[test]
    fn stable_for_ever() {
        // Frozen: a change would move users of every cluster.
        let uniform = Ring::new((0..5).map(|i| member(&format!("gw-{i}"), 1)).collect()).unwrap();
        let weighted = (0..5).map(|i| member(&format!("gw-{i}"), 1 + i)).collect();
        let weighted = Ring::new(weighted).unwrap();
        let names = |ring: &Ring| {
            let users = ["alice", "bob", "carol", "dave", "erin", "frank"];
            let owners = ring.owners("demo", users);
            owners.iter().map(|o| o.unwrap().name[3..].to_owned()).collect::<String>()
        };
        assert_eq!(names(&uniform), "210034");
        assert_eq!(names(&weighted), "230034");
    }

    #[track_caller]
    fn check(members: Vec<Member>, expected: &str) {
        assert_eq!(Ring::new(members).unwrap_err().to_string(), expected);
    }

    #[test]
    fn refuses_what_is_no_list_of_members() {
        check(
            vec![member("a", 1), member("a", 2)],
            "member \"a\" is listed twice: give each gateway its own name",
        );
        check(vec![member("a", 1001)], "member \"a\" has weight 1001; the largest is 1000");
        check(vec![member("a b", 1)], "member \"a b\": an id consists of A-Z a-z 0-9 . _ @ -");
        for address in ["", "host", "host:", ":7401", "host:0", "host:70000"] {
            let wrong = Member { address: address.into(), ..member("a", 1) };
            check(
                vec![wrong],
                &format!("member \"a\" has address {address:?}, expected host:port"),
            );
        }
    }

    #[test]
    fn nobody_owns_a_user_of_an_empty_ring() {
        assert_eq!(Ring::default().owner("demo", "alice"), None);
        let drained = Ring::new(vec![member("a", 0)]).unwrap();
        assert_eq!(drained.owner("demo", "alice"), None);
        assert_eq!(drained.member("a").map(|m| m.weight), Some(0));
        assert_eq!(drained.member("b"), None);
    }
}
