//! Several shards and the acceptor: places are filled, limits kept.

use super::rig::Shards;
use super::*;

fn fills_every_place<I: roost_gateway::io::Io>(mut shards: Shards<I>) {
    let places = 4 * 50;
    let mut clients: Vec<_> = (0..places).map(|_| shards.connect()).collect();
    shards.until("every place is taken", |shards| shards.counts().iter().sum::<usize>() == places);
    assert_eq!(shards.counts(), [50; 4]);
    // Nobody is refused: the next ones wait, and come in as places become free.
    let waiting: Vec<_> = (0..10).map(|_| shards.connect()).collect();
    shards.until("the acceptor says why it waits", |shards| shards.is_full());
    clients.truncate(places - 10);
    shards.until("the waiting ones are in", |shards| shards.accepted() == places + 10);
    assert_eq!(shards.counts().iter().sum::<usize>(), places);
    drop((clients, waiting));
    shards.until("all are released", |shards| shards.counts() == [0; 4]);
    assert_eq!(shards.addresses().connections(), 0);
}

fn keeps_the_limit_per_address<I: roost_gateway::io::Io>(mut shards: Shards<I>) {
    let mut clients: Vec<_> = (0..5).map(|_| shards.connect()).collect();
    shards.until("three are in, two refused", |shards| {
        shards.accepted() == 3 && shards.refused() == 2
    });
    // A refusal is counted before it is sent.
    let mut answers = vec![Vec::new(); clients.len()];
    let mut ended = vec![false; clients.len()];
    shards.until("two are turned away", |_| {
        for (number, client) in clients.iter_mut().enumerate() {
            ended[number] |= rig::read_to_end(client, &mut answers[number]);
        }
        ended.iter().filter(|&&ended| ended).count() == 2
    });
    answers.retain(|answer| !answer.is_empty());
    assert_eq!(answers, [b"refused".to_vec(), b"refused".to_vec()]);
    drop(clients);
    shards.until("all are released", |shards| shards.counts() == [0]);
    let _again = shards.connect();
    shards.until("the address may come again", |shards| shards.accepted() == 4);
}

#[test]
fn io_uring_fills_every_place() {
    fills_every_place(rig::uring_shards(4, 50, u32::MAX));
}

#[test]
fn epoll_fills_every_place() {
    fills_every_place(rig::epoll_shards(4, 50, u32::MAX));
}

#[test]
fn io_uring_keeps_the_limit_per_address() {
    keeps_the_limit_per_address(rig::uring_shards(1, 50, 3));
}

#[test]
fn epoll_keeps_the_limit_per_address() {
    keeps_the_limit_per_address(rig::epoll_shards(1, 50, 3));
}
