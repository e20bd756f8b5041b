//! The load generator of the floors: one thread, one ring, N connections with messages of 64 bytes.
//!
//! Closed loop (`Pace::OneInFlight`) asks how many messages a second a subject can carry. Open loop
//! (`Pace::PerSecond`) asks for latency: message k is due at `start + k / rate` whatever happened
//! before, and its latency counts from then, so a stall of the subject is charged to every message
//! it delayed (no coordinated omission).
//!
//! Deliberately without: payload checks (the histories of `roost-load` do that) and more than one
//! thread; a generator that cannot keep up shows in `lag`.

mod answers;
mod connection;
mod framing;
mod outcome;
mod run;

pub use framing::Framing;
pub use outcome::{Latency, Nanoseconds, Outcome, histogram};
pub use run::{print, run};

use std::net::SocketAddrV4;
use std::time::Duration;

/// When the next message of a connection is sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As soon as the answer to the previous one is there.
    OneInFlight,
    /// At fixed times, this many a second over all connections together.
    PerSecond(u32),
}

/// One run of the generator.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to connect; connections are dealt out in turn.
    pub targets: Vec<SocketAddrV4>,
    /// Active connections.
    pub connections: usize,
    /// How bytes are cut into messages.
    pub framing: Framing,
    /// When to send.
    pub pace: Pace,
    /// Not counted.
    pub warmup: Duration,
    /// Counted.
    pub duration: Duration,
    /// Whether this process comes before everything else on the machine.
    pub realtime: bool,
    /// Whose CPU time to report.
    pub server_pid: Option<u32>,
}
