//! The outbound side as a plain state machine: one delivery queue per gateway, there while its consumer is.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::consumers::Next;

/// What became of a published body.
pub(super) enum Accepted {
    Held,
    Unconfirmed(oneshot::Receiver<()>),
    Full,
    Nobody,
}

struct Queue {
    consumer: u64,
    bodies: VecDeque<Bytes>,
    /// Injected delays only: later bodies overtake these.
    delayed: Vec<(Instant, Bytes)>,
    /// Confirms of the newest bodies, withheld, oldest first.
    unconfirmed: VecDeque<oneshot::Sender<()>>,
    waker: Option<Waker>,
}

pub(super) struct Outbound {
    queues: HashMap<String, Queue>,
    bodies_max: usize,
    consumer_last: u64,
}

impl Outbound {
    pub(super) fn new(bodies_max: usize) -> Self {
        Self { queues: HashMap::new(), bodies_max, consumer_last: 0 }
    }

    pub(super) fn exists(&self, gateway: &str) -> bool {
        self.queues.contains_key(gateway)
    }

    /// Opens the queue of a gateway, empty. The waker is of a consumer that thereby lost it.
    pub(super) fn open(&mut self, gateway: &str) -> (u64, Option<Waker>) {
        self.consumer_last += 1;
        let queue = Queue {
            consumer: self.consumer_last,
            bodies: VecDeque::new(),
            delayed: Vec::new(),
            unconfirmed: VecDeque::new(),
            waker: None,
        };
        let former = self.queues.insert(gateway.to_owned(), queue);
        (self.consumer_last, former.and_then(|former| former.waker))
    }

    /// Removes the queue, unless another consumer has taken it over.
    pub(super) fn remove(&mut self, gateway: &str, consumer: u64) {
        if self.queues.get(gateway).is_some_and(|queue| queue.consumer == consumer) {
            self.queues.remove(gateway);
        }
    }

    /// Queues a body, twice when it is `repeated`, and says whom to wake.
    pub(super) fn publish(
        &mut self,
        gateway: &str,
        body: Bytes,
        repeated: bool,
        hold: Option<Duration>,
    ) -> (Accepted, Option<Waker>) {
        let Some(queue) = self.queues.get_mut(gateway) else { return (Accepted::Nobody, None) };
        let held = queue.held();
        if held >= 2 * self.bodies_max {
            return (Accepted::Full, None);
        }
        if repeated {
            queue.bodies.push_back(body.clone());
        }
        match hold {
            Some(hold) => queue.delayed.push((Instant::now() + hold, body)),
            None => queue.bodies.push_back(body),
        }
        let accepted = if held < self.bodies_max {
            Accepted::Held
        } else {
            let (confirm, confirmed) = oneshot::channel();
            queue.unconfirmed.push_back(confirm);
            Accepted::Unconfirmed(confirmed)
        };
        (accepted, queue.waker.take())
    }

    /// The next body; registers the waker when there is none.
    pub(super) fn take(
        &mut self,
        gateway: &str,
        consumer: u64,
        waker: Option<&Waker>,
    ) -> Next<Bytes> {
        let bodies_max = self.bodies_max;
        let Some(queue) = self.queues.get_mut(gateway).filter(|q| q.consumer == consumer) else {
            return Next::Closed;
        };
        let held_until = queue.release_delayed();
        if let Some(body) = queue.bodies.pop_front() {
            while queue.held() < bodies_max + queue.unconfirmed.len() {
                // The publisher may have gone: then nobody waits for the confirm.
                let Some(confirm) = queue.unconfirmed.pop_front() else { break };
                let _ = confirm.send(());
            }
            return Next::Body(body);
        }
        if let Some(waker) = waker {
            match &mut queue.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        held_until.map_or(Next::Nothing, Next::HeldUntil)
    }

    /// Loses all that waits.
    pub(super) fn purge(&mut self) {
        for queue in self.queues.values_mut() {
            queue.bodies.clear();
            queue.delayed.clear();
            queue.unconfirmed.drain(..).for_each(|confirm| {
                let _ = confirm.send(());
            });
        }
    }

    /// Drops every queue and wakes every consumer.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.queues.drain().filter_map(|(_, queue)| queue.waker).collect()
    }
}

impl Queue {
    fn held(&self) -> usize {
        self.bodies.len() + self.delayed.len()
    }

    /// Moves what was delayed long enough to the end of the queue; returns when the next is.
    fn release_delayed(&mut self) -> Option<Instant> {
        if self.delayed.is_empty() {
            return None;
        }
        let now = Instant::now();
        for (_, body) in self.delayed.extract_if(.., |(at, _)| *at <= now) {
            self.bodies.push_back(body);
        }
        self.delayed.iter().map(|(at, _)| *at).min()
    }
}
