//! Question: what does it cost to put a message into a connection's outbox and to hand it to the
//! kernel, small (copied) and large (a reference)?
//!
//! Expected: 25 ns a message when several leave in one send, 50 ns for one alone; a large one costs no
//! more than a small one, because its bytes stay where they are.
#![allow(missing_docs)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use roost_gateway::connection::outbox::{COPY_BYTES_MAX, Enqueued, Outbox, OutboxLimits};
use roost_protocol::{FrameKind, Header};

const LIMITS: OutboxLimits =
    OutboxLimits { bytes_high: 1 << 20, bytes_low: 1 << 18, bytes_max: 1 << 21, hints_max: 64 };

/// A turn of the shard: deliveries come, one send leaves and completes.
fn turn(outbox: &mut Outbox, payload: &Bytes, count: u64) {
    for inbox_seq in 1..=count {
        let header = Header::new(FrameKind::Deliver, 0, inbox_seq, payload.len());
        let queued = outbox.enqueue_deliver(&LIMITS, &header, payload.clone());
        assert_eq!(queued, Enqueued::Queued);
    }
    let buffer = outbox.poll_send(0).expect("something waits");
    let size = buffer.size_bytes();
    black_box(buffer);
    outbox.on_sent(size as u32, true, 0);
}

fn outbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox");
    for (size, name) in [(200, "copied"), (COPY_BYTES_MAX + 1, "shared"), (16_384, "shared")] {
        let payload = Bytes::from(vec![7; size]);
        for count in [1, 16] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("{count} of {size} B, {name}"), |bencher| {
                let mut outbox = Outbox::default();
                bencher.iter(|| turn(&mut outbox, black_box(&payload), count));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, outbox);
criterion_main!(benches);
