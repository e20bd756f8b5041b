//! Message ids: 41 bits of milliseconds, 10 bits of worker, 12 bits of sequence. They are references for people and other
//! systems, neither identity nor order.
//!
//! A worker never makes the same id twice, whatever its clock does: time only moves forward here, and no id is handed out
//! for a time that is not below a mark which is stored with (or before) the message itself.

/// 2024-01-01T00:00:00Z in milliseconds since 1970: ids last until 2093.
const EPOCH_MS: u64 = 1_704_067_200_000;
/// How far ahead of the ids the mark is stored, so that it is written rarely.
const MARK_AHEAD_MS: u64 = 10_000;
const SEQUENCE_MAX: u16 = 0xfff;
/// Highest worker id.
pub const WORKER_ID_MAX: u16 = 0x3ff;

/// Makes ids for one worker.
#[derive(Debug)]
pub struct MessageIds {
    worker_id: u16,
    last_ms: u64,
    sequence: u16,
    marked_until_ms: u64,
}

impl MessageIds {
    /// Goes on after everything a worker of this id has made: `stored_mark_ms` is what the store remembers.
    ///
    /// # Panics
    /// When `worker_id` exceeds [`WORKER_ID_MAX`]; the configuration is checked before.
    pub fn new(worker_id: u16, stored_mark_ms: u64) -> Self {
        assert!(worker_id <= WORKER_ID_MAX, "worker ids have 10 bits");
        let last_ms = stored_mark_ms.max(EPOCH_MS);
        Self { worker_id, last_ms, sequence: 0, marked_until_ms: stored_mark_ms }
    }

    /// A new id.
    pub fn make(&mut self, now_ms: u64) -> u64 {
        if now_ms > self.last_ms {
            (self.last_ms, self.sequence) = (now_ms, 0);
        } else if self.sequence == SEQUENCE_MAX {
            (self.last_ms, self.sequence) = (self.last_ms + 1, 0);
        } else {
            self.sequence += 1;
        }
        ((self.last_ms - EPOCH_MS) << 22)
            | (u64::from(self.worker_id) << 12)
            | u64::from(self.sequence)
    }

    /// The mark to store in the same transaction as the ids made since, if the stored one no longer covers them.
    pub fn poll_mark(&mut self) -> Option<(u16, u64)> {
        if self.last_ms < self.marked_until_ms {
            return None;
        }
        self.marked_until_ms = self.last_ms + MARK_AHEAD_MS;
        Some((self.worker_id, self.marked_until_ms))
    }

    /// The last mark may not have been stored: the next one is written again.
    pub fn forget_mark(&mut self) {
        self.marked_until_ms = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const NOW: u64 = EPOCH_MS + 1_000_000;

    #[test]
    fn unique_when_the_clock_stands_or_goes_back() {
        let mut ids = MessageIds::new(7, 0);
        let made: HashSet<u64> =
            (0..20_000).map(|i| ids.make(if i < 10_000 { NOW } else { NOW - 5_000 })).collect();
        assert_eq!(made.len(), 20_000);
        assert!(made.iter().all(|id| (id >> 12) & 0x3ff == 7));
    }

    #[test]
    fn a_restart_goes_on_after_the_mark() {
        let mut ids = MessageIds::new(1, 0);
        let before: Vec<u64> = (0..5_000).map(|_| ids.make(NOW)).collect();
        let (_, mark) = ids.poll_mark().expect("the first ids need a mark");
        assert_eq!(ids.poll_mark(), None, "one mark covers what follows");
        let mut restarted = MessageIds::new(1, mark);
        let after = restarted.make(NOW - 60_000);
        assert!(before.iter().all(|id| *id < after));
    }
}
