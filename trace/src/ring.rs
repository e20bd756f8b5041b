//! A ring of passages: one thread writes, any thread reads, nobody waits.
//!
//! Each slot is a seqlock of atomic words (Boehm, "Can seqlocks get along with programming language memory models?", 2012): its version is
//! odd while the slot is written, and tells which round of the ring it holds. A reader that meets a slot that changes under it leaves
//! it out: it was about to be overwritten anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use roost_protocol::ClientMsgId;

use crate::passage::{Passage, WORDS};
use crate::sampling::Sampling;

/// Two cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot {
    /// 2 * index + 1 while the passage with this index is written, 2 * index + 2 when it is; 0: never written.
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Slot>() == 128, "the configuration says so");

/// See the module text.
#[derive(Debug)]
pub(crate) struct Ring {
    slots: Box<[Slot]>,
    written: AtomicU64,
}

impl Ring {
    /// With this many slots, a power of two.
    pub(crate) fn new(slots: usize) -> Self {
        assert!(slots.is_power_of_two(), "checked with the configuration");
        Self { slots: (0..slots).map(|_| Slot::default()).collect(), written: AtomicU64::new(0) }
    }

    /// Passages so far, overwritten ones among them.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn slot(&self, index: u64) -> &Slot {
        // The mask keeps it below the length.
        &self.slots[index as usize & (self.slots.len() - 1)]
    }

    fn write(&self, index: u64, words: [u64; WORDS]) {
        let slot = self.slot(index);
        slot.version.store(2 * index + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in slot.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        slot.version.store(2 * index + 2, Ordering::Release);
        self.written.store(index + 1, Ordering::Release);
    }

    /// The passage with this index, unless it is overwritten.
    fn read(&self, index: u64) -> Option<Passage> {
        let slot = self.slot(index);
        let version = slot.version.load(Ordering::Acquire);
        if version != 2 * index + 2 {
            return None;
        }
        let words = std::array::from_fn(|place| slot.words[place].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_whole = slot.version.load(Ordering::Relaxed) == version;
        is_whole.then(|| Passage::of_words(&words)).flatten()
    }

    fn oldest(&self, written: u64) -> u64 {
        written.saturating_sub(self.slots.len() as u64)
    }

    /// All that it holds, oldest first.
    pub(crate) fn visit(&self, mut visit: impl FnMut(Passage)) {
        let written = self.written();
        (self.oldest(written)..written).filter_map(|index| self.read(index)).for_each(&mut visit);
    }

    /// Time of the oldest passage that it holds, once others were overwritten.
    pub(crate) fn overwritten_until_ns(&self) -> Option<u64> {
        let written = self.written();
        let oldest = self.oldest(written);
        if oldest == 0 {
            return None;
        }
        (oldest..written).find_map(|index| self.read(index)).map(|passage| passage.at_ns)
    }

    /// At most `max` passages from `cursor` on, which moves behind them; returns how many were overwritten before they were read.
    #[cfg(any(feature = "otlp", test))]
    pub(crate) fn take(&self, cursor: &mut u64, max: usize, out: &mut Vec<Passage>) -> u64 {
        let written = self.written();
        let begin = self.oldest(written).max(*cursor);
        let end = written.min(begin + max as u64);
        let mut lost = begin - *cursor;
        for index in begin..end {
            match self.read(index) {
                Some(passage) => out.push(passage),
                None => lost += 1,
            }
        }
        *cursor = end;
        lost
    }
}

/// The writing end of a ring; there is one.
#[derive(Debug)]
pub struct TraceWriter {
    sampling: Sampling,
    ring: Option<Arc<Ring>>,
    next: u64,
}

impl TraceWriter {
    pub(crate) fn new(sampling: Sampling, ring: Arc<Ring>) -> Self {
        Self { sampling, ring: Some(ring), next: 0 }
    }

    /// Records nothing.
    pub fn off() -> Self {
        Self { sampling: Sampling::NOTHING, ring: None, next: 0 }
    }

    /// Whether it records anything at all.
    pub fn is_off(&self) -> bool {
        self.ring.is_none()
    }

    /// Whether this message is traced. Ask before a [`Passage`] is made.
    pub fn wants(&self, id: ClientMsgId) -> bool {
        self.sampling.takes(id)
    }

    /// Remembers a passage. No allocation, no lock, about 16 stores.
    pub fn record(&mut self, passage: &Passage) {
        if let Some(ring) = &self.ring {
            ring.write(self.next, passage.to_words());
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::passage::{Hop, Text};

    fn passage(number: u64) -> Passage {
        let id = ClientMsgId((u128::from(number) << 64 | u128::from(!number)).to_be_bytes());
        let text = Text::new(&format!("{number:056}"));
        let moment = Passage::new(id, Hop::Received, number);
        Passage { number, message_id: !number, received_us: number, text, ..moment }
    }

    fn writer(slots: usize) -> (TraceWriter, Arc<Ring>) {
        let ring = Arc::new(Ring::new(slots));
        (TraceWriter::new(Sampling::of_share(1.0), Arc::clone(&ring)), ring)
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_counts_what_it_missed() {
        let (mut writer, ring) = writer(16);
        let (mut cursor, mut out) = (0, Vec::new());
        (0..10).for_each(|number| writer.record(&passage(number)));
        assert_eq!(ring.take(&mut cursor, 4, &mut out), 0);
        assert_eq!(ring.take(&mut cursor, 100, &mut out), 0);
        assert_eq!(out, (0..10).map(passage).collect::<Vec<_>>());
        out.clear();
        (10..40).for_each(|number| writer.record(&passage(number)));
        assert_eq!(ring.take(&mut cursor, 100, &mut out), 14);
        assert_eq!(out, (24..40).map(passage).collect::<Vec<_>>());
        assert_eq!((cursor, ring.written()), (40, 40));
    }

    /// A reader beside a writer that laps it never sees half of one passage and half of another.
    #[test]
    fn no_passage_is_torn() {
        const PASSAGES: u64 = 200_000;
        let (mut writer, ring) = writer(16);
        let is_over = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            scope.spawn(|| {
                (0..PASSAGES).for_each(|number| writer.record(&passage(number)));
                is_over.store(true, Ordering::Release);
            });
            let (mut cursor, mut out, mut seen, mut lost) = (0, Vec::new(), 0, 0);
            loop {
                let is_last = is_over.load(Ordering::Acquire);
                lost += ring.take(&mut cursor, 8, &mut out);
                for read in out.drain(..) {
                    assert_eq!(read, passage(read.number));
                    seen += 1;
                }
                if is_last && cursor == PASSAGES {
                    break seen + lost;
                }
            }
        });
        assert_eq!(seen, PASSAGES, "each was seen or counted as lost");
    }
}
