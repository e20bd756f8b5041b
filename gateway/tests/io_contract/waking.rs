//! The waker ends a wait: no item and no hand-over is slept through.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use roost_gateway::io::acceptor::{Acceptor, AcceptorConfig};
use roost_gateway::io::address_table::AddressTable;
use roost_gateway::io::epoll::EpollIo;
use roost_gateway::io::intake::Intake;
use roost_gateway::io::socket::{ListenerConfig, listen};
use roost_gateway::io::uring::UringIo;
use roost_gateway::io::{Completion, Io, Waker};
use roost_gateway::shard::mailbox::mailbox;

use super::*;

fn check<I: Io>(mut io: I, waker: Arc<Waker>) {
    const ITEMS: u32 = 20_000;
    let (sender, mut mailbox) = mailbox(16, waker);
    let producer = thread::spawn(move || {
        for item in 0..ITEMS {
            while sender.send(item).is_err() {
                thread::yield_now();
            }
        }
    });
    let mut next = 0;
    let mut completions = Vec::new();
    while next < ITEMS {
        let wait = if mailbox.prepare_sleep() { Duration::MAX } else { Duration::ZERO };
        io.turn(wait, &mut completions).unwrap();
        mailbox.awake();
        assert!(completions.drain(..).all(|completion| completion == Completion::Woken));
        while let Some(item) = mailbox.pop() {
            assert_eq!(item, next);
            next += 1;
        }
    }
    producer.join().unwrap();
}

/// Each client comes only after the shard turned the one before away and fell asleep again (or is about to):
/// a hand-over that is slept through shows as a turn that lasts its whole wait.
fn hand_overs<I: Io>(
    (mut io, intake): (I, Arc<Intake>),
    addresses: Arc<AddressTable>,
    waker: &Waker,
) {
    const CLIENTS: usize = 2_000;
    const WAIT: Duration = Duration::from_secs(20);
    let listener = listen(&ListenerConfig::new(([127, 0, 0, 1], 0).into())).unwrap();
    let address = listener.local_addr().unwrap();
    let config = AcceptorConfig { connections_per_address_max: u32::MAX, refusal: Bytes::new() };
    let _acceptor = Acceptor::start(vec![listener], vec![intake], addresses, config).unwrap();
    let clients = thread::spawn(move || {
        for _ in 0..CLIENTS {
            let mut client = TcpStream::connect(address).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    });
    let mut completions = Vec::new();
    let mut rejected = 0;
    while rejected < CLIENTS {
        waker.prepare_sleep();
        let before = io.now();
        io.turn(WAIT, &mut completions).unwrap();
        waker.awake();
        assert!(io.now() - before < WAIT, "a hand-over was slept through");
        for completion in completions.drain(..) {
            if let Completion::Accepted { socket } = completion {
                rejected += 1;
                io.reject(socket);
            }
        }
    }
    // The last rejection is only queued yet.
    io.turn(Duration::ZERO, &mut completions).unwrap();
    clients.join().unwrap();
}

#[test]
fn io_uring_hears_of_every_hand_over() {
    let waker = Arc::new(Waker::new().unwrap());
    let config = IoConfig { connections_max: 16, ..IoConfig::default() };
    let addresses = Arc::new(AddressTable::default());
    let io = UringIo::new(&config, Arc::clone(&waker), Arc::clone(&addresses)).unwrap();
    let intake = io.intake();
    hand_overs((io, intake), addresses, &waker);
}

#[test]
fn epoll_hears_of_every_hand_over() {
    let waker = Arc::new(Waker::new().unwrap());
    let config = IoConfig { connections_max: 16, ..IoConfig::default() };
    let addresses = Arc::new(AddressTable::default());
    let io = EpollIo::new(&config, Arc::clone(&waker), Arc::clone(&addresses)).unwrap();
    let intake = io.intake();
    hand_overs((io, intake), addresses, &waker);
}

#[test]
fn io_uring() {
    let waker = Arc::new(Waker::new().unwrap());
    let addresses = Arc::new(AddressTable::default());
    let config = IoConfig { connections_max: 16, ..IoConfig::default() };
    check(UringIo::new(&config, Arc::clone(&waker), addresses).unwrap(), waker);
}

#[test]
fn epoll() {
    let waker = Arc::new(Waker::new().unwrap());
    let addresses = Arc::new(AddressTable::default());
    check(EpollIo::new(&IoConfig::default(), Arc::clone(&waker), addresses).unwrap(), waker);
}
