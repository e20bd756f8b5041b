//! What users of the bus rely on of this adapter alone, beside the contract of every bus: back-pressure, take-over, faults, threads.

mod contract;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use contract::{body, number, soon};
use roost_bus::{Bus, FaultRates, Faults, InProcessBus, PublishError};
use roost_protocol::topology::Partition;
use tokio::time::timeout;

#[tokio::test]
async fn keeps_the_contract() {
    let bus = InProcessBus::new(8);
    contract::all(&bus).await;
    assert_eq!(bus.inbound_depth(), 0);
}

#[tokio::test]
async fn a_full_partition_withholds_the_confirm_until_there_is_room() {
    let bus = InProcessBus::with_capacity(1, 2, 2);
    let mut worker = bus.consume_inbound().await.unwrap();
    for i in 0..2 {
        bus.publish_inbound(Partition(0), body(i)).await.unwrap();
    }
    // Queued by the call, in order; not confirmed.
    let third = bus.publish_inbound(Partition(0), body(2));
    let fourth = bus.publish_inbound(Partition(0), body(3));
    assert_eq!(
        bus.publish_inbound(Partition(0), body(4)).await,
        Err(PublishError::Full("roost.in.0".to_owned()))
    );
    let mut third = Box::pin(timeout(Duration::from_millis(5), third));
    assert!(third.as_mut().await.is_err(), "there is no room yet");
    let taken = worker.next().await.unwrap();
    assert!(timeout(Duration::from_millis(5), worker.next()).await.is_ok(), "not limited by acks");
    taken.acknowledge().await;
    drop(worker);
    drop(third);
    let mut worker = bus.consume_inbound().await.unwrap();
    for expected in 1..4 {
        let delivery = soon(worker.next()).await.unwrap();
        assert_eq!(number(&delivery.body), expected);
        delivery.acknowledge().await;
    }
    assert_eq!(soon(fourth).await, Ok(()));
}

#[tokio::test]
async fn deliveries_reach_the_one_consumer_of_a_gateway() {
    let bus = InProcessBus::new(1);
    let nobody = Err(PublishError::Returned("gw-1".to_owned()));
    assert_eq!(bus.publish_outbound("gw-1", body(0)).await, nobody);
    let mut first = bus.consume_outbound("gw-1").await.unwrap();
    bus.publish_outbound("gw-1", body(1)).await.unwrap();
    assert_eq!(soon(first.next()).await.as_ref().map(number), Some(1));
    bus.publish_outbound("gw-1", body(2)).await.unwrap();
    let mut second = bus.consume_outbound("gw-1").await.unwrap();
    assert_eq!(soon(first.next()).await, None, "taken over");
    assert_eq!(second.try_next(), None, "a successor starts empty");
    drop(first);
    bus.publish_outbound("gw-1", body(3)).await.unwrap();
    assert_eq!(second.try_next().as_ref().map(number), Some(3));
    drop(second);
    assert_eq!(bus.publish_outbound("gw-1", body(4)).await, nobody);
}

#[tokio::test]
async fn an_unconfirmed_delivery_is_returned_when_its_gateway_goes() {
    let bus = InProcessBus::with_capacity(1, 1, 1);
    let mut gateway = bus.consume_outbound("gw-1").await.unwrap();
    bus.publish_outbound("gw-1", body(0)).await.unwrap();
    let unconfirmed = bus.publish_outbound("gw-1", body(1));
    let confirmed = gateway.next().await;
    assert_eq!(confirmed.as_ref().map(number), Some(0));
    assert_eq!(soon(unconfirmed).await, Ok(()));
    let unconfirmed = bus.publish_outbound("gw-1", body(2));
    drop(gateway);
    assert_eq!(soon(unconfirmed).await, Err(PublishError::Returned("gw-1".to_owned())));
}

#[tokio::test]
async fn closing_ends_consumers_and_publishers() {
    let bus = InProcessBus::with_capacity(1, 1, 1);
    let mut worker = bus.consume_inbound().await.unwrap();
    let mut gateway = bus.consume_outbound("gw-1").await.unwrap();
    let closing = bus.clone();
    let waiting =
        tokio::spawn(async move { (worker.next().await.is_none(), gateway.next().await) });
    tokio::task::yield_now().await;
    closing.close();
    assert_eq!(soon(waiting).await.unwrap(), (true, None));
    let error = bus.publish_inbound(Partition(0), body(0)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable(_)));
    assert!(bus.consume_inbound().await.is_err());
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let bus = InProcessBus::new(1);
    let mut worker = bus.consume_inbound().await.unwrap();
    let inbound = |rates| bus.set_faults(&Faults { seed: 1, inbound: rates, ..Faults::default() });
    let publish = |i| bus.publish_inbound(Partition(0), body(i));
    inbound(FaultRates { lose: 1.0, ..FaultRates::default() });
    assert_eq!(publish(0).await, Ok(()));
    inbound(FaultRates { refuse: 1.0, ..FaultRates::default() });
    assert!(publish(1).await.is_err());
    assert_eq!(bus.inbound_depth(), 0);
    inbound(FaultRates { lose_confirm: 1.0, ..FaultRates::default() });
    assert!(publish(2).await.is_err());
    inbound(FaultRates { repeat: 1.0, ..FaultRates::default() });
    publish(3).await.unwrap();
    let delay_max = Duration::from_millis(20);
    inbound(FaultRates { delay: 1.0, delay_max, ..FaultRates::default() });
    publish(4).await.unwrap();
    bus.set_faults(&Faults::default());
    let mut numbers = Vec::new();
    while numbers.last() != Some(&4) {
        let delivery = soon(worker.next()).await.unwrap();
        numbers.push(number(&delivery.body));
        delivery.acknowledge().await;
    }
    assert!(numbers == [2, 3, 3, 4] || numbers == [2, 3, 4], "{numbers:?}");
    bus.purge();
    assert_eq!(bus.inbound_depth(), 0);
}

#[tokio::test]
async fn a_delayed_delivery_is_overtaken() {
    let bus = InProcessBus::new(1);
    let mut gateway = bus.consume_outbound("gw-1").await.unwrap();
    let delay_max = Duration::from_millis(50);
    let rates = FaultRates { delay: 0.5, delay_max, ..FaultRates::default() };
    bus.set_faults(&Faults { seed: 3, outbound: rates, ..Faults::default() });
    let mut numbers = Vec::new();
    for i in 0..100 {
        bus.publish_outbound("gw-1", body(i)).await.unwrap();
    }
    while numbers.len() < 100 {
        numbers.push(number(&soon(gateway.next()).await.unwrap()));
    }
    assert!(!numbers.is_sorted());
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..100));
}

/// Publishers that publish again after an error, workers that come and go, faults of all kinds but loss: each partition's
/// bodies arrive, first deliveries in order.
#[test]
fn threads_lose_nothing_under_faults() {
    const PARTITIONS: u16 = 8;
    const BODIES: u32 = 400;
    let bus = InProcessBus::with_capacity(PARTITIONS, 4, 4);
    let delay_max = Duration::from_millis(2);
    let inbound = FaultRates {
        refuse: 0.1,
        lose_confirm: 0.1,
        repeat: 0.2,
        delay: 0.02,
        delay_max,
        lose: 0.0,
    };
    bus.set_faults(&Faults { seed: 9, inbound, ..Faults::default() });
    let done = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(parking_lot::Mutex::new(BTreeMap::<u16, Vec<u32>>::new()));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::scope(|scope| {
        for partition in (0..PARTITIONS).map(Partition) {
            let bus = bus.clone();
            scope.spawn(move || {
                runtime().block_on(async {
                    for i in 0..BODIES {
                        while soon(bus.publish_inbound(partition, body(i))).await.is_err() {}
                    }
                });
            });
        }
        for id in 0..3 {
            let (bus, done, seen) = (bus.clone(), Arc::clone(&done), Arc::clone(&seen));
            scope.spawn(move || {
                runtime().block_on(worker(id, &bus, &done, &seen, usize::from(PARTITIONS)));
            });
        }
    });
    for (partition, numbers) in seen.lock().iter() {
        let mut first = Vec::new();
        for number in numbers {
            if !first.contains(number) {
                first.push(*number);
            }
        }
        assert!(first.iter().copied().eq(0..BODIES), "partition {partition}");
    }
}

async fn worker(
    id: u64,
    bus: &InProcessBus,
    done: &AtomicUsize,
    seen: &parking_lot::Mutex<BTreeMap<u16, Vec<u32>>>,
    partitions: usize,
) {
    let mut rng = fastrand::Rng::with_seed(id);
    let is_done = || done.load(Ordering::Acquire) == partitions;
    let mut consumer = bus.consume_inbound().await.unwrap();
    while !is_done() {
        // Woken in time also by the end of the others.
        let Ok(next) = timeout(Duration::from_millis(20), consumer.next()).await else { continue };
        let mut batch = vec![next.expect("open")];
        batch.extend(std::iter::from_fn(|| consumer.try_next()).take(rng.usize(0..6)));
        match rng.u32(0..20) {
            0 => drop(batch),
            1 => {
                drop(std::mem::replace(&mut consumer, bus.consume_inbound().await.unwrap()));
                drop(batch);
            }
            _ => {
                for delivery in batch {
                    let (partition, number) = (delivery.partition.0, number(&delivery.body));
                    {
                        let mut seen = seen.lock();
                        let numbers = seen.entry(partition).or_default();
                        if number == 399 && !numbers.contains(&number) {
                            done.fetch_add(1, Ordering::AcqRel);
                        }
                        numbers.push(number);
                    }
                    delivery.acknowledge().await;
                }
            }
        }
    }
}
