//! Which worker takes which partition. Plain state: what was heard and the time are passed in.
//!
//! Single active consumer makes the broker give a partition to one consumer only, but to the *first*: with everybody subscribed to
//! everything the first worker would own it all. So workers tell each other that they live, and each subscribes to its share of the
//! workers it knows. Views may differ for a moment; then two subscribe and the broker lets the second one wait, or nobody does and
//! bodies wait. A worker wrongly taken for dead keeps what it has, since its subscription still stands: silence may be judged quickly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roost_protocol::topology::StableHash;
use tokio::time::Instant;

/// How often a worker says that it lives.
pub(super) const HELLO_INTERVAL: Duration = Duration::from_millis(150);
/// After this silence its partitions are divided over the others.
const SILENT_MAX: Duration = Duration::from_millis(600);

/// What workers tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Hello(String),
    Goodbye(String),
}

impl Word {
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Hello(id) => format!("hello {id}"),
            Self::Goodbye(id) => format!("goodbye {id}"),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (word, id) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        match word {
            "hello" => Some(Self::Hello(id.to_owned())),
            "goodbye" => Some(Self::Goodbye(id.to_owned())),
            _ => None,
        }
    }
}

/// The workers known to live, this one included.
#[derive(Debug)]
pub(super) struct Workers {
    own: String,
    others: BTreeMap<String, Instant>,
}

impl Workers {
    pub(super) fn new(own: &str) -> Self {
        Self { own: own.to_owned(), others: BTreeMap::new() }
    }

    /// Takes what was heard. True when the division may have changed.
    pub(super) fn handle(&mut self, word: Word, now: Instant) -> bool {
        match word {
            Word::Hello(id) | Word::Goodbye(id) if id == self.own => false,
            Word::Hello(id) => self.others.insert(id, now).is_none(),
            Word::Goodbye(id) => self.others.remove(&id).is_some(),
        }
    }

    /// Forgets who was silent for long. True when somebody was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.others.len();
        self.others.retain(|_, heard| now.duration_since(*heard) < SILENT_MAX);
        self.others.len() != before
    }

    /// This worker's share.
    pub(super) fn share(&self, partitions: u16) -> BTreeSet<u16> {
        let mut ids: Vec<&str> = self.others.keys().map(String::as_str).collect();
        ids.push(&self.own);
        let owners = divide(partitions, &mut ids);
        (0..partitions).filter(|p| owners[usize::from(*p)] == self.own).collect()
    }
}

/// The owner of each partition: the worker with the highest hash of both that has room. Shares differ by one at most, everybody who
/// knows the same workers finds the same division, and most partitions stay when a worker comes or goes.
fn divide<'a>(partitions: u16, ids: &mut Vec<&'a str>) -> Vec<&'a str> {
    ids.sort_unstable();
    let (share, mut larger) =
        (usize::from(partitions) / ids.len(), usize::from(partitions) % ids.len());
    let mut counts = vec![0; ids.len()];
    let mut owners = Vec::with_capacity(usize::from(partitions));
    for partition in 0..partitions {
        let has_room = |count: usize| count < share || (count == share && larger > 0);
        let best = (0..ids.len())
            .filter(|index| has_room(counts[*index]))
            .max_by_key(|index| weight(partition, ids[*index]))
            .unwrap_or(0);
        if counts[best] == share {
            larger -= 1;
        }
        counts[best] += 1;
        owners.push(ids[best]);
    }
    owners
}

fn weight(partition: u16, id: &str) -> u64 {
    let mut hash = StableHash::new();
    hash.write(&partition.to_le_bytes());
    hash.write(id.as_bytes());
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("worker-{i}")).collect()
    }

    #[test]
    fn shares_are_even_and_everybody_agrees() {
        for (partitions, count) in [(32, 1), (32, 5), (3, 8), (1024, 7)] {
            let names = names(count);
            let now = Instant::now();
            let mut taken = BTreeSet::new();
            let mut sizes = Vec::new();
            for own in &names {
                let mut workers = Workers::new(own);
                for name in &names {
                    workers.handle(Word::Hello(name.clone()), now);
                }
                let share = workers.share(partitions);
                assert!(taken.is_disjoint(&share));
                sizes.push(share.len());
                taken.extend(share);
            }
            assert_eq!(taken.len(), usize::from(partitions));
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn most_partitions_stay_when_a_worker_goes() {
        let names = names(8);
        let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = divide(1024, &mut all);
        let mut fewer = all[..7].to_vec();
        let after = divide(1024, &mut fewer);
        let moved = before.iter().zip(&after).filter(|(b, a)| a != b).count();
        // An eighth has to move; the bound on shares moves some more.
        assert!((128..320).contains(&moved), "{moved} of 1024 moved");
    }

    #[test]
    fn the_silent_and_the_leaving_are_forgotten() {
        let now = Instant::now();
        let mut workers = Workers::new("a");
        assert!(!workers.handle(Word::Hello("a".to_owned()), now));
        assert!(workers.handle(Word::Hello("b".to_owned()), now));
        assert!(workers.handle(Word::Hello("c".to_owned()), now));
        assert!(!workers.handle(Word::Hello("b".to_owned()), now + SILENT_MAX / 2));
        assert!(workers.expire(now + SILENT_MAX), "c was silent");
        assert!(!workers.expire(now + SILENT_MAX));
        assert_eq!(workers.share(4).len(), 2);
        assert!(workers.handle(Word::Goodbye("b".to_owned()), now));
        assert_eq!(workers.share(4).len(), 4);
    }

    #[test]
    fn words_survive_the_wire() {
        for word in [Word::Hello("a1".to_owned()), Word::Goodbye("b".to_owned())] {
            assert_eq!(Word::decode(word.encode().as_bytes()), Some(word));
        }
        assert_eq!(Word::decode(b"hello"), None);
        assert_eq!(Word::decode(&[0xff, 32, 1]), None);
    }
}
