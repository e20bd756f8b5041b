//! Question: what does it cost to find a connection by its key among 100,000, and to open and free
//! one?
//!
//! Expected: a warm look-up 1-2 ns, one in random order a cache miss (7 ns and more, as the cache is
//! large); opening and freeing about 12 ns, without an allocation.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use roost_gateway::connection::table::ConnectionTable;
use roost_gateway::io::ConnectionKey;

const CONNECTIONS: u32 = 100_000;

fn full() -> (ConnectionTable, Vec<ConnectionKey>) {
    let mut table = ConnectionTable::new(CONNECTIONS + 1);
    let keys = (0..CONNECTIONS).map(|_| table.open(0).expect("there is room")).collect();
    (table, keys)
}

fn connection_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection table");
    let (mut table, keys) = full();
    group.bench_function("look up the same one", |bencher| {
        bencher.iter(|| table.get(black_box(keys[7])).is_some());
    });
    group.bench_function("look up in random order", |bencher| {
        let mut index = 0;
        bencher.iter(|| {
            // A step without a common divisor visits all, each far from the one before.
            index = (index + 61_803) % keys.len();
            table.get(black_box(keys[index])).is_some()
        });
    });
    group.bench_function("open and free", |bencher| {
        bencher.iter(|| {
            let key = table.open(black_box(1)).expect("there is room");
            table.free(key);
        });
    });
    group.finish();
}

criterion_group!(benches, connection_table);
criterion_main!(benches);
