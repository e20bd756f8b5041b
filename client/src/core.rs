//! The client without sockets, clocks or threads: bytes and times in; bytes, events, actions and the next time out.
//!
//! After any call, in this order, until each gives nothing more:
//! 1. [`Core::poll_event`]: hand events to the application. Asking for the next one says that the one before is dealt with (stored,
//!    printed): only then it may be acknowledged to the server.
//! 2. [`Core::poll_transmit`]: write these bytes.
//! 3. [`Core::poll_action`]: open or close the socket.
//! 4. [`Core::poll_timeout`]: call [`Core::handle_timeout`] then, unless something else happens before.
//!
//! Nothing of a message leaves before `poll_transmit`: an application that saves what [`Core::send_message`] returned before it
//! polls loses no message in a crash.
//!
//! Times are [`Instant`]s of the caller; they must not go back. Two cores with the same configuration and the same
//! calls give the same bytes.

mod acks;
mod backoff;
pub mod config;
mod connection;
mod conversations;
pub mod event;
mod events;
mod inbox;
mod pull;
mod receive;
mod requests;
mod send_queue;
mod seq_set;
mod transmit;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_protocol::frame::connect::DeviceClass;
use roost_protocol::frame::send::MessageKind;
use roost_protocol::id::IdError;
use roost_protocol::limits::{BODY_BYTES_MAX, CLIENT_NAME_BYTES_MAX};
use roost_protocol::{ClientMsgId, CloseReason, ConversationId, DeviceId, Encoder, UserId};

use acks::Acks;
use config::{Config, SavedState, Start, Tuning, UnsentMessage};
use connection::{Due, Link, State};
use conversations::Conversations;
use event::{Action, Disconnect, Event, NextStep};
use events::Events;
use inbox::Inbox;
use requests::{Question, Requests};
use send_queue::SendQueue;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendTo<'a> {
    /// The single chat with this user.
    User(&'a str),
    /// A conversation by its id.
    Conversation(&'a str),
}

/// Why a message was not taken into the send queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver's id is none.
    #[error("not a user or conversation: {0}")]
    Target(#[from] IdError),
    /// The body is longer than the protocol allows.
    #[error(
        "the body has {0} bytes, at most {BODY_BYTES_MAX} are allowed: send media by reference"
    )]
    BodyTooLarge(usize),
    /// Kinds 1 to 127 are for clients.
    #[error("message kinds of clients are 1 to {max}", max = MessageKind::CLIENT_MAX)]
    Kind,
    /// Too many messages wait for an answer.
    #[error("the send queue is full: wait for acknowledgements")]
    QueueFull,
    /// Too many questions wait for an answer.
    #[error("too many requests are open: wait for answers")]
    TooManyRequests,
}

/// A mistake in [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An id is malformed.
    #[error("{0}: {1}")]
    Id(&'static str, IdError),
    /// No address, or a client name that is too long.
    #[error("{0}")]
    Invalid(&'static str),
}

/// One client. See the [module](self) for how to drive it.
#[derive(Debug)]
pub struct Core {
    tuning: Arc<Tuning>,
    user: Arc<str>,
    device: Box<str>,
    client_name: Box<str>,
    device_class: DeviceClass,
    now: Instant,
    rng: fastrand::Rng,
    id_prefix: u64,
    last_correlation: u16,
    link: Link,
    conversations: Conversations,
    send_queue: SendQueue,
    inbox: Inbox,
    acks: Acks,
    requests: Requests,
    /// A hole is pulled then.
    pull_at: Option<Instant>,
    reads_queued: bool,
    /// Sent as CLOSE before the socket is closed.
    farewell: Option<CloseReason>,
    events: Events,
    actions: VecDeque<Action>,
    encoder: Encoder,
}

impl Core {
    /// A client at rest; [`Core::start`] makes it connect.
    pub fn new(mut config: Config, now: Instant) -> Result<Self, ConfigError> {
        UserId::new(&config.user_id).map_err(|e| ConfigError::Id("user_id", e))?;
        DeviceId::new(&config.device_id).map_err(|e| ConfigError::Id("device_id", e))?;
        if config.addresses.is_empty() {
            return Err(ConfigError::Invalid("an address is needed"));
        }
        if config.client_name.len() > CLIENT_NAME_BYTES_MAX {
            return Err(ConfigError::Invalid("client_name is too long"));
        }
        let link = Link::new(&mut config);
        let saved = config.saved;
        let mut rng = fastrand::Rng::with_seed(config.seed as u64);
        let begun = config.start == Start::Saved || saved.inbox_seq > 0;
        let mut core = Self {
            user: config.user_id.into(),
            device: config.device_id.into(),
            client_name: config.client_name.into(),
            device_class: config.device_class,
            now,
            id_prefix: (config.seed >> 64) as u64,
            last_correlation: rng.u16(..),
            rng,
            link,
            conversations: Conversations::default(),
            send_queue: SendQueue::default(),
            inbox: Inbox::new(saved.inbox_seq, begun, config.tuning.held_messages_max),
            acks: Acks::default(),
            requests: Requests::default(),
            pull_at: None,
            reads_queued: false,
            farewell: None,
            events: Events::default(),
            actions: VecDeque::new(),
            encoder: Encoder::new(),
            tuning: config.tuning,
        };
        for (conversation, seq) in saved.shown {
            let id = ConversationId::parse(&conversation)
                .map_err(|e| ConfigError::Id("saved.shown", e))?;
            let index = core.conversations.index_of(id);
            core.conversations[index].begin_after(seq);
        }
        for m in saved.unsent {
            let id = ConversationId::parse(&m.conversation)
                .map_err(|e| ConfigError::Id("saved.unsent", e))?;
            let index = core.conversations.index_of(id);
            core.send_queue.push(m.client_msg_id, index, m.kind, m.body);
        }
        Ok(core)
    }

    /// Connects, and from now on stays connected until [`Core::close`] or a reason that forbids it.
    pub fn start(&mut self, now: Instant) {
        self.now = now;
        if !self.link.has_socket() {
            self.connect();
        }
    }

    /// The access token that [`Action::NeedToken`] asked for, or a newer one ahead of time.
    pub fn provide_token(&mut self, now: Instant, token: String) {
        self.now = now;
        self.link.set_token(token);
        if matches!(self.link.state, State::NeedToken) {
            self.connect();
        }
    }

    /// Ends the session: what the application is done with is acknowledged, then CLOSE. The send queue is kept for
    /// [`Core::save`] or another [`Core::start`].
    pub fn close(&mut self, now: Instant) {
        self.now = now;
        self.confirm();
        if self.link.has_socket() {
            self.disconnect(Disconnect::Closed, Duration::ZERO);
        } else {
            self.link.state = State::Stopped;
        }
    }

    /// The socket that [`Action::Connect`] asked for is open.
    pub fn handle_connected(&mut self, now: Instant) {
        self.now = now;
        self.link.on_socket_open(now, &self.tuning);
    }

    /// The socket ended, or could not be opened.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.now = now;
        let reason = match &self.link.state {
            State::Stopped | State::NeedToken | State::Waiting { .. } => return,
            State::Connecting { .. } => Disconnect::ConnectFailed,
            State::Handshaking { .. } => Disconnect::Lost,
            State::Online(session) if session.leave_at.is_some() => Disconnect::SessionOver,
            State::Online(_) => Disconnect::Lost,
        };
        self.disconnect(reason, Duration::ZERO);
        self.actions.retain(|action| *action != Action::Disconnect);
    }

    /// The time of [`Core::poll_timeout`] has come. Any other time does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        match self.link.due(now, &self.tuning) {
            Some(Due::Connect) => self.connect(),
            Some(Due::Disconnect(reason)) => self.disconnect(reason, Duration::ZERO),
            None => {}
        }
        if self.pull_at.is_some_and(|at| at <= now) {
            self.pull();
        }
    }

    /// Takes a message into the send queue under a new random id. It leaves the queue by [`Event::Acked`] or
    /// [`Event::Refused`] only.
    pub fn send_message(
        &mut self,
        to: SendTo<'_>,
        kind: MessageKind,
        body: impl Into<Bytes>,
    ) -> Result<ClientMsgId, SendError> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.id_prefix.to_be_bytes());
        id[8..].copy_from_slice(&self.rng.u64(..).to_be_bytes());
        let id = ClientMsgId(id);
        self.send_message_as(id, to, kind, body).map(|()| id)
    }

    /// The same under an id of the caller: random, never used before by this user.
    pub fn send_message_as(
        &mut self,
        client_msg_id: ClientMsgId,
        to: SendTo<'_>,
        kind: MessageKind,
        body: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        let body = body.into();
        if body.len() > BODY_BYTES_MAX {
            return Err(SendError::BodyTooLarge(body.len()));
        }
        if kind.0 == 0 || kind.0 > MessageKind::CLIENT_MAX {
            return Err(SendError::Kind);
        }
        if self.send_queue.len() >= self.tuning.send_queue_max {
            return Err(SendError::QueueFull);
        }
        let conversation = match to {
            SendTo::User(user) => {
                ConversationId::single(UserId::new(&self.user)?, UserId::new(user)?)
            }
            SendTo::Conversation(id) => ConversationId::parse(id)?,
        };
        let index = self.conversations.index_of(conversation);
        self.send_queue.push(client_msg_id, index, kind, body);
        Ok(())
    }

    /// The user read this conversation up to `seq`; lower than before counts for nothing.
    pub fn mark_read(&mut self, conversation: &str, seq: u64) -> Result<(), SendError> {
        let index = self.conversations.index_of(ConversationId::parse(conversation)?);
        let conversation = &mut self.conversations[index];
        if seq > conversation.read {
            conversation.read = seq;
            conversation.read_at = Some(self.now);
            conversation.read_queued = true;
            self.reads_queued = true;
        }
        Ok(())
    }

    /// Asks for messages with `after < seq < before` (0: no bound). The answer is [`Event::History`] with the number
    /// returned here.
    pub fn request_history(
        &mut self,
        conversation: &str,
        after: u64,
        before: u64,
        limit: u16,
        newest_first: bool,
    ) -> Result<u16, SendError> {
        let index = self.conversations.index_of(ConversationId::parse(conversation)?);
        self.ask_for_application(Question::History { index, after, before, limit, newest_first })
    }

    /// Asks for the watermarks of a conversation's members. Those that rose come as [`Event::Receipt`].
    pub fn request_watermarks(&mut self, conversation: &str) -> Result<u16, SendError> {
        let index = self.conversations.index_of(ConversationId::parse(conversation)?);
        self.ask_for_application(Question::Watermarks { index })
    }

    fn ask_for_application(&mut self, question: Question) -> Result<u16, SendError> {
        if !self.requests.has_room() {
            return Err(SendError::TooManyRequests);
        }
        let correlation = self.next_correlation();
        self.requests.add(self.now, correlation, question);
        Ok(correlation)
    }

    /// The next event. Asking says that the one before is dealt with.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.confirm();
        self.events.poll()
    }

    fn confirm(&mut self) {
        if let Some(stored) = self.events.confirm(&mut self.conversations) {
            self.acks.add(self.now, stored, &mut self.conversations, &self.tuning);
        }
        let cursor = || self.inbox.stored_watermark(&self.events);
        self.acks.on_cursor(self.now, cursor, &self.tuning);
    }

    /// The next thing to do with the socket.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Core::handle_timeout`] and then [`Core::poll_transmit`] are due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let link = self.link.next_deadline(&self.tuning);
        let State::Online(session) = &self.link.state else { return link };
        [
            link,
            self.send_queue.next_deadline(session.window),
            self.requests.next_deadline(),
            self.acks.due(),
            self.pull_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the application keeps up: while not, leave bytes in the socket.
    pub fn wants_bytes(&self) -> bool {
        self.events.len() < self.tuning.events_max
    }

    /// Messages without an answer.
    pub fn unsent(&self) -> usize {
        self.send_queue.len()
    }

    /// Whether a session is open.
    pub fn is_online(&self) -> bool {
        matches!(self.link.state, State::Online(_))
    }

    /// The device's cursor: the application is done with every inbox entry up to here.
    pub fn inbox_seq(&self) -> u64 {
        self.inbox.stored_watermark(&self.events)
    }

    /// What has to survive a restart, as of now.
    pub fn save(&self) -> SavedState {
        let unsent = |e: &send_queue::Entry| UnsentMessage {
            client_msg_id: e.client_msg_id,
            conversation: self.conversations[e.conversation].id.to_string(),
            kind: e.kind,
            body: e.body.clone(),
        };
        let shown = self.conversations.iter().filter(|c| c.shown.is_some());
        SavedState {
            inbox_seq: self.inbox_seq(),
            session_epoch: self.link.session_epoch,
            resume_token: self.link.resume_token.clone(),
            shown: shown.map(|c| (c.id.to_string(), c.stored)).collect(),
            unsent: self.send_queue.iter().map(unsent).collect(),
        }
    }

    fn connect(&mut self) {
        match self.link.begin_connect(self.now, &self.tuning) {
            Some(address) => self.actions.push_back(Action::Connect { address }),
            None => self.actions.push_back(Action::NeedToken),
        }
    }

    /// The one place where a connection ends, whoever ended it.
    fn disconnect(&mut self, reason: Disconnect, retry_after: Duration) {
        let was_online = self.is_online();
        let next = self.link.end(self.now, &reason, retry_after, &self.tuning, &mut self.rng);
        self.farewell = None;
        if was_online && reason == Disconnect::Closed {
            self.farewell = Some(CloseReason::Normal);
        } else if was_online && let Disconnect::Protocol(close) = reason {
            self.farewell = Some(close);
        }
        self.requests.on_disconnected(self.now);
        self.pull_at = None;
        self.repeat_reads();
        if !matches!(reason, Disconnect::Closed) {
            self.events.push(Event::Disconnected { reason, next });
        }
        self.actions.push_back(Action::Disconnect);
        if next == NextStep::NeedToken {
            self.actions.push_back(Action::NeedToken);
        }
    }

    /// Read watermarks have no answer: those of the last minute are sent again in the next session.
    fn repeat_reads(&mut self) {
        const RECENT: Duration = Duration::from_secs(60);
        for conversation in self.conversations.iter_mut() {
            let at = conversation.read_at.take();
            if at.is_some_and(|at| self.now.saturating_duration_since(at) < RECENT) {
                conversation.read_at = at;
                conversation.read_queued = true;
                self.reads_queued = true;
            }
        }
    }

    /// Answers carry the number of their question. 0 means none.
    fn next_correlation(&mut self) -> u16 {
        self.last_correlation = next_correlation(self.last_correlation);
        self.last_correlation
    }
}

fn next_correlation(last: u16) -> u16 {
    last.checked_add(1).unwrap_or(1)
}
