//! Traffic over all partitions, and a judge of what arrived: order, no loss, no two owners.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use roost_bus::{InboundConsumer, SharedBus};
use roost_protocol::topology::Partition;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};

use super::{DEADLINE, body, number};

/// What happened in one partition.
#[derive(Debug, Default)]
struct Lane {
    /// Confirmed to the publisher.
    confirmed: u32,
    /// In the order taken.
    taken: Vec<u32>,
    /// Acknowledged by a worker.
    acknowledged: BTreeSet<u32>,
}

/// Publishers that go back to the first body that failed, and workers that come and go.
pub(crate) struct Traffic {
    lanes: Arc<Vec<Mutex<Lane>>>,
    is_over: Arc<AtomicBool>,
    publishers: JoinSet<()>,
    workers: JoinSet<()>,
}

/// How workers behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// Of ten batches, how many are dropped instead of acknowledged.
    pub(crate) drops_in_ten: u32,
    /// Of ten batches, after how many the worker leaves and another comes.
    pub(crate) leaves_in_ten: u32,
}

impl Traffic {
    /// Starts publishing on every partition.
    pub(crate) fn start(publishing: &SharedBus, consuming: &[SharedBus], habits: Habits) -> Self {
        let partitions = publishing.partitions();
        let mut traffic = Self {
            lanes: Arc::new((0..partitions).map(|_| Mutex::default()).collect()),
            is_over: Arc::default(),
            publishers: JoinSet::new(),
            workers: JoinSet::new(),
        };
        for partition in 0..partitions {
            let (bus, lanes) = (Arc::clone(publishing), Arc::clone(&traffic.lanes));
            let is_over = Arc::clone(&traffic.is_over);
            traffic.publishers.spawn(publish(bus, partition, lanes, is_over));
        }
        for (seed, bus) in (0..).zip(consuming) {
            let (bus, lanes) = (Arc::clone(bus), Arc::clone(&traffic.lanes));
            let is_over = Arc::clone(&traffic.is_over);
            traffic.workers.spawn(work(seed, bus, lanes, is_over, habits));
        }
        traffic
    }

    /// Bodies confirmed so far.
    pub(crate) fn confirmed(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.lock().confirmed).sum()
    }

    /// Waits until so many more bodies are confirmed.
    pub(crate) async fn progress(&self, more: u32) {
        let goal = self.confirmed() + more;
        let until = Instant::now() + DEADLINE;
        while self.confirmed() < goal {
            assert!(Instant::now() < until, "no progress: {} of {goal}", self.confirmed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends publishing. Returns how many bodies were confirmed; if `is_complete`, all of them must be acknowledged by a worker, else the
    /// broker may have lost some. What was taken must be in order in any case.
    pub(crate) async fn judge(mut self, is_complete: bool) -> u32 {
        self.is_over.store(true, Ordering::Release);
        timeout(DEADLINE, async { while self.publishers.join_next().await.is_some() {} })
            .await
            .expect("publishers end");
        let confirmed = self.confirmed();
        let until = Instant::now() + DEADLINE;
        while is_complete && !self.lanes.iter().all(|lane| lane.lock().is_complete()) {
            let open: Vec<_> = self.lanes.iter().map(|lane| lane.lock().missing()).collect();
            assert!(Instant::now() < until, "confirmed and never acknowledged: {open:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while let Some(ended) = self.workers.try_join_next() {
            ended.expect("no worker fails");
        }
        self.workers.shutdown().await;
        for (partition, lane) in self.lanes.iter().enumerate() {
            lane.lock().judge(partition, !is_complete);
        }
        confirmed
    }
}

impl Lane {
    fn is_complete(&self) -> bool {
        self.missing().is_none()
    }

    /// The first confirmed body that no worker has acknowledged.
    fn missing(&self) -> Option<u32> {
        (0..).zip(&self.acknowledged).find(|(expected, number)| expected != *number).map_or_else(
            || {
                let next = u32::try_from(self.acknowledged.len()).expect("few bodies");
                (next < self.confirmed).then_some(next)
            },
            |(expected, _)| Some(expected),
        )
    }

    /// A body is first taken after all before it were taken, unless they were lost: later ones never come first.
    fn judge(&self, partition: usize, may_lose: bool) {
        let mut seen = BTreeSet::new();
        let mut next = 0;
        for (at, number) in self.taken.iter().enumerate() {
            let before = &self.taken[at.saturating_sub(10)..=at];
            let is_new = seen.insert(*number);
            assert!(
                *number >= next || !is_new,
                "partition {partition}: {number} was overtaken: {before:?}"
            );
            assert!(
                may_lose || *number <= next,
                "partition {partition}: {next} was left out: {before:?}"
            );
            next = next.max(*number + 1);
        }
    }
}

/// Stop and wait with a repeat: the numbers of a partition are confirmed in order.
async fn publish(
    bus: SharedBus,
    partition: u16,
    lanes: Arc<Vec<Mutex<Lane>>>,
    is_over: Arc<AtomicBool>,
) {
    let mut window = VecDeque::new();
    let mut next = 0;
    let mut has_failed = false;
    loop {
        while !has_failed && window.len() < 2 && !is_over.load(Ordering::Acquire) {
            window.push_back((next, bus.publish_inbound(Partition(partition), body(next))));
            next += 1;
        }
        let Some((number, confirm)) = window.pop_front() else {
            if !has_failed {
                return;
            }
            // Everything is answered: back to the first that failed.
            has_failed = false;
            next = lanes[usize::from(partition)].lock().confirmed;
            tokio::time::sleep(Duration::from_millis(5)).await;
            // Once something was handed over it has to arrive, also after the end.
            window.push_back((next, bus.publish_inbound(Partition(partition), body(next))));
            next += 1;
            continue;
        };
        match confirm.await {
            Ok(()) if !has_failed => lanes[usize::from(partition)].lock().confirmed = number + 1,
            Ok(()) => {}
            Err(_) => has_failed = true,
        }
    }
}

async fn work(
    seed: u64,
    bus: SharedBus,
    lanes: Arc<Vec<Mutex<Lane>>>,
    is_over: Arc<AtomicBool>,
    habits: Habits,
) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut consumer = join(&bus).await;
    loop {
        let mut batch = vec![consumer.next().await.expect("the bus is open")];
        batch.extend(std::iter::from_fn(|| consumer.try_next()).take(rng.usize(0..6)));
        for delivery in &batch {
            let mut lane = lanes[usize::from(delivery.partition.0)].lock();
            lane.taken.push(number(&delivery.body));
        }
        let may_fail = !is_over.load(Ordering::Acquire);
        if may_fail && rng.u32(0..10) < habits.drops_in_ten {
            drop(batch);
        } else if may_fail && rng.u32(0..10) < habits.leaves_in_ten {
            drop(consumer);
            drop(batch);
            consumer = join(&bus).await;
        } else {
            for delivery in batch {
                let (partition, number) =
                    (usize::from(delivery.partition.0), number(&delivery.body));
                delivery.acknowledge().await;
                lanes[partition].lock().acknowledged.insert(number);
            }
        }
    }
}

/// The broker may be away: a worker tries until it is back.
async fn join(bus: &SharedBus) -> Box<dyn InboundConsumer> {
    let until = Instant::now() + DEADLINE;
    loop {
        match bus.consume_inbound().await {
            Ok(consumer) => return consumer,
            Err(error) => assert!(Instant::now() < until, "the broker stays away: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
