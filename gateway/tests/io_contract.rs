//! One promise: the three drivers behave the same.
//!
//! Each test runs an echo shard over a driver and clients beside it, all on the test's own thread: `pump` is one
//! turn of the shard. The clients of real drivers are non-blocking TCP sockets, those of the simulated
//! driver virtual peers on a kernel that splits, delays and shortens whatever it can.

#[path = "io_contract/accepting.rs"]
mod accepting;
#[path = "io_contract/echo.rs"]
mod echo;
#[path = "io_contract/rig.rs"]
mod rig;
#[path = "io_contract/waking.rs"]
mod waking;

use std::time::Duration;

use roost_gateway::io::{BusyConfig, IoConfig};

use echo::Mode;
use rig::{Read, Rig};

/// Runs a test on each driver.
macro_rules! on_every_driver {
    ($($name:ident)*) => {
        mod io_uring { $(#[test] fn $name() { super::$name(super::rig::io_uring); })* }
        mod epoll { $(#[test] fn $name() { super::$name(super::rig::epoll); })* }
        mod simulated { $(#[test] fn $name() { super::$name(super::rig::simulated); })* }
    };
}

on_every_driver! {
    echoes_any_length_split_anywhere
    echoes_with_two_buffers_and_eight_entries
    gathers_headers_and_shared_slices
    a_pause_loses_nothing
    a_half_close_still_gets_its_answer
    a_reset_ends_the_connection_once
    a_refused_socket_is_closed_and_its_place_given_back
    shutting_down_reaches_the_peer_and_releases_once
    a_stalled_reader_is_released_all_the_same
    two_thousand_connections_come_and_go
    calls_for_a_former_connection_change_nothing
}

fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// Sends `bytes` and reads as many back, at the same time.
fn round_trip(rig: &mut impl Rig, client: usize, bytes: &[u8]) {
    let mut sent = 0;
    let mut back = Vec::new();
    rig.until("the echo is complete", |rig| {
        if sent < bytes.len() {
            sent += rig.write(client, &bytes[sent..]);
        }
        match rig.read(client) {
            Read::Bytes(more) => back.extend(more),
            Read::WouldBlock => {}
            Read::Ended => panic!("ended after {} of {} bytes", back.len(), bytes.len()),
        }
        back.len() >= bytes.len()
    });
    assert!(back == bytes, "other bytes came back");
}

fn echoes_any_length_split_anywhere<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let client = rig.connect();
    for length in [1, 2, 15, 16, 17, 4095, 4096, 4097, 65_536, 1 << 20] {
        round_trip(&mut rig, client, &pattern(length, length as u64));
    }
    // Many small ones in a row: the connection is promoted on the way.
    for length in 1..200 {
        round_trip(&mut rig, client, &pattern(length, 7));
    }
    rig.finish(vec![client]);
}

fn echoes_with_two_buffers_and_eight_entries<R: Rig>(start: fn(IoConfig) -> R) {
    let config = IoConfig {
        submission_entries: 8,
        completion_entries: 16,
        buffer_count: 2,
        buffer_bytes: 256,
        ..IoConfig::default()
    };
    let mut rig = start(config);
    let clients: Vec<_> = (0..40).map(|_| rig.connect()).collect();
    let bytes = pattern(20_000, 3);
    let mut sent = vec![0; clients.len()];
    let mut back = vec![Vec::new(); clients.len()];
    rig.until("forty echoes through two buffers", |rig| {
        for (number, &client) in clients.iter().enumerate() {
            if sent[number] < bytes.len() {
                sent[number] += rig.write(client, &bytes[sent[number]..]);
            }
            if let Read::Bytes(more) = rig.read(client) {
                back[number].extend(more);
            }
        }
        back.iter().all(|back| back.len() >= bytes.len())
    });
    assert!(back.iter().all(|back| *back == bytes));
    rig.finish(clients);
}

fn gathers_headers_and_shared_slices<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let client = rig.connect();
    // More pieces than one system call takes, and more bytes than a socket buffer.
    let frames = 3_000;
    let body = pattern(1_000, 11);
    let expected = echo::gathered(frames, &body);
    rig.set_mode(Mode::Gather { frames, body });
    assert_eq!(rig.write(client, b"!"), 1);
    let mut back = Vec::new();
    rig.until("all frames came", |rig| {
        if let Read::Bytes(more) = rig.read(client) {
            back.extend(more);
        }
        back.len() >= expected.len()
    });
    assert!(back == expected, "headers and slices in another order");
    rig.finish(vec![client]);
}

fn a_pause_loses_nothing<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let client = rig.connect();
    let bytes = pattern(3 << 20, 5);
    let (mut sent, mut back) = (0, Vec::new());
    let mut pauses = 0;
    while back.len() < bytes.len() {
        rig.pause_all();
        // Fill what the kernel takes while nobody receives, then see that the shard hears nothing more.
        let (mut quiet, mut before) = (0, (sent, rig.counters().received_bytes));
        rig.until("back-pressure reached the client", |rig| {
            sent += rig.write(client, &bytes[sent..]);
            let after = (sent, rig.counters().received_bytes);
            quiet = if after == before { quiet + 1 } else { 0 };
            before = after;
            quiet == 20
        });
        pauses += 1;
        rig.resume_all();
        let goal = sent;
        rig.until("what was held back came", |rig| {
            if let Read::Bytes(more) = rig.read(client) {
                back.extend(more);
            }
            back.len() >= goal
        });
    }
    assert!(back == bytes, "bytes were lost or changed");
    assert!(pauses < 3 << 10, "{pauses} pauses: nothing was buffered while paused");
    rig.finish(vec![client]);
}

fn a_half_close_still_gets_its_answer<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    rig.set_mode(Mode::AnswerAtEnd);
    let client = rig.connect();
    let bytes = pattern(50_000, 9);
    let mut sent = 0;
    rig.until("all is sent", |rig| {
        sent += rig.write(client, &bytes[sent..]);
        sent == bytes.len()
    });
    rig.half_close(client);
    let mut back = Vec::new();
    rig.until("the answer and then the end", |rig| match rig.read(client) {
        Read::Bytes(more) => {
            back.extend(more);
            false
        }
        Read::WouldBlock => false,
        Read::Ended => true,
    });
    assert!(back == bytes);
    rig.finish(vec![]);
}

fn a_reset_ends_the_connection_once<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let clients: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    for &client in &clients {
        round_trip(&mut rig, client, b"hello");
    }
    let (resets, others) = clients.split_at(25);
    for &client in resets {
        rig.write(client, b"never read");
        rig.reset(client);
    }
    rig.until("every reset connection is released", |rig| rig.connections() == others.len());
    for &client in others {
        round_trip(&mut rig, client, b"still here");
    }
    rig.finish(others.to_vec());
}

fn a_refused_socket_is_closed_and_its_place_given_back<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig { connections_max: 4, ..IoConfig::default() });
    rig.set_mode(Mode::Reject);
    for _ in 0..20 {
        let client = rig.connect_without_waiting();
        rig.until("the client is turned away", |rig| rig.read(client) == Read::Ended);
    }
    rig.set_mode(Mode::Echo);
    let client = rig.connect();
    round_trip(&mut rig, client, b"a place was free");
    rig.finish(vec![client]);
}

fn shutting_down_reaches_the_peer_and_releases_once<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let clients: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    // Some parked, some promoted.
    for &client in &clients[..20] {
        for _ in 0..30 {
            round_trip(&mut rig, client, b"busy");
        }
    }
    rig.shutdown_all();
    rig.until("every client sees the end", |rig| {
        clients.iter().all(|&client| rig.read(client) == Read::Ended)
    });
    rig.until("all are released", |rig| rig.connections() == 0);
    rig.finish(vec![]);
}

fn a_stalled_reader_is_released_all_the_same<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let client = rig.connect();
    // 64 MiB do not fit into any socket buffer: the send stays in flight.
    rig.set_mode(Mode::Gather { frames: 1_024, body: pattern(65_520, 1) });
    rig.write(client, b"!");
    let (mut quiet, mut before) = (0, 0);
    rig.until("the send is stuck", |rig| {
        let after = rig.counters().sent_bytes;
        quiet = if after == before && after > 0 { quiet + 1 } else { 0 };
        before = after;
        quiet == 20
    });
    rig.shutdown_all();
    rig.until("it is released", |rig| rig.connections() == 0);
    rig.finish(vec![]);
}

fn two_thousand_connections_come_and_go<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig { connections_max: 300, ..IoConfig::default() });
    let mut live: Vec<usize> = Vec::new();
    let mut random = fastrand::Rng::with_seed(2_000);
    for number in 0..2_000u32 {
        while live.len() >= 250 {
            let client = live.swap_remove(random.usize(..live.len()));
            match random.u8(..3) {
                0 => rig.reset(client),
                1 => rig.half_close(client),
                _ => rig.close(client),
            }
        }
        let client = rig.connect();
        live.push(client);
        if number % 3 > 0 {
            round_trip(&mut rig, client, &pattern(1 + number as usize % 300, 1));
        }
    }
    let last = live.pop().unwrap();
    for client in live {
        rig.close(client);
    }
    rig.until("all but one are released", |rig| rig.connections() == 1);
    round_trip(&mut rig, last, b"the last");
    rig.finish(vec![last]);
}

fn calls_for_a_former_connection_change_nothing<R: Rig>(start: fn(IoConfig) -> R) {
    let mut rig = start(IoConfig::default());
    let first = rig.connect();
    round_trip(&mut rig, first, b"one");
    let former = rig.keys();
    rig.close(first);
    rig.until("the first is released", |rig| rig.connections() == 0);
    let second = rig.connect();
    assert_eq!(former[0].index, rig.keys()[0].index, "the slot is used again");
    rig.poke(former[0]);
    round_trip(&mut rig, second, b"two");
    rig.finish(vec![second]);
}

/// Moves between parked and busy, which only io_uring has.
#[test]
fn io_uring_promotes_a_busy_connection_and_parks_it_again() {
    let busy = BusyConfig { tick: Duration::from_millis(50), receives: 4 };
    let mut rig = rig::io_uring(IoConfig { busy, ..IoConfig::default() });
    let clients: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    for round in 1..=3 {
        for &client in &clients {
            for _ in 0..12 {
                round_trip(&mut rig, client, b"busy");
            }
        }
        assert!(rig.counters().promoted >= round, "nobody was busy");
        // Each is parked with the first message after it was quiet for a whole tick.
        rig.until("all are parked again", |rig| {
            let quiet_until = std::time::Instant::now() + 3 * busy.tick;
            rig.until("some ticks pass", |_| std::time::Instant::now() >= quiet_until);
            clients.iter().for_each(|&client| round_trip(rig, client, b"quiet"));
            rig.counters().demoted == rig.counters().promoted
        });
    }
    rig.finish(clients);
}
