//! What every adapter of the bus promises, as its users see it. Each function leaves the bus empty.

#![allow(dead_code, reason = "each adapter's test uses a part of it")]

pub(crate) mod traffic;

use std::time::Duration;

use bytes::Bytes;
use roost_bus::{Bus, InboundConsumer, InboundDelivery, OutboundConsumer, PublishError};
use roost_protocol::topology::Partition;
use tokio::time::{Instant, timeout};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn body(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

pub(crate) fn number(body: &Bytes) -> u32 {
    u32::from_le_bytes(body[..].try_into().expect("four bytes"))
}

/// Shows what the bus says when the test fails; RUST_LOG chooses.
pub(crate) fn show_log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// Awaits with a deadline.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("within the deadline")
}

pub(crate) async fn next(worker: &mut Box<dyn InboundConsumer>) -> InboundDelivery {
    soon(worker.next()).await.expect("the bus is open")
}

pub(crate) async fn next_delivery(gateway: &mut Box<dyn OutboundConsumer>) -> u32 {
    number(&soon(gateway.next()).await.expect("the bus is open"))
}

/// Runs all of it.
pub(crate) async fn all(bus: &dyn Bus) {
    a_waiting_worker_is_woken_by_a_publish(bus).await;
    bodies_of_a_partition_keep_their_order(bus).await;
    a_worker_takes_over_what_another_left(bus).await;
    a_body_given_back_comes_again_before_the_later_ones(bus).await;
    partitions_are_divided_over_workers(bus).await;
    deliveries_reach_their_gateway_or_are_returned(bus).await;
    an_unknown_partition_is_returned(bus).await;
}

async fn a_waiting_worker_is_woken_by_a_publish(bus: &dyn Bus) {
    let mut worker = bus.consume_inbound().await.unwrap();
    let waiting = tokio::spawn(async move {
        let delivery = next(&mut worker).await;
        let seen = (delivery.partition, number(&delivery.body), delivery.redelivered);
        delivery.acknowledge().await;
        seen
    });
    tokio::task::yield_now().await;
    bus.publish_inbound(Partition(3), body(7)).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap(), (Partition(3), 7, false));
}

async fn bodies_of_a_partition_keep_their_order(bus: &dyn Bus) {
    const BODIES: u32 = 400;
    let mut worker = bus.consume_inbound().await.unwrap();
    let publish = async {
        let mut former = None;
        for i in 0..BODIES {
            // In order by the call, two unconfirmed.
            let confirm = bus.publish_inbound(Partition(1), body(i));
            if let Some(former) = former.replace(confirm) {
                soon(former).await.unwrap();
            }
        }
        soon(former.unwrap()).await.unwrap();
    };
    let take = async {
        for i in 0..BODIES {
            let delivery = next(&mut worker).await;
            assert_eq!(number(&delivery.body), i);
            delivery.acknowledge().await;
        }
    };
    tokio::join!(publish, take);
}

async fn a_worker_takes_over_what_another_left(bus: &dyn Bus) {
    let mut first = bus.consume_inbound().await.unwrap();
    for i in 0..3 {
        bus.publish_inbound(Partition(0), body(i)).await.unwrap();
    }
    let taken = [next(&mut first).await, next(&mut first).await];
    assert_eq!(taken.each_ref().map(|delivery| number(&delivery.body)), [0, 1]);
    let mut second = bus.consume_inbound().await.unwrap();
    let waiting = tokio::spawn(async move {
        let mut numbers = Vec::new();
        while numbers.len() < 3 {
            let delivery = next(&mut second).await;
            numbers.push((number(&delivery.body), delivery.redelivered || numbers.len() == 2));
            delivery.acknowledge().await;
        }
        numbers
    });
    tokio::task::yield_now().await;
    drop(first);
    // Too late: they belong to the other one now.
    for delivery in taken {
        delivery.acknowledge().await;
    }
    assert_eq!(soon(waiting).await.unwrap(), [(0, true), (1, true), (2, true)]);
}

async fn a_body_given_back_comes_again_before_the_later_ones(bus: &dyn Bus) {
    let mut worker = bus.consume_inbound().await.unwrap();
    for i in 0..6 {
        bus.publish_inbound(Partition(2), body(i)).await.unwrap();
    }
    next(&mut worker).await.acknowledge().await;
    let (given_back, later) = (next(&mut worker).await, next(&mut worker).await);
    assert_eq!((number(&given_back.body), number(&later.body)), (1, 2));
    drop(given_back);
    // It was taken after one that was given back: it comes again, whatever is said of it now.
    later.acknowledge().await;
    for expected in 1..6 {
        let delivery = next(&mut worker).await;
        assert_eq!(number(&delivery.body), expected);
        assert!(delivery.redelivered || expected > 2);
        delivery.acknowledge().await;
    }
}

async fn partitions_are_divided_over_workers(bus: &dyn Bus) {
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(bus.consume_inbound().await.unwrap());
    }
    let partitions = usize::from(bus.partitions());
    let until = Instant::now() + DEADLINE;
    loop {
        let mut shares = [0; 3];
        for partition in 0..bus.partitions() {
            soon(bus.publish_inbound(Partition(partition), body(0))).await.unwrap();
        }
        while shares.iter().sum::<usize>() < partitions {
            let [a, b, c] = &mut workers[..] else { unreachable!("three workers") };
            let (at, delivery) = soon(async {
                tokio::select! {
                    delivery = a.next() => (0, delivery),
                    delivery = b.next() => (1, delivery),
                    delivery = c.next() => (2, delivery),
                }
            })
            .await;
            delivery.expect("the bus is open").acknowledge().await;
            shares[at] += 1;
        }
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        if most - least <= 1 {
            return;
        }
        assert!(Instant::now() < until, "uneven shares: {shares:?}");
    }
}

async fn deliveries_reach_their_gateway_or_are_returned(bus: &dyn Bus) {
    let returned = || Err(PublishError::Returned("gw-1".to_owned()));
    assert_eq!(bus.publish_outbound("gw-1", body(0)).await, returned());
    let mut gateway = bus.consume_outbound("gw-1").await.unwrap();
    let mut other = bus.consume_outbound("gw-2").await.unwrap();
    for i in 1..200 {
        bus.publish_outbound("gw-1", body(i)).await.unwrap();
        assert_eq!(next_delivery(&mut gateway).await, i);
    }
    bus.publish_outbound("gw-2", body(1)).await.unwrap();
    assert_eq!(next_delivery(&mut other).await, 1);
    drop(gateway);
    let until = Instant::now() + DEADLINE;
    while bus.publish_outbound("gw-1", body(4)).await != returned() {
        assert!(Instant::now() < until, "the queue of a gateway that left is still there");
    }
    // The neighbour has lost nothing.
    bus.publish_outbound("gw-2", body(2)).await.unwrap();
    assert_eq!(next_delivery(&mut other).await, 2);
}

async fn an_unknown_partition_is_returned(bus: &dyn Bus) {
    let partition = Partition(bus.partitions());
    let returned = Err(PublishError::Returned(partition.queue()));
    assert_eq!(bus.publish_inbound(partition, body(0)).await, returned);
}
