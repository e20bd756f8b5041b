//! The end of a connection, as the shard carries it out: the session's end is reported first, the kernel's part follows step by
//! step (see [`crate::connection::close`]), the slot is freed last.

use roost_protocol::envelope::InboundKind;
use roost_protocol::{CloseReason, FrameKind};

use crate::connection::State;
use crate::connection::close::{CloseStep, is_told};
use crate::io::{ConnectionKey, Io, Shutdown};
use crate::session::SessionIdentity;

use super::Shard;

impl<I: Io> Shard<I> {
    /// Begins to close a connection, unless it is closing.
    pub(super) fn close(&mut self, key: ConnectionKey, reason: CloseReason) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if matches!(connection.state, State::Closing(_)) {
            return;
        }
        self.context.counters.count_close(reason);
        let session = connection.begin_close(reason);
        if let State::Closing(closing) = &mut connection.state
            && is_told(reason)
        {
            if let Some(address) = self.context.redirect.take() {
                self.context.counters.count_frame_sent(FrameKind::Redirect);
                closing.enqueue_redirect(&mut self.context.encoder, &address);
            }
            self.context.counters.count_frame_sent(FrameKind::Close);
            closing.enqueue_close(&mut self.context.encoder, "", 0);
        }
        if let Some(session) = session {
            self.end_session(&session);
        }
        let linger_ms = self.context.limits.close_linger_ms;
        self.disarm(key);
        self.arm(key, linger_ms);
        self.regulate_reading(key);
        self.mark_dirty(key);
        self.continue_close(key, false);
    }

    /// The route goes, unless a newer session has it; logic is told in any case.
    fn end_session(&mut self, session: &SessionIdentity) {
        self.context.gateway.directory.remove(session);
        self.context.counters.sessions.decrement();
        let told = self.context.report(session, InboundKind::SessionClosed, 0);
        debug_assert!(told.is_ok(), "the end of a session is never refused");
    }

    /// Takes the next step of a close. `give_up`: the linger is over, or the socket is broken.
    pub(super) fn continue_close(&mut self, key: ConnectionKey, give_up: bool) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let State::Closing(closing) = &mut connection.state else { return };
        match closing.next_step(connection.kernel, give_up) {
            CloseStep::Wait => {}
            CloseStep::ShutdownWrite => {
                connection.kernel.write_shutdown = true;
                self.io.shutdown(key, Shutdown::Write);
            }
            CloseStep::ShutdownBoth => {
                connection.kernel.shutdown_submitted = true;
                self.disarm(key);
                self.io.shutdown(key, Shutdown::Both);
            }
        }
    }

    /// The kernel has let go: the only place from which a slot is freed.
    pub(super) fn on_released(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.kernel = Default::default();
        self.disarm(key);
        self.table.free(key);
        self.context.counters.connections.decrement();
    }

    /// Closes the connections whose device has connected anew.
    pub(super) fn close_superseded(&mut self) {
        while let Some(session) = self.context.superseded.pop() {
            self.close(session.key(), CloseReason::Superseded);
        }
    }
}
