//! One connection: what a shard knows of a socket, from accept until the kernel has let go of it. No I/O: bytes, completions
//! and the time come in; frames, and what to do next, come out.
//!
//! Invariants:
//! * A slot is at most 64 bytes, and a connected one at rest owns no heap memory but its session's identity: what activity
//!   needs is in [`Active`], made with the first frame out and given back when nothing is open any more.
//! * [`KernelFlags`] say what the kernel holds; they are set and cleared only where an operation is submitted or completes.
//! * A slot is freed in one place, [`table::ConnectionTable::free`], after the kernel released it and its session ended.
//!
//! By direction and concern: [`receive`] bytes in, [`outbox`] frames out, [`keepalive`] time, [`close`] the end.

pub mod close;
mod deliver;
pub(crate) mod followed;
pub mod keepalive;
pub mod limits;
pub mod outbox;
pub(crate) mod pong;
pub mod rate_limit;
pub(crate) mod receive;
pub mod table;

use roost_protocol::{CloseReason, Decoder};

use crate::session::SessionIdentity;
use crate::session::inflight::Inflight;

use close::Closing;
use followed::Followed;
use keepalive::Unacknowledged;
use limits::ConnectionLimits;
use outbox::Outbox;
use rate_limit::RateMeter;

/// A slot of the table.
#[derive(Debug)]
pub struct Connection {
    pub(crate) state: State,
    pub(crate) generation: u32,
    /// When the timer fires that is scheduled for this connection; far in the future without one.
    pub(crate) timer_ms: u32,
    pub(crate) kernel: KernelFlags,
    pub(crate) listed: Listed,
}

const _: () = assert!(size_of::<Connection>() <= 64, "a slot is one cache line");

/// Where a connection is in its life.
///
/// ```text
/// Free ── accept ──► AwaitConnect ── CONNECT accepted ──► Connected
///  ▲                      │ timeout, garbage, refused         │ any CloseReason
///  └── released ── Closing ◄──────────────────────────────────┘
/// ```
#[derive(Debug)]
pub(crate) enum State {
    /// Not in use.
    Free {
        /// Next free slot.
        next: u32,
    },
    /// Accepted; only CONNECT is understood.
    AwaitConnect {
        /// At most 4 KiB of an incomplete CONNECT.
        decoder: Decoder,
        /// A complete CONNECT that waits for room on the way to logic, and what came behind it: at most 4 KiB.
        held: Vec<u8>,
    },
    /// Logged in.
    Connected(Connected),
    /// The session has ended; the reason is on its way to the peer.
    Closing(Closing),
}

/// A logged-in connection.
#[derive(Debug)]
pub(crate) struct Connected {
    /// Shared with the directory.
    pub(crate) session: SessionIdentity,
    pub(crate) decoder: Decoder,
    pub(crate) active: Option<Box<Active>>,
    pub(crate) meter: RateMeter,
    /// When the last digest check went to logic, in seconds of the shard's life.
    pub(crate) digest_s: u16,
    /// Not read because too much waits to be sent to it.
    pub(crate) outbox_paused: bool,
}

/// What a connection needs only while something is open.
#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(crate) outbox: Outbox,
    pub(crate) inflight: Inflight,
    pub(crate) unacknowledged: Option<Unacknowledged>,
    /// Received and not handled, because the way to logic was full; starts with a whole frame.
    pub(crate) held: Vec<u8>,
    pub(crate) followed: Followed,
}

/// Memory of activity that nobody uses now: an answer in flight on each of many connections allocates nothing. Everything in it
/// is empty.
#[derive(Debug, Default)]
pub(crate) struct SpareActive(
    #[expect(clippy::vec_box, reason = "boxes move in and out")] Vec<Box<Active>>,
);

/// About 300 KiB per shard, and 640 KiB of lists of traced messages.
const SPARE_MAX: usize = 2048;

/// What the kernel holds of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelFlags {
    /// Between `attach` and `Released`.
    pub(crate) attached: bool,
    /// Between `pause_receive` and `start_receive`.
    pub(crate) receive_paused: bool,
    /// `ReceiveEnded` was reported.
    pub(crate) receive_ended: bool,
    /// Between `submit_send` and `Sent{finished}` or `SendFailed`.
    pub(crate) send_submitted: bool,
    /// `shutdown(Write)` was called.
    pub(crate) write_shutdown: bool,
    /// `shutdown(Both)` was called.
    pub(crate) shutdown_submitted: bool,
}

impl KernelFlags {
    /// Whether the kernel holds nothing.
    pub(crate) fn is_released(self) -> bool {
        !self.attached && !self.send_submitted
    }
}

/// In which of the shard's lists the connection stands, so that it stands there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// To be flushed at the end of the turn.
    pub(crate) dirty: bool,
    /// Waiting for room on the way to logic, not read meanwhile.
    pub(crate) waiting: bool,
}

/// A time later than every timer that is scheduled.
pub(crate) fn far(now_ms: u32) -> u32 {
    now_ms.wrapping_add(i32::MAX as u32)
}

impl Connection {
    /// A slot in use, just accepted.
    pub(crate) fn new(generation: u32, now_ms: u32) -> Self {
        Self {
            state: State::AwaitConnect { decoder: Decoder::new(), held: Vec::new() },
            generation,
            timer_ms: far(now_ms),
            kernel: KernelFlags::default(),
            listed: Listed::default(),
        }
    }

    /// A slot not in use.
    pub(crate) fn free(next: u32) -> Self {
        Self { state: State::Free { next }, ..Self::new(0, 0) }
    }

    pub(crate) fn is_free(&self) -> bool {
        matches!(self.state, State::Free { .. })
    }

    pub(crate) fn connected(&self) -> Option<&Connected> {
        match &self.state {
            State::Connected(connected) => Some(connected),
            State::Free { .. } | State::AwaitConnect { .. } | State::Closing(_) => None,
        }
    }

    pub(crate) fn connected_mut(&mut self) -> Option<&mut Connected> {
        match &mut self.state {
            State::Connected(connected) => Some(connected),
            State::Free { .. } | State::AwaitConnect { .. } | State::Closing(_) => None,
        }
    }

    /// Takes out what was received and not handled yet.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        match &mut self.state {
            State::AwaitConnect { held, .. } => std::mem::take(held),
            State::Connected(Connected { active: Some(active), .. }) => {
                std::mem::take(&mut active.held)
            }
            State::Connected(_) | State::Free { .. } | State::Closing(_) => Vec::new(),
        }
    }

    /// The outbox, if anything was ever put into it.
    pub(crate) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        match &mut self.state {
            State::Connected(connected) => {
                connected.active.as_mut().map(|active| &mut active.outbox)
            }
            State::Closing(closing) => closing.outbox.as_deref_mut(),
            State::Free { .. } | State::AwaitConnect { .. } => None,
        }
    }

    /// Whether a flush would send something or owes a hint.
    pub(crate) fn wants_flush(&self) -> bool {
        match &self.state {
            State::Connected(connected) => {
                connected.active.as_ref().is_some_and(|active| !active.outbox.is_empty())
            }
            State::Closing(closing) => closing.outbox.as_ref().is_some_and(|o| o.has_queued()),
            State::Free { .. } | State::AwaitConnect { .. } => false,
        }
    }

    /// Ends what the state was and begins to close. Returns the session that ended, if there was one.
    pub(crate) fn begin_close(&mut self, reason: CloseReason) -> Option<SessionIdentity> {
        if matches!(self.state, State::Closing(_)) {
            return None;
        }
        let closing = State::Closing(Closing::new(reason));
        let State::Connected(connected) = std::mem::replace(&mut self.state, closing) else {
            return None;
        };
        if let (State::Closing(closing), Some(mut active)) = (&mut self.state, connected.active) {
            active.outbox.forget_hints();
            closing.outbox = Some(Box::new(active.outbox));
        }
        Some(connected.session)
    }
}

impl Connected {
    /// A session that has just begun.
    pub(crate) fn new(session: SessionIdentity, mut decoder: Decoder, now_ms: u32) -> Self {
        decoder.set_connected();
        Self {
            session,
            decoder,
            active: None,
            meter: RateMeter::new(now_ms),
            digest_s: 0,
            outbox_paused: false,
        }
    }

    /// What activity needs, made when it is not there.
    pub(crate) fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.active().outbox
    }

    /// The same with memory of a connection that came to rest: for what happens with every frame.
    pub(crate) fn activate(&mut self, spare: &mut SpareActive) -> &mut Active {
        self.active.get_or_insert_with(|| spare.0.pop().unwrap_or_default())
    }

    /// Gives the memory of activity back when nothing is open.
    pub(crate) fn rest(&mut self, spare: &mut SpareActive) {
        if self.active.as_ref().is_some_and(|active| active.is_empty())
            && let Some(mut active) = self.active.take()
            && spare.0.len() < SPARE_MAX
        {
            active.followed.clear();
            spare.0.push(active);
        }
    }

    /// Whether it is still above the watermark at which it is no longer read.
    pub(crate) fn is_overfull(&self, limits: &ConnectionLimits) -> bool {
        let pending = self.active.as_ref().map_or(0, |active| active.outbox.pending_bytes());
        let watermark =
            if self.outbox_paused { limits.outbox.bytes_low } else { limits.outbox.bytes_high };
        pending > watermark
    }
}

impl Active {
    fn is_empty(&self) -> bool {
        self.outbox.is_empty()
            && self.inflight.is_empty()
            && self.unacknowledged.is_none()
            && self.held.is_empty()
    }
}
