//! The in-process bus against a model, over arbitrary operations: every confirmed body is delivered until it is
//! acknowledged, bodies of a partition come in order, and a partition has one owner at a time.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;
use roost_bus::{Bus, InProcessBus, InboundConsumer, InboundDelivery, PublishError};
use roost_protocol::topology::Partition;

const PARTITIONS: u16 = 5;
const CAPACITY: usize = 3;

#[derive(Debug, Clone)]
enum Operation {
    Publish(u16),
    Join,
    Leave(prop::sample::Index),
    Take(prop::sample::Index),
    Acknowledge(prop::sample::Index),
    GiveBack(prop::sample::Index),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{Acknowledge, GiveBack, Join, Leave, Publish, Take};
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..PARTITIONS).prop_map(Publish),
        1 => Just(Join),
        1 => index().prop_map(Leave),
        8 => index().prop_map(Take),
        5 => index().prop_map(Acknowledge),
        2 => index().prop_map(GiveBack),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting {
        before: bool,
    },
    /// Of this consumer, by the delivery of this number.
    Taken {
        consumer: usize,
        delivery: usize,
    },
    Done,
}

/// A delivery that the test holds.
struct Held {
    number: usize,
    partition: usize,
    inner: InboundDelivery,
}

struct Model {
    bus: InProcessBus,
    /// Body `i` of a partition is its number `i`, in the order published.
    bodies: Vec<Vec<State>>,
    consumers: Vec<(usize, Box<dyn InboundConsumer>)>,
    held: Vec<Held>,
    numbers: usize,
}

/// The result of a future that is ready at once, or `None`.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            bus: InProcessBus::with_capacity(PARTITIONS, CAPACITY, 1),
            bodies: vec![Vec::new(); usize::from(PARTITIONS)],
            consumers: Vec::new(),
            held: Vec::new(),
            numbers: 0,
        }
    }

    fn publish(&mut self, partition: u16) {
        let states = &mut self.bodies[usize::from(partition)];
        let open = states.iter().filter(|state| **state != State::Done).count();
        let body = Bytes::copy_from_slice(&(states.len() as u32).to_le_bytes());
        let result = now(self.bus.publish_inbound(Partition(partition), body));
        let expected = match open {
            n if n < CAPACITY => Some(Ok(())),
            n if n < 2 * CAPACITY => None,
            _ => Some(Err(PublishError::Full(Partition(partition).queue()))),
        };
        assert_eq!(result, expected, "{open} bodies held");
        if open < 2 * CAPACITY {
            states.push(State::Waiting { before: false });
        }
    }

    fn join(&mut self) {
        self.numbers += 1;
        let consumer = now(self.bus.consume_inbound()).expect("joins at once").expect("is open");
        self.consumers.push((self.numbers, consumer));
    }

    fn leave(&mut self, at: usize) {
        let (gone, consumer) = self.consumers.swap_remove(at);
        drop(consumer);
        for state in self.bodies.iter_mut().flatten() {
            if matches!(state, State::Taken { consumer, .. } if *consumer == gone) {
                *state = State::Waiting { before: true };
            }
        }
    }

    /// Takes one body; whether there was one.
    fn take(&mut self, at: usize) -> bool {
        let (consumer, handle) = &mut self.consumers[at];
        let Some(inner) = handle.try_next() else { return false };
        let partition = usize::from(inner.partition.0);
        let index = u32::from_le_bytes(inner.body[..].try_into().expect("four bytes")) as usize;
        let states = &mut self.bodies[partition];
        for (earlier, state) in states[..index].iter().enumerate() {
            assert!(!matches!(state, State::Waiting { .. }), "{index} overtook {earlier}");
        }
        for state in states.iter() {
            let other = matches!(state, State::Taken { consumer: c, .. } if c != consumer);
            assert!(!other, "two owners of partition {partition}");
        }
        let State::Waiting { before } = states[index] else {
            panic!("body {index} of partition {partition} was delivered while {:?}", states[index])
        };
        assert_eq!(inner.redelivered, before);
        self.numbers += 1;
        states[index] = State::Taken { consumer: *consumer, delivery: self.numbers };
        self.held.push(Held { number: self.numbers, partition, inner });
        true
    }

    fn acknowledge(&mut self, at: usize) {
        let held = self.held.swap_remove(at);
        now(held.inner.acknowledge()).expect("acknowledges at once");
        for state in &mut self.bodies[held.partition] {
            if matches!(state, State::Taken { delivery, .. } if *delivery == held.number) {
                *state = State::Done;
            }
        }
    }

    fn give_back(&mut self, at: usize) {
        let held = self.held.swap_remove(at);
        drop(held.inner);
        let states = &mut self.bodies[held.partition];
        let is_it =
            |s: &State| matches!(s, State::Taken { delivery, .. } if *delivery == held.number);
        let Some(index) = states.iter().position(is_it) else { return };
        for state in &mut states[index..] {
            if matches!(state, State::Taken { .. }) {
                *state = State::Waiting { before: true };
            }
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Publish(partition) => self.publish(*partition),
            Operation::Join => self.join(),
            Operation::Leave(i) if !self.consumers.is_empty() => {
                self.leave(i.index(self.consumers.len()));
            }
            Operation::Take(i) if !self.consumers.is_empty() => {
                self.take(i.index(self.consumers.len()));
            }
            Operation::Acknowledge(i) if !self.held.is_empty() => {
                self.acknowledge(i.index(self.held.len()));
            }
            Operation::GiveBack(i) if !self.held.is_empty() => {
                self.give_back(i.index(self.held.len()));
            }
            Operation::Leave(_)
            | Operation::Take(_)
            | Operation::Acknowledge(_)
            | Operation::GiveBack(_) => {}
        }
        let waiting = |state: &&State| matches!(state, State::Waiting { .. });
        assert_eq!(self.bus.inbound_depth(), self.bodies.iter().flatten().filter(waiting).count());
    }

    /// With everything settled: each consumer gets its share, and all bodies arrive.
    fn drain(&mut self) {
        while !self.held.is_empty() {
            self.acknowledge(0);
        }
        if self.consumers.is_empty() {
            self.join();
        }
        let mut owners = vec![BTreeSet::new(); self.consumers.len()];
        for partition in 0..PARTITIONS {
            self.publish(partition);
        }
        loop {
            let mut took = false;
            for (at, owner) in owners.iter_mut().enumerate() {
                while self.take(at) {
                    took = true;
                    owner.insert(self.held.last().map(|held| held.partition));
                    self.acknowledge(self.held.len() - 1);
                }
            }
            if !took {
                break;
            }
        }
        assert!(self.bodies.iter().flatten().all(|state| *state == State::Done));
        let sizes: Vec<_> = owners.iter().map(BTreeSet::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), usize::from(PARTITIONS));
        let (least, most) = (sizes.iter().min(), sizes.iter().max());
        assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{sizes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_the_model(operations in prop::collection::vec(operation(), 0..120)) {
        let mut model = Model::new();
        for operation in &operations {
            model.apply(operation);
        }
        model.drain();
    }
}
