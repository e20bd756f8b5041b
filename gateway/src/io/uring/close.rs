//! Ending a connection without cancelling anything.
//!
//! ```text
//! shutdown(Both) ─► SHUTDOWN, if the kernel holds an operation ─► all complete ─► CLOSE ─► Released
//! ```

use super::*;

impl UringIo {
    pub(super) fn shutdown_write(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.wish.any(Wish::CLOSE) || slot.held.any(Held::SHUTDOWN_WRITE) {
            return;
        }
        slot.held.set(Held::SHUTDOWN_WRITE);
        let socket = Fixed(slot.descriptor);
        let shutdown = opcode::Shutdown::new(socket, libc::SHUT_WR).build();
        self.push_for(key, ConnectionOperation::ShutdownWrite, shutdown);
    }

    pub(super) fn shutdown_both(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.wish.any(Wish::CLOSE) {
            return;
        }
        slot.wish.set(Wish::CLOSE);
        slot.wish.clear(Wish::RECEIVE);
        let waits_for_peer = Held::POLL.or(Held::RECEIVE).or(Held::MULTISHOT).or(Held::SEND);
        if slot.held.any(waits_for_peer) {
            slot.held.set(Held::SHUTDOWN_BOTH);
            let socket = Fixed(slot.descriptor);
            let shutdown = opcode::Shutdown::new(socket, libc::SHUT_RDWR).build();
            self.push_for(key, ConnectionOperation::ShutdownBoth, shutdown);
        } else {
            self.close_when_idle(key);
        }
    }

    /// Closes the descriptor of a connection that is to end, once the kernel holds nothing of it.
    pub(super) fn close_when_idle(&mut self, key: ConnectionKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !slot.held.is_empty() {
            return;
        }
        slot.held.set(Held::CLOSE);
        let close = opcode::Close::new(Fixed(slot.descriptor)).build();
        self.push_for(key, ConnectionOperation::Close, close);
    }

    pub(super) fn on_closed(&mut self, key: ConnectionKey, completions: &mut Vec<Completion>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.held.clear(Held::CLOSE);
        let address = slot.address;
        self.slots.vacate(key);
        self.addresses.release(address);
        self.on_descriptor_closed();
        completions.push(Completion::Released { key });
    }
}
