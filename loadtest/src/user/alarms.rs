//! When the users of one thread want to be looked at, in one heap instead of a timer for each.
//!
//! An alarm is never taken back: its user knows which one counts, and a later one is set when an
//! early one finds nothing to do.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Alarms of users by their position among the users of the thread.
#[derive(Debug, Default)]
pub struct Alarms(RefCell<BinaryHeap<Reverse<(Instant, usize)>>>);

impl Alarms {
    /// The user at `index` wants to be looked at then.
    pub fn set(&self, at: Instant, index: usize) {
        self.0.borrow_mut().push(Reverse((at, index)));
    }

    /// The earliest alarm whose time has come.
    pub fn take_due(&self, now: Instant) -> Option<(Instant, usize)> {
        let mut heap = self.0.borrow_mut();
        let Reverse((at, _)) = heap.peek()?;
        if *at > now {
            return None;
        }
        heap.pop().map(|Reverse(alarm)| alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn alarms_ring_in_order_and_not_early() {
        let (alarms, start) = (Alarms::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, index) in [(30, 1), (10, 2), (20, 3)] {
            alarms.set(at(ms), index);
        }
        assert_eq!(alarms.take_due(at(9)), None);
        assert_eq!(alarms.take_due(at(25)), Some((at(10), 2)));
        assert_eq!(alarms.take_due(at(25)), Some((at(20), 3)));
        assert_eq!(alarms.take_due(at(25)), None);
        assert_eq!(alarms.take_due(at(30)), Some((at(30), 1)));
    }
}
