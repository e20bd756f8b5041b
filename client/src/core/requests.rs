//! Questions without an answer. Each is asked again until it is answered or definitely refused, in later sessions too.

use std::time::{Duration, Instant};

use roost_protocol::Encoder;
use roost_protocol::frame::request::Request;
use roost_protocol::limits;

use super::backoff;
use super::config::Tuning;
use super::conversations::{ConversationIndex, Conversations};

/// Questions of the application on the wire at a time: a pull of the core always has room beside them.
const APPLICATION_ASKED_MAX: usize = limits::INFLIGHT_REQUESTS_MAX as usize - 1;
/// Questions of the application at a time, those that wait for room included.
pub(crate) const REQUESTS_MAX: usize = 32;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The inbox, by the core.
    Sync { after: u64, limit: u16 },
    /// A hole in a conversation, by the core.
    Gap { index: ConversationIndex, after: u64, before: u64, limit: u16 },
    /// By the application.
    History { index: ConversationIndex, after: u64, before: u64, limit: u16, newest_first: bool },
    /// By the application.
    Watermarks { index: ConversationIndex },
}

impl Question {
    /// Asked by the core itself; decided anew in each session.
    pub(crate) fn is_pull(&self) -> bool {
        match self {
            Self::Sync { .. } | Self::Gap { .. } => true,
            Self::History { .. } | Self::Watermarks { .. } => false,
        }
    }

    fn encode(
        &self,
        correlation: u16,
        conversations: &Conversations,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) {
        let request = match *self {
            Self::Sync { after, limit } => Request::Sync { after_inbox_seq: after, limit },
            Self::Gap { index, after, before, limit } => Request::History {
                conversation: conversations[index].parsed(),
                after_seq: after,
                before_seq: before,
                limit,
                newest_first: false,
            },
            Self::History { index, after, before, limit, newest_first } => Request::History {
                conversation: conversations[index].parsed(),
                after_seq: after,
                before_seq: before,
                limit,
                newest_first,
            },
            Self::Watermarks { index } => {
                Request::Watermarks { conversation: conversations[index].parsed() }
            }
        };
        request.encode(encoder, correlation, out);
    }
}

/// A question and how far it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) correlation: u16,
    pub(crate) question: Question,
    state: PendingState,
    attempts: u8,
}

#[derive(Debug, Clone, Copy)]
enum PendingState {
    Waiting { not_before: Instant },
    Asked { again: Instant },
}

impl Pending {
    /// Whether asking it takes one more place in the server's window for the application.
    fn takes_room(&self) -> bool {
        !self.question.is_pull() && matches!(self.state, PendingState::Waiting { .. })
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pending: Vec<Pending>,
}

impl Requests {
    pub(crate) fn add(&mut self, now: Instant, correlation: u16, question: Question) {
        let state = PendingState::Waiting { not_before: now };
        self.pending.push(Pending { correlation, question, state, attempts: 0 });
    }

    /// Whether the application may ask another.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.iter().filter(|p| !p.question.is_pull()).count() < REQUESTS_MAX
    }

    fn room(&self) -> usize {
        let asked =
            |p: &&Pending| !p.question.is_pull() && matches!(p.state, PendingState::Asked { .. });
        APPLICATION_ASKED_MAX.saturating_sub(self.pending.iter().filter(asked).count())
    }

    /// Whether a pull of the core runs.
    pub(crate) fn is_pulling(&self) -> bool {
        self.pending.iter().any(|p| p.question.is_pull())
    }

    pub(crate) fn is_any_asked(&self) -> bool {
        self.pending.iter().any(|p| matches!(p.state, PendingState::Asked { .. }))
    }

    /// A question was answered or given up.
    pub(crate) fn take(&mut self, correlation: u16) -> Option<Pending> {
        let at = self.pending.iter().position(|p| p.correlation == correlation)?;
        let pending = self.pending.swap_remove(at);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        Some(pending)
    }

    /// A question goes back: asked again after `wait`, or later when it failed often.
    pub(crate) fn put_back(
        &mut self,
        now: Instant,
        mut pending: Pending,
        wait: Duration,
        rng: &mut fastrand::Rng,
    ) {
        let least = backoff::exponential(
            Duration::from_millis(100),
            u32::from(pending.attempts),
            Duration::from_secs(30),
        );
        pending.state =
            PendingState::Waiting { not_before: now + backoff::stretched(rng, wait.max(least)) };
        self.pending.push(pending);
    }

    /// The session is over: pulls are forgotten, questions of the application wait for the next one.
    pub(crate) fn on_disconnected(&mut self, now: Instant) {
        self.pending.retain(|p| !p.question.is_pull());
        for pending in &mut self.pending {
            pending.state = PendingState::Waiting { not_before: now };
        }
    }

    /// Appends every question that is due.
    pub(crate) fn encode(
        &mut self,
        now: Instant,
        conversations: &Conversations,
        tuning: &Tuning,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) {
        let mut room = self.room();
        for pending in &mut self.pending {
            let (PendingState::Waiting { not_before: due } | PendingState::Asked { again: due }) =
                pending.state;
            let takes_room = pending.takes_room();
            if due <= now && (!takes_room || room > 0) {
                room -= usize::from(takes_room);
                let attempts = u32::from(pending.attempts);
                let wait = backoff::exponential(
                    tuning.request_timeout,
                    attempts,
                    6 * tuning.request_timeout,
                );
                pending.attempts = pending.attempts.saturating_add(1);
                pending.state = PendingState::Asked { again: now + wait };
                pending.question.encode(pending.correlation, conversations, encoder, out);
            }
        }
    }

    /// When `encode` has something next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let has_room = self.room() > 0;
        self.pending
            .iter()
            .filter(|p| has_room || !p.takes_room())
            .map(|p| match p.state {
                PendingState::Waiting { not_before: due } | PendingState::Asked { again: due } => {
                    due
                }
            })
            .min()
    }
}
