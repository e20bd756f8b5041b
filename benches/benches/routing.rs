//! Question: what does a batch of logic's cost the control thread until it is in the shards'
//! mailboxes: 256 deliveries to a user each, and one to 10,000 users?
//!
//! Expected: about 100 ns a receiver (look-up of the session, and an item): one control thread
//! distributes more than five million deliveries a second.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use roost_gateway::io::Waker;
use roost_gateway::metrics::ControlCounters;
use roost_gateway::router::Router;
use roost_gateway::session::directory::{Authenticated, Directory};
use roost_gateway::shard::mailbox::{Mailbox, mailbox};
use roost_gateway::shard::message::ShardMessage;
use roost_protocol::FrameKind;
use roost_protocol::envelope::{
    ConnectionAddress, FanOutTarget, OutboundBatch, OutboundBatchBuilder,
};
use roost_protocol::frame::connect::DeviceClass;

const USERS: u32 = 100_000;
const SHARDS: u16 = 2;
const PAYLOAD: [u8; 200] = [7; 200];

fn user(index: u32) -> String {
    format!("user{index}")
}

fn directory() -> Arc<Directory> {
    let directory = Arc::new(Directory::new("bench", 0));
    for index in 0..USERS {
        let login = Authenticated {
            app: directory.app_index("demo").expect("the first app"),
            user: user(index),
            device: "d1".to_owned(),
            device_class: DeviceClass::Phone,
            last_epoch: 0,
            expires_s: u32::MAX,
        };
        let shard = (index % u32::from(SHARDS)) as u16;
        let address = ConnectionAddress { shard, index, generation: 1 };
        directory.register(&login, address, 1).expect("no limit of sessions");
    }
    directory
}

/// Users far from each other in every table.
fn receivers(count: u32) -> Vec<String> {
    (0..count).map(|index| user(index * 61_803 % USERS)).collect()
}

fn one_each(receivers: &[String]) -> Bytes {
    let mut batch = OutboundBatchBuilder::new();
    for user in receivers {
        let target = FanOutTarget { user, inbox_seq: 1 };
        batch.to_users("demo", FrameKind::Deliver, None, &[target], &PAYLOAD);
    }
    batch.take()
}

fn one_to_all(receivers: &[String]) -> Bytes {
    let mut batch = OutboundBatchBuilder::new();
    let targets: Vec<_> =
        receivers.iter().map(|user| FanOutTarget { user, inbox_seq: 1 }).collect();
    batch.to_users("demo", FrameKind::Deliver, None, &targets, &PAYLOAD);
    batch.take()
}

fn routing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routing");
    let waker = Arc::new(Waker::new().expect("an eventfd"));
    let (senders, mut shards): (Vec<_>, Vec<Mailbox<ShardMessage>>) =
        (0..SHARDS).map(|_| mailbox(16, Arc::clone(&waker))).unzip();
    let mut router = Router::new(directory(), senders, Arc::new(ControlCounters::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (name, receivers, body) in [
        ("256 deliveries to one user each", 256, one_each as fn(&[String]) -> Bytes),
        ("one delivery to 10,000 users", 10_000, one_to_all),
    ] {
        let body = body(&self::receivers(receivers));
        group.throughput(Throughput::Elements(u64::from(receivers)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let batch = OutboundBatch::parse(black_box(body.clone())).expect("a batch");
                router.resolve(&batch).expect("whole envelopes");
                runtime.block_on(router.flush());
                shards.iter_mut().filter_map(Mailbox::pop).count()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, routing);
criterion_main!(benches);
