//! What do batches bring over RabbitMQ? Logical messages per second with one message per publish against batches of 256, all partitions
//! in use, at most two unconfirmed bodies each; then one hop's latency at 10,000 messages/s in batches that size themselves.
//!
//! Run it with `cargo run --release -p roost-bus --example rabbitmq [URL]`; without a URL it starts a broker of its own. Expected: batches
//! carry at least 15 times as much (stretch: 40), and the hop's p99 stays below 5 ms (stretch: 2.5). Rounds take turns, medians count, and
//! a missed expectation is exit code 1.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use roost_bus::{Bus, BusConfig, RabbitBus, SharedBus};
use roost_protocol::topology::Partition;
use roost_testing::RabbitMq;

const MESSAGE_BYTES: usize = 128;
const BATCH: usize = 256;
const UNCONFIRMED: usize = 2;
const RUN: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
const RATE: u32 = 10_000;
const RATIO_MIN: f64 = 15.0;
const HOP_P99_MS_MAX: f64 = 5.0;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let url = std::env::args().nth(1);
    let broker = match url {
        Some(_) => None,
        None => Some(tokio::task::spawn_blocking(RabbitMq::start).await.expect("a broker")),
    };
    let url = url.or(broker.as_ref().map(RabbitMq::url)).expect("an address");
    let connect = async |name| {
        let config = BusConfig { url: url.clone(), ..BusConfig::default() };
        RabbitBus::connect(config, name).await.expect("the broker is there")
    };
    let (gateway, logic) = (connect("gateway").await, connect("logic").await);
    let partitions = gateway.partitions();
    println!(
        "{partitions} partitions, {UNCONFIRMED} unconfirmed each, messages of {MESSAGE_BYTES} B, one connection each way"
    );
    let (mut ratios, mut hops) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let single = throughput(&gateway.shared(), &logic.shared(), 1).await;
        let batched = throughput(&gateway.shared(), &logic.shared(), BATCH).await;
        ratios.push(batched / single);
        println!(
            "one message per publish {single:>9.0}/s   batches of {BATCH} {batched:>9.0}/s   ratio {:.0}",
            batched / single
        );
        hops.push(latency(&gateway.shared(), &logic.shared()).await);
    }
    gateway.close().await;
    logic.close().await;
    let ratio = median("batched over one message per publish", &mut ratios);
    let hop = median(&format!("one hop at {RATE}/s, p99 in ms"), &mut hops);
    let is_met = ratio >= RATIO_MIN && hop <= HOP_P99_MS_MAX;
    println!("expected: a ratio of at least {RATIO_MIN}, a p99 of at most {HOP_P99_MS_MAX} ms");
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints it with the range.
fn median(what: &str, rounds: &mut [f64]) -> f64 {
    rounds.sort_by(f64::total_cmp);
    let (least, median, most) = (rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    println!("{what}: median {median:.2} ({least:.2}..{most:.2}) of {} rounds", rounds.len());
    median
}

/// Logical messages per second that a worker acknowledged.
async fn throughput(gateway: &SharedBus, logic: &SharedBus, messages: usize) -> f64 {
    let body = Bytes::from(vec![0; messages * MESSAGE_BYTES]);
    let end = Instant::now() + RUN;
    let publishers = (0..gateway.partitions()).map(|partition| {
        let (gateway, body) = (gateway.clone(), body.clone());
        tokio::spawn(async move {
            let (mut unconfirmed, mut published) = (VecDeque::new(), 0);
            while Instant::now() < end {
                unconfirmed.push_back(gateway.publish_inbound(Partition(partition), body.clone()));
                published += 1;
                if unconfirmed.len() == UNCONFIRMED {
                    unconfirmed.pop_front().expect("just pushed").await.expect("confirmed");
                }
            }
            join_all(unconfirmed).await;
            published
        })
    });
    let start = Instant::now();
    let publishers: Vec<_> = publishers.collect();
    let mut worker = logic.consume_inbound().await.expect("the broker is there");
    let (published, mut taken) = (tokio::spawn(join_all(publishers)), 0);
    let mut total = None;
    tokio::pin!(published);
    while total != Some(taken) {
        tokio::select! {
            delivery = worker.next() => {
                delivery.expect("open").acknowledge().await;
                taken += 1;
            }
            counts = &mut published, if total.is_none() => {
                let counts = counts.expect("publishers end");
                total = Some(counts.into_iter().map(|count| count.expect("a publisher ends")).sum());
            }
        }
    }
    (taken * messages) as f64 / start.elapsed().as_secs_f64()
}

/// One partition's open batch and what of it is unconfirmed.
#[derive(Default)]
struct Lane {
    open: BytesMut,
    unconfirmed: usize,
}

/// From the moment a message is due to the moment the worker has it; returns the p99 in milliseconds.
async fn latency(gateway: &SharedBus, logic: &SharedBus) -> f64 {
    let mut worker = logic.consume_inbound().await.expect("the broker is there");
    let start = Instant::now();
    let count = RATE * u32::try_from(RUN.as_secs()).expect("seconds");
    let taking = tokio::spawn(async move {
        let mut micros = Vec::new();
        let mut bodies = 0;
        while micros.len() < count as usize {
            let delivery = worker.next().await.expect("open");
            bodies += 1;
            for message in delivery.body.chunks(MESSAGE_BYTES) {
                let due = u64::from_le_bytes(message[..8].try_into().expect("eight bytes"));
                micros.push(start.elapsed().as_micros() as u64 - due);
            }
            delivery.acknowledge().await;
        }
        (micros, bodies)
    });
    publish_paced(gateway, start, count).await;
    let (mut micros, bodies) = taking.await.expect("the worker ends");
    micros.sort_unstable();
    let at = |share: f64| micros[(share * (micros.len() - 1) as f64) as usize] as f64 / 1000.0;
    println!(
        "one hop at {RATE}/s, self-sizing batches: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; {:.1} messages per body",
        at(0.5),
        at(0.99),
        at(0.999),
        micros.len() as f64 / f64::from(bodies)
    );
    at(0.99)
}

/// As the gateway's publisher does it: what is due goes into its partition's open batch, which leaves when fewer than two are unconfirmed.
async fn publish_paced(gateway: &SharedBus, start: Instant, count: u32) {
    use futures_util::stream::{FuturesUnordered, StreamExt};
    let mut lanes: Vec<Lane> = (0..gateway.partitions()).map(|_| Lane::default()).collect();
    let mut confirms = FuturesUnordered::new();
    let period = Duration::from_secs(1) / RATE;
    let mut next = 0;
    loop {
        while next < count && start + period * next <= Instant::now() {
            let due = (period * next).as_micros() as u64;
            let mut message = [0; MESSAGE_BYTES];
            message[..8].copy_from_slice(&due.to_le_bytes());
            let lane = fastrand::usize(0..lanes.len());
            lanes[lane].open.extend_from_slice(&message);
            next += 1;
        }
        for (index, lane) in lanes.iter_mut().enumerate() {
            if !lane.open.is_empty() && lane.unconfirmed < UNCONFIRMED {
                lane.unconfirmed += 1;
                let partition = Partition(u16::try_from(index).expect("few partitions"));
                let confirm = gateway.publish_inbound(partition, lane.open.split().freeze());
                confirms.push(async move { (index, confirm.await) });
            }
        }
        if next == count && confirms.is_empty() {
            return;
        }
        let due = tokio::time::Instant::from_std(start + period * next);
        tokio::select! {
            Some((index, confirmed)) = confirms.next() => {
                confirmed.expect("confirmed");
                lanes[index].unconfirmed -= 1;
            }
            () = tokio::time::sleep_until(due), if next < count => {}
        }
    }
}
