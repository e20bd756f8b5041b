//! Counters: written by one shard each, read by anyone.
//!
//! A shard writes its own cache-padded struct with plain loads and stores (one writer, so no locked instruction); the admin
//! endpoint sums and labels them. Every refusal, close and drop has a name here: nothing is lost in silence.

pub mod exposition;
pub mod process;

use std::sync::atomic::{AtomicU64, Ordering};

use roost_protocol::{CloseReason, FrameKind, RefusalCode};

/// A number with one writer: a counter that only grows, or a gauge.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    /// Takes one from a gauge.
    pub fn decrement(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
    /// Sets a gauge, or a counter that is kept elsewhere.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// The value as of about now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $kind:ident,)*
        $(@per_name $($names:ident: $count:expr,)*)?
    }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        // Two cache lines: the adjacent-line prefetcher takes pairs.
        #[repr(align(128))]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: Counter,)*
            $($($names: PerName<{ $count }>,)*)?
        }
        impl $name {
            /// Name, help, kind and value of every plain number.
            pub fn plain(&self) -> Vec<PlainCounter> {
                vec![$(PlainCounter {
                    name: stringify!($field),
                    help: concat!($($doc),*).trim(),
                    kind: MetricKind::$kind,
                    value: self.$field.get(),
                },)*]
            }
        }
    };
}

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only grows.
    Total,
}

/// One plain number of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainCounter {
    /// Name without prefix and unit suffix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// As of about now.
    pub value: u64,
}

#[derive(Debug)]
struct PerName<const N: usize>([Counter; N]);

impl<const N: usize> Default for PerName<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

counters! {
    /// What one shard counts. Written by that shard only.
    pub struct ShardCounters {
        /// Connections this shard holds, logged in or not.
        connections: Gauge,
        /// Connections that are logged in.
        sessions: Gauge,
        /// Sockets handed to this shard.
        accepted: Total,
        /// Bytes from peers.
        received_bytes: Total,
        /// Bytes the kernel took for peers.
        sent_bytes: Total,
        /// Receives that found no free buffer and were tried again.
        buffers_exhausted: Total,
        /// Turns whose completions overflowed the ring's queue; none is lost.
        completion_overflows: Total,
        /// Turns of the event loop.
        turns: Total,
        /// Deliveries replaced by a hint because an outbox was above its watermark.
        deliveries_dropped_to_hint: Total,
        /// Hints sent.
        hints: Total,
        /// Hints sent because a delivery was not acknowledged in time.
        deliveries_unacknowledged: Total,
        /// Repeats of a question whose first copy was still on its way to an answer; they are not passed on.
        repeats_joined: Total,
        /// Items for a connection that was gone.
        items_missed: Total,
        /// Connections that are not read because the way to logic is full.
        paused_receives: Gauge,
        /// Times a connection was paused because the way to logic was full.
        pauses: Total,
        /// Batches waiting in the mailbox.
        mailbox_depth: Gauge,
        /// Sessions sent to the gateway that they belong to since the ring changed.
        shed: Total,
        /// Connections moved from parked to streaming receive.
        promoted: Total,
        /// Connections moved back to parked receive.
        demoted: Total,
        @per_name
        closes: CloseReason::ALL.len(),
        refusals: RefusalCode::ALL.len(),
        frames_received: FrameKind::ALL.len(),
        frames_sent: FrameKind::ALL.len(),
    }
}

counters! {
    /// What the control thread counts. Written by that thread only.
    pub struct ControlCounters {
        /// Batches the bus confirmed.
        batches_published: Total,
        /// Messages the bus confirmed.
        messages_published: Total,
        /// Batches the bus did not confirm; each is published again.
        publish_failures: Total,
        /// Whether the last answer of the bus was a failure.
        bus_failing: Gauge,
        /// Batches taken from the delivery queue.
        batches_received: Total,
        /// Envelopes in them.
        envelopes_received: Total,
        /// Batches of another version, or damaged.
        batches_damaged: Total,
        /// Users of a fan-out that have no session here.
        users_missed: Total,
        /// Envelopes for a connection of a shard that does not exist.
        connections_missed: Total,
        /// Times a full mailbox made the gateway stop taking from the bus.
        mailbox_waits: Total,
        /// Whether the delivery queue is open.
        consumer_open: Gauge,
        /// Times the delivery queue had to be opened again.
        consumer_reopened: Total,
        /// Whether all routes are known to be in the route table; until then every delivery comes here. 0 without a route table.
        routes_complete: Gauge,
        /// Routes written, renewed or cleared.
        routes_written: Total,
        /// Times the route table did not answer.
        routes_failures: Total,
        /// Times more sessions changed than could wait for the route table; all routes are then written anew.
        routes_overflows: Total,
        /// Keys of login tokens that logic published.
        login_keys: Gauge,
        /// Whether every configured logic process answered the last question for them.
        login_keys_complete: Gauge,
        /// Times one did not.
        login_keys_failures: Total,
    }
}

impl ShardCounters {
    /// A connection ended for `reason`.
    pub fn count_close(&self, reason: CloseReason) {
        if let Some(position) = CloseReason::ALL.iter().position(|r| *r == reason) {
            self.closes.0[position].increment();
        }
    }
    /// An operation was refused by the gateway itself.
    pub fn count_refusal(&self, code: RefusalCode) {
        if let Some(position) = RefusalCode::ALL.iter().position(|c| *c == code) {
            self.refusals.0[position].increment();
        }
    }
    /// A frame of a client was read. Kinds are dense from 1, asserted below.
    pub fn count_frame_received(&self, kind: FrameKind) {
        self.frames_received.0[kind as usize - 1].increment();
    }
    /// A frame went into an outbox.
    pub fn count_frame_sent(&self, kind: FrameKind) {
        self.frames_sent.0[kind as usize - 1].increment();
    }
    /// Connections ended, by reason.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        CloseReason::ALL.iter().copied().zip(self.closes.0.iter().map(Counter::get))
    }
    /// Refusals, by code.
    pub fn refusals(&self) -> impl Iterator<Item = (RefusalCode, u64)> {
        RefusalCode::ALL.iter().copied().zip(self.refusals.0.iter().map(Counter::get))
    }
    /// Frames read, by kind.
    pub fn frames_received(&self) -> impl Iterator<Item = (FrameKind, u64)> {
        FrameKind::ALL.iter().copied().zip(self.frames_received.0.iter().map(Counter::get))
    }
    /// Frames sent, by kind.
    pub fn frames_sent(&self) -> impl Iterator<Item = (FrameKind, u64)> {
        FrameKind::ALL.iter().copied().zip(self.frames_sent.0.iter().map(Counter::get))
    }
}

const _: () = {
    let mut position = 0;
    while position < FrameKind::ALL.len() {
        assert!(FrameKind::ALL[position] as usize == position + 1, "kinds are dense from 1");
        position += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_place() {
        let counters = ShardCounters::default();
        for reason in CloseReason::ALL {
            counters.count_close(*reason);
        }
        for code in RefusalCode::ALL {
            counters.count_refusal(*code);
        }
        for kind in FrameKind::ALL {
            counters.count_frame_received(*kind);
            counters.count_frame_sent(*kind);
        }
        assert!(counters.closes().all(|(_, count)| count == 1));
        assert!(counters.refusals().all(|(_, count)| count == 1));
        assert!(counters.frames_received().all(|(_, count)| count == 1));
        assert!(counters.frames_sent().all(|(_, count)| count == 1));
    }

    #[test]
    fn plain_numbers_carry_their_help() {
        let counters = ShardCounters::default();
        counters.connections.add(3);
        counters.connections.decrement();
        let plain = counters.plain();
        assert_eq!(
            (plain[0].name, plain[0].value, plain[0].kind),
            ("connections", 2, MetricKind::Gauge)
        );
        assert!(plain.iter().all(|p| p.help.ends_with('.')));
    }
}
