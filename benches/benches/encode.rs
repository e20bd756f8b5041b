//! Question: what does it cost to write a frame, and to address an encoded message to one more
//! receiver?
//!
//! Expected: PONG and SEND under 100 ns; one more receiver of an encoded message is a header, under
//! 10 ns, whatever the message's size: that is why a fan-out encodes once.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use roost_protocol::frame::ping::Pong;
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{ClientMsgId, Encoder, FrameKind, Header, UserId};

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let (mut encoder, mut bytes) = (Encoder::new(), Vec::with_capacity(4096));
    group.bench_function("PONG", |bencher| {
        let pong = Pong { client_time_us: 1, server_time_ms: 2 };
        bencher.iter(|| {
            bytes.clear();
            black_box(pong).encode(&mut encoder, 1, &mut bytes);
        });
    });
    group.bench_function("SEND of 128 B", |bencher| {
        let send = Send {
            target: Target::User(UserId::new("bob").expect("a valid id")),
            client_msg_id: ClientMsgId([7; 16]),
            client_seq: 1,
            kind: MessageKind::TEXT,
            body: &[b'm'; 128],
        };
        bencher.iter(|| {
            bytes.clear();
            black_box(send).encode(&mut encoder, 1, &mut bytes);
        });
    });
    group.bench_function("header of one more receiver", |bencher| {
        let mut inbox_seq = 0;
        bencher.iter(|| {
            inbox_seq += 1;
            Header::new(FrameKind::Deliver, 0, black_box(inbox_seq), 200).encode()
        });
    });
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
