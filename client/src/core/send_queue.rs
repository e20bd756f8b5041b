//! Messages without an answer, and which of them may be on the wire.
//!
//! Invariants: a message leaves the queue by an acknowledgement or a definite refusal only. Within a session a message
//! keeps the number it was first sent with: copies of it may still be on their way, and under another number
//! one of them could overtake the message before it. The exception is a number the server has used up: nothing can be
//! accepted under it any more. An answer about the way (`out_of_order`, `busy` ...) counts only for the
//! transmission it belongs to, known by its correlation.
//!
//! ```text
//!            transmit: number, correlation            SEND_ACK, definite refusal
//!  Waiting ----------------------------> InFlight --------------------------------> gone
//!     ^                                   |    |
//!     |  out_of_order, busy, new session  |    | deadline: the same number again
//!     +-----------------------------------+    +-> InFlight
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_protocol::ClientMsgId;
use roost_protocol::frame::send::MessageKind;

use super::backoff;
use super::config::Tuning;
use super::conversations::{ConversationIndex, Conversations};

/// After this long the server gives an unanswered place in the window back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A message and how far it is.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) client_msg_id: ClientMsgId,
    pub(crate) conversation: ConversationIndex,
    pub(crate) kind: MessageKind,
    pub(crate) body: Bytes,
    pub(crate) state: EntryState,
    attempts: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryState {
    /// Not on the wire, or sent back; its number in this session, 0 for none yet.
    Waiting { client_seq: u32 },
    /// On the wire; sent again with the same number at `deadline`.
    InFlight { client_seq: u32, correlation: u16, deadline: Instant },
}

/// One SEND to be encoded now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transmission {
    pub(crate) at: usize,
    pub(crate) client_seq: u32,
    pub(crate) correlation: u16,
}

/// The queue, oldest first.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    entries: VecDeque<Entry>,
    in_flight: usize,
    /// Transmissions that went back unanswered still take room in the server's window, at the latest until then.
    abandoned: VecDeque<Instant>,
    /// The server asked to wait until then.
    paused_until: Option<Instant>,
}

impl SendQueue {
    pub(crate) fn push(
        &mut self,
        client_msg_id: ClientMsgId,
        conversation: ConversationIndex,
        kind: MessageKind,
        body: Bytes,
    ) {
        let state = EntryState::Waiting { client_seq: 0 };
        let entry = Entry { client_msg_id, conversation, kind, body, state, attempts: 0 };
        self.entries.push_back(entry);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn entry(&self, at: usize) -> &Entry {
        &self.entries[at]
    }

    /// A new session: nothing is on the wire, numbers begin at 1, pauses and backoffs are over.
    pub(crate) fn begin_session(&mut self, conversations: &mut Conversations) {
        for entry in &mut self.entries {
            entry.state = EntryState::Waiting { client_seq: 0 };
            entry.attempts = 0;
        }
        // Of all conversations, also those in which nothing waits: their next message is the session's first.
        for conversation in conversations.iter_mut() {
            conversation.next_client_seq = 1;
        }
        self.in_flight = 0;
        self.abandoned.clear();
        self.paused_until = None;
    }

    /// An answer arrived that belongs to no transmission on the wire: one that went back before.
    pub(crate) fn on_late_answer(&mut self) {
        self.abandoned.pop_front();
    }

    /// What to send next: an overdue message first, then the first waiting one that fits the window.
    pub(crate) fn next_transmission(
        &mut self,
        now: Instant,
        window: usize,
        conversations: &mut Conversations,
        correlation: &mut impl FnMut() -> u16,
    ) -> Option<Transmission> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        if self.in_flight > 0
            && let Some(overdue) = self.overdue(now)
        {
            return Some(overdue);
        }
        while self.abandoned.front().is_some_and(|&until| until <= now) {
            self.abandoned.pop_front();
        }
        if self.in_flight == self.entries.len() || self.window_used() >= window {
            return None;
        }
        let waiting = |e: &Entry| matches!(e.state, EntryState::Waiting { .. });
        let at = self.entries.iter().position(waiting)?;
        let client_seq = match self.entries[at].state {
            EntryState::Waiting { client_seq: 0 } => {
                let conversation = &mut conversations[self.entries[at].conversation];
                let client_seq = conversation.next_client_seq;
                conversation.next_client_seq = client_seq.wrapping_add(1).max(1);
                client_seq
            }
            EntryState::Waiting { client_seq } | EntryState::InFlight { client_seq, .. } => {
                client_seq
            }
        };
        // The numbers go round: one that waited through a whole turn still has its own.
        let correlation = loop {
            let number = correlation();
            if !self.on_the_wire().any(|(other, _)| other.correlation == number) {
                break number;
            }
        };
        Some(Transmission { at, client_seq, correlation })
    }

    fn window_used(&self) -> usize {
        self.in_flight + self.abandoned.len()
    }

    fn overdue(&self, now: Instant) -> Option<Transmission> {
        self.on_the_wire()
            .find(|(_, deadline)| *deadline <= now)
            .map(|(transmission, _)| transmission)
    }

    /// What is on the wire and when it is sent again. Ends with the last one: the rest of a long queue is not looked at.
    fn on_the_wire(&self) -> impl Iterator<Item = (Transmission, Instant)> {
        let in_flight = self.entries.iter().enumerate().filter_map(|(at, e)| match e.state {
            EntryState::InFlight { client_seq, correlation, deadline } => {
                Some((Transmission { at, client_seq, correlation }, deadline))
            }
            EntryState::Waiting { .. } => None,
        });
        in_flight.take(self.in_flight)
    }

    /// The transmission was encoded.
    pub(crate) fn on_transmitted(
        &mut self,
        now: Instant,
        transmission: Transmission,
        tuning: &Tuning,
        rng: &mut fastrand::Rng,
    ) {
        let Transmission { at, client_seq, correlation } = transmission;
        let entry = &mut self.entries[at];
        if matches!(entry.state, EntryState::Waiting { .. }) {
            self.in_flight += 1;
        }
        let wait = backoff::exponential(
            tuning.send_timeout,
            u32::from(entry.attempts),
            tuning.send_timeout_max,
        );
        entry.attempts = entry.attempts.saturating_add(1);
        let deadline = now + backoff::stretched(rng, wait);
        entry.state = EntryState::InFlight { client_seq, correlation, deadline };
    }

    /// Takes a message out: it was acknowledged or definitely refused.
    pub(crate) fn remove(&mut self, client_msg_id: ClientMsgId) -> Option<Entry> {
        let Some(at) = self.position(client_msg_id) else {
            self.on_late_answer();
            return None;
        };
        let entry = self.entries.remove(at)?;
        if matches!(entry.state, EntryState::InFlight { .. }) {
            self.in_flight -= 1;
        } else {
            self.on_late_answer();
        }
        self.shrink();
        Some(entry)
    }

    pub(crate) fn position(&self, client_msg_id: ClientMsgId) -> Option<usize> {
        self.entries.iter().position(|e| e.client_msg_id == client_msg_id)
    }

    /// Whether an answer about the way belongs to the message's present transmission.
    pub(crate) fn is_current(&self, at: usize, answered: u16) -> bool {
        matches!(self.entries[at].state,
            EntryState::InFlight { correlation, .. } if correlation == answered)
    }

    /// The server did not take this transmission. All later ones of the conversation come back too: they will be refused
    /// for the same reason.
    pub(crate) fn go_back(&mut self, now: Instant, at: usize) {
        let EntryState::InFlight { client_seq: first, .. } = self.entries[at].state else { return };
        self.go_back_to(now, self.entries[at].conversation, first);
    }

    fn go_back_to(&mut self, now: Instant, conversation: ConversationIndex, first: u32) {
        for entry in &mut self.entries {
            if let EntryState::InFlight { client_seq, .. } = entry.state
                && entry.conversation == conversation
                && client_seq >= first
            {
                entry.state = EntryState::Waiting { client_seq };
                self.in_flight -= 1;
                self.abandoned.push_back(now + ANSWER_TIMEOUT);
            }
        }
        // One of them is answered: that is why they go back.
        self.abandoned.pop_back();
    }

    /// The server expects another number; `false`: no message here has it, so only a new session helps.
    pub(crate) fn on_out_of_order(&mut self, now: Instant, at: usize, expected: u32) -> bool {
        let EntryState::InFlight { client_seq, .. } = self.entries[at].state else { return true };
        let conversation = self.entries[at].conversation;
        if client_seq < expected {
            // Used up without a commit: an earlier copy was definitely refused, and that answer is lost.
            self.entries[at].state = EntryState::Waiting { client_seq: 0 };
            self.in_flight -= 1;
            return true;
        }
        self.go_back_to(now, conversation, expected);
        client_seq == expected || self.has_number(conversation, expected)
    }

    fn has_number(&self, conversation: ConversationIndex, number: u32) -> bool {
        self.entries.iter().any(|e| {
            let (EntryState::Waiting { client_seq } | EntryState::InFlight { client_seq, .. }) =
                e.state;
            e.conversation == conversation && client_seq == number
        })
    }

    /// Nothing is sent for this long.
    pub(crate) fn pause(&mut self, now: Instant, retry_after: Duration, rng: &mut fastrand::Rng) {
        let until = now + backoff::stretched(rng, retry_after);
        self.paused_until = Some(self.paused_until.map_or(until, |u| u.max(until)));
    }

    /// Times this message went onto the wire in this session.
    pub(crate) fn attempts(&self, at: usize) -> u8 {
        self.entries[at].attempts
    }

    /// When `next_transmission` may have something that it does not have now.
    pub(crate) fn next_deadline(&self, window: usize) -> Option<Instant> {
        let room = self.window_used() < window;
        if self.entries.is_empty() {
            return None;
        }
        if self.paused_until.is_some() {
            return self.paused_until;
        }
        let room_at = if room { None } else { self.abandoned.front().copied() };
        self.on_the_wire().map(|(_, deadline)| deadline).chain(room_at).min()
    }

    fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 16 {
            self.entries.shrink_to(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::ConversationId;

    use super::*;

    #[test]
    fn a_new_session_counts_from_one_also_where_nothing_waited() {
        let (mut queue, mut conversations) = (SendQueue::default(), Conversations::default());
        let (tuning, now) = (Tuning::default(), Instant::now());
        let mut rng = fastrand::Rng::with_seed(1);
        let chat = conversations.index_of(ConversationId::parse("s:alice:bob").unwrap());
        let mut correlation = 0;
        let mut send = |queue: &mut SendQueue, conversations: &mut Conversations, n: u8| {
            queue.push(ClientMsgId([n; 16]), chat, MessageKind::TEXT, Bytes::new());
            let mut next = || {
                correlation += 1;
                correlation
            };
            let sent = queue.next_transmission(now, 8, conversations, &mut next).unwrap();
            queue.on_transmitted(now, sent, &tuning, &mut rng);
            sent.client_seq
        };
        queue.begin_session(&mut conversations);
        assert_eq!(send(&mut queue, &mut conversations, 1), 1);
        assert_eq!(send(&mut queue, &mut conversations, 2), 2);
        for n in [1, 2] {
            queue.remove(ClientMsgId([n; 16])).unwrap();
        }
        queue.begin_session(&mut conversations);
        assert_eq!(send(&mut queue, &mut conversations, 3), 1);
    }
}
