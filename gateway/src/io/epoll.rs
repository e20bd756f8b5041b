//! The epoll driver of a shard: the same behaviour as io_uring, for kernels and containers that forbid it.
//!
//! Each socket is registered once, edge-triggered for both directions; the driver remembers what is readable.
//! System calls are made in `turn` only: first what the shard asked for (sends, shutdowns, closes), then the
//! wait, then one receive per readable connection and turn, so that a busy peer cannot starve the others.
//!
//! An idle connection holds 16 bytes here and a descriptor of the process. A send that the socket took only in
//! part waits in a map until the socket is writable.
#![allow(unsafe_code)]

pub(crate) mod poller;
mod system;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use hashbrown::HashMap;
use rapidhash::fast::RandomState;

use self::poller::{Event, Poller};
use super::address_table::AddressTable;
use super::buffer_ring::Buffers;
use super::descriptor_limit;
use super::intake::{Delivery, Handed, Intake};
use super::slot::{Slots, Wish};
use crate::io::{
    AcceptedSocket, CONNECTION_INDEX_LIMIT, Completion, ConnectionKey, Errno, Io, IoConfig,
    IoCounters, ListenerId, ReceiveEnd, ReceivedBuffer, SendBuffer, Shutdown, Waker,
};

/// Sockets on their way into one shard.
const HAND_OVER_QUEUE: usize = 1024;
/// Descriptors of the process that are not connections: files, database, rings.
const OTHER_DESCRIPTORS: u64 = 256;
/// The waker's number among the events; connections have index and generation.
const WAKE: u64 = u64::MAX;

/// A send that is not finished.
struct Pending {
    buffer: SendBuffer,
    sent_bytes: usize,
    generation: u32,
}

/// A shard's epoll instance and what it knows of each connection.
///
/// Of [`Wish`], `READABLE` means a receive may find something, `LISTED` that the connection is in `readable`.
pub struct EpollIo {
    poller: Poller,
    events: Vec<Event>,
    buffers: Buffers,
    free_buffers: Vec<u16>,
    slots: Slots,
    sends: HashMap<u32, Pending, RandomState>,
    /// Connections with a send to try.
    writable: Vec<ConnectionKey>,
    /// Connections to receive from.
    readable: VecDeque<ConnectionKey>,
    to_close: Vec<ConnectionKey>,
    intake: Arc<Intake>,
    addresses: Arc<AddressTable>,
    now: Instant,
    counters: IoCounters,
}

impl EpollIo {
    /// Sets up the driver; sockets come through `waker`'s shard.
    ///
    /// # Errors
    /// When the process has no descriptor or memory left.
    pub fn new(
        config: &IoConfig,
        waker: Arc<Waker>,
        addresses: Arc<AddressTable>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(waker.fd(), libc::EPOLLIN, WAKE)?;
        let limit = descriptor_limit::current().saturating_sub(OTHER_DESCRIPTORS).max(1);
        let capacity = config.connections_max.min(u32::try_from(limit).unwrap_or(u32::MAX));
        let delivery = Delivery::Queue(Box::new(ArrayQueue::new(HAND_OVER_QUEUE)), waker);
        Ok(Self {
            poller,
            events: Vec::new(),
            buffers: Buffers::new(config.buffer_count, config.buffer_bytes)?,
            free_buffers: (0..config.buffer_count).rev().collect(),
            slots: Slots::default(),
            sends: HashMap::default(),
            writable: Vec::new(),
            readable: VecDeque::new(),
            to_close: Vec::new(),
            intake: Arc::new(Intake::new(capacity, delivery)),
            addresses,
            now: Instant::now(),
            counters: IoCounters::default(),
        })
    }

    /// What the acceptor needs to hand sockets to this shard.
    pub fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.intake)
    }

    fn list_readable(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let wants = slot.wish.any(Wish::RECEIVE) && slot.wish.any(Wish::READABLE);
        if wants && !slot.wish.any(Wish::LISTED) {
            slot.wish.set(Wish::LISTED);
            self.readable.push_back(key);
        }
    }

    fn take_accepted(&mut self, completions: &mut Vec<Completion>) {
        let Delivery::Queue(queue, _) = &self.intake.delivery else { return };
        let mut taken = false;
        while let Some(Handed { socket, address, listener }) = queue.pop() {
            taken = true;
            self.counters.accepted += 1;
            let descriptor = socket.into_raw_fd() as u32;
            let listener = ListenerId(listener);
            let socket = AcceptedSocket { descriptor, address, listener };
            completions.push(Completion::Accepted { socket });
        }
        if taken {
            // The acceptor may have waited for room in the queue.
            self.intake.wake_acceptor();
        }
    }

    /// Tries each send that was asked for or became possible.
    fn send_all(&mut self, completions: &mut Vec<Completion>) {
        for key in std::mem::take(&mut self.writable) {
            let Some(slot) = self.slots.get(key) else { continue };
            let fd = slot.descriptor as RawFd;
            let Some(pending) = self.sends.get_mut(&key.index) else { continue };
            if pending.generation != key.generation {
                continue;
            }
            let size_bytes = pending.buffer.size_bytes();
            match system::send(fd, &pending.buffer, pending.sent_bytes) {
                Ok(bytes) => {
                    pending.sent_bytes += bytes;
                    self.counters.sent_bytes += bytes as u64;
                    let finished = pending.sent_bytes >= size_bytes;
                    if finished {
                        self.sends.remove(&key.index);
                    } else {
                        // Tried again until it would block: then the socket says when it is writable.
                        self.counters.sends_partial += 1;
                        self.writable.push(key);
                    }
                    completions.push(Completion::Sent { key, bytes: bytes as u32, finished });
                }
                Err(Errno(libc::EAGAIN)) => {}
                Err(Errno(libc::EINTR)) => self.writable.push(key),
                Err(errno) => {
                    self.sends.remove(&key.index);
                    completions.push(Completion::SendFailed { key, errno });
                }
            }
        }
    }

    fn close_all(&mut self, completions: &mut Vec<Completion>) {
        for key in std::mem::take(&mut self.to_close) {
            let Some(slot) = self.slots.get(key) else { continue };
            let address = slot.address;
            // Closing also takes the socket out of epoll.
            system::close(slot.descriptor as RawFd);
            self.slots.vacate(key);
            self.addresses.release(address);
            self.on_descriptor_closed();
            completions.push(Completion::Released { key });
        }
    }

    fn on_descriptor_closed(&mut self) {
        self.counters.released += 1;
        self.intake.give_back();
    }

    fn on_event(&mut self, event: Event, completions: &mut Vec<Completion>) {
        if event.number == WAKE {
            return completions.push(Completion::Woken);
        }
        let key =
            ConnectionKey { index: (event.number >> 32) as u32, generation: event.number as u32 };
        let Some(slot) = self.slots.get_mut(key) else { return };
        let hung_up = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
        if event.flags & (libc::EPOLLIN | hung_up) != 0 {
            slot.wish.set(Wish::READABLE);
        }
        if event.flags & hung_up != 0 {
            slot.wish.set(Wish::HUNG_UP);
        }
        self.list_readable(key);
        if event.flags & (libc::EPOLLOUT | hung_up) != 0 && self.sends.contains_key(&key.index) {
            self.writable.push(key);
        }
    }

    /// One receive for each listed connection, as far as there are buffers.
    fn receive_all(&mut self, completions: &mut Vec<Completion>) {
        for _ in 0..self.readable.len() {
            let Some(key) = self.readable.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.wish.clear(Wish::LISTED);
            if !slot.wish.any(Wish::RECEIVE) {
                continue;
            }
            let Some(id) = self.free_buffers.pop() else {
                slot.wish.set(Wish::LISTED);
                self.readable.push_front(key);
                self.counters.buffers_exhausted += 1;
                return;
            };
            self.receive(key, id, completions);
        }
    }

    fn receive(&mut self, key: ConnectionKey, id: u16, completions: &mut Vec<Completion>) {
        let Some(slot) = self.slots.get_mut(key) else { return self.free_buffers.push(id) };
        let buffer = self.buffers.bytes_mut(id);
        let room = buffer.len();
        match system::receive(slot.descriptor as RawFd, buffer) {
            Ok(bytes @ 1..) => {
                // Less than asked for: the socket is empty, the next byte is a new edge. Not so for the end
                // of the stream, whose edge may have been the last.
                if bytes < room && !slot.wish.any(Wish::HUNG_UP) {
                    slot.wish.clear(Wish::READABLE);
                }
                self.counters.receives += 1;
                self.counters.received_bytes += bytes as u64;
                let buffer = ReceivedBuffer { id, bytes: bytes as u32 };
                completions.push(Completion::Received { key, buffer });
                return self.list_readable(key);
            }
            Ok(_) => self.end_receive(key, ReceiveEnd::EndOfStream, completions),
            Err(Errno(libc::EAGAIN)) => slot.wish.clear(Wish::READABLE),
            Err(Errno(libc::EINTR)) => self.list_readable(key),
            Err(errno) => self.end_receive(key, ReceiveEnd::Failed(errno), completions),
        }
        self.free_buffers.push(id);
    }

    fn end_receive(
        &mut self,
        key: ConnectionKey,
        end: ReceiveEnd,
        completions: &mut Vec<Completion>,
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.wish.clear(Wish::RECEIVE.or(Wish::READABLE));
        slot.wish.set(Wish::RECEIVE_ENDED);
        completions.push(Completion::ReceiveEnded { key, end });
    }

    /// Whether the next turn has something to do without waiting. Looks at the queue of accepted sockets after
    /// the shard announced its sleep, so that no hand-over is slept through.
    fn has_work(&self) -> bool {
        if matches!(&self.intake.delivery, Delivery::Queue(queue, _) if !queue.is_empty()) {
            return true;
        }
        let readable = !self.readable.is_empty() && !self.free_buffers.is_empty();
        readable || !self.writable.is_empty() || !self.to_close.is_empty()
    }
}

impl Io for EpollIo {
    fn now(&self) -> Instant {
        self.now
    }

    fn attach(&mut self, socket: AcceptedSocket, key: ConnectionKey) {
        debug_assert!(key.index < CONNECTION_INDEX_LIMIT);
        let attached = self.slots.attach(key, socket.descriptor, socket.address);
        assert!(attached, "{key:?} is in use: the table gave out an index before Released");
        let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
        let number = u64::from(key.index) << 32 | u64::from(key.generation);
        if let Err(error) = self.poller.add(socket.descriptor as RawFd, flags, number) {
            // Without events it would hang: let the first receive find the broken socket.
            tracing::error!(%error, "cannot watch a socket");
            system::shutdown(socket.descriptor as RawFd, libc::SHUT_RDWR);
            if let Some(slot) = self.slots.get_mut(key) {
                slot.wish.set(Wish::READABLE.or(Wish::HUNG_UP));
            }
        }
    }

    fn reject(&mut self, socket: AcceptedSocket) {
        system::close(socket.descriptor as RawFd);
        self.addresses.release(socket.address);
        self.on_descriptor_closed();
    }

    fn start_receive(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !slot.wish.any(Wish::CLOSE.or(Wish::RECEIVE_ENDED)) {
            slot.wish.set(Wish::RECEIVE);
            self.list_readable(key);
        }
    }

    fn pause_receive(&mut self, key: ConnectionKey) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.wish.clear(Wish::RECEIVE);
        }
    }

    fn submit_send(&mut self, key: ConnectionKey, buffer: SendBuffer) {
        let Some(slot) = self.slots.get(key) else { return };
        if slot.wish.any(Wish::CLOSE) {
            return;
        }
        let generation = key.generation;
        let replaced = self.sends.insert(key.index, Pending { buffer, sent_bytes: 0, generation });
        assert!(replaced.is_none(), "{key:?} has a send in flight");
        self.writable.push(key);
    }

    fn shutdown(&mut self, key: ConnectionKey, direction: Shutdown) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.wish.any(Wish::CLOSE) {
            return;
        }
        match direction {
            Shutdown::Write => system::shutdown(slot.descriptor as RawFd, libc::SHUT_WR),
            Shutdown::Both => {
                slot.wish.set(Wish::CLOSE);
                slot.wish.clear(Wish::RECEIVE);
                self.sends.remove(&key.index);
                self.to_close.push(key);
            }
        }
    }

    fn peer_address(&self, key: ConnectionKey) -> Option<IpAddr> {
        self.addresses.address(self.slots.get(key)?.address)
    }

    fn received(&self, buffer: &ReceivedBuffer) -> &[u8] {
        self.buffers.bytes(buffer.id, buffer.bytes)
    }

    fn release_buffer(&mut self, buffer: ReceivedBuffer) {
        self.free_buffers.push(buffer.id);
    }

    fn turn(&mut self, wait: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.counters.turns += 1;
        let had = completions.len();
        self.send_all(completions);
        self.close_all(completions);
        let must_not_wait = completions.len() > had || self.has_work();
        let wait = if must_not_wait { Duration::ZERO } else { wait };
        self.poller.wait((wait < Duration::MAX).then_some(wait), &mut self.events)?;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.on_event(event, completions);
        }
        self.events = events;
        self.take_accepted(completions);
        self.receive_all(completions);
        self.now = Instant::now();
        Ok(())
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

impl Drop for EpollIo {
    fn drop(&mut self) {
        for (_, slot) in self.slots.attached() {
            system::close(slot.descriptor as RawFd);
            self.addresses.release(slot.address);
            self.intake.give_back();
        }
    }
}
