//! One connection of the generator: which messages wait for an answer. No I/O and no clock here.

use std::collections::VecDeque;

use anyhow::Result;

use super::answers::Answers;

/// A message on its way, in nanoseconds since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// When it was due.
    pub intended: u64,
    /// When it was submitted.
    pub sent: u64,
}

/// Messages in flight, in the order sent, which is the order answered.
#[derive(Debug)]
pub(super) struct Connection {
    in_flight: VecDeque<Sent>,
    answers: Answers,
}

impl Connection {
    /// A connection whose answers are told apart so.
    pub(super) fn new(answers: Answers) -> Self {
        Self { in_flight: VecDeque::new(), answers }
    }

    /// Remembers a message just sent.
    pub(super) fn handle_sent(&mut self, sent: Sent) {
        self.in_flight.push_back(sent);
    }

    /// Takes received bytes; `answered` gets the messages they answer completely.
    pub(super) fn handle_received(
        &mut self,
        bytes: &[u8],
        answered: impl FnMut(Sent),
    ) -> Result<()> {
        let count = self.answers.handle_received(bytes)?.min(self.in_flight.len());
        self.in_flight.drain(..count).for_each(answered);
        Ok(())
    }

    /// Messages without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_the_oldest_messages_and_extra_ones_to_none() {
        let mut connection = Connection::new(Answers::of_size(64));
        (0..3).for_each(|at| connection.handle_sent(Sent { intended: at, sent: at }));
        let mut answered = Vec::new();
        for size in [65, 63, 64, 640] {
            connection.handle_received(&vec![0; size], |sent| answered.push(sent.sent)).unwrap();
        }
        assert_eq!(answered, [0, 1, 2]);
        assert_eq!(connection.in_flight(), 0);
    }
}
