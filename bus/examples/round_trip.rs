//! How fast is the in-process bus? Prints the round trip of one body (publisher thread -> worker thread -> publisher thread) and the bodies
//! per second of one publisher and one worker with two unconfirmed bodies per partition.
//!
//! Run it with `cargo run --release -p roost-bus --example round_trip`. Expected: a round trip is two wake-ups of a sleeping thread, so
//! the scheduler's price; the bus adds well under a microsecond.

use std::time::Instant;

use bytes::Bytes;
use roost_bus::{Bus, InProcessBus};
use roost_protocol::topology::Partition;

const ROUND_TRIPS: usize = 50_000;
const BODIES: usize = 1_000_000;
const PARTITIONS: u16 = 32;

fn main() {
    let bus = InProcessBus::new(PARTITIONS);
    let echo = {
        let bus = bus.clone();
        std::thread::spawn(move || runtime().block_on(echo(&bus)))
    };
    runtime().block_on(round_trips(&bus));
    runtime().block_on(throughput(&bus));
    bus.close();
    echo.join().expect("the worker ends");
    runtime().block_on(own_cost());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn echo(bus: &InProcessBus) {
    let mut worker = bus.consume_inbound().await.expect("open");
    while let Some(delivery) = worker.next().await {
        if delivery.partition.0 == 0 {
            let _ = bus.publish_outbound("gw", delivery.body.clone()).await;
        }
        delivery.acknowledge().await;
    }
}

async fn round_trips(bus: &InProcessBus) {
    let mut gateway = bus.consume_outbound("gw").await.expect("open");
    let mut micros = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        bus.publish_inbound(Partition(0), Bytes::from_static(b"body")).await.expect("open");
        gateway.next().await.expect("open");
        micros.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[(share * (ROUND_TRIPS - 1) as f64) as usize];
    println!("round trip over two threads: p50 {:.1} us, p99 {:.1} us", at(0.5), at(0.99));
}

async fn throughput(bus: &InProcessBus) {
    let body = Bytes::from_static(b"body");
    let start = Instant::now();
    let mut unconfirmed: Vec<Option<_>> = (0..PARTITIONS).map(|_| None).collect();
    for i in 0..BODIES {
        let partition = 1 + (i % usize::from(PARTITIONS - 1));
        let confirm = bus.publish_inbound(Partition(partition as u16), body.clone());
        if let Some(earlier) = unconfirmed[partition].replace(confirm) {
            earlier.await.expect("open");
        }
    }
    for confirm in unconfirmed.into_iter().flatten() {
        confirm.await.expect("open");
    }
    let rate = BODIES as f64 / start.elapsed().as_secs_f64();
    println!("one publisher, one worker, two threads: {rate:.0} bodies/s");
}

/// Publish, take, acknowledge on one thread: what the bus itself costs.
async fn own_cost() {
    let bus = InProcessBus::new(PARTITIONS);
    let mut worker = bus.consume_inbound().await.expect("open");
    let body = Bytes::from_static(b"body");
    let start = Instant::now();
    for i in 0..BODIES {
        bus.publish_inbound(Partition((i % 32) as u16), body.clone()).await.expect("open");
        worker.next().await.expect("there is one").acknowledge().await;
    }
    let nanos = start.elapsed().as_nanos() as f64 / BODIES as f64;
    println!("publish, take and acknowledge on one thread: {nanos:.0} ns");
}
