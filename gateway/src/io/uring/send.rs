//! Sending: one SEND or SENDMSG per connection at a time, partial ones continued here.

use super::*;
use crate::io::Errno;
use crate::io::in_flight::Progress;

impl UringIo {
    pub(super) fn start_send(&mut self, key: ConnectionKey, buffer: SendBuffer) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.wish.any(Wish::CLOSE) {
            return;
        }
        assert!(!slot.held.any(Held::SEND), "{key:?} has a send in flight");
        slot.held.set(Held::SEND);
        let socket = Fixed(slot.descriptor);
        let send = self.sends.insert(key, buffer);
        self.push_send(send, socket);
    }

    fn push_send(&mut self, send: u32, socket: Fixed) {
        if let Some(entry) = self.sends.entry(send, socket) {
            self.push(entry, UserData::Send { send });
        }
    }

    pub(super) fn on_sent(&mut self, send: u32, cqe: Cqe, completions: &mut Vec<Completion>) {
        let Some(key) = self.sends.key(send) else { return };
        let Some(slot) = self.slots.get_mut(key) else { return };
        let closing = slot.wish.any(Wish::CLOSE);
        let socket = Fixed(slot.descriptor);
        let bytes = u32::try_from(cqe.result).unwrap_or(0);
        self.counters.sent_bytes += u64::from(bytes);
        let goes_on = cqe.result >= 0 && !closing;
        let finished = self.sends.progress(send, bytes) == Progress::Finished;
        if goes_on && !finished {
            self.counters.sends_partial += 1;
            completions.push(Completion::Sent { key, bytes, finished });
            self.push_send(send, socket);
            return;
        }
        self.sends.remove(send);
        self.on_ended(key, Held::SEND);
        if goes_on {
            completions.push(Completion::Sent { key, bytes, finished });
        } else if !closing {
            completions.push(Completion::SendFailed { key, errno: Errno(-cqe.result) });
        }
    }
}
