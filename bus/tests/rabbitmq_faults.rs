//! What RabbitMQ's worst hours cost: latency, never the order of a partition, and nothing confirmed while the broker lives.

mod contract;

use std::time::Duration;

use contract::traffic::{Habits, Traffic};
use contract::{DEADLINE, body, next, number, soon};
use roost_bus::{Bus, BusConfig, RabbitBus, SharedBus};
use roost_protocol::topology::Partition;
use roost_testing::RabbitMq;
use tokio::time::Instant;

const PARTITIONS: u16 = 8;

async fn connect(broker: &RabbitMq, name: &str, delivery_limit: u16) -> RabbitBus {
    let config = BusConfig {
        url: broker.url(),
        partitions: PARTITIONS,
        heartbeat: Duration::from_secs(2),
        confirm_timeout: Duration::from_secs(5),
        delivery_limit,
        ..BusConfig::default()
    };
    soon(RabbitBus::connect(config, name)).await.expect("the broker is there")
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn start_broker() -> RabbitMq {
    contract::show_log();
    tokio::task::spawn_blocking(RabbitMq::start).await.expect("a broker")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_while_the_broker_lives() {
    let broker = start_broker().await;
    let publishing = connect(&broker, "gateway", 1000).await;
    let mut workers: Vec<SharedBus> = Vec::new();
    for name in ["logic-1", "logic-2", "logic-3"] {
        workers.push(connect(&broker, name, 1000).await.shared());
    }
    let counters = publishing.counters();
    let habits = Habits { drops_in_ten: 1, leaves_in_ten: 1 };
    let traffic = Traffic::start(&publishing.shared(), &workers, habits);
    traffic.progress(500).await;

    // Twice, so that the second time meets connections that were opened anew.
    for lost in 1..3 {
        broker.ctl(&["close_all_connections", "test"]);
        until("the loss is noticed", || counters.connections_lost.get() >= lost).await;
        traffic.progress(500).await;
    }

    let lost = counters.connections_lost.get();
    broker.pause();
    until("silence is noticed", || counters.connections_lost.get() > lost).await;
    broker.resume();
    traffic.progress(500).await;

    broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    until("the broker is blocked", || counters.blocked.get() == 1).await;
    let lost = counters.connections_lost.get();
    broker.ctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]);
    until("the broker takes again", || counters.blocked.get() == 0).await;
    assert_eq!(counters.connections_lost.get(), lost, "blocked is not lost");
    traffic.progress(500).await;

    let confirmed = traffic.judge(true).await;
    assert!(confirmed >= 2500 && counters.unknown.get() > 0, "{confirmed}: {counters:?}");

    purged_bodies_are_gone_and_later_ones_come(&broker, &publishing).await;
    a_culprit_is_put_aside_alone(&broker).await;
}

async fn purged_bodies_are_gone_and_later_ones_come(broker: &RabbitMq, bus: &RabbitBus) {
    for i in 0..3 {
        bus.publish_inbound(Partition(0), body(i)).await.unwrap();
    }
    broker.ctl(&["purge_queue", "roost.in.0"]);
    bus.publish_inbound(Partition(0), body(3)).await.unwrap();
    let mut worker = bus.consume_inbound().await.unwrap();
    let delivery = next(&mut worker).await;
    assert_eq!(number(&delivery.body), 3);
    delivery.acknowledge().await;

    // A deleted queue: publishers are told, it is declared again, and the worker subscribes again.
    broker.ctl(&["delete_queue", "roost.in.0"]);
    let end = Instant::now() + DEADLINE;
    while bus.publish_inbound(Partition(0), body(4)).await.is_err() {
        assert!(Instant::now() < end, "the queue is not declared again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let delivery = next(&mut worker).await;
    assert_eq!(number(&delivery.body), 4);
    delivery.acknowledge().await;
}

/// Body 1 of partition 1 takes every worker down that has it. The bodies around it are taken by workers that go down with it.
async fn a_culprit_is_put_aside_alone(broker: &RabbitMq) {
    let bus = connect(broker, "culprit", 2).await;
    for i in 0..4 {
        bus.publish_inbound(Partition(1), body(i)).await.unwrap();
        bus.publish_inbound(Partition(2), body(10 + i)).await.unwrap();
    }
    let mut done = Vec::new();
    let mut crashes = 0;
    while done.len() < 7 {
        let mut worker = bus.consume_inbound().await.unwrap();
        let mut crashed = false;
        while !crashed && done.len() < 7 {
            let delivery = next(&mut worker).await;
            crashed = number(&delivery.body) == 1;
            if !crashed {
                done.push(number(&delivery.body));
                delivery.acknowledge().await;
            }
        }
        crashes += u32::from(crashed);
    }
    done.sort_unstable();
    assert_eq!(done, [0, 2, 3, 10, 11, 12, 13]);
    // Once ordinarily, then twice again.
    assert_eq!((crashes, bus.counters().dead_lettered.get()), (3, 1));
    let dead = broker.ctl(&["list_queues", "name", "messages"]);
    assert!(dead.lines().any(|line| line == "roost.dead\t1"), "{dead}");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_takes_bodies_with_it_but_no_order() {
    let mut broker = start_broker().await;
    let bus = connect(&broker, "both", 1000).await;
    let other = connect(&broker, "logic", 1000).await;

    // Taken before the crash, acknowledged after it: that must not acknowledge the body that has its tag then.
    let mut worker = bus.consume_inbound().await.unwrap();
    bus.publish_inbound(Partition(5), body(1)).await.unwrap();
    let before = next(&mut worker).await;
    broker.kill();
    let error = soon(bus.publish_inbound(Partition(5), body(0))).await;
    assert!(error.is_err(), "no confirm from a dead broker");
    let broker = tokio::task::spawn_blocking(move || {
        broker.restart();
        broker
    });
    let mut broker = soon(broker).await.unwrap();
    until("publishing again", || bus.counters().connections_lost.get() >= 2).await;
    let end = Instant::now() + DEADLINE;
    while bus.publish_inbound(Partition(5), body(2)).await.is_err() {
        assert!(Instant::now() < end, "the bus does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = next(&mut worker).await;
    assert_eq!(number(&after.body), 2);
    before.acknowledge().await;
    drop(after);
    let again = next(&mut worker).await;
    assert_eq!((number(&again.body), again.redelivered), (2, true));
    again.acknowledge().await;
    assert_eq!(bus.counters().acknowledged_late.get(), 1);
    drop(worker);

    let habits = Habits { drops_in_ten: 1, leaves_in_ten: 1 };
    let traffic = Traffic::start(&bus.shared(), &[bus.shared(), other.shared()], habits);
    for _ in 0..2 {
        traffic.progress(500).await;
        broker = soon(tokio::task::spawn_blocking(move || {
            broker.kill();
            broker.restart();
            broker
        }))
        .await
        .unwrap();
    }
    traffic.progress(500).await;
    let confirmed = traffic.judge(false).await;
    assert!(confirmed >= 1500);
}
