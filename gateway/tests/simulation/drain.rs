//! A drain tells every client to go, at its own moment and with its own delay, closes who stays, and finishes.

use std::time::Duration;

use roost_gateway::io::simulated::Faults;
use roost_gateway::shard::message::{DrainPlan, ShardMessage};
use roost_protocol::envelope::InboundKind;
use roost_protocol::{CloseReason, Frame, FrameKind};

use crate::harness::{Client, World};

const PLAN: DrainPlan = DrainPlan {
    go_away_window: Duration::from_secs(2),
    reconnect_after_max: Duration::from_secs(5),
    close_after: Duration::from_secs(3),
};

fn go_aways(client: &mut Client) -> Vec<u32> {
    let delay = |frame: Frame<'_>| match frame {
        Frame::GoAway(go_away) => Some(go_away.reconnect_after_ms),
        _ => None,
    };
    client.take().iter().filter_map(|got| delay(got.frame())).collect()
}

#[test]
fn everyone_is_told_paced_and_closed() {
    let mut world = World::new(3, Faults::NONE);
    let mut clients: Vec<_> = (0..200).map(|n| world.log_in(&format!("u{n}"))).collect();
    let mut silent = world.connect();
    world.settle(&mut []);
    world.to_shard.send(ShardMessage::Drain(PLAN)).unwrap();
    let mut told_per_100ms = Vec::new();
    let mut delays = Vec::new();
    for _ in 0..30 {
        world.pass(Duration::from_millis(90), &mut []);
        let mut told = 0;
        for client in &mut clients {
            client.pump(&world.network);
            let new = go_aways(client);
            told += new.len();
            delays.extend(new);
        }
        told_per_100ms.push(told);
    }
    assert_eq!(delays.len(), 200, "{told_per_100ms:?}");
    assert!(delays.iter().all(|delay| *delay < 5000));
    assert!(delays.iter().filter(|delay| **delay < 2500).count() > 60, "{delays:?}");
    // 200 over two seconds.
    assert!(told_per_100ms.iter().all(|told| *told <= 30), "{told_per_100ms:?}");

    // Half of them go by themselves, the others are closed.
    for client in &clients[..100] {
        world.network.close(client.peer);
    }
    let mut rest: Vec<&mut Client> = clients[100..].iter_mut().chain([&mut silent]).collect();
    world.pass(Duration::from_secs(6), &mut rest);
    for client in rest {
        assert_eq!(client.close_reason(), CloseReason::Draining);
    }
    assert!(world.finished);
    assert_eq!((world.shard.connections(), world.gateway.directory.count()), (0, 0));
    let closed = world.take().iter().filter(|r| r.kind == InboundKind::SessionClosed).count();
    assert_eq!(closed, 200);
}

#[test]
fn an_empty_shard_finishes_at_once_and_nobody_comes_in() {
    let mut world = World::new(3, Faults::NONE);
    world.to_shard.send(ShardMessage::Drain(PLAN)).unwrap();
    world.settle(&mut []);
    assert!(world.finished);

    let mut world = World::new(3, Faults::NONE);
    let _client = world.log_in("alice");
    world.to_shard.send(ShardMessage::Drain(PLAN)).unwrap();
    world.settle(&mut []);
    let late = world.connect();
    world.settle(&mut []);
    assert!(world.network.is_released(late.peer) && !world.finished);
}

#[test]
fn shutdown_closes_all_at_once() {
    let mut world = World::new(3, Faults::NONE);
    let mut reading = world.log_in("reading");
    let mut stuck = world.log_in("stuck");
    stuck.reads = false;
    world.to_shard.send(ShardMessage::Shutdown).unwrap();
    world.settle(&mut [&mut reading]);
    let frames = reading.take();
    assert_eq!(frames.last().map(|f| f.header.kind), Some(FrameKind::Close));
    world.network.half_close(reading.peer);
    world.pass(Duration::from_secs(3), &mut [&mut reading]);
    assert!(world.finished, "the linger ends who does not read");
}
