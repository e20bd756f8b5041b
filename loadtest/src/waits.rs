//! How long messages waited for their acknowledgement, between any two moments of a run.
//!
//! From the history that the checker judges: a message is due when the schedule wanted it, and answered with its first acknowledgement.
//! One without an answer waited until the end.

use rapidhash::RapidHashMap;

use crate::checker::{History, MessageId, Record, UserId};
use crate::histogram::LatencyHistogram;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its sender.
    pub sender: UserId,
    /// When the schedule wanted it to be sent.
    pub due_us: u64,
    /// When it was acknowledged.
    pub acked_us: Option<u64>,
}

/// All messages of a run, by the time they were due.
#[derive(Debug, Default)]
pub struct Waits(Vec<Wait>);

impl Waits {
    /// Of everything that was recorded.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut waits: RapidHashMap<MessageId, Wait> = RapidHashMap::default();
        let mut acked: RapidHashMap<MessageId, u64> = RapidHashMap::default();
        for (at_us, record) in history.records() {
            if let Record::Send { device, message, intended_us: due_us, .. } = record {
                let sender = history.user_of(device);
                waits.entry(message).or_insert(Wait { sender, due_us, acked_us: None });
            } else if let Record::Ack { message, .. } = record {
                acked.entry(message).and_modify(|at| *at = at_us.min(*at)).or_insert(at_us);
            }
        }
        let answered = |(message, wait)| Wait { acked_us: acked.get(&message).copied(), ..wait };
        let mut list: Vec<Wait> = waits.into_iter().map(answered).collect();
        list.sort_unstable_by_key(|wait| wait.due_us);
        Self(list)
    }

    /// Those that were due from `from_us` on and before `to_us`.
    #[must_use]
    pub fn between(&self, from_us: u64, to_us: u64) -> &[Wait] {
        let at = |limit_us| self.0.partition_point(|wait| wait.due_us < limit_us);
        let (from, to) = (at(from_us), at(to_us));
        &self.0[from..to.max(from)]
    }
}

impl Wait {
    /// Until the answer, or until `end_us` when there was none.
    #[must_use]
    pub fn length_us(&self, end_us: u64) -> u64 {
        self.acked_us.unwrap_or(end_us).saturating_sub(self.due_us)
    }
}

/// Of the messages of which `is_counted` says so; those without an answer waited until `end_us`.
pub fn histogram(
    waits: &[Wait],
    end_us: u64,
    is_counted: impl Fn(&Wait) -> bool,
) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::default();
    let counted = waits.iter().filter(|wait| is_counted(wait));
    counted.for_each(|wait| histogram.record(wait.length_us(end_us)));
    histogram
}

/// After so long without a message that had to wait an outage is over, and what waits then has another cause.
const APART_US: u64 = 2_000_000;

/// How a part of a run that began with an outage went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// When the last message was answered that waited longer than usual, whatever the cause; `None`: none did.
    pub last_answer_us: Option<u64>,
    /// The same of those that the outage itself held up.
    pub over_us: Option<u64>,
    /// So many waited longer than usual later on.
    pub late_afterwards: usize,
}

impl Outage {
    /// Of `waits` by the time they were due, when the cause of the outage was over at `healed_us` and more than `patience_us` is unusual.
    #[must_use]
    pub fn of(waits: &[Wait], healed_us: u64, patience_us: u64, end_us: u64) -> Self {
        let mut outage = Self::default();
        for wait in waits.iter().filter(|wait| wait.length_us(end_us) > patience_us) {
            let answered_us = Some(wait.acked_us.unwrap_or(end_us));
            outage.last_answer_us = outage.last_answer_us.max(answered_us);
            // Whoever sends while others still wait for its end meets the outage, too.
            if wait.due_us > outage.over_us.unwrap_or(0).max(healed_us) + APART_US {
                outage.late_afterwards += 1;
            } else {
                outage.over_us = outage.over_us.max(answered_us);
            }
        }
        outage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of one user, due and acknowledged at these times.
    fn waits(messages: &[(u64, Option<u64>)]) -> Waits {
        let mut history = History::new();
        let user = history.user("alice");
        let device = history.device(user, "phone");
        let conversation = history.single_chat("alice", "bob");
        for (id, (due_us, acked_us)) in (1..).zip(messages) {
            let message = history.message(user, id);
            let send =
                Record::Send { device, conversation, message, hash: 1, intended_us: *due_us };
            history.record(*due_us + 1, send);
            let ack = Record::Ack { device, conversation, message, hash: 1, seq: 1, answer: 0 };
            // Repeated acknowledgements come later.
            for at_us in acked_us.iter().flat_map(|at_us| [*at_us, *at_us + 1_000]) {
                history.record(at_us, ack);
            }
        }
        Waits::of(&history)
    }

    #[test]
    fn a_message_waits_from_when_it_was_due_to_its_first_answer() {
        let all = waits(&[(300, Some(350)), (100, Some(900)), (200, None)]);
        let lengths: Vec<u64> =
            all.between(0, 1_000).iter().map(|wait| wait.length_us(1_000)).collect();
        assert_eq!(lengths, [800, 800, 50]);
        assert_eq!(all.between(100, 300).len(), 2);
        assert_eq!(all.between(301, 300).len(), 0);
    }

    #[test]
    fn the_last_late_answer_ends_an_outage() {
        let all = waits(&[(100, Some(150)), (200, Some(2_000)), (300, Some(1_900))]);
        let some = all.between(0, 1_000);
        let ended = |at| Outage { last_answer_us: at, over_us: at, late_afterwards: 0 };
        assert_eq!(Outage::of(some, 100, 500, 9_000), ended(Some(2_000)));
        assert_eq!(Outage::of(some, 100, 5_000, 9_000), ended(None));
        let never = waits(&[(100, None)]);
        assert_eq!(Outage::of(never.between(0, 200), 100, 500, 9_000), ended(Some(9_000)));
        assert_eq!(histogram(some, 9_000, |wait| wait.due_us > 100).count(), 2);
    }

    #[test]
    fn what_waits_long_after_an_outage_has_another_cause() {
        let second = 1_000_000;
        let due_and_answered = [
            // The outage, healed at 1 s, and its backlog ...
            (0, Some(3 * second)),
            (5 * second - 1, Some(7 * second)),
            // ... with whom it held up until 9 s ...
            (9 * second, Some(10 * second)),
            // ... and what came when all had been well for more than two seconds.
            (12 * second + 1, Some(14 * second)),
            (20 * second, Some(20 * second + 10)),
        ];
        let all = waits(&due_and_answered);
        let outage = Outage::of(all.between(0, 30 * second), second, second / 2, 30 * second);
        let (last_answer_us, over_us) = (Some(14 * second), Some(10 * second));
        assert_eq!(outage, Outage { last_answer_us, over_us, late_afterwards: 1 });
    }
}
