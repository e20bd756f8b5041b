//! The simulated driver: a shard on virtual sockets and a virtual clock, all decisions from one seed.
//!
//! What the kernel may do at its worst, this driver does by chance: it splits what a peer sent anywhere, takes
//! sends in part, finds no buffer, delivers completions late and in any order of connections, lets bytes
//! through after a pause, loses unread bytes on a reset. The same seed and the same calls give the same
//! run.
//!
//! It is stricter than the kernel where the contract is: a buffer not released within its turn, an index given
//! out before `Released`, or a second send in flight panics.
//!
//! The peers' side of the sockets is [`SimulatedNetwork`], driven by the test.

mod network;

pub use network::{Faults, PeerId, PeerRead, SimulatedNetwork};

use std::cell::RefMut;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::network::{Socket, World};
use crate::io::{
    AcceptedSocket, Completion, ConnectionKey, Errno, Io, IoConfig, IoCounters, ListenerId,
    ReceiveEnd, ReceivedBuffer, SendBuffer, Shutdown,
};

/// What the driver holds for one connection.
struct Connection {
    generation: u32,
    socket: usize,
    receives: bool,
    /// Paused, but the simulated kernel has not heard of it: one more receive comes through.
    receives_once_more: bool,
    receive_ended: bool,
    send: Option<(SendBuffer, usize)>,
    closing: bool,
    /// Completions of this connection are delayed until then, in virtual time since the start.
    not_before: Duration,
}

/// One shard's driver.
pub struct SimulatedIo {
    network: SimulatedNetwork,
    shard: usize,
    /// Ordered, so that a run does not depend on a hash.
    connections: BTreeMap<u32, Connection>,
    /// Empty between collections.
    indexes: Vec<u32>,
    buffers: Vec<Vec<u8>>,
    free_buffers: Vec<u16>,
    counters: IoCounters,
}

impl SimulatedIo {
    /// A driver for one more shard of `network`.
    pub fn new(network: &SimulatedNetwork, config: &IoConfig) -> Self {
        let shard = network.world().add_shard(config.connections_max);
        Self {
            network: network.clone(),
            shard,
            connections: BTreeMap::new(),
            indexes: Vec::new(),
            buffers: vec![vec![0; config.buffer_bytes as usize]; usize::from(config.buffer_count)],
            free_buffers: (0..config.buffer_count).rev().collect(),
            counters: IoCounters::default(),
        }
    }

    fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections.get_mut(&key.index).filter(|c| c.generation == key.generation)
    }

    /// Everything that is due now, connections in a random order.
    fn collect(&mut self, completions: &mut Vec<Completion>) {
        let network = self.network.clone();
        let mut world = network.world();
        if world.take_wake(self.shard) {
            completions.push(Completion::Woken);
        }
        while let Some(socket) = world.accept(self.shard) {
            self.counters.accepted += 1;
            let listener = ListenerId(world.sockets[socket].listener);
            let socket = AcceptedSocket { descriptor: socket as u32, address: 0, listener };
            completions.push(Completion::Accepted { socket });
        }
        let mut indexes = mem::take(&mut self.indexes);
        indexes.extend(self.connections.keys());
        world.rng.shuffle(&mut indexes);
        for index in indexes.drain(..) {
            self.collect_connection(index, &mut world, completions);
        }
        self.indexes = indexes;
    }

    fn collect_connection(
        &mut self,
        index: u32,
        world: &mut RefMut<'_, World>,
        completions: &mut Vec<Completion>,
    ) {
        let Some(connection) = self.connections.get_mut(&index) else { return };
        let key = ConnectionKey { index, generation: connection.generation };
        if connection.not_before > world.elapsed {
            return;
        }
        if connection.closing {
            let socket = connection.socket;
            world.release(self.shard, socket);
            self.connections.remove(&index);
            self.counters.released += 1;
            return completions.push(Completion::Released { key });
        }
        let before = completions.len();
        self.collect_receive(key, world, completions);
        self.collect_send(key, world, completions);
        if completions.len() > before
            && let Some(connection) = self.connections.get_mut(&index)
        {
            connection.not_before = world.elapsed + world.delay();
        }
    }

    fn collect_receive(
        &mut self,
        key: ConnectionKey,
        world: &mut RefMut<'_, World>,
        completions: &mut Vec<Completion>,
    ) {
        let Some(connection) = self.connections.get_mut(&key.index) else { return };
        if !connection.receives && !connection.receives_once_more {
            return;
        }
        let socket = connection.socket;
        if !world.sockets[socket].is_readable() {
            return;
        }
        if world.chance(|faults| faults.buffers_exhausted) || self.free_buffers.is_empty() {
            self.counters.buffers_exhausted += 1;
            return;
        }
        connection.receives_once_more = false;
        match world.sockets[socket].to_shard.len() {
            0 => {
                connection.receives = false;
                connection.receive_ended = true;
                let end = match world.sockets[socket].reset {
                    true => ReceiveEnd::Failed(Errno(libc::ECONNRESET)),
                    false => ReceiveEnd::EndOfStream,
                };
                completions.push(Completion::ReceiveEnded { key, end });
            }
            available => {
                let Some(id) = self.free_buffers.pop() else { return };
                let buffer = &mut self.buffers[usize::from(id)];
                let bytes = world.split(available.min(buffer.capacity()));
                buffer.clear();
                world.sockets[socket].take_to_shard(bytes, buffer);
                self.counters.receives += 1;
                self.counters.received_bytes += bytes as u64;
                let buffer = ReceivedBuffer { id, bytes: bytes as u32 };
                completions.push(Completion::Received { key, buffer });
            }
        }
    }

    fn collect_send(
        &mut self,
        key: ConnectionKey,
        world: &mut RefMut<'_, World>,
        completions: &mut Vec<Completion>,
    ) {
        let Some(connection) = self.connections.get_mut(&key.index) else { return };
        let Some((buffer, sent_bytes)) = &mut connection.send else { return };
        if let Some(errno) = world.sockets[connection.socket].send_error() {
            connection.send = None;
            return completions.push(Completion::SendFailed { key, errno });
        }
        let left = buffer.size_bytes() - *sent_bytes;
        let room = left.min(world.sockets[connection.socket].room_to_peer());
        if room == 0 && left > 0 {
            return;
        }
        let bytes = if left == 0 { 0 } else { world.short_send(room) };
        append(buffer, *sent_bytes, bytes, &mut world.sockets[connection.socket]);
        *sent_bytes += bytes;
        let finished = bytes == left;
        if finished {
            connection.send = None;
        } else {
            self.counters.sends_partial += 1;
        }
        self.counters.sent_bytes += bytes as u64;
        completions.push(Completion::Sent { key, bytes: bytes as u32, finished });
    }

    /// When the first delayed connection may go on.
    fn next_due(&self, elapsed: Duration) -> Option<Duration> {
        self.connections.values().map(|c| c.not_before).filter(|&at| at > elapsed).min()
    }
}

/// Puts `bytes` of the send's rest on the wire.
fn append(buffer: &SendBuffer, skip: usize, bytes: usize, socket: &mut Socket) {
    let mut left = bytes;
    buffer.for_each_piece(skip, |piece| {
        let taken = left.min(piece.len());
        socket.to_peer.extend(&piece[..taken]);
        left -= taken;
        left > 0
    });
}

impl Io for SimulatedIo {
    fn now(&self) -> Instant {
        self.network.now()
    }

    fn attach(&mut self, socket: AcceptedSocket, key: ConnectionKey) {
        let mut world = self.network.world();
        let not_before = world.elapsed + world.delay();
        let connection = Connection {
            generation: key.generation,
            socket: socket.descriptor as usize,
            receives: false,
            receives_once_more: false,
            receive_ended: false,
            send: None,
            closing: false,
            not_before,
        };
        let former = self.connections.insert(key.index, connection);
        assert!(former.is_none(), "{key:?} is in use: the table gave out an index before Released");
    }

    fn reject(&mut self, socket: AcceptedSocket) {
        self.counters.released += 1;
        self.network.world().release(self.shard, socket.descriptor as usize);
    }

    fn start_receive(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.get_mut(key) {
            connection.receives = !connection.closing && !connection.receive_ended;
        }
    }

    fn pause_receive(&mut self, key: ConnectionKey) {
        let late = self.network.world().rng.bool();
        if let Some(connection) = self.get_mut(key) {
            connection.receives_once_more = connection.receives && late;
            connection.receives = false;
        }
    }

    fn submit_send(&mut self, key: ConnectionKey, buffer: SendBuffer) {
        let Some(connection) = self.get_mut(key) else { return };
        if !connection.closing {
            assert!(connection.send.is_none(), "{key:?} has a send in flight");
            connection.send = Some((buffer, 0));
        }
    }

    fn shutdown(&mut self, key: ConnectionKey, direction: Shutdown) {
        let delay = self.network.world().delay_until();
        let Some(connection) = self.get_mut(key) else { return };
        if connection.closing {
            return;
        }
        let socket = connection.socket;
        if direction == Shutdown::Both {
            connection.closing = true;
            connection.receives = false;
            connection.receives_once_more = false;
            connection.send = None;
            connection.not_before = delay;
        }
        self.network.world().sockets[socket].shard_finished = true;
    }

    fn peer_address(&self, key: ConnectionKey) -> Option<IpAddr> {
        let connection = self.connections.get(&key.index)?;
        (connection.generation == key.generation)
            .then(|| self.network.world().sockets[connection.socket].address)
    }

    fn received(&self, buffer: &ReceivedBuffer) -> &[u8] {
        &self.buffers[usize::from(buffer.id)]
    }

    fn release_buffer(&mut self, buffer: ReceivedBuffer) {
        self.free_buffers.push(buffer.id);
    }

    fn turn(&mut self, wait: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        let free = self.free_buffers.len();
        assert_eq!(free, self.buffers.len(), "a buffer was not released within its turn");
        self.counters.turns += 1;
        let had = completions.len();
        self.collect(completions);
        if completions.len() > had || wait.is_zero() {
            return Ok(());
        }
        let elapsed = self.network.world().elapsed;
        let due = self.next_due(elapsed).map(|at| at - elapsed);
        let wait = (wait < Duration::MAX).then_some(wait);
        if let Some(step) = wait.into_iter().chain(due).min() {
            self.network.world().advance_idle(step);
        }
        self.collect(completions);
        Ok(())
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}
