//! Question: what does a received frame cost before anybody looks at its meaning: slicing it out of
//! the receive buffer, and verifying its payload?
//!
//! Expected: slicing about 10 ns a frame however many are in a buffer, verifying a SEND about 200 ns;
//! a frame cut by the end of a buffer about 100 ns, for the allocation. Against 4-5 us that the
//! kernel takes for a message, it must not show.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use roost_protocol::frame::ping::Ping;
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::{ClientMsgId, Decoder, Encoder, Frame, UserId};

fn pings(count: usize) -> Vec<u8> {
    let (mut encoder, mut bytes) = (Encoder::new(), Vec::new());
    for _ in 0..count {
        let ping = Ping { client_time_us: 1, inbox_seq: 0 };
        ping.encode_padded(&mut encoder, 8, &mut bytes);
    }
    bytes
}

fn send() -> Vec<u8> {
    let mut bytes = Vec::new();
    let send = Send {
        target: Target::User(UserId::new("bob").expect("a valid id")),
        client_msg_id: ClientMsgId([7; 16]),
        client_seq: 1,
        kind: MessageKind::TEXT,
        body: &[b'm'; 128],
    };
    send.encode(&mut Encoder::new(), 1, &mut bytes);
    bytes
}

/// Frames in `bytes`, which are received in pieces of this size.
fn frames(bytes: &[u8], piece_bytes: usize, scratch: &mut Vec<u8>) -> usize {
    let mut decoder = Decoder::new();
    decoder.set_connected();
    let mut count = 0;
    for mut piece in bytes.chunks(piece_bytes) {
        while let Ok(Some(frame)) = decoder.next(&mut piece, scratch) {
            black_box(frame);
            count += 1;
        }
    }
    count
}

fn decoder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decoder");
    let mut scratch = Vec::new();
    for count in [1, 16] {
        let bytes = pings(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("slice {count} frames of one buffer"), |bencher| {
            bencher.iter(|| assert_eq!(frames(black_box(&bytes), 4096, &mut scratch), count));
        });
    }
    let bytes = pings(16);
    group.bench_function("slice 16 frames, each cut in two", |bencher| {
        bencher.iter(|| assert_eq!(frames(black_box(&bytes), 33, &mut scratch), 16));
    });
    let bytes = send();
    group.throughput(Throughput::Elements(1));
    group.bench_function("slice and verify a SEND of 128 B", |bencher| {
        let mut decoder = Decoder::new();
        decoder.set_connected();
        bencher.iter(|| {
            let mut input = black_box(&bytes[..]);
            let raw = decoder.next(&mut input, &mut scratch).ok().flatten().expect("a frame");
            Frame::decode(raw.header.kind, raw.payload).is_ok_and(|frame| {
                black_box(frame);
                true
            })
        });
    });
    group.finish();
}

criterion_group!(benches, decoder);
criterion_main!(benches);
