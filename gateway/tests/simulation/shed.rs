//! When the ring changes, exactly those who belong elsewhere are sent there, never faster than planned, and nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use roost_gateway::shard::message::{ShardMessage, ShardShedPlan};
use roost_membership::{Member, Ring, RingWatch};
use roost_protocol::{CloseReason, Frame};

use crate::harness::{Client, World};

/// 20 a second.
const PLAN: ShardShedPlan = ShardShedPlan { pause: Duration::from_millis(50) };
const USERS: usize = 400;

fn ring_of(names: &[&str]) -> Ring {
    let member = |name: &&str| Member {
        name: (*name).into(),
        address: format!("{name}.example:7401").as_str().into(),
        weight: 1,
    };
    Ring::new(names.iter().map(member).collect()).unwrap()
}

struct Crowd {
    world: World,
    ring: Arc<ArcSwap<Ring>>,
    clients: Vec<Client>,
}

impl Crowd {
    fn new() -> Self {
        let ring = Arc::new(ArcSwap::from_pointee(ring_of(&["gw"])));
        let mut world = World::with_ring(5, RingWatch::fixed(Arc::clone(&ring)));
        let clients = (0..USERS).map(|n| world.log_in(&format!("u{n}"))).collect();
        Self { world, ring, clients }
    }

    /// Who belongs elsewhere now.
    fn moved(&self) -> Vec<bool> {
        let ring = self.ring.load();
        let is_moved = |n| *ring.owner("demo", &format!("u{n}")).unwrap().name != *"gw";
        (0..USERS).map(is_moved).collect()
    }

    fn change(&mut self, names: &[&str]) {
        self.ring.store(Arc::new(ring_of(names)));
        self.world.to_shard.send(ShardMessage::Shed(PLAN)).unwrap();
    }

    /// Sessions that ended in each tenth of a second.
    fn pass(&mut self, tenths: usize) -> Vec<usize> {
        let sessions = |crowd: &Self| crowd.world.gateway.directory.count();
        let mut ended = Vec::new();
        for _ in 0..tenths {
            let before = sessions(self);
            for _ in 0..100 {
                self.world.turn();
                self.world.take_and_confirm();
            }
            ended.push(before - sessions(self));
        }
        self.clients.iter_mut().for_each(|client| client.pump(&self.world.network));
        ended
    }
}

fn redirect(client: &mut Client) -> Option<String> {
    let address = |frame: Frame<'_>| match frame {
        Frame::Redirect(redirect) => Some(redirect.address.to_owned()),
        _ => None,
    };
    client.take().iter().find_map(|got| address(got.frame()))
}

#[test]
fn who_belongs_elsewhere_is_sent_there_paced() {
    let mut crowd = Crowd::new();
    crowd.change(&["gw", "gw-2"]);
    let moved = crowd.moved();
    let count = moved.iter().filter(|is_moved| **is_moved).count();
    assert!((150..250).contains(&count), "{count} of {USERS}");
    // 50 ms a session, at least 25.
    let ended = crowd.pass(count * 75 / 100 + 20);
    assert_eq!(ended.iter().sum::<usize>(), count);
    assert!(ended.iter().all(|ended| *ended <= 4), "{ended:?}");
    assert!(ended[..50].iter().sum::<usize>() <= 5 * 20 + 20, "{ended:?}");
    assert_eq!(crowd.world.counters.shed.get(), count as u64);
    for (client, is_moved) in crowd.clients.iter_mut().zip(moved) {
        match is_moved {
            true => assert_eq!(redirect(client).as_deref(), Some("gw-2.example:7401")),
            false => assert_eq!(redirect(client), None),
        }
    }
    assert_eq!(crowd.pass(10).iter().sum::<usize>(), 0);
}

#[test]
fn a_ring_that_changes_back_keeps_who_is_left() {
    let mut crowd = Crowd::new();
    crowd.change(&["gw", "gw-2"]);
    let before: usize = crowd.pass(10).iter().sum();
    assert!((10..=40).contains(&before), "{before}");
    crowd.change(&["gw"]);
    assert_eq!(crowd.pass(30).iter().sum::<usize>(), 0);
}

#[test]
fn a_gateway_that_leaves_drains_only() {
    let mut crowd = Crowd::new();
    crowd.change(&["gw-2"]);
    crowd.pass(3);
    crowd.world.to_shard.send(ShardMessage::Shutdown).unwrap();
    crowd.world.settle(&mut []);
    let closes = |reason: CloseReason| {
        crowd.world.counters.closes().find(|(r, _)| *r == reason).map_or(0, |(_, count)| count)
    };
    let (sent, drained) = (closes(CloseReason::Redirected), closes(CloseReason::Draining));
    assert!((1..=10).contains(&sent), "{sent}");
    assert_eq!(sent + drained, USERS as u64);
}
