//! The io_uring driver of a shard.
//!
//! # Parking
//! A waiting receive costs 864 bytes of kernel memory, a poll 256. An idle connection is therefore parked in
//! a one-shot poll and holds no buffer; when it becomes readable a one-shot receive takes one of the shared
//! buffers. A busy connection has a multishot receive, which needs no submission per message (see `receive`).
//!
//! # Teardown
//! Nothing is cancelled when a connection closes: the kernel's table of cancellable operations has 256
//! buckets, so that a cancel walks a 256th of all waiting operations. The socket is shut down, its operations
//! complete by themselves, and after the last one the descriptor is closed (see `close`).
//!
//! # Unsafe
//! Only pushing onto the ring: what an operation points at lives in `InFlightSends` until its completion.
#![allow(unsafe_code)]

mod close;
mod receive;
mod send;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Fixed, Timespec};
use io_uring::{cqueue, opcode, squeue};

use super::address_table::AddressTable;
use super::buffer_ring::BufferRing;
use super::descriptor_limit;
use super::in_flight::InFlightSends;
use super::intake::{Delivery, Intake};
use super::operation::{ConnectionOperation, UserData};
use super::ring::{Cqe, Ring};
use super::slot::{Held, Slots, Wish};
use crate::io::{
    AcceptedSocket, Completion, ConnectionKey, Io, IoConfig, IoCounters, ListenerId,
    ReceivedBuffer, SendBuffer, Shutdown, Waker,
};

/// Largest descriptor table of a ring, IORING_MAX_FIXED_FILES.
const DESCRIPTOR_TABLE_MAX: u32 = 1 << 20;
/// Threads the kernel may use for shutdowns, which it never runs inline: bounded, unbounded work.
const KERNEL_WORKERS_MAX: [u32; 2] = [1, 2];

/// A shard's ring and what it knows of each connection.
pub struct UringIo {
    // Before the memory its operations use: fields are dropped in this order.
    ring: Ring,
    buffers: BufferRing,
    sends: InFlightSends,
    slots: Slots,
    /// Connections whose receive is to be armed with the next turn, in order.
    to_arm: VecDeque<ConnectionKey>,
    busy: receive::BusyClock,
    cqes: Vec<Cqe>,
    waker: Arc<Waker>,
    waker_watched: bool,
    intake: Arc<Intake>,
    addresses: Arc<AddressTable>,
    now: Instant,
    counters: IoCounters,
}

impl UringIo {
    /// Sets up the ring of the calling thread, which is the only one that may use it.
    ///
    /// # Errors
    /// When the kernel refuses the ring, its descriptor table or its buffers.
    pub fn new(
        config: &IoConfig,
        waker: Arc<Waker>,
        addresses: Arc<AddressTable>,
    ) -> io::Result<Self> {
        let ring = Ring::new(config.submission_entries, config.completion_entries)
            .map_err(|error| context("setting up the ring", &error))?;
        let capacity = register_descriptors(&ring, config.connections_max)?;
        // Best effort: with the kernel's default the driver works, too.
        _ = ring.submitter().register_iowq_max_workers(&mut KERNEL_WORKERS_MAX.clone());
        let buffers = BufferRing::register(&ring, config.buffer_count, config.buffer_bytes)
            .map_err(|error| context("registering receive buffers", &error))?;
        let delivery = Delivery::Ring(ring.duplicate_descriptor()?);
        let now = Instant::now();
        Ok(Self {
            ring,
            buffers,
            sends: InFlightSends::default(),
            slots: Slots::default(),
            to_arm: VecDeque::new(),
            busy: receive::BusyClock::new(config.busy, now),
            cqes: Vec::with_capacity(config.completion_entries as usize),
            waker,
            waker_watched: false,
            intake: Arc::new(Intake::new(capacity, delivery)),
            addresses,
            now,
            counters: IoCounters::default(),
        })
    }

    /// What the acceptor needs to hand sockets to this shard.
    pub fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.intake)
    }

    /// Queues an operation that points at nothing, or at bytes of `self.sends` that stay until its completion.
    fn push(&mut self, entry: squeue::Entry, user_data: UserData) {
        // SAFETY: see above; `InFlightSends` keeps a send's bytes until `on_sent` saw the completion.
        unsafe { self.ring.push(entry.user_data(user_data.encode())) };
    }

    fn push_for(
        &mut self,
        key: ConnectionKey,
        operation: ConnectionOperation,
        entry: squeue::Entry,
    ) {
        self.push(entry, UserData::Connection(operation, key));
    }

    fn watch_waker(&mut self) {
        if !self.waker_watched {
            self.waker_watched = true;
            let poll =
                opcode::PollAdd::new(Fd(self.waker.fd()), libc::POLLIN as u32).multi(true).build();
            self.push(poll, UserData::Wake);
        }
    }

    fn on_completion(&mut self, cqe: Cqe, completions: &mut Vec<Completion>) {
        match UserData::decode(cqe.user_data) {
            UserData::Connection(operation, key) => {
                self.on_connection_operation(operation, key, cqe, completions);
            }
            UserData::Send { send } => self.on_sent(send, cqe, completions),
            UserData::Accepted { listener, address } => {
                if let Ok(descriptor) = u32::try_from(cqe.result) {
                    self.counters.accepted += 1;
                    let listener = ListenerId(listener);
                    let socket = AcceptedSocket { descriptor, address, listener };
                    completions.push(Completion::Accepted { socket });
                }
            }
            UserData::Reject => self.on_descriptor_closed(),
            UserData::Wake => {
                self.waker_watched = cqueue::more(cqe.flags);
                completions.push(Completion::Woken);
            }
            UserData::Unknown => debug_assert!(false, "completion of nobody: {cqe:?}"),
        }
    }

    fn on_connection_operation(
        &mut self,
        operation: ConnectionOperation,
        key: ConnectionKey,
        cqe: Cqe,
        completions: &mut Vec<Completion>,
    ) {
        match operation {
            ConnectionOperation::Poll => self.on_readable(key),
            ConnectionOperation::Receive => self.on_received(key, Held::RECEIVE, cqe, completions),
            ConnectionOperation::ReceiveMultishot => {
                self.on_received(key, Held::MULTISHOT, cqe, completions);
            }
            ConnectionOperation::Cancel => self.on_ended(key, Held::CANCEL),
            ConnectionOperation::ShutdownWrite => self.on_ended(key, Held::SHUTDOWN_WRITE),
            ConnectionOperation::ShutdownBoth => self.on_ended(key, Held::SHUTDOWN_BOTH),
            ConnectionOperation::Close => self.on_closed(key, completions),
        }
    }
}

/// Registers an empty descriptor table as large as wanted and allowed; returns its size.
fn register_descriptors(ring: &Ring, connections_max: u32) -> io::Result<u32> {
    let limit = u32::try_from(descriptor_limit::current()).unwrap_or(u32::MAX);
    let size = connections_max.min(limit).min(DESCRIPTOR_TABLE_MAX);
    ring.submitter().register_files_sparse(size).map_err(|error| {
        context(&format!("registering {size} direct descriptors (RLIMIT_NOFILE {limit})"), &error)
    })?;
    Ok(size)
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("io_uring: {what}: {error}"))
}

impl Io for UringIo {
    fn now(&self) -> Instant {
        self.now
    }

    fn attach(&mut self, socket: AcceptedSocket, key: ConnectionKey) {
        let attached = self.slots.attach(key, socket.descriptor, socket.address);
        assert!(attached, "{key:?} is in use: the table gave out an index before Released");
    }

    fn reject(&mut self, socket: AcceptedSocket) {
        self.addresses.release(socket.address);
        let close = opcode::Close::new(Fixed(socket.descriptor)).build();
        self.push(close, UserData::Reject);
    }

    fn start_receive(&mut self, key: ConnectionKey) {
        self.want_receive(key);
    }

    fn pause_receive(&mut self, key: ConnectionKey) {
        self.stop_receive(key);
    }

    fn submit_send(&mut self, key: ConnectionKey, buffer: SendBuffer) {
        self.start_send(key, buffer);
    }

    fn shutdown(&mut self, key: ConnectionKey, direction: Shutdown) {
        match direction {
            Shutdown::Write => self.shutdown_write(key),
            Shutdown::Both => self.shutdown_both(key),
        }
    }

    fn peer_address(&self, key: ConnectionKey) -> Option<IpAddr> {
        self.addresses.address(self.slots.get(key)?.address)
    }

    fn received(&self, buffer: &ReceivedBuffer) -> &[u8] {
        self.buffers.bytes(buffer.id, buffer.bytes)
    }

    fn release_buffer(&mut self, buffer: ReceivedBuffer) {
        self.buffers.release(buffer.id);
    }

    fn turn(&mut self, wait: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        let deadline = self.now.checked_add(wait);
        let mut wait = (wait < Duration::MAX).then_some(wait);
        let had = completions.len();
        self.watch_waker();
        loop {
            self.arm_receives();
            self.counters.turns += 1;
            let mut cqes = std::mem::take(&mut self.cqes);
            let entered = self.ring.enter(wait, &mut cqes);
            let woke_by_completion = !cqes.is_empty();
            for cqe in cqes.drain(..) {
                self.on_completion(cqe, completions);
            }
            self.cqes = cqes;
            self.counters.completion_overflows += u64::from(entered?);
            self.now = Instant::now();
            self.busy.advance(self.now, self.intake.taken());
            // A poll that only led to a receive is no reason to bother the shard: go on at once.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(self.now));
            if completions.len() > had || !woke_by_completion || left == Some(Duration::ZERO) {
                return Ok(());
            }
            wait = left.filter(|_| wait.is_some());
        }
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

impl Drop for UringIo {
    /// Takes everything back from the kernel before the memory goes, closes the sockets, gives places back.
    fn drop(&mut self) {
        let submitter = self.ring.submitter();
        let limit = Timespec::new().sec(1);
        // Operations that do not end in time keep their memory: leaking is the safe answer.
        let cancelled = submitter.register_sync_cancel(Some(limit), CancelBuilder::any());
        let nothing_held = match &cancelled {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        _ = submitter.unregister_files();
        if !nothing_held {
            std::mem::forget(std::mem::take(&mut self.sends));
            self.buffers.leak();
        }
        for (_, slot) in self.slots.attached() {
            self.addresses.release(slot.address);
            self.intake.give_back();
        }
    }
}

// What `impl Io` needs of the slots, shared by the files of this driver.
impl UringIo {
    /// Marks an operation as no longer held and goes on with a pending close.
    fn on_ended(&mut self, key: ConnectionKey, operation: Held) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.held.clear(operation);
        if slot.wish.any(Wish::CLOSE) {
            self.close_when_idle(key);
        }
    }

    fn on_descriptor_closed(&mut self) {
        self.counters.released += 1;
        self.intake.give_back();
    }
}
