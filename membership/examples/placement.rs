//! Rendezvous or a ring of virtual nodes? Places 1,000 users on 3, 30 and 300 members with both, and prints the time of the batch and how
//! much the fullest of the members has above its share (over a million users).
//!
//! Run it with `cargo run --release -p roost-membership --example placement`. Expected: the ring is faster when there are many members, the
//! rendezvous is even. A login costs 1 to 50 us for its token, so about a microsecond for its place is little, and memory that a
//! gateway must keep free for an uneven share is much.

use std::hint::black_box;
use std::time::Instant;

use roost_membership::ring::{Member, Ring};
use roost_protocol::topology::StableHash;

const VIRTUAL_NODES: u32 = 160;

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = StableHash::new();
    parts.iter().for_each(|part| hash.write(part));
    hash.finish()
}

/// The rival.
struct VirtualNodes(Vec<(u64, u16)>);

impl VirtualNodes {
    fn new(members: u16) -> Self {
        let points = (0..members).flat_map(|m| {
            let point = move |v: u32| hash(&[format!("gateway-{m}").as_bytes(), &v.to_le_bytes()]);
            (0..VIRTUAL_NODES).map(move |v| (point(v), m))
        });
        let mut points: Vec<_> = points.collect();
        points.sort_unstable();
        Self(points)
    }

    fn owner(&self, user: &str) -> u16 {
        let hash = hash(&[b"demo", b"/u:", user.as_bytes()]);
        let at = self.0.partition_point(|(point, _)| *point < hash);
        self.0[at % self.0.len()].1
    }
}

fn main() {
    let users: Vec<String> = (0..1_000_000).map(|i| format!("user{i}")).collect();
    println!("members  weights  placement      1,000 users  fullest above its share");
    for count in [3u16, 30, 300] {
        let virtual_nodes = VirtualNodes::new(count);
        report(count, "equal", "virtual nodes", &users, |user| virtual_nodes.owner(user), |_| 1.0);
        for (label, weight) in [("equal", 1u16), ("1 to 4", 4)] {
            let weight_of = |i: u16| 1 + i % weight;
            let member = |i| Member {
                name: format!("gateway-{i:03}").into(),
                address: "10.0.0.1:7401".into(),
                weight: weight_of(i),
            };
            let ring = Ring::new((0..count).map(member).collect()).expect("valid members");
            let owner = |user: &str| {
                let name = &ring.owner("demo", user).expect("a member").name;
                name[8..].parse().expect("a number")
            };
            let time = || batch(&users, |user| ring.owner("demo", user).map_or(0, |m| m.weight));
            report_timed(count, label, "rendezvous", &users, time(), owner, |i| {
                f64::from(weight_of(i))
            });
        }
    }
}

/// Microseconds for 1,000 users, the best of 20 batches.
fn batch(users: &[String], owner: impl Fn(&str) -> u16) -> f64 {
    let once = |users: &[String]| {
        let start = Instant::now();
        let owners: Vec<u16> = users.iter().map(|user| owner(user)).collect();
        black_box(owners);
        start.elapsed().as_secs_f64() * 1e6
    };
    users.chunks(1000).take(20).map(once).fold(f64::MAX, f64::min)
}

fn report(
    count: u16,
    weights: &str,
    name: &str,
    users: &[String],
    owner: impl Fn(&str) -> u16,
    weight: impl Fn(u16) -> f64,
) {
    let micros = batch(users, &owner);
    report_timed(count, weights, name, users, micros, owner, weight);
}

fn report_timed(
    count: u16,
    weights: &str,
    name: &str,
    users: &[String],
    micros: f64,
    owner: impl Fn(&str) -> u16,
    weight: impl Fn(u16) -> f64,
) {
    let mut counts = vec![0usize; usize::from(count)];
    users.iter().for_each(|user| counts[usize::from(owner(user))] += 1);
    let total: f64 = (0..count).map(&weight).sum();
    let over = (0..count).zip(&counts).map(|(member, users_here)| {
        *users_here as f64 / (users.len() as f64 * weight(member) / total) - 1.0
    });
    let over = over.fold(0.0, f64::max) * 100.0;
    println!("{count:7}  {weights:7}  {name:13}  {micros:8.0} us  {over:6.1} %");
}
