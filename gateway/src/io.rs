//! The one seam between a shard and the kernel.
//!
//! [`Io`] says what a shard may ask of the kernel and [`Completion`] what it hears back. Three drivers
//! implement it with the same behaviour: io_uring, epoll and a simulated one with a virtual clock.
//!
//! A shard's turn is always the same: [`Io::turn`] submits what was asked, waits, and reaps *all*
//! completions into a vector; only then does the shard handle them. Nothing is handled while reaping.
//!
//! # Life of a connection
//! ```text
//! Accepted{socket} ── attach(socket, key) ── start_receive(key) ──► Received* ── ReceiveEnded?
//!        │                                   submit_send(key, ..) ─► Sent+ | SendFailed
//!        └─ reject(socket)                   shutdown(key, Both) ──────────────────────► Released{key}
//! ```
//! * The shard's connection table owns `index` and `generation`; the driver keeps 16 bytes per index.
//!   After `attach` the index belongs to the driver too, until it reports [`Completion::Released`]:
//!   exactly once, after `shutdown(key, Both)`, when the last kernel operation of the socket was reaped
//!   and its descriptor is closed. Only then may the table give the index to another connection.
//! * The driver never closes by itself: after `ReceiveEnded` or `SendFailed` the shard calls `shutdown`.
//! * Completions of one [`Io::turn`] are in the order the kernel gave them. One that was already reaped
//!   when the shard called `shutdown(key, Both)` is still in the vector; later ones are swallowed.
//! * At most one send is in flight per connection; the driver continues partial sends itself.
//!
//! What is deliberately absent: connecting outwards, datagrams, files, cancelling a single operation.

pub mod acceptor;
pub mod address_table;
pub mod affinity;
mod buffer_ring;
pub mod descriptor_limit;
pub mod epoll;
mod in_flight;
pub mod intake;
mod operation;
pub mod probe;
mod ring;
pub mod send_buffer;
pub mod simulated;
mod slot;
pub mod socket;
pub mod uring;
pub mod waker;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use send_buffer::{GatherEntry, HEADER_BYTES, SendBuffer};
pub use waker::Waker;

/// Connection indexes of a shard are below this: an index shares 64 bits of `user_data` with the
/// generation (32 bits) and the kind of operation (8 bits).
pub const CONNECTION_INDEX_LIMIT: u32 = 1 << 24;

/// Names one connection of one shard: a slot of the shard's table, and which use of that slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionKey {
    /// Slot in the shard's table, below [`CONNECTION_INDEX_LIMIT`].
    pub index: u32,
    /// Raised by the table with each use of the slot, so that a late event of a former connection is
    /// recognised.
    pub generation: u32,
}

/// Which of the gateway's listeners a socket came from, in the order they were given to the acceptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerId(pub u8);

/// A socket that belongs to this shard and has no connection yet: give it to [`Io::attach`] or
/// [`Io::reject`]. Dropping it leaks its place until the driver ends, hence not `Clone`.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "attach or reject it, else its place is lost"]
pub struct AcceptedSocket {
    /// Slot of the ring's direct descriptor table, or a descriptor of the process, or a simulated socket.
    pub(crate) descriptor: u32,
    /// Slot of the peer's address in the address table.
    pub(crate) address: u32,
    /// Where it was accepted.
    pub listener: ListenerId,
}

/// Received bytes that lie in one of the driver's buffers: read by [`Io::received`], given back by
/// [`Io::release_buffer`], within the same turn (the buffers are few and shared by all connections).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "release it, else the ring loses a buffer"]
pub struct ReceivedBuffer {
    pub(crate) id: u16,
    pub(crate) bytes: u32,
}

impl ReceivedBuffer {
    /// How many bytes were received; never 0.
    pub fn size_bytes(&self) -> usize {
        self.bytes as usize
    }
}

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

/// Why a connection receives no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiveEnd {
    /// The peer finished sending; it may still read (half close).
    EndOfStream,
    /// The socket failed, e.g. `ECONNRESET`.
    Failed(Errno),
}

/// Which direction [`Io::shutdown`] ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Send FIN after what the kernel has; go on receiving. A close that must be *read* by a peer that is
    /// still sending does this first and `Both` after `ReceiveEnded` or a short timer: closing a socket
    /// with unread bytes makes the kernel send RST, which may destroy the close frame on its way.
    Write,
    /// End both, close the descriptor when the kernel is done, report `Released`.
    Both,
}

/// What the driver reports.
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    /// A new socket of this shard.
    Accepted {
        /// To attach or reject.
        socket: AcceptedSocket,
    },
    /// Bytes of the peer, in a driver buffer. May still come for a connection paused in the meantime.
    Received {
        /// Whose bytes.
        key: ConnectionKey,
        /// Where they are; to be released.
        buffer: ReceivedBuffer,
    },
    /// No more bytes will come; reported once.
    ReceiveEnded {
        /// Which connection.
        key: ConnectionKey,
        /// Why.
        end: ReceiveEnd,
    },
    /// The kernel took `bytes` of the send in flight.
    Sent {
        /// Which connection.
        key: ConnectionKey,
        /// How many bytes since the last `Sent` of this send; progress for the slow-consumer rule.
        bytes: u32,
        /// Whether that was the rest, so that the next `submit_send` may follow. When false the driver has
        /// already resubmitted the remainder.
        finished: bool,
    },
    /// The send in flight failed, its remainder is dropped, nothing more can be sent.
    SendFailed {
        /// Which connection.
        key: ConnectionKey,
        /// E.g. `EPIPE`, `ECONNRESET`.
        errno: Errno,
    },
    /// The kernel holds nothing of this connection any more; its index may be used again.
    Released {
        /// Which connection.
        key: ConnectionKey,
    },
    /// Another thread called [`Waker::wake`]: look into the mailbox.
    Woken,
}

/// What the kernel can do for a shard. See the module text for the life of a connection.
///
/// Every call but `turn` only records or queues. Calls for a key that is not attached (or no longer) are
/// ignored, so that a shard may act on an event that was overtaken.
pub trait Io {
    /// The time as of the last [`turn`](Io::turn); virtual in the simulated driver. A shard has no other clock.
    fn now(&self) -> Instant;

    /// Gives an accepted socket its connection key. Receives nothing until `start_receive`.
    ///
    /// # Panics
    /// When the index is in use, i.e. was given out again before `Released`: a bug of the shard.
    fn attach(&mut self, socket: AcceptedSocket, key: ConnectionKey);

    /// Closes an accepted socket that was never attached. Nothing is reported.
    fn reject(&mut self, socket: AcceptedSocket);

    /// Starts or resumes receiving.
    fn start_receive(&mut self, key: ConnectionKey);

    /// Stops receiving, so that the peer's TCP window fills (back-pressure). Nothing is lost: bytes stay in
    /// the kernel until `start_receive`. What the kernel takes in before it learns of the pause still arrives
    /// as `Received`: from a busy peer that goes on sending a few buffers, else at most one.
    fn pause_receive(&mut self, key: ConnectionKey);

    /// Sends all of `buffer`; ignored after `shutdown(Both)`. At most one send is in flight per connection: the next may follow `Sent` with
    /// `finished`.
    ///
    /// # Panics
    /// When one is in flight: a bug of the shard.
    fn submit_send(&mut self, key: ConnectionKey, buffer: SendBuffer);

    /// Ends one or both directions; `Both` leads to `Released` and drops what a send has not given to the
    /// kernel yet. `Write` belongs after the last `Sent`. Repeating it changes nothing.
    fn shutdown(&mut self, key: ConnectionKey, direction: Shutdown);

    /// The peer's address (an IPv6 peer's with its interface part zeroed), for logs; `None` when not attached.
    fn peer_address(&self, key: ConnectionKey) -> Option<IpAddr>;

    /// The bytes of a `Received`.
    fn received(&self, buffer: &ReceivedBuffer) -> &[u8];

    /// Gives a buffer back for the next receives.
    fn release_buffer(&mut self, buffer: ReceivedBuffer);

    /// Submits everything asked, waits at most `wait` for one completion (zero: does not wait), then appends
    /// all there are to `completions`. Returns without any when the time is over or a signal came.
    ///
    /// Before a turn that may wait, the shard announces its sleep
    /// ([`Mailbox::prepare_sleep`](crate::shard::mailbox::Mailbox::prepare_sleep)), else a wake-up is lost.
    ///
    /// # Errors
    /// Only when the driver itself is broken; the shard cannot go on and must abort.
    fn turn(&mut self, wait: Duration, completions: &mut Vec<Completion>) -> std::io::Result<()>;

    /// What the driver counted since its start.
    fn counters(&self) -> IoCounters;
}

/// What a driver counted since its start; a shard publishes it with its metrics.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct IoCounters {
    /// Sockets handed to this shard.
    pub accepted: u64,
    /// Sockets closed again, attached or not.
    pub released: u64,
    /// Bytes from peers.
    pub received_bytes: u64,
    /// `Received` events.
    pub receives: u64,
    /// Bytes the kernel took.
    pub sent_bytes: u64,
    /// Sends the kernel accepted in part, so that the remainder was submitted again.
    pub sends_partial: u64,
    /// Receives that found no free buffer and were tried again.
    pub buffers_exhausted: u64,
    /// Connections that became busy and got a multishot receive (io_uring).
    pub promoted: u64,
    /// Busy connections that were parked again.
    pub demoted: u64,
    /// Turns in which completions had overflowed the ring's queue (none is lost).
    pub completion_overflows: u64,
    /// System calls that submit or wait.
    pub turns: u64,
}

/// Sizes and limits of a driver.
#[derive(Clone, Debug)]
pub struct IoConfig {
    /// Connections this shard may hold; the driver may lower it to what RLIMIT_NOFILE allows.
    pub connections_max: u32,
    /// Submission queue; a power of two. When it is full the driver submits early.
    pub submission_entries: u32,
    /// Completion queue; a power of two, at least twice `submission_entries`.
    pub completion_entries: u32,
    /// Receive buffers shared by all connections of the shard; a power of two, at most 32,768.
    pub buffer_count: u16,
    /// Size of each receive buffer.
    pub buffer_bytes: u32,
    /// When a connection counts as busy (io_uring).
    pub busy: BusyConfig,
}

/// When io_uring counts a connection as busy; see [`uring`].
#[derive(Clone, Copy, Debug)]
pub struct BusyConfig {
    /// The driver's coarse clock.
    pub tick: Duration,
    /// Receives within one tick that make a connection busy.
    pub receives: u8,
}

impl Default for BusyConfig {
    fn default() -> Self {
        Self { tick: Duration::from_secs(1), receives: 16 }
    }
}

impl Default for IoConfig {
    fn default() -> Self {
        Self {
            connections_max: 262_144,
            submission_entries: 1024,
            completion_entries: 8192,
            buffer_count: 1024,
            buffer_bytes: 2048,
            busy: BusyConfig::default(),
        }
    }
}
