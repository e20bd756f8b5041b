//! The end of a connection, in named steps. The shard asks [`Closing::next_step`] after each event and does what it says.
//!
//! ```text
//! Flush ── nothing left to send ──► AwaitEnd ── peer's end, or linger over ──► Release ── Released ──► slot freed
//!   shutdown(Write)                       shutdown(Both)
//! ```
//! A peer that is still sending must be able to read why it is closed: closing a socket with unread bytes makes the kernel send
//! RST, which may overtake the CLOSE. So the write side ends first, and what the peer still sends is read and thrown away.
//! One timer, the linger, bounds everything before Release; Release itself always ends, the driver promises it.

use roost_protocol::frame::close::Close;
use roost_protocol::frame::redirect::Redirect;
use roost_protocol::{CloseReason, Encoder};

use super::KernelFlags;
use super::outbox::Outbox;

/// A connection whose session has ended.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) reason: CloseReason,
    phase: ClosePhase,
    /// What is still to be sent, CLOSE last.
    pub(crate) outbox: Option<Box<Outbox>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosePhase {
    /// What is queued goes out.
    Flush,
    /// Both sides were told; the peer may finish reading.
    AwaitEnd,
    /// The kernel gives back what it holds.
    Release,
}

/// What the shard does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseStep {
    /// Nothing, until the next event.
    Wait,
    /// `shutdown(Write)`, then ask again.
    ShutdownWrite,
    /// `shutdown(Both)`.
    ShutdownBoth,
}

/// Whether the peer is told. The two reasons that are never on the wire mean that there is nobody to tell.
pub(crate) fn is_told(reason: CloseReason) -> bool {
    !matches!(reason, CloseReason::PeerClosed | CloseReason::SocketError)
}

impl Closing {
    pub(crate) fn new(reason: CloseReason) -> Self {
        Self { reason, phase: ClosePhase::Flush, outbox: None }
    }

    /// Puts a REDIRECT before the CLOSE.
    pub(crate) fn enqueue_redirect(&mut self, encoder: &mut Encoder, address: &str) {
        let outbox = self.outbox.get_or_insert_default();
        outbox.enqueue_always(|own| Redirect { address }.encode(encoder, own));
    }

    /// Puts the CLOSE behind what is queued.
    pub(crate) fn enqueue_close(
        &mut self,
        encoder: &mut Encoder,
        detail: &str,
        retry_after_ms: u32,
    ) {
        let close = Close { reason: self.reason, detail, retry_after_ms };
        let outbox = self.outbox.get_or_insert_default();
        outbox.enqueue_always(|own| close.encode(encoder, own));
    }

    /// What to do, given what the kernel holds. Moves on by one phase when it does not say `Wait`.
    pub(crate) fn next_step(&mut self, kernel: KernelFlags, linger_is_over: bool) -> CloseStep {
        let is_flushed = self.outbox.as_ref().is_none_or(|outbox| outbox.pending_bytes() == 0);
        match self.phase {
            ClosePhase::Flush if linger_is_over => self.release(),
            ClosePhase::Flush if is_flushed && kernel.receive_ended => self.release(),
            ClosePhase::Flush if is_flushed => {
                self.phase = ClosePhase::AwaitEnd;
                self.outbox = None;
                CloseStep::ShutdownWrite
            }
            ClosePhase::AwaitEnd if linger_is_over || kernel.receive_ended => self.release(),
            ClosePhase::Flush | ClosePhase::AwaitEnd | ClosePhase::Release => CloseStep::Wait,
        }
    }

    /// Gives up what is queued: the socket is of no use any more.
    pub(crate) fn release(&mut self) -> CloseStep {
        if self.phase == ClosePhase::Release {
            return CloseStep::Wait;
        }
        self.phase = ClosePhase::Release;
        self.outbox = None;
        CloseStep::ShutdownBoth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: CloseReason) -> Closing {
        let mut closing = Closing::new(reason);
        closing.enqueue_close(&mut Encoder::new(), "", 0);
        closing
    }

    #[test]
    fn an_orderly_close_flushes_ends_writing_and_awaits_the_peer() {
        let mut closing = told(CloseReason::IdleTimeout);
        let mut kernel = KernelFlags { attached: true, ..KernelFlags::default() };
        assert_eq!(closing.next_step(kernel, false), CloseStep::Wait);
        let outbox = closing.outbox.as_mut().unwrap();
        let sent = u32::try_from(outbox.poll_send(0).unwrap().size_bytes()).unwrap();
        outbox.on_sent(sent, true, 1);
        assert_eq!(closing.next_step(kernel, false), CloseStep::ShutdownWrite);
        assert_eq!(closing.next_step(kernel, false), CloseStep::Wait);
        kernel.receive_ended = true;
        assert_eq!(closing.next_step(kernel, false), CloseStep::ShutdownBoth);
        assert_eq!(closing.next_step(kernel, true), CloseStep::Wait);
    }

    #[test]
    fn the_linger_bounds_every_phase() {
        let kernel = KernelFlags { attached: true, ..KernelFlags::default() };
        let mut stalled = told(CloseReason::SlowConsumer);
        assert_eq!(stalled.next_step(kernel, true), CloseStep::ShutdownBoth);
        let mut silent = Closing::new(CloseReason::Normal);
        assert_eq!(silent.next_step(kernel, false), CloseStep::ShutdownWrite);
        assert_eq!(silent.next_step(kernel, true), CloseStep::ShutdownBoth);
    }
}
