//! Traced messages of one connection whose next passage is awaited: the answer to a SEND, the device's acknowledgement of a delivery.
//!
//! At most [`FOLLOWED_MAX`] of a connection: then the oldest is given up, and its next passage is recorded without the moment at which it began,
//! or not at all. Empty, and without memory, for a connection at rest.

use roost_protocol::ClientMsgId;

/// The window of sends alone may be as large.
const FOLLOWED_MAX: usize = 64;
/// A list up to this size is kept for the next connection.
const FOLLOWED_KEPT: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Answer,
    Acknowledgement { inbox_seq: u64 },
}

/// A message and when its last passage was, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follow {
    pub(crate) id: ClientMsgId,
    pub(crate) since_us: u64,
    awaited: Awaited,
}

impl Follow {
    /// Place in the user's inbox; 0 for an answer.
    pub(crate) fn inbox_seq(&self) -> u64 {
        match self.awaited {
            Awaited::Answer => 0,
            Awaited::Acknowledgement { inbox_seq } => inbox_seq,
        }
    }
}

/// See the module text.
#[derive(Debug, Default)]
pub(crate) struct Followed(Vec<Follow>);

impl Followed {
    fn push(&mut self, id: ClientMsgId, since_us: u64, awaited: Awaited) {
        if self.0.len() == FOLLOWED_MAX {
            self.0.remove(0);
        }
        self.0.push(Follow { id, since_us, awaited });
    }

    /// A SEND was passed on. Of several copies the last one counts.
    pub(crate) fn await_answer(&mut self, id: ClientMsgId, since_us: u64) {
        _ = self.take_answered(id);
        self.push(id, since_us, Awaited::Answer);
    }

    /// When the SEND that is answered now was read.
    pub(crate) fn take_answered(&mut self, id: ClientMsgId) -> Option<u64> {
        let is_it = |f: &Follow| f.id == id && f.awaited == Awaited::Answer;
        let position = self.0.iter().position(is_it)?;
        Some(self.0.remove(position).since_us)
    }

    /// A delivery was written.
    pub(crate) fn await_acknowledgement(&mut self, id: ClientMsgId, inbox_seq: u64, since_us: u64) {
        self.push(id, since_us, Awaited::Acknowledgement { inbox_seq });
    }

    /// A delivery that is acknowledged with everything up to `inbox_seq`.
    pub(crate) fn pop_acknowledged(&mut self, up_to: u64) -> Option<Follow> {
        let is_one = |f: &Follow| match f.awaited {
            Awaited::Answer => false,
            Awaited::Acknowledgement { inbox_seq } => inbox_seq <= up_to,
        };
        let position = self.0.iter().position(is_one)?;
        Some(self.0.remove(position))
    }

    /// Nothing of the connection is open any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
        if self.0.capacity() > FOLLOWED_KEPT {
            self.0 = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ClientMsgId {
        ClientMsgId([number; 16])
    }

    #[test]
    fn each_waits_for_its_own_end() {
        let mut followed = Followed::default();
        followed.await_answer(id(1), 10);
        followed.await_acknowledgement(id(1), 5, 20);
        followed.await_acknowledgement(id(2), 6, 30);
        followed.await_acknowledgement(id(3), 7, 40);
        followed.await_answer(id(1), 50);
        assert_eq!(followed.take_answered(id(1)), Some(50), "the copy that was passed on last");
        assert_eq!(followed.take_answered(id(1)), None);
        let acknowledged = std::iter::from_fn(|| followed.pop_acknowledged(6));
        let acknowledged: Vec<_> =
            acknowledged.map(|f| (f.id, f.inbox_seq(), f.since_us)).collect();
        assert_eq!(acknowledged, [(id(1), 5, 20), (id(2), 6, 30)]);
        followed.clear();
        assert_eq!(followed.pop_acknowledged(u64::MAX), None);
    }

    #[test]
    fn it_is_bounded() {
        let mut followed = Followed::default();
        for number in 0..200 {
            followed.await_answer(id(number), 1);
        }
        assert_eq!(followed.0.len(), FOLLOWED_MAX);
        assert_eq!(followed.take_answered(id(100)), None, "given up");
        assert_eq!(followed.take_answered(id(199)), Some(1));
        followed.clear();
        assert_eq!(followed.0.capacity(), 0);
    }
}
