//! Timers of a shard: one per connection, coarse, 12 bytes each, no allocation per timer.
//!
//! A hierarchical wheel: level 0 has 64 slots of one tick, each further level 64 slots of 64 times the span
//! below; six levels cover every 32-bit count of ticks (13 years of 100 ms). An entry lives on the level of
//! the highest 6-bit group in which its deadline differs from the current tick, so it moves down a level at
//! most five times. A timer never fires early, and at most one tick late. The list of a slot runs through an
//! array indexed by the connection: scheduling, moving and cancelling are O(1).
//!
//! It reads no clock: `now` is passed in. It knows one deadline per connection; a connection with several
//! (handshake, idle, token expiry) schedules the earliest and decides when it fires.

use std::time::{Duration, Instant};

use crate::chunks::Chunks;

const LEVELS: usize = 6;
const SLOTS_LOG2: u32 = 6;
const SLOTS: usize = 1 << SLOTS_LOG2;
/// No neighbour, nothing scheduled.
const NONE: u32 = u32::MAX;
/// In `Entry::previous`: the entry is the first of the slot in the lower bits.
const HEAD: u32 = 1 << 31;
const TICK_MAX: u32 = u32::MAX - 1;

/// One connection's timer and its place in the list of a slot.
#[derive(Clone, Copy, Debug)]
struct Entry {
    next: u32,
    /// The entry before, or `HEAD | slot`; `NONE` while not scheduled.
    previous: u32,
    /// In ticks since the wheel's start.
    deadline: u32,
}

const IDLE: Entry = Entry { next: NONE, previous: NONE, deadline: 0 };
const _: () = assert!(size_of::<Entry>() == 12);

/// The wheel.
#[derive(Debug)]
pub struct TimerWheel {
    start: Instant,
    tick: Duration,
    /// Everything due at or before this tick has fired.
    current: u32,
    scheduled: usize,
    /// One bit per slot that has entries.
    occupied: [u64; LEVELS],
    heads: [u32; LEVELS * SLOTS],
    entries: Chunks<Entry>,
}

impl TimerWheel {
    /// An empty wheel that starts at `now` and rounds deadlines up to multiples of `tick`.
    pub fn new(now: Instant, tick: Duration) -> Self {
        assert!(!tick.is_zero(), "a tick must last");
        Self {
            start: now,
            tick,
            current: 0,
            scheduled: 0,
            occupied: [0; LEVELS],
            heads: [NONE; LEVELS * SLOTS],
            entries: Chunks::default(),
        }
    }

    /// Timers scheduled.
    pub fn len(&self) -> usize {
        self.scheduled
    }

    /// Whether no timer is scheduled.
    pub fn is_empty(&self) -> bool {
        self.scheduled == 0
    }

    /// Sets the timer of connection `index` (below 2^31) to fire at `at`, in place of what was scheduled for it.
    /// A deadline in the past fires with the next tick.
    pub fn schedule(&mut self, index: u32, at: Instant) {
        debug_assert!(index < HEAD);
        self.entries.grow_to(index as usize + 1, &IDLE);
        self.cancel(index);
        let ticks = self.ticks_rounded_up(at).max(self.current + 1);
        self.entries[index as usize].deadline = ticks;
        self.link(index);
        self.scheduled += 1;
    }

    /// Takes back the timer of connection `index`, if there is one.
    pub fn cancel(&mut self, index: u32) {
        if self.is_scheduled(index) {
            self.unlink(index);
            self.scheduled -= 1;
        }
    }

    /// Whether connection `index` has a timer.
    pub fn is_scheduled(&self, index: u32) -> bool {
        self.entries.get(index as usize).is_some_and(|entry| entry.previous != NONE)
    }

    /// When to call [`advance`](Self::advance) next: not after the earliest deadline, at times before it.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, _, tick) = self.next_slot()?;
        Some(self.start + self.tick * tick)
    }

    /// Moves to `now` and appends the connections whose timers fired to `expired`, earliest tick first. They
    /// are no longer scheduled.
    pub fn advance(&mut self, now: Instant, expired: &mut Vec<u32>) {
        let target = self.ticks_rounded_down(now);
        if target <= self.current {
            return;
        }
        while let Some((level, slot, tick)) = self.next_slot()
            && tick <= target
        {
            self.current = tick;
            self.empty_slot(level, slot, expired);
        }
        self.current = target;
    }

    /// The earliest slot with entries: its level, number and the tick at which it begins.
    fn next_slot(&self) -> Option<(usize, usize, u32)> {
        // Level by level: all of level n lies before the first slot of level n + 1.
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = SLOTS_LOG2 * level as u32;
        let span = u64::from(SLOTS as u32) << shift;
        let block = u64::from(self.current) & !(span - 1);
        Some((level, slot as usize, (block | u64::from(slot) << shift) as u32))
    }

    /// Fires what is due in a slot that has come, moves the rest to lower levels.
    fn empty_slot(&mut self, level: usize, slot: usize, expired: &mut Vec<u32>) {
        let position = level * SLOTS + slot;
        let mut index = std::mem::replace(&mut self.heads[position], NONE);
        self.occupied[level] &= !(1 << slot);
        while index != NONE {
            let entry = self.entries[index as usize];
            if entry.deadline <= self.current {
                self.entries[index as usize] = IDLE;
                self.scheduled -= 1;
                expired.push(index);
            } else {
                self.link(index);
            }
            index = entry.next;
        }
    }

    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        let differs = deadline ^ self.current;
        let level = (31 - differs.leading_zeros()) / SLOTS_LOG2;
        let slot = (deadline >> (level * SLOTS_LOG2)) as usize % SLOTS;
        let position = level as usize * SLOTS + slot;
        let next = std::mem::replace(&mut self.heads[position], index);
        if next != NONE {
            self.entries[next as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.next = next;
        entry.previous = HEAD | position as u32;
        self.occupied[level as usize] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, previous, .. } =
            std::mem::replace(&mut self.entries[index as usize], IDLE);
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous & HEAD == 0 {
            self.entries[previous as usize].next = next;
            return;
        }
        let position = (previous & !HEAD) as usize;
        self.heads[position] = next;
        if next == NONE {
            self.occupied[position / SLOTS] &= !(1 << (position % SLOTS));
        }
    }

    fn ticks_rounded_up(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.start);
        saturate(since.as_nanos().div_ceil(self.tick.as_nanos()))
    }

    fn ticks_rounded_down(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.start);
        saturate(since.as_nanos() / self.tick.as_nanos())
    }
}

fn saturate(ticks: u128) -> u32 {
    u32::try_from(ticks).map_or(TICK_MAX, |ticks| ticks.min(TICK_MAX))
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BTreeMap, BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn fired(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        let mut expired = Vec::new();
        wheel.advance(now, &mut expired);
        expired
    }

    #[test]
    fn fires_within_one_tick_and_never_early() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start, TICK);
        wheel.schedule(7, start + Duration::from_millis(250));
        assert!(fired(&mut wheel, start + Duration::from_millis(299)).is_empty());
        assert_eq!(fired(&mut wheel, start + Duration::from_millis(300)), [7]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_in_the_past_fires_with_the_next_tick() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start, TICK);
        assert!(fired(&mut wheel, start + TICK * 1000).is_empty());
        wheel.schedule(0, start);
        assert_eq!(wheel.next_deadline(), Some(start + TICK * 1001));
        assert_eq!(fired(&mut wheel, start + TICK * 1001), [0]);
    }

    #[test]
    fn a_deadline_beyond_the_range_is_kept() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start, Duration::from_nanos(1));
        wheel.schedule(0, start + Duration::from_secs(3600));
        assert!(fired(&mut wheel, start + Duration::from_secs(4)).is_empty());
        assert!(wheel.is_scheduled(0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Milliseconds from below a tick to beyond the third level (7 h).
        let span = || (0..26u32).prop_flat_map(|bits| 0..=(1u64 << bits));
        let step = prop_oneof![
            4 => (0..40u32, span()).prop_map(|(index, after)| Step::Schedule(index, after)),
            1 => (0..40u32).prop_map(Step::Cancel),
            3 => span().prop_map(Step::Advance),
        ];
        prop::collection::vec(step, 1..120)
    }

    /// A heap of (tick, index, version); an entry whose version is not the latest was cancelled.
    #[derive(Default)]
    struct Model {
        heap: BinaryHeap<Reverse<(u64, u32, u64)>>,
        latest: BTreeMap<u32, u64>,
        versions: u64,
    }

    impl Model {
        fn schedule(&mut self, index: u32, tick: u64) {
            self.versions += 1;
            self.latest.insert(index, self.versions);
            self.heap.push(Reverse((tick, index, self.versions)));
        }

        fn advance(&mut self, tick: u64) -> Vec<(u64, u32)> {
            let mut due = Vec::new();
            while let Some(&Reverse((at, index, version))) = self.heap.peek()
                && at <= tick
            {
                self.heap.pop();
                if self.latest.get(&index) == Some(&version) {
                    self.latest.remove(&index);
                    due.push((at, index));
                }
            }
            due
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_heap(steps in steps()) {
            let start = Instant::now();
            let mut wheel = TimerWheel::new(start, TICK);
            let mut model = Model::default();
            let mut now_ms = 0;
            for step in steps {
                match step {
                    Step::Schedule(index, after) => {
                        let at = now_ms + after;
                        wheel.schedule(index, start + Duration::from_millis(at));
                        model.schedule(index, at.div_ceil(100).max(now_ms / 100 + 1));
                    }
                    Step::Cancel(index) => {
                        wheel.cancel(index);
                        model.latest.remove(&index);
                    }
                    Step::Advance(by) => {
                        now_ms += by;
                        let mut got = fired(&mut wheel, start + Duration::from_millis(now_ms));
                        let mut due = model.advance(now_ms / 100);
                        // Within a tick the order is free; across ticks it is by deadline.
                        let mut ordered = got.iter().map(|index| {
                            due.iter().find(|(_, due)| due == index).map(|(tick, _)| *tick)
                        });
                        prop_assert!(ordered.by_ref().is_sorted(), "{got:?} against {due:?}");
                        got.sort_unstable();
                        due.sort_unstable_by_key(|&(_, index)| index);
                        prop_assert_eq!(got, due.iter().map(|&(_, index)| index).collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(wheel.len(), model.latest.len());
                let earliest = model.latest.keys().filter_map(|index| {
                    model.heap.iter().find(|entry| entry.0.1 == *index && entry.0.2 == model.latest[index])
                        .map(|entry| entry.0.0)
                }).min();
                match (wheel.next_deadline(), earliest) {
                    (None, None) => {}
                    (Some(at), Some(tick)) => {
                        prop_assert!(at <= start + TICK * u32::try_from(tick).unwrap());
                        prop_assert!(at > start + Duration::from_millis(now_ms / 100 * 100));
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
