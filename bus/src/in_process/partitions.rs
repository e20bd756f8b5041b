//! The inbound side as a plain state machine: queues, their owners, what is taken and not yet acknowledged.
//!
//! Per partition, oldest first: `taken`, then `waiting`, then bodies not published yet. A body moves right to left when it is
//! taken and back when it is given back, together with all that were taken after it; so the order never changes.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::faults::{Draw, Repeat};

pub(super) type ConsumerId = u64;

/// What became of a published body.
pub(super) enum Published {
    Held,
    Unconfirmed(oneshot::Receiver<()>),
    Full,
}

/// What a consumer got.
pub(super) enum Taken {
    Body { partition: u16, tag: u64, body: Bytes, redelivered: bool },
    HeldUntil(Instant),
    Nothing,
}

struct Waiting {
    body: Bytes,
    redelivered: bool,
}

struct Unacknowledged {
    /// Ascending within a partition, never used twice.
    tag: u64,
    body: Bytes,
}

#[derive(Default)]
struct Queue {
    taken: VecDeque<Unacknowledged>,
    waiting: VecDeque<Waiting>,
    /// Confirms of the newest bodies, withheld, oldest first.
    unconfirmed: VecDeque<oneshot::Sender<()>>,
    owner: Option<ConsumerId>,
    /// Becomes the owner when nothing is taken any more; until then nothing is delivered.
    heir: Option<ConsumerId>,
    /// In the owner's list of partitions with bodies.
    is_ready: bool,
    held_until: Option<Instant>,
    late_repeat: Option<Bytes>,
}

#[derive(Default)]
struct Consumer {
    waker: Option<Waker>,
    /// Partitions with bodies, served in turn.
    ready: VecDeque<u16>,
}

pub(super) struct Partitions {
    queues: Vec<Queue>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    bodies_max: usize,
    consumer_last: ConsumerId,
    tag_last: u64,
    waiting: usize,
}

impl Partitions {
    pub(super) fn new(partitions: u16, bodies_max: usize) -> Self {
        Self {
            queues: (0..partitions).map(|_| Queue::default()).collect(),
            consumers: BTreeMap::new(),
            bodies_max,
            consumer_last: 0,
            tag_last: 0,
            waiting: 0,
        }
    }

    /// Bodies that no consumer has.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Queues a body, and says whom to wake.
    pub(super) fn publish(
        &mut self,
        partition: u16,
        body: Bytes,
        draw: &Draw,
    ) -> (Published, Option<Waker>) {
        let bodies_max = self.bodies_max;
        let queue = &mut self.queues[usize::from(partition)];
        let held = queue.taken.len() + queue.waiting.len();
        if held >= 2 * bodies_max {
            return (Published::Full, None);
        }
        let before = queue.waiting.len();
        queue.waiting.push_back(Waiting { body: body.clone(), redelivered: false });
        if let Some(late) = queue.late_repeat.take() {
            queue.waiting.push_back(Waiting { body: late, redelivered: true });
        }
        match draw.repeat {
            Some(Repeat::AtOnce) => {
                queue.waiting.push_back(Waiting { body, redelivered: true });
            }
            Some(Repeat::AfterNext) => queue.late_repeat = Some(body),
            None => {}
        }
        if let Some(hold) = draw.hold {
            queue.held_until = Some(Instant::now() + hold);
        }
        let published = if held < bodies_max {
            Published::Held
        } else {
            let (confirm, confirmed) = oneshot::channel();
            queue.unconfirmed.push_back(confirm);
            Published::Unconfirmed(confirmed)
        };
        self.waiting += queue.waiting.len() - before;
        (published, self.settle(partition))
    }

    /// The next body of a partition this consumer owns, its partitions in turn.
    pub(super) fn take(&mut self, id: ConsumerId) -> Taken {
        let Some(consumer) = self.consumers.get_mut(&id) else { return Taken::Nothing };
        let mut held_until: Option<Instant> = None;
        for _ in 0..consumer.ready.len() {
            let Some(partition) = consumer.ready.pop_front() else { break };
            let queue = &mut self.queues[usize::from(partition)];
            if let Some(at) = queue.held_until {
                if at > Instant::now() {
                    held_until = Some(held_until.map_or(at, |earlier| earlier.min(at)));
                    consumer.ready.push_back(partition);
                    continue;
                }
                queue.held_until = None;
            }
            queue.is_ready = queue.waiting.len() > 1;
            if queue.is_ready {
                consumer.ready.push_back(partition);
            }
            let Some(Waiting { body, redelivered }) = queue.waiting.pop_front() else { continue };
            self.waiting -= 1;
            self.tag_last += 1;
            let tag = self.tag_last;
            queue.taken.push_back(Unacknowledged { tag, body: body.clone() });
            return Taken::Body { partition, tag, body, redelivered };
        }
        held_until.map_or(Taken::Nothing, Taken::HeldUntil)
    }

    /// Whom to wake when a body comes.
    pub(super) fn register(&mut self, id: ConsumerId, waker: Option<&Waker>) {
        if let (Some(consumer), Some(waker)) = (self.consumers.get_mut(&id), waker) {
            match &mut consumer.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// Forgets a body. A tag that was given back in the meantime changes nothing.
    pub(super) fn acknowledge(&mut self, partition: u16, tag: u64) -> Option<Waker> {
        let queue = &mut self.queues[usize::from(partition)];
        let at = queue.taken.binary_search_by_key(&tag, |taken| taken.tag).ok()?;
        queue.taken.remove(at);
        self.settle(partition)
    }

    /// Puts a body, and all that were taken after it, back in front.
    pub(super) fn give_back(&mut self, partition: u16, tag: u64) -> Option<Waker> {
        let queue = &mut self.queues[usize::from(partition)];
        let at = queue.taken.binary_search_by_key(&tag, |taken| taken.tag).ok()?;
        self.waiting += queue.give_back_from(at);
        self.settle(partition)
    }

    /// A new consumer gets its share of the partitions.
    pub(super) fn join(&mut self) -> (ConsumerId, Vec<Waker>) {
        self.consumer_last += 1;
        self.consumers.insert(self.consumer_last, Consumer::default());
        (self.consumer_last, self.rebalance())
    }

    /// The others get the partitions of this consumer, and what it has not acknowledged.
    pub(super) fn leave(&mut self, id: ConsumerId) -> Vec<Waker> {
        self.consumers.remove(&id);
        for queue in &mut self.queues {
            if queue.heir == Some(id) {
                queue.heir = None;
            }
            if queue.owner == Some(id) {
                self.waiting += queue.give_back_from(0);
                queue.owner = queue.heir.take();
                queue.is_ready = false;
            }
        }
        self.rebalance()
    }

    /// Loses all that waits.
    pub(super) fn purge(&mut self) {
        for (index, queue) in (0u16..).zip(&mut self.queues) {
            self.waiting -= queue.waiting.len();
            queue.waiting.clear();
            queue.late_repeat = None;
            queue.unconfirmed.drain(..).for_each(|confirm| {
                let _ = confirm.send(());
            });
            if std::mem::take(&mut queue.is_ready)
                && let Some(consumer) = queue.owner.and_then(|o| self.consumers.get_mut(&o))
            {
                consumer.ready.retain(|partition| *partition != index);
            }
        }
    }

    /// Drops every confirm and wakes every consumer.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.queues.iter_mut().for_each(|queue| queue.unconfirmed.clear());
        self.consumers.values_mut().filter_map(|consumer| consumer.waker.take()).collect()
    }

    /// Brings a partition to rest after a change: confirms for which there is room, the heir when nothing is taken, the owner's
    /// list. Returns the owner's waker when it has something to take.
    fn settle(&mut self, partition: u16) -> Option<Waker> {
        let queue = &mut self.queues[usize::from(partition)];
        while queue.taken.len() + queue.waiting.len() < self.bodies_max + queue.unconfirmed.len() {
            // The publisher may have gone: then nobody waits for the confirm.
            let Some(confirm) = queue.unconfirmed.pop_front() else { break };
            let _ = confirm.send(());
        }
        if queue.taken.is_empty() && queue.heir.is_some() {
            queue.owner = queue.heir.take();
        }
        if queue.is_ready || queue.heir.is_some() || queue.waiting.is_empty() {
            return None;
        }
        let owner = self.consumers.get_mut(&queue.owner?)?;
        queue.is_ready = true;
        owner.ready.push_back(partition);
        owner.waker.take()
    }

    /// Divides the partitions evenly over the consumers, moving as few as possible.
    fn rebalance(&mut self) -> Vec<Waker> {
        let mut counts: Vec<(ConsumerId, usize)> =
            self.consumers.keys().map(|id| (*id, 0)).collect();
        if counts.is_empty() {
            return Vec::new();
        }
        for queue in &self.queues {
            if let Some(count) =
                queue.assigned().and_then(|id| counts.iter_mut().find(|c| c.0 == id))
            {
                count.1 += 1;
            }
        }
        // The fullest keep the one more that an uneven division leaves.
        counts.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        let (share, larger) = (self.queues.len() / counts.len(), self.queues.len() % counts.len());
        let mut room: Vec<(ConsumerId, usize)> = counts
            .iter()
            .enumerate()
            .map(|(rank, (id, _))| (*id, share + usize::from(rank < larger)))
            .collect();
        let mut homeless = Vec::new();
        for (index, queue) in (0u16..).zip(&self.queues) {
            match queue.assigned().and_then(|id| room.iter_mut().find(|r| r.0 == id)) {
                Some((_, left)) if *left > 0 => *left -= 1,
                Some(_) | None => homeless.push(index),
            }
        }
        let free = room.into_iter().flat_map(|(id, left)| std::iter::repeat_n(id, left));
        for (index, id) in homeless.into_iter().zip(free) {
            self.assign(index, id);
        }
        (0u16..).take(self.queues.len()).filter_map(|index| self.settle(index)).collect()
    }

    /// Decides who gets a partition: at once when nothing of it is taken, else when that is settled.
    fn assign(&mut self, partition: u16, id: ConsumerId) {
        let queue = &mut self.queues[usize::from(partition)];
        if queue.owner == Some(id) {
            queue.heir = None;
            return;
        }
        if std::mem::take(&mut queue.is_ready)
            && let Some(former) = queue.owner.and_then(|owner| self.consumers.get_mut(&owner))
        {
            former.ready.retain(|ready| *ready != partition);
        }
        queue.heir = Some(id);
    }
}

impl Queue {
    /// Who owns the partition, or is about to.
    fn assigned(&self) -> Option<ConsumerId> {
        self.heir.or(self.owner)
    }

    /// Puts everything taken from `at` on back in front; returns how many.
    fn give_back_from(&mut self, at: usize) -> usize {
        let count = self.taken.len() - at;
        for Unacknowledged { body, .. } in self.taken.drain(at..).rev() {
            self.waiting.push_front(Waiting { body, redelivered: true });
        }
        count
    }
}
