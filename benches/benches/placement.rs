//! Question: what does it cost to find the gateways of a batch of 256 users, on 1, 3 and 30 gateways?
//!
//! Expected: about 15 ns a user on 3 gateways and 50 ns on 30 (rendezvous hashing looks at every
//! member): 15 us for a batch at most, against a millisecond for its transaction.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use roost_membership::{Member, Ring};

const BATCH: usize = 256;

fn ring(gateways: usize) -> Ring {
    let member = |index| Member {
        name: format!("gw-{index}").into(),
        address: format!("10.0.0.{index}:7401").into(),
        weight: 1,
    };
    Ring::new((0..gateways).map(member).collect()).expect("valid members")
}

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    let users: Vec<String> = (0..BATCH).map(|index| format!("user{index}")).collect();
    group.throughput(Throughput::Elements(BATCH as u64));
    for gateways in [1, 3, 30] {
        let ring = ring(gateways);
        group.bench_function(format!("{BATCH} users on {gateways} gateways"), |bencher| {
            bencher.iter(|| ring.owners("demo", black_box(&users).iter().map(String::as_str)));
        });
    }
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
