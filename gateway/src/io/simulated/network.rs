//! The peers' side of simulated sockets, and the virtual clock.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::io::Errno;

/// How badly the simulated kernel behaves. Chances are in percent.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// A receive returns at most this many bytes, a random number of them.
    pub receive_bytes_max: usize,
    /// A receive is put off for want of a buffer.
    pub buffers_exhausted: u8,
    /// The socket takes only a part of a send.
    pub short_send: u8,
    /// Completions of a connection come up to this much later.
    pub delay_max: Duration,
}

impl Faults {
    /// A kernel that does all at once.
    pub const NONE: Self = Self {
        receive_bytes_max: usize::MAX,
        buffers_exhausted: 0,
        short_send: 0,
        delay_max: Duration::ZERO,
    };

    /// Everything at once, often.
    pub const HARSH: Self = Self {
        receive_bytes_max: 37,
        buffers_exhausted: 20,
        short_send: 50,
        delay_max: Duration::from_millis(5),
    };
}

/// Names a peer's socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(usize);

/// What a peer's read gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerRead {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing now.
    WouldBlock,
    /// The shard finished sending.
    EndOfStream,
}

pub(super) struct Socket {
    pub(super) address: IpAddr,
    pub(super) listener: u8,
    pub(super) to_shard: VecDeque<u8>,
    pub(super) to_peer: VecDeque<u8>,
    /// The peer sends no more.
    peer_finished: bool,
    /// The peer reads no more either.
    peer_closed: bool,
    pub(super) reset: bool,
    /// The shard sends no more.
    pub(super) shard_finished: bool,
    released: bool,
}

impl Socket {
    pub(super) fn is_readable(&self) -> bool {
        !self.to_shard.is_empty() || self.peer_finished || self.reset
    }

    pub(super) fn send_error(&self) -> Option<Errno> {
        match (self.reset, self.peer_closed || self.shard_finished) {
            (true, _) => Some(Errno(libc::ECONNRESET)),
            (false, true) => Some(Errno(libc::EPIPE)),
            (false, false) => None,
        }
    }

    /// Moves the next `bytes` that the peer sent, as slices: instrumented for fuzzing, an iterator of bytes costs
    /// more than all the rest of a run.
    pub(super) fn take_to_shard(&mut self, bytes: usize, into: &mut Vec<u8>) {
        let (head, tail) = self.to_shard.as_slices();
        let from_head = bytes.min(head.len());
        into.extend_from_slice(&head[..from_head]);
        into.extend_from_slice(&tail[..bytes - from_head]);
        self.to_shard.drain(..bytes);
    }

    pub(super) fn room_to_peer(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.to_peer.len())
    }
}

/// Bytes the simulated kernel holds in each direction of a socket.
const WINDOW_BYTES: usize = 64 * 1024;

struct ShardPlaces {
    free: u32,
    accepted: VecDeque<usize>,
    woken: bool,
}

pub(super) struct World {
    start: Instant,
    pub(super) elapsed: Duration,
    clock_follows_shards: bool,
    pub(super) rng: Rng,
    faults: Faults,
    pub(super) sockets: Vec<Socket>,
    /// Not accepted for want of a place.
    backlog: VecDeque<usize>,
    shards: Vec<ShardPlaces>,
}

impl World {
    pub(super) fn add_shard(&mut self, free: u32) -> usize {
        self.shards.push(ShardPlaces { free, accepted: VecDeque::new(), woken: false });
        self.shards.len() - 1
    }

    pub(super) fn take_wake(&mut self, shard: usize) -> bool {
        mem::take(&mut self.shards[shard].woken)
    }

    pub(super) fn accept(&mut self, shard: usize) -> Option<usize> {
        self.hand_over();
        self.shards[shard].accepted.pop_front()
    }

    /// As the acceptor: each waiting client to the emptiest shard.
    fn hand_over(&mut self) {
        while !self.backlog.is_empty() {
            let Some(shard) = self.shards.iter_mut().max_by_key(|shard| shard.free) else { return };
            if shard.free == 0 {
                return;
            }
            shard.free -= 1;
            shard.accepted.extend(self.backlog.pop_front());
        }
    }

    pub(super) fn release(&mut self, shard: usize, socket: usize) {
        self.shards[shard].free += 1;
        let socket = &mut self.sockets[socket];
        socket.released = true;
        socket.shard_finished = true;
    }

    pub(super) fn chance(&mut self, of: impl Fn(&Faults) -> u8) -> bool {
        self.rng.u8(..100) < of(&self.faults)
    }

    /// How many of `available` bytes a receive returns: at least one.
    pub(super) fn split(&mut self, available: usize) -> usize {
        match self.faults.receive_bytes_max {
            usize::MAX => available,
            most => self.rng.usize(1..=available.min(most)),
        }
    }

    /// How many of `room` bytes a send gives: at least one.
    pub(super) fn short_send(&mut self, room: usize) -> usize {
        if self.chance(|faults| faults.short_send) { self.rng.usize(1..=room) } else { room }
    }

    pub(super) fn delay(&mut self) -> Duration {
        let most = u64::try_from(self.faults.delay_max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.u64(0..=most))
    }

    pub(super) fn delay_until(&mut self) -> Duration {
        self.elapsed + self.delay()
    }

    pub(super) fn advance_idle(&mut self, by: Duration) {
        if self.clock_follows_shards {
            self.elapsed += by;
        }
    }
}

/// All peers of a simulation and its clock; clones share them.
#[derive(Clone)]
pub struct SimulatedNetwork(Rc<RefCell<World>>);

impl SimulatedNetwork {
    /// A network whose every decision follows from `seed`. Its clock moves with the waits of idle shards until
    /// [`hold_clock`](Self::hold_clock).
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(World {
            start: Instant::now(),
            elapsed: Duration::ZERO,
            clock_follows_shards: true,
            rng: Rng::with_seed(seed),
            faults,
            sockets: Vec::new(),
            backlog: VecDeque::new(),
            shards: Vec::new(),
        })))
    }

    pub(super) fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    fn socket(&self, peer: PeerId) -> RefMut<'_, Socket> {
        RefMut::map(self.world(), |world| &mut world.sockets[peer.0])
    }

    /// The virtual time. Only differences mean something: the origin is arbitrary.
    pub fn now(&self) -> Instant {
        let world = self.world();
        world.start + world.elapsed
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.world().elapsed += by;
    }

    /// From now on only [`advance`](Self::advance) moves the clock: for several shards and clients in one
    /// simulation.
    pub fn hold_clock(&self) {
        self.world().clock_follows_shards = false;
    }

    /// Changes how badly the kernel behaves from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Makes the shard (numbered as they were made) report `Woken`, as its waker would.
    pub fn wake(&self, shard: usize) {
        self.world().shards[shard].woken = true;
    }

    /// A client connects to listener 0.
    pub fn connect(&self, address: IpAddr) -> PeerId {
        self.connect_to(0, address)
    }

    /// A client connects; it waits in the backlog while no shard has a place.
    pub fn connect_to(&self, listener: u8, address: IpAddr) -> PeerId {
        let mut world = self.world();
        world.sockets.push(Socket {
            address,
            listener,
            to_shard: VecDeque::new(),
            to_peer: VecDeque::new(),
            peer_finished: false,
            peer_closed: false,
            reset: false,
            shard_finished: false,
            released: false,
        });
        let socket = world.sockets.len() - 1;
        world.backlog.push_back(socket);
        PeerId(socket)
    }

    /// The peer sends; returns how many bytes fit (64 KiB wait unread at most), all of none after a close.
    pub fn send(&self, peer: PeerId, bytes: &[u8]) -> usize {
        let mut socket = self.socket(peer);
        if socket.peer_finished || socket.reset || socket.released {
            return 0;
        }
        let taken = bytes.len().min(WINDOW_BYTES - socket.to_shard.len());
        socket.to_shard.extend(&bytes[..taken]);
        taken
    }

    /// Bytes the peer sent that the shard has not received.
    pub fn unread_bytes(&self, peer: PeerId) -> usize {
        self.socket(peer).to_shard.len()
    }

    /// The peer reads all there is. A peer that does not read stalls the shard's sends after 64 KiB.
    pub fn receive(&self, peer: PeerId) -> PeerRead {
        let mut socket = self.socket(peer);
        match (socket.to_peer.is_empty(), socket.shard_finished) {
            (false, _) => PeerRead::Bytes(mem::take(&mut socket.to_peer).into()),
            (true, true) => PeerRead::EndOfStream,
            (true, false) => PeerRead::WouldBlock,
        }
    }

    /// The peer finishes sending and goes on reading.
    pub fn half_close(&self, peer: PeerId) {
        self.socket(peer).peer_finished = true;
    }

    /// The peer closes in order: the shard reads what was sent, then the end; its sends fail.
    pub fn close(&self, peer: PeerId) {
        let mut socket = self.socket(peer);
        socket.peer_finished = true;
        socket.peer_closed = true;
    }

    /// The peer resets. What the shard had not read may be lost.
    pub fn reset(&self, peer: PeerId) {
        let keeps = self.world().rng.bool();
        let mut socket = self.socket(peer);
        socket.reset = true;
        socket.peer_closed = true;
        if !keeps {
            socket.to_shard.clear();
        }
    }

    /// Whether the shard has given the socket back entirely.
    pub fn is_released(&self, peer: PeerId) -> bool {
        self.socket(peer).released
    }
}
