//! What became of published bodies, from lapin's answers. Plain state, no I/O.
//!
//! The broker says "returned" as a message of its own before the confirm of the same body. lapin hands the oldest returned message to
//! whichever confirm it resolves next, which need not be the right one: confirms overtake each other, and one frame may confirm many.
//! Every body therefore carries its number as message id, and an answer counts only when no returned message in hand belongs to a
//! body that has no answer yet. (Each returned body has one confirm, and each confirm takes at most one returned message, so then
//! every returned message of an answered body was seen.)

use std::collections::{BTreeMap, BTreeSet};

/// The broker's answer to one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A queue has it.
    Confirmed,
    /// There is no such queue.
    Returned,
    /// The queue is full.
    Full,
}

/// Answers that wait until they are certain.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// True: confirmed; false: refused.
    answered: BTreeMap<u64, bool>,
    returned: BTreeSet<u64>,
}

impl Answers {
    /// The confirm of body `number` was resolved, and with it the returned message of body `returned`.
    pub(super) fn handle(&mut self, number: u64, is_ack: bool, returned: Option<u64>) {
        self.answered.insert(number, is_ack);
        self.returned.extend(returned);
    }

    /// What is certain, to be called when every confirm that is resolved was handled.
    pub(super) fn poll_certain(&mut self) -> Vec<(u64, Verdict)> {
        if !self.returned.iter().all(|number| self.answered.contains_key(number)) {
            return Vec::new();
        }
        let returned = std::mem::take(&mut self.returned);
        let verdict = |(number, is_ack)| match (returned.contains(&number), is_ack) {
            (true, _) => (number, Verdict::Returned),
            (false, true) => (number, Verdict::Confirmed),
            (false, false) => (number, Verdict::Full),
        };
        std::mem::take(&mut self.answered).into_iter().map(verdict).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::Verdict::{Confirmed, Full, Returned};
    use super::*;

    #[test]
    fn a_returned_message_counts_for_its_own_body() {
        let mut answers = Answers::default();
        // Body 1 was routed and confirmed late; the returned message of body 2 is attached to it.
        answers.handle(1, true, Some(2));
        assert_eq!(answers.poll_certain(), [], "body 2 is not answered yet");
        answers.handle(2, true, None);
        answers.handle(3, false, None);
        assert_eq!(answers.poll_certain(), [(1, Confirmed), (2, Returned), (3, Full)]);
    }

    proptest! {
        /// As lapin does it: returned messages queue up in the order of the bodies, each resolved confirm takes the oldest.
        #[test]
        fn every_body_gets_its_own_verdict(
            is_returned in prop::collection::vec(any::<bool>(), 1..40),
            order in any::<u64>(),
            looks in prop::collection::vec(any::<bool>(), 40),
        ) {
            let mut rng = fastrand::Rng::with_seed(order);
            let mut answers = Answers::default();
            let mut waiting = VecDeque::new();
            let (mut published, mut open) = (0..is_returned.len() as u64, Vec::new());
            let mut verdicts = BTreeMap::new();
            let mut next = published.next();
            for look in looks.iter().cycle() {
                // The broker handles bodies in order, and confirms those it has handled in any order.
                if let Some(number) = next && (open.is_empty() || rng.bool()) {
                    if is_returned[number as usize] {
                        waiting.push_back(number);
                    }
                    open.push(number);
                    next = published.next();
                } else if open.is_empty() {
                    break;
                } else {
                    let number = open.swap_remove(rng.usize(0..open.len()));
                    answers.handle(number, true, waiting.pop_front());
                }
                if *look {
                    verdicts.extend(answers.poll_certain());
                }
            }
            verdicts.extend(answers.poll_certain());
            let expected: Vec<_> =
                is_returned.iter().map(|r| if *r { Returned } else { Confirmed }).collect();
            prop_assert_eq!(verdicts.into_values().collect::<Vec<_>>(), expected);
        }
    }
}
