//! Question: what do the timers of 100,000 connections cost when one of them is moved, and when time
//! passes?
//!
//! Expected: moving a timer about 20 ns while its connection is warm, whatever the number of timers;
//! a tick in which nothing fires the same; firing a timer 5 ns when many fire in the order of their
//! connections.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use roost_gateway::shard::timer_wheel::TimerWheel;

const TICK: Duration = Duration::from_millis(100);
const CONNECTIONS: u32 = 100_000;
/// An idle timeout.
const FAR: Duration = Duration::from_secs(300);

/// Every connection's deadline is within `FAR`, spread evenly.
fn full(start: Instant) -> TimerWheel {
    let mut wheel = TimerWheel::new(start, TICK);
    for index in 0..CONNECTIONS {
        wheel.schedule(index, start + FAR * index / CONNECTIONS);
    }
    wheel
}

fn timer_wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer wheel");
    let start = Instant::now();
    group.bench_function("move one of 1,000 active among 100,000", |bencher| {
        let (mut wheel, mut index) = (full(start), 0);
        bencher.iter(|| {
            index = (index + 1) % 1000;
            wheel.schedule(black_box(index), start + FAR);
        });
    });
    group.bench_function("a tick in which nothing fires", |bencher| {
        let mut wheel = TimerWheel::new(start, TICK);
        (0..CONNECTIONS).for_each(|index| wheel.schedule(index, start + 1000 * FAR));
        let (mut now, mut expired) = (start, Vec::new());
        bencher.iter(|| {
            now += TICK;
            if now > start + 900 * FAR {
                now = start;
            }
            wheel.advance(black_box(now), &mut expired);
        });
    });
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS)));
    group.bench_function("all 100,000 fire over 300 s", |bencher| {
        let fire = |mut wheel: TimerWheel| {
            let mut expired = Vec::with_capacity(CONNECTIONS as usize);
            let ticks = (FAR.as_millis() / TICK.as_millis()) as u32 + 1;
            (1..=ticks).for_each(|tick| wheel.advance(start + TICK * tick, &mut expired));
            assert_eq!(expired.len(), CONNECTIONS as usize);
            expired
        };
        bencher.iter_batched(|| full(start), fire, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, timer_wheel);
criterion_main!(benches);
